"""Each rule of the collector and each way that time misbehaves, on a small simulated rig."""

from __future__ import annotations

import itertools
import logging
import random
from dataclasses import dataclass

import pytest

from mss_perception.collector import Collector, InputState, SensorSet, State
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
    return "".join(name[0] for name, present in one.mask.items() if present)


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


# ---- all is well


def test_normal_operation_gives_every_input_at_every_tick():
    rig = Rig().play(3000)
    steady = rig.between(300, 2900)
    assert masks(steady) == {"rdel"}
    assert rig.ticks == list(range(rig.ticks[0], rig.ticks[0] + 100 * len(rig.ticks), 100))
    assert {one.tick_source for one in steady} == {"rgb"}
    assert not any(one.deadline_hit for one in steady)
    assert max(waits(steady)) < LATENCY["lidar"] - LATENCY["rgb"] + 5          # as long as the slowest, no longer
    assert {state.coverage for one in steady for name, state in one.inputs.items() if name == "event"} == {1.0}
    assert_conserved(rig)


@pytest.mark.parametrize("seed", range(5))
def test_stamp_noise_of_10_ms_loses_no_tick_and_no_match(seed):
    rig = Rig(inputs={"event": {"tolerance_sec": 0.02}}).play(5000, periods={"event": 20}, jitter=10, seed=seed)
    steady = rig.between(300, 4850)
    assert 45 <= len(steady) <= 46
    assert masks(steady) == {"rdel"}
    assert_conserved(rig)


def test_matches_are_of_the_same_exposure_and_carry_payload_and_delta():
    rig = Rig(["rgb", "depth"]).play(1000, jitter=5)
    for one in rig.between(300, 900):
        depth = one.inputs["depth"]
        assert abs(depth.delta_ns) <= 10 * MS
        assert depth.stamp_ns == one.t_ref_ns + depth.delta_ns
        assert depth.payload[0] == "depth" and EPOCH + ns(depth.payload[1]) == depth.stamp_ns


def test_the_two_clocks_are_never_compared():
    """The same stamps against any origin of the steady clock give the same sets."""
    def outcome(origin):
        rig = Rig(["rgb", "lidar"])
        for k in range(20):
            rig.collector.add("rgb", EPOCH + ns(100 * k), None, origin + ns(100 * k + 10))
            rig.collector.add("lidar", EPOCH + ns(100 * k), None, origin + ns(100 * k + 40))
        return [(one.t_ref_ns, one.mask, one.emitted_ns - one.opened_ns) for one in rig.sets]

    assert outcome(0) == outcome(EPOCH) == outcome(7 * EPOCH) and len(outcome(0)) == 20


def test_offset_corrects_a_skewed_clock():
    """A sensor whose clock is 200 ms ahead: without its offset it is in the future, with it all is well."""
    rig = Rig(["rgb", "lidar"], inputs={"lidar": {"offset_sec": 0.2}})
    for k in range(10):
        rig.add("rgb", 100 * k)
        rig.add("lidar", 100 * k + 200, now=100 * k + 45)
    assert masks(rig.between(300, 1000)) == {"rl"}
    lidar = rig.sets[-1].inputs["lidar"]
    assert lidar.delta_ns == 0 and lidar.stamp_ns == rig.sets[-1].t_ref_ns + 200 * MS
    wrong = Rig(["rgb", "lidar"])
    wrong.add("rgb", 0)
    assert not wrong.add("lidar", 200, now=45)
    assert wrong.count("lidar")["future"] == 1


# ---- ticks


@pytest.mark.parametrize("rate, period, expected", [(10, 100, 100), (10, 1000 / 30, 100), (10, 50, 100), (5, 100, 200),
                                                    (10, 200, 200), (30, 1000 / 30, 1000 / 30)])
def test_tick_rate(rate, period, expected):
    rig = Rig(["rgb"], tick_rate_hz=float(rate)).play(4000, periods={"rgb": period}, jitter=2)
    steps = [b - a for a, b in zip(rig.ticks, rig.ticks[1:], strict=False)]
    assert len(rig.sets) == pytest.approx(4000 / expected, abs=1)
    assert all(abs(step - expected) <= 6 for step in steps)


@pytest.mark.parametrize("period", [9, 17, 33, 60, 83, 99, 101, 130])
def test_ticks_are_never_faster_than_tick_rate(period):
    rig = Rig(["rgb"]).play(10_000, periods={"rgb": period}, jitter=period / 8)
    assert len(rig.sets) <= 101
    assert min(b - a for a, b in zip(rig.ticks, rig.ticks[1:], strict=False)) >= 50


def test_t_ref_is_the_stamp_less_the_offset():
    rig = Rig(["rgb"], inputs={"rgb": {"offset_sec": 0.007}})
    rig.add("rgb", 100)
    assert rig.ticks == [93]


@pytest.mark.parametrize("first, tick, source", [
    (0, 0, "rgb"), (40, 40, "rgb"), (99, 99, "rgb"), (101, 0, "depth"), (140, 0, "depth"), (None, 0, "depth")])
