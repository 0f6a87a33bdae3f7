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
import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import cv2  # noqa: E402
import torch  # noqa: E402

from benchmarks import public, systems  # noqa: E402
from benchmarks.collector import collector_row  # noqa: E402
from benchmarks.rows import ROWS, Row  # noqa: E402


def known_rows(clone: str | None) -> dict[str, Callable[[], Row]]:
    """Every row by name; clone: of the public CMNeXt."""
    return ROWS | {"collector": collector_row} | systems.rows(clone)


def measure(row: Row, runs: int | None) -> dict:
    """Median milliseconds of both sides, interleaved, after one run each to warm up. runs: None for the row's own."""
    runs = runs or row.runs
    row.ours(), row.peer()
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(runs):
        for side in ("ours", "peer"):
            started = time.perf_counter()
            getattr(row, side)()
            times[side].append(1e3 * (time.perf_counter() - started))
    ours, peer = (statistics.median(times[side]) for side in ("ours", "peer"))
    return {"name": row.name, "peer_name": row.peer_name, "ours": round(ours, 3), "peer": round(peer, 3),
            "ratio": round(ours / peer, 3), "target": row.target,
            "met": None if row.target is None else ours / peer <= row.target, "runs": runs, "threads": 1}


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
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    results = []
    print(f"{'one thread':52}{'ours ms':>9}{'peer ms':>9}{'ratio':>8}{'target':>8}  peer")
    for name in args.names or known:
        try:
            one = measure(known[name](), args.runs)
        except public.Skipped as reason:
            print(f"{name:52}skipped: {reason}", flush=True)
            continue
        results.append(one)
        print(f"{one['name']:52}{one['ours']:9.2f}{one['peer']:9.2f}{one['ratio']:8.2f}{one['target'] or '':>8}"
              f"  {one['peer_name']}", flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
