"""Does the node last: `python -m mss_perception.soak --seconds 600 --out runs/soak`.

The demo's traffic, looped, with random faults on every sensor, while the node's memory and threads are watched; at the
end SIGINT. Writes soak.json; the exit status is 1 when memory grew, threads were left or the shutdown was slow.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil

from mss_perception import live, scoring
from mss_perception.bags import BagSummary, bag_summary, read_bag
from mss_perception.config import Config
from mss_perception.demo import DURATION_SEC, record_bag, run_live, write_config
from mss_perception.faults import SECOND, parse_fault
from mss_perception.messages import stamp_ns
from mss_perception.player import LOOP_GAP_NS

GROWTH = 0.05           # of the resident memory, from after the warm-up to the end
WARM_UP = 0.2           # share of the run in which caches, pools and compiled code may still grow


def random_faults(inputs: Sequence[str], seconds: float, seed: int) -> list[str]:
    """Faults of every kind on every input, about a third of the time."""
    dice, faults = random.Random(seed), []
    amounts = {"delay": (0.02, 0.5), "noise": (0.1, 5.0), "stamp": (-0.5, 0.5)}
    for name in inputs:
        t = dice.uniform(2, 8)
        while t < seconds:
            kind = dice.choice(("drop", "delay", "freeze", "noise", "corrupt", "stamp"))
            amount = f"={dice.uniform(*amounts[kind]):.3f}" if kind in amounts else ""
            end = t + dice.uniform(0.3, 4)
            faults.append(f"{name}:{kind}{amount}@{t:.2f}-{end:.2f}")
            t = end + dice.uniform(1, 10)
    return faults


class Watch:
    """Samples the node once a second."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.samples: list[dict] = []

    def __call__(self, node: live.Process) -> None:
        process = psutil.Process(node.pid)
        self.samples.append({"t": round(time.monotonic() - self.started, 1), "rss": process.memory_info().rss,
                             "threads": process.num_threads(), "files": process.num_fds()})

    def growth(self, key: str) -> float:
        """Median of the last tenth against that of the tenth after the warm-up, relative."""
        values = [one[key] for one in self.samples]
        tenth, begin = max(1, len(values) // 10), int(WARM_UP * len(values))
        return float(np.median(values[-tenth:]) / np.median(values[begin:begin + tenth])) - 1


def expected_masks(bag: BagSummary, config: Config, faults: Sequence[str], loops: int) -> scoring.ExpectedMasks:
    """Of the looped bag."""
    roles, period = config.topic_roles(), bag.end_ns - bag.start_ns + LOOP_GAP_NS
    stamps: dict[str, list[int]] = {name: [] for name in config.inputs}
    topics = [topic for topic, role in roles.items() if role in stamps and topic in bag.topics]
    for topic, _, message in read_bag(bag.path, topics):
        stamps[roles[topic]] += [stamp_ns(message.header) + loop * period for loop in range(loops)]
    return scoring.ExpectedMasks([parse_fault(one) for one in faults], config, bag.start_ns, stamps)


def summarize(recording: live.Recording, watch: Watch, node: Mapping, expected: scoring.ExpectedMasks) -> dict:
    """The content of soak.json."""
    figures = recording.diagnostics
    outputs = [record for record in recording.records if not record["dropped"]]
    verdicts = [scoring.judge(record["mask"], expected(record["t_ref"])) for record in outputs]
    received = {one["topic"]: one for one in recording.topics.values()}
    return {
        "seconds": watch.samples[-1]["t"], "ticks": figures["ticks"], "outputs": figures["outputs"],
        "dropped": {key.partition(".")[2]: count for key, count in figures.items() if key.startswith("dropped.")},
        "warnings": {key.partition(".")[2]: count for key, count in figures.items() if key.startswith("warnings.")},
        "messages": {topic: {"sent": sent, "received": received[topic]["received"],
                             "counted_lost": received[topic]["lost"]} for topic, sent in recording.sent.items()},
        "mask_checked": sum(verdict is not None for verdict in verdicts),
        "mask_wrong": sum(verdict is False for verdict in verdicts),
        "longest_wait_ms": max(record["latency_ms"]["wait"] for record in recording.records),
        "latency_ms": scoring.latencies(outputs),
        "memory_growth": round(watch.growth("rss"), 4),
        "rss_mb": {"after_warm_up": watch.samples[int(WARM_UP * len(watch.samples))]["rss"] >> 20,
                   "end": watch.samples[-1]["rss"] >> 20, "most": max(one["rss"] for one in watch.samples) >> 20},
        "threads": sorted({one["threads"] for one in watch.samples[int(WARM_UP * len(watch.samples)):]}),
        "node": dict(node), "samples": watch.samples,
    }


def checks(result: Mapping) -> dict[str, bool]:
    drops = sum(result["dropped"].values())
    return {
        f"memory is flat within {GROWTH:.0%}": abs(result["memory_growth"]) <= GROWTH,
        "the number of threads does not grow": result["threads"][-1] - result["threads"][0] <= 1,
        "outputs + drops by reason = ticks": result["outputs"] + drops == result["ticks"],
        f"SIGINT ends the node within {live.SHUTDOWN_SEC:g} s": result["node"]["status"] == 0
        and result["node"]["shutdown_sec"] <= live.SHUTDOWN_SEC,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mss_perception.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="length of the run (default 600)")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="folder for the results (runs/soak)")
    parser.add_argument("--bag", type=Path, help="bag to loop; recorded as the demo's when not given")
    parser.add_argument("--checkpoint", type=Path, help="network; the shipped one when not given")
    parser.add_argument("--tick-rate", type=float, default=5.0, help="sets per second (default 5)")
    parser.add_argument("--seed", type=int, default=2024, help="of the faults (default 2024)")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.bag or record_bag(options.out, 256, DURATION_SEC, options.seed, "sun")
    settings = {"tick_rate_hz": options.tick_rate}
    if options.checkpoint:
        settings["checkpoint"] = str(options.checkpoint.resolve())
    config_file, bag = write_config(options.out, path, settings), bag_summary(path)
    config = Config.from_yaml(config_file)
    loops = max(1, round(options.seconds / ((bag.end_ns - bag.start_ns + LOOP_GAP_NS) / SECOND)))
    faults = random_faults(list(config.inputs), options.seconds, options.seed)
    print(f"{loops} loops of {path.name} with {len(faults)} faults")
    watch = Watch()
    node = run_live(options.out / "live", path, config_file, faults, loops=loops, labels=False, seed=options.seed,
                    watch=watch)
    result = summarize(live.read_recording(options.out / "live"), watch, node,
                       expected_masks(bag, config, faults, loops))
    result["checks"] = checks(result)
    (options.out / "soak.json").write_text(json.dumps(result, indent=1))
    print(json.dumps({key: value for key, value in result.items() if key != "samples"}, indent=1))
    return 0 if all(result["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