def test_the_first_tick_is_the_preferred_sources_if_it_comes_within_a_tick_period(first, tick, source):
    """Depth begins at 0 and rgb at `first`; the two have the same latency."""
    rig = Rig(["rgb", "depth"])
    for t in range(2000):
        rig.advance(t + 10)
        for name, begin in (("depth", 0), ("rgb", first)):
            if begin is not None and t >= begin and (t - begin) % 100 == 0:
                rig.add(name, t, now=t + 10)
    assert (rig.ticks[0], rig.sets[0].tick_source) == (tick, source)
    steps = [b - a for a, b in zip(rig.ticks, rig.ticks[1:], strict=False)]
    assert min(steps) >= 50 and max(steps) <= 150 and set(steps[3:]) == {100}
    assert {one.tick_source for one in rig.sets[4:]} == {"depth" if first is None else "rgb"}
    assert_conserved(rig)


def test_a_source_that_never_comes_does_not_delay_the_first_set_beyond_its_deadline():
    for deadline, wake in ((0.25, 130), (0.1, 130), (0.04, 70)):            # a tick period or a deadline, from 30
        rig = Rig(["rgb", "depth"], deadline_sec=deadline)
        rig.add("depth", 0)
        assert not rig.sets and rig.collector.next_deadline() == STEADY + wake * MS
        rig.advance(1000)
        assert [mask(one) for one in rig.sets] == ["d"] and waits(rig.sets) == [deadline * 1000]
        assert rig.sets[0].inputs["rgb"].state is State.MISSING


def test_a_bag_of_one_sample_per_sensor_gives_one_set_with_all_of_them():
    for names in itertools.permutations(["rgb", "depth", "lidar"]):
        rig = Rig(["rgb", "depth", "lidar"])
        for now, name in enumerate(names):
            rig.add(name, 0, now=now)
        rig.collector.flush(STEADY + ns(3))
        assert [mask(one) for one in rig.sets] == ["rdl"] and rig.ticks == [0] and rig.sets[0].tick_source == "rgb"
    rig = Rig()
    rig.add("lidar", 0)                                                     # alone, the preferred source awaited
    rig.collector.flush(STEADY + ns(46))
    assert [mask(one) for one in rig.sets] == ["l"] and rig.sets[0].emitted_ns == STEADY + ns(46)


def test_an_input_that_opens_no_sets_does_not_use_up_the_preferred_sources_time():
    rig = Rig(["rgb", "depth", "lidar"], tick_source=["rgb", "depth"])
    rig.add("lidar", 0, now=45)
    rig.add("depth", 150, now=180)
    rig.add("rgb", 200, now=215)
    rig.advance(1000)
    assert rig.ticks[0] == 200 and rig.sets[0].tick_source == "rgb"


def test_the_first_tick_frees_the_other_sources_at_once():
    rig = Rig(["rgb", "depth"])
    rig.add("depth", 500, now=510)
    rig.add("rgb", 0, now=512)                                              # half a second behind, so no match for it
    assert rig.ticks == [0] and rig.collector.counters["ticks"] == 2
    rig.advance(1000)
    assert rig.ticks == [0, 500] and [one.tick_source for one in rig.sets] == ["rgb", "depth"]


@pytest.mark.parametrize("ahead", [200, 237])
def test_events_ahead_of_the_cameras_make_no_empty_set_and_no_double_tick(ahead):
    rig = Rig().play(2000, [Fault(name, "drop", -100, ahead - 0.5) for name in ("rgb", "depth", "lidar")])
    assert masks(rig.between(0, ahead - 60)) == {"e"}
    assert rig.ticks[0] >= 80                                               # the cameras had their chance before
    assert masks(rig.between(ahead + 150, 1900)) == {"rdel"}
    assert {one.tick_source for one in rig.between(ahead + 200, 1900)} == {"rgb"}
    assert min(b - a for a, b in zip(rig.ticks, rig.ticks[1:], strict=False)) >= 50
    assert_conserved(rig)


@pytest.mark.parametrize("name", ["rgb", "depth", "event", "lidar"])
def test_a_stamp_that_is_wrong_from_the_start_silences_its_own_input_only(name):
    rig = Rig().play(3000, [Fault(name, "stamp", -100, 9000, -500)])
    others = "".join(n[0] for n in PERIOD if n != name)
    assert masks(rig.between(300, 2900)) == {others} and len(rig.between(300, 2900)) >= 25
    assert not any(one.deadline_hit for one in rig.between(600, 2900))


@pytest.mark.parametrize("dying", ["rgb", "depth", "event", "lidar"])
def test_a_tick_source_that_dies_is_replaced_without_losing_a_tick(dying):
    order = [dying] + [name for name in ("rgb", "depth", "lidar", "event") if name != dying]
    rig = Rig(tick_source=order).play(5000, [Fault(dying, "drop", 1970, 3480)])
    steps = [b - a for a, b in zip(rig.ticks, rig.ticks[1:], strict=False)]
    assert max(steps) <= 160 and min(steps) >= 50                               # no gap, no double
    assert {one.tick_source for one in rig.between(500, 1900)} == {dying}
    assert {one.tick_source for one in rig.between(2200, 3400)} == {order[1]}
    assert {one.tick_source for one in rig.between(3900, 4900)} == {dying}      # and takes over again
    assert_conserved(rig)


