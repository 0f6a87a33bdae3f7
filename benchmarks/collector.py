"""The collector's time per message: with a set for each camera image, and with ten sets a second."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace

from benchmarks.rows import Row, Skipped, optional
from mss_perception.collector import Collector, SensorSet
from mss_perception.config import CollectorConfig, InputConfig
from mss_perception.units import nanoseconds

RATES_HZ = {"rgb": 30, "depth": 10, "event": 10, "lidar": 10}
LATENCY_SEC = {"rgb": 0.015, "depth": 0.03, "event": 0.005, "lidar": 0.045}
SECONDS = 100
START = 1_700_000_000_000_000_000
MOST_US = 15        # a message


def rows(tiny: bool = False) -> dict[str, Callable[[], Row]]:
    """The rows by name; tiny: few messages, for tests."""
    seconds = 1 if tiny else SECONDS
    return {"collector": functools.partial(collecting, 30.0, seconds),
            "collector_10hz": functools.partial(collecting, 10.0, seconds)}


def arrivals(seconds: int = SECONDS) -> list[tuple[int, str, int]]:
    """(now, input, stamp) in ns, in order, of four sensors: 60 messages a second; events as packets."""
    return sorted((START + nanoseconds(k / rate + LATENCY_SEC[name]), name, START + nanoseconds(k / rate))
                  for name, rate in RATES_HZ.items() for k in range(seconds * rate))


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


def synchronise(filters, messages: list[tuple[str, object]]) -> list[tuple]:
    """What message_filters makes of them: only sets in which all four are."""
    sets: list[tuple] = []
    inputs = {name: filters.SimpleFilter() for name in RATES_HZ}
    filters.ApproximateTimeSynchronizer(list(inputs.values()), 50, 0.03).registerCallback(
        lambda *found: sets.append(found))
    for name, message in messages:
        inputs[name].signalMessage(message)
    return sets


def collecting(tick_rate_hz: float, seconds: int) -> Row:
    """Four sensors at 30, 10, 10 and 10 Hz."""
    messages, peer = arrivals(seconds), None
    try:
        filters, types = optional("message_filters"), optional("builtin_interfaces.msg")
        stamped = [(name, SimpleNamespace(header=SimpleNamespace(stamp=types.Time(
            sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000)))) for _, name, stamp in messages]
        peer, peer_name = functools.partial(synchronise, filters, stamped), "message_filters Approximate..."
    except Skipped as reason:
        peer_name = str(reason)
    return Row(f"collector: {len(messages)} messages at 30/10/10/10 Hz, {tick_rate_hz:g} sets a second", peer_name,
               functools.partial(collect, messages, tick_rate_hz), peer, MOST_US, unit="us/message",
               amount=1e-6 * len(messages), absolute=True)
