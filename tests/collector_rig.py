"""A small simulated rig around a collector, for tests with times in milliseconds."""

from __future__ import annotations

import random
from dataclasses import dataclass

from mss_perception.collector import Collector, SensorSet
from mss_perception.config import CollectorConfig, InputConfig

MS = 1_000_000
EPOCH = 1_700_000_000_000 * MS      # where stamps begin, ns
STEADY = 5_000_000 * MS             # where the steady clock begins; the two have nothing in common
PERIOD = {"rgb": 100, "depth": 100, "event": 10, "lidar": 100}                  # ms
LATENCY = {"rgb": 15, "depth": 30, "event": 5, "lidar": 45}                     # ms
TOLERANCE = {"rgb": 0.03, "depth": 0.03, "event": 0.01, "lidar": 0.05}          # s
QUEUE = {"rgb": 10, "depth": 10, "event": 1000, "lidar": 10}
WINDOW = 50 * MS


@dataclass
class Fault:
    """kind: drop, delay, stamp (amount in ms) on the samples of `name` stamped begin <= t < end (ms)."""

    name: str
    kind: str
    begin: float
    end: float
    amount: float = 0


class Rig:
    """A collector and what it emits. Times are milliseconds from the start."""

    def __init__(self, names=("rgb", "depth", "event", "lidar"), inputs=None, **config):
        per_input = inputs or {}
        self.inputs = [InputConfig(name, **{"tolerance_sec": TOLERANCE[name], "queue": QUEUE[name],
                                            **per_input.get(name, {})}) for name in names]
        self.config = CollectorConfig(**{"tick_source": list(names), "max_future_sec": 0.1, **config})
        self.sets: list[SensorSet] = []
        self.resets: list[str] = []
        windows = {"event": WINDOW} if "event" in names else {}
        self.collector = Collector(self.inputs, self.config, self.sets.append, windows, self.resets.append)

    def add(self, name, stamp, now=None, payload=None, nbytes=0, clock="now", span=None):
        """A sample stamped `stamp`, arriving at `now` (its usual latency when not given)."""
        now = stamp + LATENCY[name] if now is None else now
        clock_ns = EPOCH + ns(now) if clock == "now" else clock
        end = EPOCH + ns(stamp)
        if name in self.collector.windows:
            begin = EPOCH + ns(stamp - (PERIOD[name] if span is None else span))
            return self.collector.add_stream(name, begin, end, payload, STEADY + ns(now), nbytes, clock_ns)
        return self.collector.add(name, end, payload, STEADY + ns(now), nbytes, clock_ns)

    def advance(self, now):
        self.collector.advance(STEADY + ns(now))

    def play(self, end, faults=(), start=0, periods=None, jitter=0, seed=0, shift=0):
        """Run every sensor from start to end; `shift` moves all stamps against the clock of arrivals."""
        rng = random.Random(seed)
        messages = []
        for one in self.inputs:
            period = (periods or {}).get(one.name, PERIOD[one.name])
            for k in range(int(start / period), int(end / period)):
                stamp = k * period + rng.uniform(-jitter, jitter)
                now, lost = k * period + LATENCY[one.name] + rng.uniform(0, 3), False
                for fault in faults:
                    if fault.name == one.name and fault.begin <= stamp < fault.end:
                        lost = lost or fault.kind == "drop"
                        now += fault.amount if fault.kind == "delay" else 0
                        stamp += fault.amount if fault.kind == "stamp" else 0
                if not lost:
                    messages.append((now, one.name, stamp + shift, period))
        for now, name, stamp, period in sorted(messages):
            self.advance(now)
            self.add(name, stamp, now, clock=EPOCH + ns(now + shift), span=period, payload=(name, stamp))
        return self

    @property
    def ticks(self):
        return [round((one.t_ref_ns - EPOCH) / MS) for one in self.sets]

    def between(self, begin, end):
        return [one for one, t in zip(self.sets, self.ticks, strict=True) if begin <= t < end]

    def count(self, name):
        return self.collector.input_counters[name]


def ns(ms):
    return round(ms * MS)


def mask(one: SensorSet) -> str:
    return "".join(name[0] for name, state in one.inputs.items() if state.present)


def masks(sets) -> set[str]:
    return {mask(one) for one in sets}


def waits(sets):
    return [(one.emitted_ns - one.opened_ns) / MS for one in sets]


def assert_conserved(rig):
    c = rig.collector
    assert c.counters["ticks"] == len(rig.sets) + sum(c.dropped.values()) + c.status()["pending"]
    for epoch in {one.epoch for one in rig.sets}:
        times = [one.t_ref_ns for one in rig.sets if one.epoch == epoch]
        assert all(a < b for a, b in zip(times, times[1:], strict=False))
    assert max(waits(rig.sets)) <= rig.config.deadline_sec * 1000