def test_sources_that_die_one_after_another_leave_ticks_to_the_last():
    order = ["rgb", "depth", "lidar", "event"]
    rig = Rig(tick_source=order).play(6000, [Fault(name, "drop", 1000 * (k + 1), 9000)
                                             for k, name in enumerate(order[:3])])
    for k, name in enumerate(order):
        assert {one.tick_source for one in rig.between(1000 * k + 350, 1000 * k + 900)} == {name}
    assert masks(rig.between(3400, 5900)) == {"e"}
    assert max(b - a for a, b in zip(rig.ticks, rig.ticks[1:], strict=False)) <= 200


def test_a_single_lost_frame_of_the_tick_source_loses_no_tick():
    rig = Rig().play(2000, [Fault("rgb", "drop", 950, 1050)])
    assert [t for t in rig.ticks if 850 < t < 1150] == [900, 1000, 1100]
    assert mask(rig.between(950, 1050)[0]) == "del"


def test_failover_wakes_a_driver_that_only_sleeps_until_next_deadline():
    rig = Rig(["rgb", "depth"])
    for k in range(5):
        rig.add("rgb", 100 * k)
        rig.add("depth", 100 * k)
    rig.add("depth", 500)                                                       # rgb of 500 never comes
    assert rig.ticks[-1] == 400
    wake = (rig.collector.next_deadline() - STEADY) / MS
    assert 515 < wake < 560                                                     # soon after it should have come
    rig.advance(wake)
    assert rig.collector.status()["pending"] == 1
    rig.advance(700)
    assert rig.ticks[-1] == 500 and rig.sets[-1].tick_source == "depth"
    assert rig.sets[-1].emitted_ns == STEADY + ns(500 + LATENCY["depth"] + 100)  # its deadline runs from the arrival


def test_a_stream_as_tick_source_keeps_the_phase_and_does_not_burst_after_a_gap():
    rig = Rig(["rgb", "event"]).play(4000, [Fault("rgb", "drop", 1020, 9000), Fault("event", "drop", 2000, 3013)])
    assert [t for t in rig.ticks if 900 <= t < 2000] == list(range(900, 2000, 100))
    back = [t for t in rig.ticks if t >= 2100]
    assert back == list(range(3000 if back[0] == 3000 else 3100, 3990, 100))
    assert_conserved(rig)


def test_a_stream_opens_no_set_before_half_of_its_window_is_covered():
    rig = Rig(["event"])
    for stamp in (10, 20, 30):                                                  # the window is 50 ms
        rig.add("event", stamp)
    assert rig.ticks == [30] and rig.sets[0].inputs["event"].coverage == pytest.approx(0.6)
    rig = Rig(["event"], inputs={"event": {"missing_after": 1}}).play(1000)
    for stamp in range(1910, 2200, 10):                     # after a gap the window before 1920 is not covered
        rig.add("event", stamp)
    assert rig.ticks[-4:] == [820, 920, 2020, 2120] and masks(rig.sets) == {"e"}


# ---- matching


def test_nearest_sample_wins_and_ties_go_to_the_older():
    for t_ref, expected in ((100, 92), (101, 108), (75, 80), (139, None), (138, 108)):
        rig = Rig(["rgb", "depth"], tick_source=["rgb"])
        for stamp in (108, 80, 92):
            rig.add("depth", stamp, now=108, payload=stamp)
        rig.add("rgb", t_ref, now=150)
        rig.advance(250)
        assert rig.sets[0].inputs["depth"].payload == expected


def test_a_set_waits_for_a_nearer_sample_but_not_for_a_farther_one():
    rig = Rig(["rgb", "depth"], inputs={"depth": {"tolerance_sec": 0.05}})
    for k in range(5):                                          # depth is 20 ms early: nothing nearer can follow
        rig.add("depth", 100 * k - 20, now=100 * k + 5)
        rig.add("rgb", 100 * k, now=100 * k + 10)
    assert waits(rig.sets[2:]) == [0, 0, 0]
    rig = Rig(["rgb", "depth"], inputs={"depth": {"tolerance_sec": 0.05}})
    for k in range(50):                                         # depth at 25 Hz: 20 ms before and 5 ms after the tick
        rig.add("depth", 40 * k + 20, now=40 * k + 25) if k % 5 else None
        if k % 5 == 0:
            rig.add("rgb", 40 * k, now=40 * k + 21)
            rig.add("depth", 40 * k + 5, now=40 * k + 26)
    assert {one.inputs["depth"].delta_ns for one in rig.between(600, 1900)} == {5 * MS}


