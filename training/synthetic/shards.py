"""A recorded tree in tar files that travel: each of at most 60 MiB, a frame's images together.

    python -m training.synthetic.shards TREE FOLDER
    cat FOLDER/*.tar | tar --extract --ignore-zeros --directory TREE      # and back

Same tree, same bytes. The files are renamed into place when all of them are whole.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from training.commands import Parser, at_least
from training.datasets.deliver import SPLITS, SUFFIXES
from training.datasets.sample import DatasetError

_MIB = 1 << 20
_BLOCK = 512  # tar's: one for a header, contents padded to whole ones


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status; 2 and one line on stderr for what the user can mend."""
    parser = Parser(
        prog="python -m training.synthetic.shards", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tree", type=Path, help="recorded tree")
    parser.add_argument("folder", type=Path, help="where the tar files go (must not exist)")
    parser.add_argument("--mib", type=at_least(1), default=60, help="largest size of one (default 60)")
    options = parser.parse_args(argv)
    try:
        for path in pack(options.tree, options.folder, options.mib * _MIB):
            print(path)
    except (DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; nothing is kept", file=sys.stderr)
        return 130
    return 0


def pack(tree: Path, folder: Path, limit: int) -> list[Path]:
    """The tree's tar files in `folder`, each of at most `limit` bytes. Raises DatasetError when `tree` holds no frame,
    `folder` exists, or one frame is larger than the limit."""
    if folder.exists():
        raise DatasetError(f"{folder} exists already; remove it or give another folder")
    shards: list[list[Path]] = [[]]
    used = tarfile.RECORDSIZE  # of the end
    for frame in frames(tree):
        size = sum(_BLOCK + -(-path.stat().st_size // _BLOCK) * _BLOCK for path in frame)
        if tarfile.RECORDSIZE + size > limit:
            raise DatasetError(f"{frame[0]}: this frame takes {size} bytes; the limit of a file is {limit}")
        if used + size > limit:
            shards.append([])
            used = tarfile.RECORDSIZE
        shards[-1] += frame
        used += size
    workshop = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(workshop, ignore_errors=True)
    workshop.mkdir(parents=True)
    try:
        names = [f"{tree.name}-{index + 1:03d}-of-{len(shards):03d}.tar" for index in range(len(shards))]
        for name, paths in zip(tqdm(names, unit="file", desc=str(folder)), shards, strict=True):
            with tarfile.open(workshop / name, "w", format=tarfile.USTAR_FORMAT) as tar:
                for path in paths:
                    header = tarfile.TarInfo(path.relative_to(tree).as_posix())
                    header.size = path.stat().st_size
                    with path.open("rb") as content:
                        tar.addfile(header, content)
        workshop.rename(folder)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return [folder / name for name in names]


def frames(tree: Path) -> Iterator[list[Path]]:
    """The files of each frame, and first of all those that lie in `tree` itself."""
    colour = sorted(path for split in SPLITS for path in (tree / "img").glob(f"*/{split}/*/*.png"))
    if not colour:
        raise DatasetError(f"{tree} holds no recorded frame; python -m training.synthesize records some")
    yield sorted(tree.glob("*.json"))
    for path in colour:
        place, name = path.relative_to(tree / "img").parent, path.name
        siblings = [tree / kind / place / name.replace("_rgb_", f"_{end}_") for kind, end in SUFFIXES.items()]
        yield [one for one in siblings if one.is_file()]


if __name__ == "__main__":
    sys.exit(main())
