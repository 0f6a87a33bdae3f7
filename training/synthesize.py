"""Record the synthetic world, as a DELIVER tree to train on or as a rosbag2 bag to play.

    python -m training.synthesize --out data --format deliver --split train val --frames 1200 120 --size 256 --seed 1
    python -m training.synthesize --out bag --format bag --duration 10 --size 256 --seed 7 --weather night

Same seed, same bytes, whatever --jobs, on one kind of processor; another may round differently in the images. A
tree that was interrupted continues where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm

from mss_perception.bags import BagError
from mss_perception.processes import ProcessKilled, run
from mss_perception.threads import limited_threads
from training.commands import Parser, at_least
from training.datasets.deliver import CASES, NORMAL, SPLITS
from training.synthetic import bag, deliver_tree
from training.synthetic.rig import MS, TIMING
from training.synthetic.weather import WEATHERS

ONE_CORE = partial(limited_threads, 1)  # the others have processes of their own
LONGEST_BAG_SEC = 120  # a street of 1.8 km, which every process holds in memory


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status; 2 and one line on stderr for what the user can mend."""
    options = parse(argv)
    try:
        (write_tree if options.format == "deliver" else write_bag)(options)
    except (deliver_tree.RecordingError, BagError, ProcessKilled, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        then = "nothing is kept" if options.format == "bag" else "the same command continues"
        print(f"\ninterrupted; {then}", file=sys.stderr)
        return 130
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m training.synthesize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the tree, or of the bag (must not exist)")
    parser.add_argument("--format", choices=("deliver", "bag"), required=True)
    parser.add_argument(
        "--frames",
        type=at_least(1),
        nargs="+",
        default=None,
        help="deliver: frames of every split, or one number for each; bag: camera frames (instead of --duration)",
    )
    parser.add_argument("--duration", type=float, default=None, help="bag: seconds, 10 frames each (default 10)")
    parser.add_argument("--size", type=at_least(16), default=256, help="camera pixels, square (default 256)")
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument(
        "--weather",
        nargs="+",
        choices=(*WEATHERS, "mixed"),
        default=["mixed"],
        help="taking turns street by street; mixed: all (default; a bag takes the first)",
    )
    parser.add_argument(
        "--case",
        nargs="+",
        choices=(NORMAL, *CASES, "mixed"),
        default=None,
        help="sensor failures, taking turns with the weathers; mixed: as in DELIVER, a third of the streets "
        "(default of a tree; a bag takes the first, default normal)",
    )
    parser.add_argument("--split", nargs="+", choices=SPLITS, default=["train"], help="deliver: splits to record")
    parser.add_argument("--jobs", type=at_least(1), default=2, help="processes (default 2)")
    options = parser.parse_args(argv)
    options.weather = list(WEATHERS) if "mixed" in options.weather else options.weather
    if options.case is None:
        options.case = ["mixed"] if options.format == "deliver" else [NORMAL]
    if options.case != ["mixed"] and "mixed" in options.case:
        parser.error("--case mixed stands alone")
    if options.format == "deliver":
        if options.duration is not None:
            parser.error("--duration belongs to --format bag; a tree takes --frames")
        if options.frames is None:
            parser.error("--format deliver needs --frames")
        if len(options.frames) not in (1, len(options.split)):
            parser.error(
                f"--frames has {len(options.frames)} numbers for {len(options.split)} splits; give one, or one each"
            )
    else:
        if options.case == ["mixed"]:
            parser.error("a bag has one case; name it")
        if options.frames is not None and (options.duration is not None or len(options.frames) > 1):
            parser.error("a bag takes either --duration or one number of --frames")
        if options.frames is not None:
            options.duration = options.frames[0] * TIMING["rgb"].period_ns * 1e-9
        options.duration = 10.0 if options.duration is None else options.duration
        if not 0.1 <= options.duration <= LONGEST_BAG_SEC:
            parser.error(f"--duration {options.duration} must be 0.1 to {LONGEST_BAG_SEC} seconds")
    return options


def write_tree(options: argparse.Namespace) -> None:
    frames = options.frames * (len(options.split) if len(options.frames) == 1 else 1)
    cases = None if options.case == ["mixed"] else options.case
    planned = {
        split: deliver_tree.plan(split, count, options.weather, options.size, options.seed, cases)
        for split, count in zip(options.split, frames, strict=True)
    }
    deliver_tree.begin(options.out, planned)
    sequences = [sequence for split in planned.values() for sequence in split]
    missing = [sequence for sequence in sequences if not sequence.complete(options.out)]
    total = sum(sequence.frames for sequence in sequences)
    done = total - sum(sequence.frames for sequence in missing)
    with tqdm(total=total, initial=done, unit="frame", desc=str(options.out)) as bar:
        for count in run(partial(deliver_tree.record, root=options.out), missing, options.jobs, within=ONE_CORE):
            bar.update(count)
    for split, shares in deliver_tree.finish(options.out, planned).items():
        seen = sorted(((share, name) for name, share in shares.items() if share > 0), reverse=True)
        print(f"{split}: {len(seen)} classes: " + ", ".join(f"{name} {100 * share:.2g}%" for share, name in seen))


def write_bag(options: argparse.Namespace) -> None:
    pieces = bag.pieces(options.duration)
    weather, case = options.weather[0], options.case[0]
    render = partial(bag.render, bag.seeds(options.seed), weather, case, options.size, options.duration)
    rendered = run(render, pieces, options.jobs, ordered=True, within=ONE_CORE)
    with tqdm(total=sum(end - begin for begin, end in pieces) // MS, unit="s", unit_scale=1e-3,
              desc=str(options.out)) as bar:
        bag.write(options.out, bag.rig_of(options.size, case), pieces, rendered, lambda ns: bar.update(ns // MS))


if __name__ == "__main__":
    sys.exit(main())
