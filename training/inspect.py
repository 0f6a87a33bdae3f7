"""Checks a data set and draws it: `python -m training.inspect DIR [--out DIR]`.

Looks at every file of every split of DELIVER, MUSES, MCubeS or our own recordings (trees and bags): missing siblings,
unreadable files, odd sizes, label ids out of range, pictures that are in two splits; counts classes and conditions, and
measures mean and std of every modality. Leaves inspection.json and a contact sheet for each weather in --out.

Exit status: 0, 1 when something is broken, 2 when it cannot be looked at.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from tqdm import tqdm

from mss_models.files import write_atomically
from mss_models.modality import MODALITIES, ModalityError
from mss_perception.draw import png
from training.commands import Parser, at_least
from training.contact_sheet import sheets
from training.datasets import deliver, mcubes
from training.datasets.dataset import Dataset
from training.datasets.opening import open_dataset, recognise
from training.datasets.sample import DatasetError, SplitMissing, read_json
from training.inspection import describe, look_through, notes_of, orphans, problems_of

SHOWN = 20  # problems on the screen; inspection.json has all
PUBLISHED_FRAMES = {deliver.Deliver: deliver.PUBLISHED_FRAMES, mcubes.MCubeS: mcubes.PUBLISHED_FRAMES}


def inspect(path: Path, *, splits: list[str] | None = None, modalities: list[str] | None = None, variant: str = "",
            limit: int | None = None, threads: int = 2, quiet: bool = False) -> tuple[dict, list[Dataset]]:
    """The content of inspection.json, and the splits that could be opened. splits: None for all that are there.

    Raises DatasetError where there is no data set, or none of its splits can be opened.
    """
    kind = recognise(path)
    opened, refused = [], {}
    for split in splits or kind.SPLITS:
        try:
            opened.append(open_dataset(path, split, modalities, variant=variant, limit=limit, strict=False))
        except DatasetError as error:
            refused[split] = error
    if not opened or (splits and refused):
        raise list(refused.values())[-1]  # of a bag alone, which is split test, the one that matters
    looked = {one.split: look_through(one, threads, lambda frames, total, one=one: tqdm(
        frames, one.split, total, unit="frame", dynamic_ncols=True, disable=quiet)) for one in opened}
    described = {one.split: describe(one, looked[one.split]) for one in opened}
    problems = [f"split {split}: {error}" for split, error in refused.items() if not isinstance(error, SplitMissing)]
    problems += problems_of(looked) + [text for one in opened if limit is None for text in orphans(one)]
    recorded = opened[0].root / "encodings.json"
    absent = [name for name in kind.MODALITIES if modalities is None and name not in opened[0].modalities]
    promised = read_json(recorded) if recorded.is_file() else {}
    problems += [f"modality {name}: its folder is gone, but {recorded} has it" for name in absent if name in promised]
    published = None if promised else PUBLISHED_FRAMES.get(kind)
    result = {
        "dataset": kind.NAME, "root": str(path), "label_set": opened[0].labels.name,
        "fingerprints": {} if problems else {one.split: one.fingerprint() for one in opened},
        "splits": described, "problems": problems,
        "notes": [f"split {split} is left out: {error}" for split, error in refused.items()
                  if isinstance(error, SplitMissing)]
        + [f"modality {name} is not there" for name in absent if name not in promised]
        + list(dict.fromkeys(text for one in opened for text in one.remarks()))
        + notes_of(described, looked, published, limit is None),
    }
    return result, opened


def table(result: dict) -> str:
    """The result as text."""
    lines = [f"{result['dataset']} at {result['root']}, classes of {result['label_set']}"]
    for split, one in result["splits"].items():
        sizes = ", ".join(f"{count} of {size}" for size, count in one["sizes"].items())
        lines += ["", f"{split}: {one['frames']} frames ({sizes or 'none readable'})"
                  + (f", variant {one['variant']}" if one["variant"] else "")]
        lines.append("  " + ", ".join(f"{name} {count}" for name, count in one["conditions"].items()))
        for name, entry in one["modalities"].items():
            mean, std = (" ".join(f"{value:.3f}" for value in entry[key]) for key in ("mean", "std"))
            lines.append(f"  {name:6} {entry['encoding']:24} mean {mean}  std {std}  "
                         f"filled {100 * entry['filled']:.1f} %")
        ranked = sorted(one["classes"].items(), key=lambda item: -item[1]["pixels"])
        lines += ["  " + ", ".join(f"{name} {100 * entry['share']:.2f} %" for name, entry in ranked if entry["pixels"])
                  + f"; unlabelled {100 * one['ignored']:.2f} %"]
    lines.append("")
    lines += [f"note: {text}" for text in result["notes"]]
    lines += [f"BROKEN: {text}" for text in result["problems"][:SHOWN]]
    if (more := len(result["problems"]) - SHOWN) > 0:
        lines.append(f"BROKEN: and {more} more, see inspection.json")
    lines.append("nothing is broken" if not result["problems"] else f"{len(result['problems'])} problems")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status; see the module's text."""
    parser = Parser(prog="python -m training.inspect", description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=Path, metavar="DIR", help="a data set: DELIVER, MUSES, MCubeS, a tree, or bags")
    parser.add_argument("--out", type=Path, default=Path("runs/inspect"), help="folder for inspection.json and sheets")
    parser.add_argument("--split", nargs="+", choices=("train", "val", "test"), help="look at these only")
    parser.add_argument("--modality", nargs="+", choices=MODALITIES, help="look at these only")
    parser.add_argument("--variant", default="", help="a way to read the data, see docs/datasets.md")
    parser.add_argument("--frames", type=at_least(1), help="look at so many frames of each split, evenly spread")
    parser.add_argument("--threads", type=at_least(1), default=2)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(arguments)
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"--out {args.out} is a file; name a folder")
    try:
        result, opened = inspect(args.data, splits=args.split, modalities=args.modality, variant=args.variant,
                                 limit=args.frames, threads=args.threads, quiet=args.quiet)
        result["command"] = "python -m training.inspect " + shlex.join(sys.argv[1:] if arguments is None else arguments)
        for name, sheet in sheets(opened).items():
            write_atomically(args.out / f"{name}.png", png(sheet))
        write_atomically(args.out / "inspection.json", json.dumps(result, indent=1) + "\n")
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (DatasetError, ModalityError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(result))
    print(f"sheets and figures: {args.out}")
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
