"""Whether a process grows: its memory, threads and open files over a run, and what must be true of them."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import psutil

GROWTH = 0.05           # of a process's own memory, from after the warm-up to the end
WARM_UP = 0.2           # share of the run in which caches, pools and compiled code may still grow


class Watch:
    """Samples a process whenever it is called."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.samples: list[dict] = []

    def __call__(self, pid: int) -> None:
        process = psutil.Process(pid)
        self.samples.append({"t": round(time.monotonic() - self.started, 1), "own": own_memory(pid),
                             "rss": process.memory_info().rss, "threads": process.num_threads(),
                             "files": process.num_fds()})

    def before_and_after(self, key: str) -> tuple[float, float]:
        """Medians of the tenth of the run after the warm-up, and of the last tenth."""
        values = [one[key] for one in self.samples]
        tenth, begin = max(1, len(values) // 10), int(WARM_UP * len(values))
        return float(np.median(values[begin:begin + tenth])), float(np.median(values[-tenth:]))

    def summary(self) -> dict:
        """memory_growth (share), memory_mb, threads, each before and after."""
        (own_before, own_after), (threads_before, threads_after) = map(self.before_and_after, ("own", "threads"))
        return {"memory_growth": round(own_after / own_before - 1, 4),
                "memory_mb": {"before": round(own_before / 2**20), "after": round(own_after / 2**20)},
                "threads": {"before": threads_before, "after": threads_after}}


def own_memory(pid: int) -> int:
    """Bytes that the process has made itself, in memory or swapped out: what of it can leak.

    Neither rss nor uss: rss has the pages of shared memory that it has read, and in both are libraries' pages, which
    count in uss only while no other process has opened the same library (34 MB of torch came and went with that).
    """
    status = Path(f"/proc/{pid}/status").read_text()
    return sum(int(number) << 10 for number in re.findall(r"^(?:RssAnon|VmSwap):\s+(\d+) kB$", status, re.MULTILINE))


def checks(summary: Mapping) -> dict[str, str]:
    """Promise -> why it does not hold; empty where it does. summary: as of Watch.summary."""
    threads = summary["threads"]
    return {
        f"memory is flat within {GROWTH:.0%}": "" if abs(summary["memory_growth"]) <= GROWTH else
        f"{summary['memory_growth']:+.1%}",
        "no thread is left over": "" if threads["after"] <= threads["before"] else f"{threads}"}
