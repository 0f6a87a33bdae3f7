"""Storms of faults, each judged: `python -m mss_perception.stress --seconds 600 --seed 1 --out runs/stress`.

Storm after storm goes through the pipeline as fast as it goes; with --live through the node on ROS 2, in real time.
Writes stress.json and report.txt. The exit status is 1 when anything did not hold, 2 for bad input, 130 after Ctrl-C,
which loses nothing of what was measured.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mss_perception import watch
from mss_perception.live import LiveError
from mss_perception.options import at_least, positive
from mss_perception.replay import USER_ERRORS
from mss_perception.stress import inside, outside, report

STORM_SEC = 60      # of sensor time
FEW = 20            # looks at the process's memory from which nothing is concluded


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mss_perception.stress", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=positive, default=600, help="how long to go on (default 600)")
    parser.add_argument("--seed", type=at_least(0), default=1, help="of the first storm; each next has one more")
    parser.add_argument("--rate", type=positive, default=10.0, metavar="FACTOR",
                        help="the most that the sensors' rates are multiplied by (default 10)")
    parser.add_argument("--storms", type=at_least(1), metavar="N", help="end after so many, to repeat what was found")
    parser.add_argument("--storm-seconds", type=positive, default=STORM_SEC, metavar="SECONDS",
                        help=f"sensor time of a storm (default {STORM_SEC})")
    parser.add_argument("--checkpoint", type=Path, help="network; when not given a stand-in that labels pixels with "
                        "the modalities that it was shown, with --live the shipped one")
    parser.add_argument("--live", action="store_true", help="the node on real ROS 2 topics, in real time")
    parser.add_argument("--out", type=Path, default=Path("runs/stress"), help="folder for the results (runs/stress)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments()
    options = parser.parse_args(argv)
    if options.rate < 1:
        parser.error(f"argument --rate: {options.rate:g} must be at least 1")
    if options.live and options.seconds < outside.SHORTEST_SEC:
        parser.error(f"argument --seconds: {options.seconds:g} is too short for a live storm; at least "
                     f"{outside.SHORTEST_SEC:g} are needed")
    tally, watched, started, interrupted = inside.Tally(), watch.Watch(), time.monotonic(), False
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        (outside if options.live else inside).storms(options, tally, watched)
    except KeyboardInterrupt:
        interrupted = True
    except (LiveError, *USER_ERRORS, OSError) as error:
        print(f"stress: {error}", file=sys.stderr)
        return 2
    result = summary(options, tally, watched, time.monotonic() - started, interrupted)
    print(report.text(result))      # first: an hour's result is not lost with a disk that is full
    report.write(options.out, result)
    print(f"figures: {options.out / 'stress.json'}")
    return 130 if interrupted else 1 if result["violations"] else 0


def summary(options: argparse.Namespace, tally: inside.Tally, watched: watch.Watch, seconds: float,
            interrupted: bool) -> dict:
    """The content of stress.json."""
    result = {"level": "live" if options.live else "inside", "seed": options.seed, "rate": options.rate,
              "seconds": round(seconds, 1), "interrupted": interrupted, **vars(tally)}
    repeat = (f"python -m mss_perception.stress --storms 1 --storm-seconds {options.storm_seconds:g} --rate "
              f"{options.rate:g}" + (" --live" if options.live else "")
              + (f" --checkpoint {options.checkpoint}" if options.checkpoint else ""))
    result["violations"] = [{**one, "repeat": f"{repeat} --seed {one['seed']}"} for one in tally.violations]
    result["samples"] = watched.samples
    if len(watched.samples) > FEW:
        result |= watched.summary()
        result["violations"] += [{"invariant": promise, "details": why, "seed": options.seed, "t_sec": None,
                                  "repeat": ""} for promise, why in watch.checks(result).items() if why]
    return result


if __name__ == "__main__":
    sys.exit(main())