def test_a_sample_serves_one_set_unless_it_may_be_held():
    def play(hold):
        rig = Rig(["rgb", "lidar"], inputs={"lidar": {"hold_sec": hold}})
        for k in range(25):
            rig.add("rgb", 100 * k)
            if k % 5 == 0:
                rig.add("lidar", 100 * k, now=100 * k + 16, payload=k)
            rig.advance(100 * k + 80)
        return [(one.inputs["lidar"].state.value, one.inputs["lidar"].payload, one.inputs["lidar"].age_ns)
                for one in rig.between(1000, 2000)]

    nothing = ("MISSING", None, None)
    assert play(0) == [("OK", 10, None), *[nothing] * 4, ("OK", 15, None), *[nothing] * 4]
    held = [("HELD", 10, 100 * k * MS) for k in range(1, 5)]
    assert play(0.45)[:6] == [("OK", 10, None), *held, ("OK", 15, None)]
    assert play(0.2)[:6] == [("OK", 10, None), *held[:2], *[nothing] * 2, ("OK", 15, None)]


def test_no_set_waits_for_a_slow_sensor_between_its_samples():
    """A 1 Hz input under 10 Hz ticks is neither missing nine times nor waited for nine times."""
    rig = Rig(["rgb", "lidar"]).play(10_000, periods={"lidar": 1000})
    steady = rig.between(2000, 9000)
    assert [mask(one) for one in steady] == ["rl" if t % 1000 == 0 else "r" for t in range(2000, 9000, 100)]
    assert rig.collector.status()["inputs"]["lidar"]["active"]
    assert State.STALE not in {one.inputs["lidar"].state for one in steady}
    assert sum(wait == 0 for wait in waits(steady)) >= 0.6 * len(steady)


def test_30_and_10_hz_mix():
    rig = Rig(["rgb", "depth", "lidar"]).play(4000, periods={"rgb": 1000 / 30, "depth": 1000 / 30}, jitter=1)
    steady = rig.between(300, 3900)
    assert masks(steady) == {"rdl"} and 36 <= len(steady) <= 37
    assert all(abs(one.inputs["depth"].delta_ns) <= 3 * MS for one in steady)
    rig = Rig(["lidar", "rgb"]).play(4000, periods={"rgb": 1000 / 30}, jitter=1)
    assert masks(rig.between(300, 3900)) == {"lr"}


# ---- waiting, missing, recovering


@pytest.mark.parametrize("dead", ["rgb", "depth", "event", "lidar"])
def test_an_input_absent_from_the_start_costs_missing_after_deadlines_and_returns_in_time(dead):
    rig = Rig().play(3000, [Fault(dead, "drop", -100, 1990)])
    absent = rig.between(0, 1990)
    assert masks(absent[1:]) == {"".join(n[0] for n in PERIOD if n != dead)} and len(absent) >= 19
    assert [one.inputs[dead].state for one in absent[:4]] == [State.MISSING] * 2 + [State.STALE] * 2
    assert [one.deadline_hit for one in absent[:4]] == [True] * 3 + [False]
    assert not any(one.deadline_hit for one in absent[3:])
    assert masks(rig.between(1990 + 3 * PERIOD[dead], 2900)) == {"rdel"}
    assert_conserved(rig)


def test_a_reset_waits_for_everybody_anew():
    """An input that is inactive when a new epoch begins is awaited as at the start."""
    rig = Rig(["rgb", "lidar"]).play(1000, [Fault("lidar", "drop", -100, 9000)])
    assert not rig.collector.status()["inputs"]["lidar"]["active"]
    rig.collector.reset("a test says so")
    for k in range(10, 20):
        rig.advance(100 * k + 15)
        rig.add("rgb", 100 * k)
    assert [one.deadline_hit for one in rig.sets if one.epoch == 1] == [True] * 3 + [False] * 7


@pytest.mark.parametrize("dying", ["rgb", "depth", "event", "lidar"])
def test_an_input_that_dies_costs_at_most_missing_after_deadlines_and_returns_in_time(dying):
    period = PERIOD[dying]
    rig = Rig().play(5000, [Fault(dying, "drop", 1990, 3490)])
    others = "".join(n[0] for n in PERIOD if n != dying)
    assert masks(rig.between(500, 1950)) == {"rdel"}
    assert masks(rig.between(1990 + period, 3490)) == {others}
    assert masks(rig.between(3490 + 3 * period, 4900)) == {"rdel"}
    assert sum(one.deadline_hit for one in rig.sets) <= 3
    assert not any(one.deadline_hit for one in rig.between(2400, 3490))
    states = [one.inputs[dying].state for one in rig.between(2000, 3490)]
    assert set(states[:1]) <= {State.MISSING, State.STALE} and set(states[4:]) == {State.STALE}
    assert_conserved(rig)


def test_all_masks():
    """Every subset of four inputs, as the others are dead for a while."""
    names = list(PERIOD)
    for alive in itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(1, 5)):
        rig = Rig().play(2500, [Fault(name, "drop", 1000, 9000) for name in names if name not in alive])
        assert masks(rig.between(1500, 2400)) == {"".join(name[0] for name in alive)}, alive
        assert len(rig.between(1500, 2400)) >= 8


