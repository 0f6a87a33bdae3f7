"""Compare our hot paths with what a user would pick instead.

    python -m benchmarks [NAME ...] [--json FILE] [--runs N] [--deliver PATH]

Both sides run interleaved in one process, on one thread; a figure is the median. `ratio` is ours / peer. What needs a
GPU is in `python -m benchmarks.gpu`.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")       # before NumPy and numba read it

import argparse  # noqa: E402
import json  # noqa: E402
from collections.abc import Callable  # noqa: E402

import cv2  # noqa: E402
import torch  # noqa: E402

from benchmarks import collector, node, public, replay, sensors, systems, training  # noqa: E402
from benchmarks.rows import Result, Row, Skipped, measure  # noqa: E402
from mss_models.allocator import keep_freed_memory  # noqa: E402


def known_rows(clone: str | None, tiny: bool = False) -> dict[str, Callable[[], Row | list[Result]]]:
    """Every row by name. clone: of the public code, see benchmarks/public.py. tiny: small sizes, for tests."""
    return {**sensors.rows(tiny), **collector.rows(tiny), **node.rows(tiny), **replay.rows(tiny), **training.rows(tiny),
            **systems.rows(clone, tiny)}


def results(make: Callable[[], Row | list[Result]], runs: int | None) -> list[Result]:
    """What a row measures; runs as of rows.measure. Raises Skipped."""
    made = make()
    return [measure(made, runs)] if isinstance(made, Row) else made


def line(one: Result) -> str:
    """One row of the table in the terminal."""
    figures = [f"{one.ours:.4g}", "" if one.peer is None else f"{one.peer:.4g}",
               "" if one.ratio is None else f"{one.ratio:.3f}"]
    target = "" if one.target is None else f"{one.target_of} {'>=' if one.rate else '<='} {one.target:g}"
    met = {True: "met", False: "NOT MET", None: ""}[one.met]
    return (f"{one.name:90}{figures[0]:>9}{figures[1]:>9} {one.unit:12}{figures[2]:>7}  {target:14} {met:8}"
            f"{one.peer_name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help=f"rows to run: {', '.join(known_rows(None))} (default: all)")
    parser.add_argument("--json", metavar="FILE", help="write the rows here too")
    parser.add_argument("--runs", type=int, help="the figure is the median of so many (default: 30; 5 of what is slow)")
    parser.add_argument("--deliver", metavar="PATH", help=f"a clone of {public.DELIVER}, for cmnext_public")
    args = parser.parse_args()
    if args.runs is not None and args.runs < 1:
        parser.error(f"--runs {args.runs} must be at least 1")
    known = known_rows(args.deliver)
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f"no row {unknown[0]!r}; rows: {', '.join(known)}")
    keep_freed_memory()     # of both sides
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    measured = []
    print(f"{'one thread':90}{'ours':>9}{'peer':>9} {'':12}{'ratio':>7}  {'target':22} peer")
    for name in args.names or known:
        try:
            found = results(known[name], args.runs)
        except Skipped as reason:
            print(f"{name}: skipped: {reason}", flush=True)
            continue
        measured += found
        print(*map(line, found), sep="\n", flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump([one.as_json() for one in measured], file, indent=1)


if __name__ == "__main__":
    main()
