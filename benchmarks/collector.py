"""The collector's time per message.

`python -m benchmarks.collector` prints it as time of the processor; `collector_row` is its row of the table.
"""

from __future__ import annotations

import statistics
import time
from collections import deque

from benchmarks.rows import Row
from mss_perception.collector import Collector, SensorSet
from mss_perception.config import CollectorConfig, InputConfig
from mss_perception.inputs import nanoseconds

RATES_HZ = {"rgb": 30, "depth": 10, "event": 10, "lidar": 10}
LATENCY_SEC = {"rgb": 0.015, "depth": 0.03, "event": 0.005, "lidar": 0.045}
SECONDS = 100
START = 1_700_000_000_000_000_000


def arrivals() -> list[tuple[int, str, int]]:
    """(now, input, stamp) in ns, in order: 100 s of four sensors, 6000 messages; events as packets."""
    return sorted((START + nanoseconds(k / rate + LATENCY_SEC[name]), name, START + nanoseconds(k / rate))
                  for name, rate in RATES_HZ.items() for k in range(SECONDS * rate))


def collect(messages: list[tuple[int, str, int]], tick_rate_hz: float) -> list[SensorSet]:
    """The sets of the messages, as a node would drive the collector."""
    sets: list[SensorSet] = []
    collector = Collector([InputConfig(name, tolerance_sec=0.03, queue=50) for name in RATES_HZ],
                          CollectorConfig(tick_source=list(RATES_HZ), tick_rate_hz=tick_rate_hz), sets.append,
                          {"event": nanoseconds(0.05)})
    for now, name, stamp in messages:
        collector.advance(now)
        if name == "event":
            collector.add_stream(name, stamp - nanoseconds(0.1), stamp, None, now)
        else:
            collector.add(name, stamp, None, now)
    collector.flush(messages[-1][0])
    return sets


def match_by_hand(messages: list[tuple[int, str, int]]) -> list[list[int | None]]:
    """What is written by hand where nothing may be waited for: per camera image the nearest stamps that are there."""
    queues = {name: deque(maxlen=10) for name in RATES_HZ}
    sets = []
    for _, name, stamp in messages:
        queues[name].append(stamp)
        if name == "rgb":
            nearest = (min(queue, key=lambda one: abs(one - stamp), default=None) for queue in queues.values())
            sets.append([one if one is not None and abs(one - stamp) <= 30_000_000 else None for one in nearest])
    return sets


def collector_row() -> Row:
    """6000 messages of four sensors at 30, 10, 10 and 10 Hz, 30 sets a second."""
    messages = arrivals()
    return Row("collector: 6000 messages, 30/10/10/10 Hz", "nearest stamp in a deque, nothing waited for or checked",
               lambda: collect(messages, 30.0), lambda: match_by_hand(messages), None)


def main() -> None:
    messages = arrivals()
    for tick_rate_hz in (30.0, 10.0):
        times = []
        for _ in range(15):
            started = time.process_time()
            sets = collect(messages, tick_rate_hz)
            times.append(time.process_time() - started)
        whole = sum(all(one.mask.values()) for one in sets)
        print(f"{tick_rate_hz:g} sets a second: {1e6 * statistics.median(times) / len(messages):.1f} us a message, "
              f"{len(sets)} sets, {whole} of them whole")


if __name__ == "__main__":
    main()
