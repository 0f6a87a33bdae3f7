"""The collector against the brute-force oracle on random streams. COLLECTOR_STREAMS=10000 runs that many."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field

import pytest
from collector_oracle import MS, Oracle

from mss_perception.collector import Collector
from mss_perception.config import CollectorConfig, InputConfig

STREAMS = int(os.environ.get("COLLECTOR_STREAMS", "300"))
BATCH = 50


@dataclass
class RandomStream:
    """Configuration and the calls to make: ('add', name, begin, end, payload, now, nbytes, clock), ('poll', now),
    ('flush', now). `timer`: between calls the collector's own deadlines are polled, as an exact timer would."""

    inputs: list[InputConfig]
    config: CollectorConfig
    windows: dict[str, int]
    calls: list[tuple]
    timer: bool
    seed: int = 0
    rates: dict[str, float] = field(default_factory=dict)


def random_stream(seed: int) -> RandomStream:
    """Sensors of unequal rates, latency and jitter with all that goes wrong with them. Stamps on a 1 ms grid."""
    rng = random.Random(seed)
    grid = rng.choice([1, 1, 5, 10])                                            # coarse times make ties likely
    names = rng.sample(["rgb", "depth", "lidar", "event"], rng.randint(1, 4))
    windows = {"event": rng.choice([20, 50, 120]) * MS} if "event" in names else {}
    inputs = [InputConfig(name, enabled=rng.random() > 0.05 or name == names[0],
                          offset_sec=rng.choice([0.0, 0.0, 0.004, -0.007]) if grid == 1 else 0.0,
                          tolerance_sec=rng.choice([0.0, 0.01, 0.03, 0.05, 0.08]),
                          hold_sec=rng.choice([0.0, 0.0, 0.0, 0.15, 0.5]),
                          queue=rng.choice([1, 2, 5, 10, 50]), max_bytes=rng.choice([100, 1000, 1 << 20]),
                          missing_after=rng.choice([1, 2, 3, 5]), recover_after=rng.choice([1, 2, 2, 3]))
              for name in names]
    config = CollectorConfig(tick_source=rng.sample(names, rng.choice([rng.randint(1, len(names)), len(names)])),
                             tick_rate_hz=rng.choice([5.0, 10.0, 10.0, 20.0]),
                             deadline_sec=rng.choice([0.0, 0.03, 0.1, 0.1, 0.25]), max_pending=rng.choice([1, 2, 4]),
                             jump_back_sec=rng.choice([0.3, 1.0]), max_future_sec=0.1,
                             late_policy=rng.choice(["drop", "drop", "publish"]))
    if not any(one.enabled and one.name in config.tick_source for one in inputs):
        next(one for one in inputs if one.name == config.tick_source[0]).enabled = True
    length = rng.randint(400, 1400)                                             # ms
    loop_at = rng.randint(300, length) if rng.random() < 0.25 else None
    loop_by = rng.choice([-5000, -1500, -700, -200, 3000])
    messages, rates = [], {}
    for name in names:
        period = rng.choice([10, 20]) if name == "event" else rng.choice([33, 50, 100, 100, 100, 200, 400])
        rates[name] = 1000 / period
        latency, jitter, shake = rng.choice([2, 10, 30, 60]), rng.choice([0, 0, 3, 10]), rng.choice([0, 0, 4, 15])
        begin, end = sorted(rng.sample(range(length), 2))
        fault = rng.choice(["none", "drop", "drop half", "delay", "stamp", "absent", "dies"])
        amount = rng.choice([-5000, -2000, -1000, -300, -90, -20, 20, 60, 90, 110, 300, 5000])
        delay = rng.choice([20, 60, 90, 150, 300])
        last = None
        for time in range(10_000 + rng.randint(0, period), 10_000 + length, period):
            stamp, arrival = time + rng.randint(-jitter, jitter), time + latency + rng.randint(0, shake)
            at = time - 10_000
            faulty = begin <= at < end
            if fault == "absent" or fault == "dies" and at >= begin or faulty and (
                    fault == "drop" or fault == "drop half" and rng.random() < 0.5):
                continue
            if faulty and fault == "delay":
                arrival += delay
            stamp, arrival = stamp // grid * grid, arrival // grid * grid
            clock = arrival
            if loop_at is not None and at >= loop_at:
                stamp, clock = stamp + loop_by, clock + loop_by
            if faulty and fault == "stamp":
                stamp += amount
            odd = rng.random()
            if odd < 0.01:
                stamp = 0
            elif odd < 0.02:
                stamp -= rng.choice([40, 150, 300, 1000, 2500])
            elif odd < 0.03:
                arrival += rng.choice([50, 120, 250])
            elif odd < 0.05 and last is not None:
                stamp = last                                                    # a duplicate
            last = stamp
            span = rng.choice([period, period, period // 2, 0, -3 if odd > 0.99 else 0]) if name == "event" else 0
            messages.append((arrival, len(messages), name, stamp - span if stamp else 0, stamp, clock))
    skew = rng.choice([0, 777_000_000])                                         # `now` is another clock than the stamps
    with_clock = rng.random() < 0.8
    calls = []
    for arrival, order, name, begin, end, clock in sorted(messages):
        calls.append(("add", name, begin * MS, end * MS, order, (arrival + skew) * MS, rng.choice([0, 10, 60]),
                      clock * MS if with_clock else None))
        if rng.random() < 0.2:
            calls.append(("poll", (arrival + skew) * MS + rng.randint(0, 20) * MS // 10))
    last_now = max((call[5] if call[0] == "add" else call[1] for call in calls), default=skew * MS)
    if rng.random() < 0.7:
        last_now += 500 * MS
        calls.append(("poll", last_now))
    calls.append(("flush", last_now))
    times = [call[5] if call[0] == "add" else call[1] for call in calls]
    order = sorted(range(len(calls)), key=lambda i: (times[i], i))              # now never goes back
    return RandomStream(inputs, config, windows, [calls[i] for i in order], rng.random() < 0.7, seed, rates)


def compare(stream: RandomStream, make=Collector) -> int:
    """Drive both; raise AssertionError at the first difference. Returns the number of sets."""
    sets = []
    collector = make(stream.inputs, stream.config, sets.append, windows=stream.windows)
    oracle = Oracle(stream.inputs, stream.config, stream.windows)
    for number, call in enumerate(stream.calls):
        kind, *arguments = call
        now = arguments[4] if kind == "add" else arguments[0]
        while stream.timer and (wake := collector.next_deadline()) is not None and wake <= now:
            collector.poll(wake)
            oracle.poll(wake)
            assert collector.next_deadline() is None or collector.next_deadline() > wake, "the timer does not advance"
        if kind == "add":
            name, begin, end, payload, now, nbytes, clock = arguments
            if name in stream.windows:
                accepted = collector.add_stream(name, begin, end, payload, now, nbytes, clock)
            else:
                accepted = collector.add(name, end, payload, now, nbytes, clock)
            expected = oracle.add(name, begin if name in stream.windows else end, end, payload, now, nbytes, clock)
            assert accepted == expected, f"seed {stream.seed} call {number} {call}: accepted {accepted}"
        else:
            getattr(collector, kind)(now)
            getattr(oracle, kind)(now)
        got = [plain(one) for one in sets[-4:]]
        want = oracle.sets[-4:]
        assert len(sets) == len(oracle.sets) and got == want, (
            f"seed {stream.seed} call {number} {call}: {len(sets)} sets, expected {len(oracle.sets)}\n"
            f"got  {got}\nwant {want}")
    for name in oracle.names:
        counters = collector.input_counters[name]
        assert {key: counters[key] for key in COUNTED if counters[key]} == {
            key: value for key, value in oracle.totals(name).items() if key in COUNTED}, f"seed {stream.seed} {name}"
    assert +collector.dropped == +oracle.dropped and collector.counters["ticks"] == oracle.ticks
    assert oracle.ticks == len(sets) + sum(oracle.dropped.values())
    return len(sets)


COUNTED = ("late", "duplicate", "evicted", "unused", "zero", "inverted", "future", "back")


def plain(one):
    states = {name: (s.state.value, s.stamp_ns, s.delta_ns, s.age_ns, s.payload, s.coverage)
              if s.state.value != "DISABLED" else ("DISABLED",) for name, s in one.inputs.items()}
    return one.epoch, one.t_ref_ns, one.tick_source, one.opened_ns, one.emitted_ns, one.deadline_hit, states


@pytest.mark.parametrize("first", range(0, STREAMS, BATCH))
def test_random_streams_agree_with_the_oracle(first):
    sets = sum(compare(random_stream(seed)) for seed in range(first, min(first + BATCH, STREAMS)))
    assert sets > BATCH                                                         # the streams are not empty