def test_a_delay_below_the_deadline_is_waited_for():
    for name in ("rgb", "depth", "event", "lidar"):
        rig = Rig().play(4000, [Fault(name, "delay", 1500, 3000, 50)])
        assert masks(rig.between(300, 3900)) == {"rdel"}, name
        assert_conserved(rig)


@pytest.mark.parametrize("late", ["rgb", "depth", "event", "lidar"])
def test_a_delay_beyond_the_deadline_is_late_and_costs_nothing_after_a_while(late):
    rig = Rig().play(5000, [Fault(late, "delay", 1500, 3500, 250)])
    others = "".join(n[0] for n in PERIOD if n != late)
    during = rig.between(1500 + PERIOD[late] + 1, 3500)
    assert masks(during) == {others} and len(during) >= 18
    assert {one.inputs[late].state for one in during[3:]} == {State.LATE}
    assert not any(one.deadline_hit for one in during[4:])                      # nobody waits in vain for ever
    assert masks(rig.between(3500 + 3 * PERIOD[late], 4900)) == {"rdel"}
    assert rig.count(late)["late"] >= 18
    assert_conserved(rig)


@pytest.mark.parametrize("amount", [-7000, -5000, -2000, -500, -300, 300, 500, 2000, 7000])
@pytest.mark.parametrize("name", ["rgb", "depth", "event", "lidar"])
def test_a_wrong_stamp_silences_its_own_input_only(name, amount):
    rig = Rig().play(5000, [Fault(name, "stamp", 1500, 3500, amount)])
    others = "".join(n[0] for n in PERIOD if n != name)
    during = rig.between(1500 + PERIOD[name] + 1, 3500)
    assert masks(during) == {others} and len(during) >= 18
    assert masks(rig.between(3500 + 3 * PERIOD[name], 4900)) == {"rdel"}
    assert rig.resets == []
    steps = [b - a for a, b in zip(rig.ticks, rig.ticks[1:], strict=False)]
    assert max(steps) <= 200 and min(steps) >= 50
    assert_conserved(rig)


def test_recovery_counts_samples_that_came_after_the_emission_but_before_the_deadline():
    """While inactive nobody waits, so a slow sensor's samples come too late for their sets; they count all the same."""
    rig = Rig(["rgb", "lidar"])
    for k in range(10):
        rig.advance(100 * k + 10)
        rig.add("rgb", 100 * k, now=100 * k + 10)
        rig.advance(100 * k + 90)
        if k >= 4:
            rig.add("lidar", 100 * k, now=100 * k + 90)         # 80 ms after the tick, deadline 100
    assert [mask(one) for one in rig.sets] == ["r"] * 6 + ["rl"] * 4
    assert rig.sets[5].inputs["lidar"].state is State.LATE
    assert rig.count("lidar")["late"] == 2 and rig.count("lidar")["used"] == 4


def test_a_queued_sample_of_an_inactive_input_is_used_all_the_same():
    rig = Rig(["rgb", "lidar"], inputs={"lidar": {"recover_after": 50}})
    for k in range(10):
        rig.advance(100 * k + 5)
        if k >= 4:
            rig.add("lidar", 100 * k, now=100 * k + 5)
        rig.add("rgb", 100 * k, now=100 * k + 10)
    assert not rig.collector.status()["inputs"]["lidar"]["active"]
    assert [mask(one) for one in rig.sets] == ["r"] * 4 + ["rl"] * 6


