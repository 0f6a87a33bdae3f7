"""Random streams for the collector, and the drive that compares it with the oracle call by call.

`sensors` imitates a rig, `arrivals` is anything whatever; a seed gives one of the two. All stamps are multiples of a
millisecond, as the oracle needs them.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from collector_oracle import MS, Oracle

from mss_perception.config import CollectorConfig, InputConfig

NAMES = ("rgb", "depth", "lidar", "lidar_rear", "event", "event_rear")      # names mean nothing to the collector
STREAMS = ("event", "event_rear")
COUNTED = ("late", "duplicate", "evicted", "unused", "zero", "inverted", "future", "back", "straggler")


@dataclass
class RandomStream:
    """Configuration and the calls to make, in order of `now`:

    ('add', name, begin, end, payload, now, nbytes, clock), ('poll', now), ('deadline', now, sec), ('reset', now),
    ('flush', now). timer: between calls the collector is polled at its own deadlines, as an exact timer would.
    failing: the callee raises at every so many-th set; 0 never.
    """

    inputs: list[InputConfig]
    config: CollectorConfig
    windows: dict[str, int]
    calls: list[tuple]
    timer: bool
    failing: int = 0


def sensors(rng: random.Random) -> RandomStream:
    """A rig of unequal rates, phases, latency and jitter with all that goes wrong with it."""
    grid = rng.choice([1, 1, 5, 10])                                            # coarse times make ties likely
    many = rng.random() < 0.02                                                  # ticks, so that memory runs full
    names = rng.sample(NAMES[:4] if many else NAMES, rng.randint(1, 2 if many else 4))
    windows = {name: rng.choice([20, 50, 120]) * MS for name in names if name in STREAMS}
    inputs = [InputConfig(name, enabled=rng.random() > 0.05 or name == names[0],
                          offset_sec=rng.choice([0.0, 0.0, 0.004, -0.007]) if grid == 1 else 0.0,
                          tolerance_sec=rng.choice([0.0, 0.01, 0.03, 0.05, 0.08]),
                          hold_sec=rng.choice([0.0, 0.0, 0.0, 0.15, 0.5]),
                          queue=rng.choice([1, 2, 5, 10, 50, 50, 50, 50]),
                          max_bytes=rng.choice([100, 1000, 1 << 20, 1 << 20, 1 << 20]),
                          missing_after=rng.choice([1, 2, 3, 5]), recover_after=rng.choice([1, 2, 2, 3]))
              for name in names]
    config = CollectorConfig(tick_source=rng.sample(names, rng.choice([rng.randint(1, len(names)), len(names)])),
                             tick_rate_hz=20.0 if many else rng.choice([5.0, 10.0, 10.0, 20.0]),
                             deadline_sec=rng.choice([0.0, 0.03, 0.1, 0.1, 0.25, 0.25]),
                             max_pending=rng.choice([1, 2, 4]), jump_back_sec=rng.choice([0.3, 1.0]),
                             max_future_sec=0.1,
                             late_policy=rng.choice(["drop", "drop", "publish"]))
    if not any(one.enabled and one.name in config.tick_source for one in inputs):
        next(one for one in inputs if one.name == config.tick_source[0]).enabled = True
    jump_back = round(1000 * config.jump_back_sec)
    length = 5000 if many else rng.randint(400, 1400)                           # ms
    loop_at = rng.randint(300, length) if rng.random() < 0.25 else length
    loop_by = rng.choice([-5000, -1500, -700, -200, 3000])
    pause_at = rng.randint(300, length) if rng.random() < 0.15 else length
    pause = rng.choice([300, 700, 3000])
    swap = 0.15 if rng.random() < 0.2 else 0.02                                 # how many samples overtake each other
    clock_from = 0 if (dice := rng.random()) < 0.7 else rng.randint(0, length) if dice < 0.9 else float("inf")
    jitters = rng.choice([[0], [0, 0, 3, 10]])
    messages = []
    for name in names:
        period = rng.choice([10, 20]) if name in STREAMS else rng.choice([33, 50, 100, 100, 100, 200, 400])
        latency, jitter, shake = rng.choice([2, 10, 30, 60]), rng.choice(jitters), rng.choice([0, 0, 4, 15])
        begin, end = sorted(rng.sample(range(length), 2))
        fault = rng.choice(["none", "none", "drop", "drop half", "delay", "stamp", "absent", "dies"])
        amount = rng.choice([-5000, -2000, -1000, -300, -90, -20, 20, 60, 90, 110, 300, 5000])
        delay = rng.choice([20, 60, 90, 150, 300])
        recent, offset = [], round(1000 * next(one.offset_sec for one in inputs if one.name == name))
        phase = rng.choice([0, period // 2, rng.randint(0, period)])
        for time in range(10_000 + phase, 10_000 + length, period):
            at = time - 10_000
            if at >= pause_at:
                time += pause
            stamp, arrival = time + rng.randint(-jitter, jitter), time + latency + rng.randint(0, shake)
            faulty = begin <= at < end
            if fault == "absent" or fault == "dies" and at >= begin or faulty and (
                    fault == "drop" or fault == "drop half" and rng.random() < 0.5):
                continue
            if faulty and fault == "delay":
                arrival += delay
            stamp, arrival = stamp // grid * grid, arrival // grid * grid
            clock = arrival
            if at >= loop_at:
                stamp, clock = stamp + loop_by, clock + loop_by
            if faulty and fault == "stamp":
                stamp += amount
            odd = rng.random()
            if odd < 0.01:
                stamp = 0
            elif odd < 0.02:
                stamp -= rng.choice([40, 150, 300, 1000, 2500])
            elif rng.random() < swap:
                arrival += rng.choice([50, 120, 250])
            elif odd < 0.05 and recent:
                stamp = rng.choice(recent[-5:])                                 # a duplicate
            elif odd < 0.06:
                stamp = clock + 100 + rng.choice([0, 1, offset, offset + 1])    # as far ahead as is allowed, or more
            elif odd < 0.07 and recent:
                stamp = recent[-1] - jump_back - rng.choice([0, 1])             # as far back as is allowed, or more
            recent.append(stamp)
            span = rng.choice([period, period, period // 2, 0, -3 if odd > 0.99 else 0]) if name in STREAMS else 0
            messages.append((arrival, len(messages), name, stamp - span if stamp else 0, stamp,
                             clock if at >= clock_from else None))
    skew = rng.choice([0, 777_000_000])                                         # `now` is another clock than the stamps
    calls = []
    for arrival, order, name, begin, end, clock in messages:
        now = (arrival + skew) * MS
        calls.append((now, "add", name, begin * MS, end * MS, order, now, rng.choice([0, 10, 60]),
                      None if clock is None else clock * MS))
        if rng.random() < 0.2:
            now += rng.randint(0, 20) * MS // 10
            calls.append((now, "poll", now))
    last_now = max((call[0] for call in calls), default=skew * MS)
    if calls and rng.random() < 0.15:
        now = rng.choice(calls)[0]
        calls.append((now, *rng.choice([("reset", now), ("deadline", now, rng.choice([0.0, 0.05, 0.2]))])))
    if rng.random() < 0.7:
        last_now += 500 * MS
        calls.append((last_now, "poll", last_now))
    calls.append((last_now, "flush", last_now))
    calls.sort(key=lambda call: call[0])                                        # stable: flush stays the last
    return RandomStream(inputs, config, windows, [call[1:] for call in calls], timer=rng.random() < 0.7,
                        failing=rng.choice([2, 5]) if rng.random() < 0.05 else 0)


def arrivals(rng: random.Random) -> RandomStream:
    """Any arrivals whatever: no rhythm, stamps from all over, few enough to look through by hand."""
    names = rng.sample(NAMES, rng.randint(1, 4))
    inputs = [InputConfig(name, offset_sec=rng.choice([0.0, 0.005, -0.01]),
                          tolerance_sec=rng.choice([0.03, 0.0, 0.01, 0.12]), hold_sec=rng.choice([0.0, 0.0, 0.2]),
                          queue=rng.choice([50, 50, 1, 2, 8]), max_bytes=rng.choice([1 << 20, 1 << 20, 200]),
                          missing_after=rng.randint(1, 4), recover_after=rng.randint(1, 3)) for name in names]
    config = CollectorConfig(tick_source=rng.sample(names, len(names)),
                             tick_rate_hz=rng.choice([10.0, 5.0, 20.0, 20.0]),
                             deadline_sec=rng.choice([0.1, 0.0, 0.04, 0.3, 0.3]), max_pending=rng.randint(1, 4),
                             jump_back_sec=rng.choice([1.0, 0.2]), max_future_sec=0.1,
                             late_policy=rng.choice(["drop", "publish"]))
    windows = {name: rng.choice([20, 50]) * MS for name in names if name in STREAMS}
    with_clock = rng.randint(0, 2) > 0
    now, calls = 20_000, []
    for payload in range(rng.randint(1, 50)):
        now += rng.randint(0, 60)
        name = rng.choice(names)
        low, high = rng.choice([(0, 80), (0, 80), (-400, 400), (-3000, -3000), (3000, 3000)])
        stamp, span = now - rng.randint(low, high), rng.choice([10, 30, 0]) if name in STREAMS else 0
        calls.append(("add", name, (stamp - span) * MS, stamp * MS, payload, now * MS, rng.choice([0, 50, 90]),
                      now * MS if with_clock else None))
    calls.append(("flush", now * MS))
    return RandomStream(inputs, config, windows, calls, timer=rng.random() < 0.5)


def random_stream(seed: int) -> RandomStream:
    rng = random.Random(seed)
    return arrivals(rng) if rng.random() < 0.3 else sensors(rng)


def compare(stream: RandomStream, collector_class) -> int:
    """Drive collector and oracle; raise AssertionError at the first difference. Returns the number of sets."""
    sets = []

    def callee(one):
        sets.append(one)
        if stream.failing and len(sets) % stream.failing == 0:
            raise RuntimeError("on purpose")

    collector = collector_class(stream.inputs, stream.config, callee, windows=stream.windows)
    oracle = Oracle(stream.inputs, stream.config, stream.windows)
    arrived, taken, before = Counter(), Counter(), 0
    for number, (kind, *arguments) in enumerate(stream.calls):
        now = arguments[4] if kind == "add" else arguments[0]
        where = f"call {number}: {kind} {arguments}"
        if stream.timer:
            while (wake := collector.next_deadline()) is not None and wake <= now:      # as collector.advance does
                collector.poll(wake)
                assert collector.next_deadline() != wake, f"{where}: the timer does not advance"
            oracle.advance(before, now)
        before = now
        if kind == "add":
            name, begin, end, payload, _, nbytes, clock = arguments
            if name in stream.windows:
                accepted = collector.add_stream(name, begin, end, payload, now, nbytes, clock)
            else:
                accepted = collector.add(name, end, payload, now, nbytes, clock)
            assert accepted == oracle.add(name, begin, end, payload, now, nbytes, clock), where
            arrived[name] += 1
            taken[name] += accepted
        elif kind == "deadline":
            stream.config.deadline_sec = arguments[1]
            collector.poll(now)     # else it takes effect with the collector's next step, which is not the oracle's
            oracle.poll(now)
        elif kind == "reset":
            collector.reset("the clock jumped")
            oracle.reset()
        else:
            getattr(collector, kind)(now)
            getattr(oracle, kind)(now)
        got, want = [plain(one) for one in sets[-4:]], oracle.sets[-4:]
        assert len(sets) == len(oracle.sets) and got == want, (
            f"{where}: {len(sets)} sets, expected {len(oracle.sets)}\ngot  {got}\nwant {want}")
        wake = collector.next_deadline()
        assert not stream.timer or wake is None or wake > now, f"{where}: next_deadline() has passed"
        if kind == "poll":
            inputs = collector.status()["inputs"]
            assert {name: one["active"] for name, one in inputs.items()} == {
                name: oracle.health(name).waited_for for name in oracle.names}, where
            patience = round(stream.config.deadline_sec * 1e9)
            assert collector.silent(now) == {name for name in oracle.names
                                             if oracle.silent(name, now - patience)}, where
    assert collector.next_deadline() is None and [one.seq for one in sets] == list(range(len(sets)))
    for name in oracle.names:
        counters = collector.input_counters[name]
        assert (counters["received"], counters["accepted"], counters["used"]) == (
            arrived[name], taken[name], sum(one.inputs[name].state.value == "OK" for one in sets)), name
        assert {key: counters[key] for key in COUNTED if counters[key]} == {
            key: value for key, value in oracle.totals(name).items() if key in COUNTED}, name
    assert +collector.dropped == +oracle.dropped and collector.counters["ticks"] == oracle.ticks
    assert oracle.ticks == len(sets) + sum(oracle.dropped.values())
    counters = collector.counters
    assert (counters["emitted"], counters["resets"], counters["forced"]) == (len(sets), oracle.epoch, oracle.forced)
    assert counters["deadline_hits"] == sum(one.deadline_hit for one in sets)
    assert counters["callee_errors"] == (len(sets) // stream.failing if stream.failing else 0)
    return len(sets)


def plain(one):
    """A SensorSet as the oracle writes it."""
    states = {name: (s.state.value, s.stamp_ns, s.delta_ns, s.age_ns, s.payload, s.coverage)
              if s.state.value != "DISABLED" else ("DISABLED",) for name, s in one.inputs.items()}
    return one.epoch, one.t_ref_ns, one.tick_source, one.opened_ns, one.emitted_ns, one.deadline_hit, states