def test_half_of_the_samples_lost_at_random():
    rng = random.Random(1)
    rig = Rig(["rgb", "depth", "lidar"])
    there = {}
    for k in range(200):
        for name in ("rgb", "depth", "lidar"):
            now = 100 * k + LATENCY[name]
            rig.advance(now)
            there[name, k] = name != "lidar" or rng.random() < 0.5
            if there[name, k]:
                rig.add(name, 100 * k, now)
    for one, t in list(zip(rig.sets, rig.ticks, strict=True))[5:-1]:
        assert not (one.mask["lidar"] and not there["lidar", t // 100])
    matched = sum(one.mask["lidar"] for one in rig.sets)
    assert matched >= 0.6 * sum(value for (name, _), value in there.items() if name == "lidar")


# ---- emission


def test_deadline_runs_on_the_injected_clock():
    rig = Rig(["rgb", "lidar"], deadline_sec=0.06).play(1000)
    rig.add("rgb", 1000, now=1010)
    rig.advance(1069)
    assert rig.ticks[-1] == 900
    rig.advance(1070)
    assert rig.ticks[-1] == 1000 and rig.sets[-1].deadline_hit
    assert rig.sets[-1].inputs["lidar"].state is State.MISSING and waits(rig.sets)[-1] == pytest.approx(60)


def test_a_sample_at_the_very_deadline_is_too_late_even_when_nobody_polled():
    for now, expected in ((1109.999, "rl"), (1110, "r")):
        rig = Rig(["rgb", "lidar"]).play(1000)
        rig.add("rgb", 1000, now=1010)
        rig.add("lidar", 1000, now=now)
        assert [mask(one) for one in rig.between(1000, 1001)] == [expected]


def test_a_passed_watermark_ends_the_wait():
    rig = Rig(["rgb", "lidar"], deadline_sec=1.0).play(1000)
    rig.add("rgb", 1000, now=1010)
    rig.add("lidar", 1060, now=1020)                            # nothing at 1000 +- 50 can follow
    assert rig.ticks[-1] == 1000 and not rig.sets[-1].deadline_hit
    assert rig.sets[-1].inputs["lidar"].state is State.MISSING


def test_max_pending_emits_the_oldest_first():
    rig = Rig(["rgb", "lidar"], deadline_sec=5.0, max_pending=2).play(1000)
    for k in range(10, 14):
        rig.add("rgb", 100 * k)
    assert rig.ticks[-2:] == [1000, 1100] and rig.collector.status()["pending"] == 2
    assert rig.collector.counters["forced"] == 2
    rig.collector.flush(STEADY + ns(1400))
    assert rig.ticks[-2:] == [1200, 1300]
    assert_conserved(rig)


def test_an_exception_in_the_callee_is_contained_and_counted(caplog):
    got = []

    def fails_once(one):
        got.append(one)
        if len(got) == 2:
            raise RuntimeError("the network fell over")

    rig = Rig(["rgb"])
    rig.collector.on_set = fails_once
    with caplog.at_level(logging.ERROR):
        rig.play(1000)
    assert len(got) == 10 and rig.collector.counters["callee_errors"] == 1
    assert "the network fell over" in caplog.text


def test_the_callee_may_call_back():
    rig = Rig(["rgb"])
    seen = []

    def callee(one):
        seen.append(one.t_ref_ns)
        if len(seen) == 3:
            rig.collector.reset("asked for by the callee")
        rig.collector.poll(one.emitted_ns)

    rig.collector.on_set = callee
    rig.play(1000)
    assert len(seen) == 10 and seen == sorted(seen) and rig.collector.epoch == 1


# ---- streams


def test_no_events_is_not_no_packets():
    """Empty packets of a static scene cover the window; silence does not."""
    rig = Rig(["rgb", "event"]).play(2000, [Fault("event", "drop", 1000, 9000)])
    assert masks(rig.between(300, 1000)) == {"re"}
    assert masks(rig.between(1020, 2000)) == {"r"}
    assert rig.sets[-1].inputs["event"].coverage == 0


def test_coverage_of_a_window_with_a_gap():
    """50 ms windows; packets of 10 ms; of three missing periods none is bridged when missing_after is 2."""
    rig = Rig(["rgb", "event"], inputs={"event": {"missing_after": 2}})
    for stamp in range(10, 600, 10):
        if stamp not in (370, 380, 390, 560, 570):
            rig.add("event", stamp, payload=stamp)
        if stamp % 100 == 0:
            rig.add("rgb", stamp, now=stamp + 2)
    gap = rig.between(400, 401)[0].inputs["event"]
    assert gap.coverage == pytest.approx(0.4) and gap.state is State.MISSING
    whole = rig.between(500, 501)[0].inputs["event"]
    assert whole.coverage == 1 and whole.payload == (460, 470, 480, 490, 500)
    assert whole.stamp_ns == EPOCH + ns(500) and whole.delta_ns == 0
    rig.add("rgb", 600, now=602)
    rig.add("event", 600, payload=600)
    bridged = rig.between(600, 601)[0].inputs["event"]          # a gap of two periods counts as covered
    assert bridged.coverage == 1 and bridged.payload == (580, 590, 600)


def test_a_stream_window_may_end_within_tolerance_of_the_tick():
    rig = Rig(["rgb", "event"]).play(1000)
    rig.add("rgb", 999, now=1030)
    rig.advance(2000)
    state = rig.sets[-1].inputs["event"]
    assert state.state is State.OK and state.delta_ns == -9 * MS and 0.5 < state.coverage < 1


# ---- stamps that cannot be right


def test_zero_future_and_inverted_stamps_are_rejected_and_move_nothing():
    rig = Rig(["rgb", "event"]).play(1000)
    before = rig.collector.status()["inputs"]
    assert not rig.collector.add("rgb", 0, None, STEADY + ns(1000))
    assert not rig.collector.add_stream("event", 0, 0, None, STEADY + ns(1000))
    assert not rig.add("rgb", 1102, now=1001)
    assert not rig.add("event", 1000, now=1001, span=-1)
    assert rig.collector.status()["inputs"]["rgb"]["newest_ns"] == before["rgb"]["newest_ns"]
    assert (rig.count("rgb")["zero"], rig.count("rgb")["future"]) == (1, 1)
    assert (rig.count("event")["zero"], rig.count("event")["inverted"]) == (1, 1)
    assert rig.add("rgb", 1100, now=1001)                                       # just within


def test_without_a_clock_nothing_is_in_the_future():
    rig = Rig(["rgb"])
    assert rig.add("rgb", 99_000, now=0, clock=None)


def test_a_duplicate_stamp_replaces_the_first_and_makes_no_second_tick():
    rig = Rig(["rgb", "lidar"]).play(1000)
    rig.add("rgb", 1000, payload="first", now=1010)
    rig.add("rgb", 1000, payload="second", now=1011)
    rig.add("lidar", 1000)
    rig.add("rgb", 1000, payload="third", now=1060)             # used up already
    rig.advance(2000)
    assert [one.inputs["rgb"].payload for one in rig.between(1000, 1001)] == ["second"]
    assert rig.count("rgb")["duplicate"] == 2 and rig.ticks.count(1000) == 1


def test_a_duplicate_never_serves_twice():
    rig = Rig(["rgb", "lidar"], tick_rate_hz=20.0, inputs={"lidar": {"tolerance_sec": 0.06}})
    for k in range(20):
        rig.add("rgb", 50 * k)
        if k == 10:
            rig.add("lidar", 500, payload="once", now=516)
            rig.add("lidar", 500, payload="once", now=540)
    assert sum(one.inputs["lidar"].payload == "once" for one in rig.sets) == 1


def test_reordered_samples_find_their_set_when_it_is_still_open():
    rig = Rig(["rgb", "lidar"], deadline_sec=0.25).play(1000)
    rig.add("rgb", 1000, now=1010)
    rig.add("rgb", 1200, now=1210)
    rig.add("rgb", 1100, now=1215)                              # overtaken on the way; both sets are still open
    for stamp in (1000, 1100, 1200):
        rig.add("lidar", stamp, now=1220)
    rig.advance(2000)
    assert rig.ticks[-3:] == [1000, 1100, 1200] and masks(rig.sets[-3:]) == {"rl"}
    assert_conserved(rig)


def test_a_set_put_in_late_holds_up_no_later_one():
    rig = Rig(["rgb", "lidar"], deadline_sec=0.25).play(1000)
    rig.add("rgb", 1000, now=1010)
    rig.add("rgb", 1200, now=1210)
    rig.add("rgb", 1100, now=1240)                              # its own deadline would end at 1490
    rig.advance(2000)
    assert rig.ticks[-3:] == [1000, 1100, 1200]
    assert [one.emitted_ns - STEADY for one in rig.sets[-3:]] == [ns(1260), ns(1460), ns(1460)]


@pytest.mark.parametrize("policy, expected", [("drop", [900, 1100]), ("publish", [900, 1100, 1000])])
def test_late_policy_for_a_tick_out_of_order(policy, expected):
    rig = Rig(["rgb"], late_policy=policy, deadline_sec=0.25).play(1000)
    rig.add("rgb", 1100)
    rig.add("rgb", 1000, now=1120)
    assert rig.ticks[-len(expected):] == expected
    assert rig.collector.dropped["late"] == (policy == "drop")
    assert rig.collector.counters["ticks"] == 12


def test_a_small_backward_step_is_no_reset():
    rig = Rig(["rgb", "depth", "lidar"]).play(1000)
    rig.play(3000, start=1000, shift=-500)
    assert rig.resets == [] and rig.collector.epoch == 0
    assert rig.count("rgb")["late"] >= 4 and rig.count("lidar")["late"] >= 4
    assert masks(rig.between(1300, 2400)) == {"rdl"}            # as soon as stamps are new again
    assert_conserved(rig)


# ---- epochs


@pytest.mark.parametrize("back", [1500, 4000, 60_000])
@pytest.mark.parametrize("rates", [{}, {"rgb": 1000 / 30, "lidar": 200}])
def test_a_bag_loop_resets_promptly_and_goes_on(back, rates):
    """Also when the loop starts a minute earlier and the rates differ, which existing synchronisers do not survive."""
    loose = {"tolerance_sec": 0.051}                            # the phase of the ticks is that of any frame of rgb
    rig = Rig(inputs={"depth": loose, "lidar": loose}).play(4000, periods=rates)
    rig.play(8000, start=4000, shift=-back, periods=rates)
    assert len(rig.resets) == 1 and "went back" in rig.resets[0] and rig.collector.epoch == 1
    after = [one for one in rig.sets if one.epoch == 1]
    first = (after[0].t_ref_ns - EPOCH) / MS - (4000 - back)
    assert first < 350                                          # ms after the loop
    lidar_period = rates.get("lidar", 100)
    whole = [one for one in after[6:-1]
             if abs(((one.t_ref_ns - EPOCH) / MS + back + 50) % lidar_period - 50) <= 50]       # a sweep is near
    assert masks(whole) == {"rdel"} and len(whole) >= 15
    assert_conserved(rig)


def test_one_old_stamp_resets_nothing():
    for name in PERIOD:
        rig = Rig().play(2000, [Fault(name, "stamp", 1000, 1000 + PERIOD[name], -5000)])
        assert rig.resets == [] and rig.count(name)["back"] == 1
        assert_conserved(rig)
    alone = Rig(["rgb"]).play(2000, [Fault("rgb", "stamp", 1000, 1100, -5000)])
    assert alone.resets == []                                   # even when nobody else is there to contradict


def test_a_loop_with_dead_sensors_resets_too():
    rig = Rig().play(3000, [Fault("rgb", "drop", 1000, 9000), Fault("lidar", "drop", 2950, 9000)])
    rig.play(5000, [Fault("rgb", "drop", 0, 9000), Fault("lidar", "drop", 0, 9000)], start=3000, shift=-2500)
    assert len(rig.resets) == 1
    assert masks([one for one in rig.sets if one.epoch == 1][3:]) == {"de"}


def test_a_reset_drops_open_sets_by_name_and_keeps_counters():
    rig = Rig(["rgb", "lidar"]).play(1000)
    rig.add("rgb", 1000)
    received = rig.count("rgb")["received"]
    rig.collector.reset("the clock jumped")
    assert rig.collector.dropped == {"reset": 1} and rig.resets == ["the clock jumped"]
    assert rig.collector.next_deadline() is None and rig.count("rgb")["received"] == received
    rig.add("rgb", 50, now=1100)
    rig.add("lidar", 50, now=1101)
    assert rig.sets[-1].epoch == 1 and rig.ticks[-1] == 50 and rig.sets[-1].seq == len(rig.sets) - 1
    assert_conserved(rig)


def test_a_forward_jump_flushes_and_makes_no_burst():
    rig = Rig(["rgb", "depth", "lidar"]).play(1000)
    rig.play(3000, start=1000, shift=100_000)
    assert rig.resets == []
    assert len(rig.sets) <= 31 and masks(rig.between(101_300, 102_900)) == {"rdl"}
    assert_conserved(rig)


def test_a_pause_of_everything_makes_no_empty_sets():
    rig = Rig().play(8000, [Fault(name, "drop", 2000, 6000) for name in PERIOD])
    assert len(rig.between(2050, 5990)) == 0
    assert rig.between(1900, 2000)[0].emitted_ns < STEADY + ns(2150)            # not left lying until the end of it
    assert masks(rig.between(6300, 7900)) == {"rdel"}
    assert_conserved(rig)


# ---- memory


def test_queues_are_bounded_by_count_and_bytes_and_evict_by_arrival():
    rig = Rig(["rgb", "lidar"], tick_source=["rgb"], inputs={"lidar": {"queue": 3, "max_bytes": 100_000}})
    for stamp in (100, 300, 200, 400):                          # no ticks: nothing else empties the queue
        rig.add("lidar", stamp, now=400 + stamp, payload=stamp)
    assert list(rig.collector._inputs["lidar"].samples) == [EPOCH + ns(t) for t in (300, 200, 400)]
    rig.add("lidar", 500, now=905, nbytes=60_000)
    rig.add("lidar", 600, now=910, nbytes=60_000)
    assert rig.collector.status()["inputs"]["lidar"]["queued"] == 1
    assert rig.collector.status()["inputs"]["lidar"]["queued_bytes"] == 60_000
    assert rig.count("lidar")["evicted"] == 5


def test_payloads_are_released_once_used():
    rig = Rig(["rgb", "lidar"])
    for k in range(50):
        rig.add("rgb", 100 * k, nbytes=1000)
        rig.add("lidar", 100 * k, nbytes=1000)
    status = rig.collector.status()["inputs"]
    assert status["rgb"]["queued_bytes"] == status["lidar"]["queued_bytes"] == 0
    assert rig.count("rgb")["evicted"] == 0 and rig.count("lidar")["used"] == 50


# ---- the rest of the interface


def test_disabled_inputs():
    rig = Rig(["rgb", "depth"], inputs={"rgb": {"enabled": False}})
    assert not rig.add("rgb", 100)
    rig.add("depth", 100)
    assert rig.sets[0].inputs["rgb"].state is State.DISABLED and mask(rig.sets[0]) == "d"


def test_invalid_is_assigned_by_the_pipeline():
    state = InputState(State.OK, stamp_ns=1, delta_ns=0, payload=b"junk")
    state.invalidate("depth image is all NaN")
    assert (state.state, state.present, state.payload) == (State.INVALID, False, None)
    assert state.reason == "depth image is all NaN"


def test_wrong_use_is_named():
    with pytest.raises(ValueError, match="tick_source .*'radar'"):
        Rig(["rgb"], tick_source=["radar"])
    with pytest.raises(ValueError, match="'radar' is no input; inputs: rgb"):
        Rig(["rgb"]).collector.add("radar", 1, None, 1)
    with pytest.raises(ValueError, match="windows names"):
        Collector([InputConfig("rgb")], CollectorConfig(), print, {"event": WINDOW})
    with pytest.raises(ValueError, match="longer than 0"):
        Collector([InputConfig("event")], CollectorConfig(), print, {"event": 0})


def test_status():
    status = Rig().play(1000).collector.status()
    assert status["tick_source"] == "rgb" and status["emitted"] == 10 and status["epoch"] == 0
    assert status["inputs"]["event"]["period_ns"] == 10 * MS and status["inputs"]["lidar"]["active"]
