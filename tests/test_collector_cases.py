"""How sensors and clocks misbehave, case by case; with the table of which test holds which rule of the synchroniser."""

from __future__ import annotations

import itertools
import logging
import random
import re
from pathlib import Path

import pytest
from collector_rig import EPOCH, LATENCY, MS, PERIOD, STEADY, Fault, Rig, assert_conserved, mask, masks, ns, waits

from mss_perception.collector import Collector, InputState, State
from mss_perception.config import CollectorConfig, InputConfig

# ---- sensors that are absent, die, return, are late or of no use


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
    """Every subset of four inputs, the empty one too, as the others are dead for a while."""
    names = list(PERIOD)
    for alive in itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(5)):
        rig = Rig().play(2500, [Fault(name, "drop", 1000, 9000) for name in names if name not in alive])
        assert masks(rig.between(1500, 2400)) == ({"".join(name[0] for name in alive)} if alive else set()), alive
        assert len(rig.between(1500, 2400)) >= 8 * bool(alive)


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


@pytest.mark.parametrize("name", ["rgb", "depth", "event", "lidar"])
def test_a_stamp_that_is_wrong_from_the_start_silences_its_own_input_only(name):
    rig = Rig().play(3000, [Fault(name, "stamp", -100, 9000, -500)])
    others = "".join(n[0] for n in PERIOD if n != name)
    assert masks(rig.between(300, 2900)) == {others} and len(rig.between(300, 2900)) >= 25
    assert not any(one.deadline_hit for one in rig.between(600, 2900))


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
        assert not (one.inputs["lidar"].present and not there["lidar", t // 100])
    matched = sum(one.inputs["lidar"].present for one in rig.sets)
    assert matched >= 0.6 * sum(value for (name, _), value in there.items() if name == "lidar")

@pytest.mark.parametrize("period, stale_from", [(500, 2900), (100, 2200), (1000 / 30, 2100)])
def test_misses_are_counted_in_the_inputs_own_periods(period, stale_from):
    """The last sample is the last before 2000 ms; three periods later, less the jitter allowed, it is inactive."""
    rig = Rig(["rgb", "depth"]).play(4000, [Fault("depth", "drop", 1999, 9000)], periods={"depth": period})
    states = {t: one.inputs["depth"].state for one, t in zip(rig.sets, rig.ticks, strict=True)}
    assert [t for t, state in states.items() if state is State.STALE and t > 1000] == list(range(stale_from, 4000, 100))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_missing_after_and_recover_after_count_as_they_say(count):
    rig = Rig(["rgb", "lidar"], inputs={"lidar": {"missing_after": count, "recover_after": count}})
    for k in range(20):
        rig.advance(100 * k + 10)
        rig.add("rgb", 100 * k, now=100 * k + 10)
        rig.advance(100 * k + 90)
        if k >= 8:
            rig.add("lidar", 100 * k, now=100 * k + 90)         # too late unless the set waits for it
    rig.advance(5000)
    assert [one.deadline_hit for one in rig.sets[:8]] == [True] * count + [False] * (8 - count)
    assert [mask(one) for one in rig.sets[8:]] == ["r"] * count + ["rl"] * (12 - count)


@pytest.mark.parametrize("shift", [-50, 50])
@pytest.mark.parametrize("latency", [15, 45])
def test_an_input_whose_samples_never_match_is_not_waited_for(shift, latency):
    """Its phase is beyond its tolerance, or its offset wrong: it is there, but of no use."""
    rig = Rig(["rgb", "lidar"], inputs={"lidar": {"tolerance_sec": 0.03}})
    for now, name, stamp in sorted((100 * k + (15 if name == "rgb" else latency + shift), name,
                                    100 * k + (0 if name == "rgb" or k >= 20 else shift))
                                   for k in range(30) for name in ("rgb", "lidar")):
        rig.advance(now)
        rig.add(name, stamp, now)
        if stamp == 1500:
            assert not rig.collector.status()["inputs"]["lidar"]["active"]
            assert rig.collector.silent(STEADY + ns(now)) == set()
    vain, well = rig.between(600, 1900), rig.between(2300, 2900)
    assert masks(vain) == {"r"} and {one.inputs["lidar"].state for one in vain} == {State.STALE}
    assert set(waits(vain)) == {0}
    assert masks(well) == {"rl"} and rig.collector.status()["inputs"]["lidar"]["active"]


def test_late_samples_are_counted_and_never_back_filled():
    rig = Rig(["rgb", "lidar"], deadline_sec=0.06).play(1000)
    for k in range(10, 13):
        rig.add("rgb", 100 * k, now=100 * k + 10)
        rig.add("lidar", 100 * k, now=100 * k + 80, payload="late")
    rig.advance(2000)
    after = rig.between(1000, 1300)
    assert masks(after) == {"r"} and not any(one.inputs["lidar"].payload for one in after)
    assert [one.inputs["lidar"].state for one in after] == [State.MISSING, State.LATE, State.LATE]
    assert rig.count("lidar")["late"] == 3


def test_the_mask_is_one_for_ok_and_held_only():
    assert {state for state in State if InputState(state).present} == {State.OK, State.HELD}
    rig = Rig(["rgb", "lidar"], inputs={"lidar": {"hold_sec": 0.5}})
    rig.play(2000, [Fault("lidar", "drop", 999, 9000)])
    held = rig.between(1000, 1400)
    assert [one.inputs["lidar"].age_ns for one in held] == [100 * MS * k for k in range(1, 5)]
    assert {one.inputs["lidar"].state for one in held} == {State.HELD} and masks(held) == {"rl"}
    assert masks(rig.between(1450, 2000)) == {"r"}


@pytest.mark.parametrize("offset", [-0.2, -0.004, 0.004, 0.2])
@pytest.mark.parametrize("name", ["rgb", "event", "lidar"])
def test_offsets_of_either_sign(name, offset):
    """`offset` is the sensor's stamp less the reference time, of the tick source and of a stream too."""
    rig = Rig(["rgb", "event", "lidar"], inputs={name: {"offset_sec": offset}}, max_future_sec=0.5)
    rig.play(2000, [Fault(name, "stamp", -1e9, 1e9, 1000 * offset)])
    assert masks(rig.between(300, 1900)) == {"rel"} and {t % 100 for t in rig.ticks} == {0}
    state = rig.sets[10].inputs[name]
    assert state.delta_ns == 0 and state.stamp_ns == rig.sets[10].t_ref_ns + round(offset * 1e9)


def test_tolerance_zero_matches_equal_stamps_only():
    rig = Rig(["rgb", "depth"], tick_source=["rgb"], inputs={"depth": {"tolerance_sec": 0.0}}).play(1000)
    assert masks(rig.between(300, 1000)) == {"rd"}
    rig.add("rgb", 1000)
    rig.add("depth", 1000 + 1e-6, now=1031)                     # one nanosecond off
    assert mask(rig.sets[-1]) == "r" and rig.ticks[-1] == 1000 and not rig.sets[-1].deadline_hit


def test_polls_in_between_change_nothing():
    """Replay is deterministic: what counts is the order and the time of arrivals, not how often anybody looks."""
    class Restless(Rig):
        def advance(self, now):
            for at in range(self.looked, int(now)):
                super().advance(at)
                self.collector.poll(STEADY + ns(at))
            self.looked = max(self.looked, int(now))
            super().advance(now)

    Restless.looked = 0
    faults = [Fault("rgb", "drop", 700, 1500), Fault("lidar", "delay", 1200, 2000, 80), Fault("event", "drop", 0, 400)]
    calm, restless = (kind().play(3000, faults, jitter=4) for kind in (Rig, Restless))
    assert calm.sets == restless.sets and len(calm.sets) > 25


def test_several_inputs_of_one_kind():
    """Names are free: two LiDARs and two event cameras are four inputs like any others."""
    names = ["rgb_left", "rgb_right", "lidar_front", "lidar_rear", "event_left", "event_right"]
    sets = []
    collector = Collector([InputConfig(name, tolerance_sec=0.01, queue=50) for name in names],
                          CollectorConfig(tick_source=names), sets.append, dict.fromkeys(names[4:], 50 * MS))
    for t in range(0, 4000, 10):
        dead = {"lidar_rear", "event_left"} if 1000 <= t < 2000 else {"rgb_left"} if t >= 3000 else set()
        for latency, name in enumerate(names):
            now = STEADY + ns(t + latency)
            collector.advance(now)
            if name not in dead and name.startswith("event"):
                collector.add_stream(name, EPOCH + ns(t - 10), EPOCH + ns(t), None, now)
            elif name not in dead and t % 100 == 0:
                collector.add(name, EPOCH + ns(t), None, now)

    def absent(begin, end):
        return {tuple(name for name in names if not one.inputs[name].present) for one in sets
                if begin <= (one.t_ref_ns - EPOCH) / MS < end}

    assert absent(200, 1000) == absent(2300, 3000) == {()}
    assert absent(1100, 2000) == {("lidar_rear", "event_left")} and absent(3000, 3900) == {("rgb_left",)}
    assert {one.tick_source for one in sets[-5:]} == {"rgb_right"}


# ---- stamps and clocks


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


def test_a_stream_that_is_a_little_later_than_its_tolerance_allows_comes_back_too():
    """Its watermark is within the tolerance of the tick at once, and half of the window there only after the set has
    been emitted without it: each such set must count as one that it would have been in."""
    rig = Rig(["rgb", "event"], inputs={"event": {"tolerance_sec": 0.05, "missing_after": 1}})
    packets = [(t + 55, "event", t) for t in range(0, 4000, 10) if not 1000 <= t < 2000]
    for now, name, stamp in sorted(packets + [(t + 15, "rgb", t) for t in range(0, 4000, 100)]):
        rig.advance(now)
        rig.add(name, stamp, now)
    assert masks(rig.between(300, 900)) == masks(rig.between(2300, 3900)) == {"re"}
    assert masks(rig.between(1100, 1900)) == {"r"}


def test_a_small_backward_step_is_no_reset():
    rig = Rig(["rgb", "depth", "lidar"]).play(1000)
    rig.play(3000, start=1000, shift=-500)
    assert rig.resets == [] and rig.collector.epoch == 0
    assert rig.count("rgb")["late"] >= 4 and rig.count("lidar")["late"] >= 4
    assert masks(rig.between(1300, 2400)) == {"rdl"}            # as soon as stamps are new again
    assert_conserved(rig)

def test_what_was_rejected_since_the_last_good_sample_is_in_the_status():
    rig = Rig(["rgb"]).play(1000)
    for stamp in (3000, 3100, -5000):
        rig.add("rgb", stamp, now=1010)
    assert rig.collector.status()["inputs"]["rgb"]["rejected"] == {"future": 2, "back": 1}
    rig.add("rgb", 1000, now=1015)
    assert rig.collector.status()["inputs"]["rgb"]["rejected"] == {}


def test_jump_back_sec_is_the_largest_step_that_is_none():
    rig = Rig(["rgb", "lidar"]).play(2000)
    assert rig.add("rgb", 900, now=2010) and rig.count("rgb")["back"] == 0      # 1900 was the newest
    assert not rig.add("rgb", 900 - 1e-6, now=2011) and rig.count("rgb")["back"] == 1
    assert rig.resets == []


def test_before_the_first_clock_nothing_times_out_and_its_start_is_no_jump():
    """Under use_sim_time the node's clock stands until the first /clock, and the node does not poll."""
    rig = Rig(["rgb", "lidar"])
    rig.add("rgb", 0, clock=None)
    assert rig.sets == []                                       # whatever the time that passes
    rig.add("lidar", 0, clock=None)
    assert [mask(one) for one in rig.sets] == ["rl"]
    rig.play(2000, start=100)                                   # with a clock from here on
    assert masks(rig.sets) == {"rl"} and len(rig.sets) == 20
    assert rig.resets == [] and not any(one.deadline_hit for one in rig.sets)


# ---- jumps, loops, pauses


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


@pytest.mark.parametrize("sources", [["lidar", "rgb"], ["rgb", "lidar"], ["rgb"]])
@pytest.mark.parametrize(("delay", "resets"), [(700, 1), (1600, 2)])
def test_what_comes_from_before_a_loop_after_it_silences_nobody(sources, delay, resets):
    """The LiDAR's last sweeps of the first loop come when the camera has begun the next; no clock tells (a bag that is
    looped without /clock, its stamps far behind the node's). Taken for the newest there is, they would open a set
    beside which everything is late, and make the LiDAR's own next sweeps ones from before, for as long as the loop is.
    """
    rig, arrivals = Rig(["rgb", "lidar"], tick_source=sources), []
    for t in range(0, 12_000, 100):
        stamp = t if t < 4000 else t - 3500
        arrivals += [(t + 15, "rgb", stamp), (t + 45 + (delay if 3600 <= t < 4000 else 0), "lidar", stamp)]
    for now, name, stamp in sorted(arrivals):
        rig.advance(now)
        rig.add(name, stamp, now, clock=EPOCH + ns(100_000))
    assert len(rig.resets) == resets
    after = [one for one in rig.sets if one.epoch == resets]
    assert len(after) > 55 and masks(after[8:-1]) == {"rl"}
    assert_conserved(rig)


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

def test_a_jump_of_the_nodes_clock_is_one_reset_with_one_line_of_log(caplog):
    rig = Rig(["rgb", "lidar"]).play(3000)
    with caplog.at_level(logging.INFO):
        rig.collector.reset("the node's clock jumped by -2.900 s")
        for late in (3000, 3100):                               # what was still on its way when the clock was set back
            assert not rig.add("rgb", late, now=3020, clock=EPOCH + ns(100))
        rig.play(5000, start=3000, shift=-2900)
    assert rig.resets == ["the node's clock jumped by -2.900 s"] and rig.collector.epoch == 1
    assert [record.message for record in caplog.records if "time starts anew" in record.message] == [
        "time starts anew (epoch 1): the node's clock jumped by -2.900 s"]
    assert rig.count("rgb")["future"] == 2
    assert masks([one for one in rig.sets if one.epoch == 1][1:-1]) == {"rl"}


def test_a_reset_names_the_input_and_the_step_of_its_stamps():
    rig = Rig(["rgb"], inputs={"rgb": {"offset_sec": 0.2}}, max_future_sec=1.0).play(2000)
    for stamp in (100, 200):
        rig.add("rgb", stamp, now=2000 + stamp, clock=EPOCH + ns(stamp))
    assert rig.resets == ["the stamps of all living inputs went back, rgb by 1.700 s"]      # from 1900


def test_an_exception_in_on_reset_is_contained_and_counted(caplog):
    rig = Rig(["rgb"]).play(1000)

    def fails(reason):
        raise RuntimeError("no transforms to forget")

    rig.collector.on_reset = fails
    rig.collector.reset("a test says so")
    rig.play(2000, start=1000)
    assert rig.collector.counters["callee_errors"] == 1 and "no transforms to forget" in caplog.text
    assert len([one for one in rig.sets if one.epoch == 1]) == 10


def test_a_forward_jump_leaves_no_set_lying():
    """The open set of before the jump is emitted as soon as nothing more can come for it."""
    rig = Rig(["rgb", "lidar"], deadline_sec=5.0).play(1000)
    rig.add("rgb", 1000)
    assert rig.collector.status()["pending"] == 1
    rig.add("lidar", 61_000, now=1060, clock=EPOCH + ns(61_000))
    assert rig.ticks[-1] == 1000 and mask(rig.sets[-1]) == "r" and not rig.sets[-1].deadline_hit


# ---- which test holds which rule

RULES = {
    "each step, each parameter": [
        "test_random_streams_agree_with_the_oracle",
        "test_arrivals_that_hypothesis_chooses_agree_with_the_oracle",
        "test_invariants",
    ],
    # the two roles
    "the first living tick_source opens the sets": [
        "test_the_first_tick_is_the_preferred_sources_if_it_comes_within_a_tick_period",
        "test_a_source_that_never_comes_does_not_delay_the_first_set_beyond_its_deadline",
    ],
    "the next one takes over, and hands back": [
        "test_a_tick_source_that_dies_is_replaced_without_losing_a_tick",
        "test_sources_that_die_one_after_another_leave_ticks_to_the_last",
        "test_failover_wakes_a_driver_that_only_sleeps_until_next_deadline",
    ],
    "never faster than tick_rate_hz": [
        "test_ticks_are_never_faster_than_tick_rate",
        "test_tick_rate",
    ],
    "events tick at that rate": [
        "test_a_stream_alone_ticks_at_tick_rate",
        "test_a_stream_as_tick_source_keeps_the_phase_and_does_not_burst_after_a_gap",
    ],
    # parameters
    "offset_sec": [
        "test_offsets_of_either_sign",
        "test_offset_corrects_a_skewed_clock",
        "test_t_ref_is_the_stamp_less_the_offset",
    ],
    "tolerance_sec": [
        "test_nearest_sample_wins_and_ties_go_to_the_older",
        "test_tolerance_zero_matches_equal_stamps_only",
        "test_a_stream_window_may_end_within_tolerance_of_the_tick",
    ],
    "hold_sec: HELD with its age": [
        "test_a_sample_serves_one_set_unless_it_may_be_held",
        "test_the_mask_is_one_for_ok_and_held_only",
    ],
    "queue, max_bytes: evicted by arrival": [
        "test_the_oldest_arrival_is_evicted_not_the_oldest_stamp",
        "test_what_open_sets_would_take_stays_until_they_are_emitted",
        "test_max_bytes_bounds_the_queue_but_keeps_the_newest_sample",
        "test_payloads_are_released_once_used",
    ],
    "missing_after, recover_after": [
        "test_missing_after_and_recover_after_count_as_they_say",
    ],
    "deadline_sec": [
        "test_deadline_runs_on_the_injected_clock",
        "test_deadline_sec_may_change_while_running",
        "test_a_sample_at_the_very_deadline_is_too_late_even_when_nobody_polled",
    ],
    "max_pending": [
        "test_max_pending_emits_the_oldest_first",
    ],
    "jump_back_sec": [
        "test_jump_back_sec_is_the_largest_step_that_is_none",
    ],
    "late_policy": [
        "test_late_policy_for_a_tick_out_of_order",
    ],
    # rules 1 to 8
    "1 nearest within tolerance, one set each": [
        "test_nearest_sample_wins_and_ties_go_to_the_older",
        "test_a_set_waits_for_a_nearer_sample_but_not_for_a_farther_one",
        "test_a_duplicate_never_serves_twice",
    ],
    "2 emitted when all have matched": [
        "test_a_set_is_emitted_with_the_last_sample_that_it_waits_for",
    ],
    "2 emitted when none can match any more": [
        "test_a_passed_watermark_ends_the_wait",
        "test_no_set_waits_for_a_slow_sensor_between_its_samples",
    ],
    "2 emitted at the deadline": [
        "test_deadline_runs_on_the_injected_clock",
    ],
    "3 misses in the input's own periods": [
        "test_misses_are_counted_in_the_inputs_own_periods",
    ],
    "3 at sets less often than samples, too": [
        "test_a_sensor_that_returns_is_waited_for_after_recover_after_samples",
        "test_a_delay_beyond_the_deadline_is_one_also_between_two_sets",
        "test_a_silence_is_not_in_vain",
    ],
    "3 a dead sensor costs no latency": [
        "test_an_input_that_dies_costs_at_most_missing_after_deadlines_and_returns_in_time",
        "test_an_input_whose_samples_never_match_is_not_waited_for",
    ],
    "3 what is queued is used all the same": [
        "test_a_queued_sample_of_an_inactive_input_is_used_all_the_same",
    ],
    "3 recovery by what would have matched": [
        "test_recovery_counts_samples_that_came_after_the_emission_but_before_the_deadline",
    ],
    "3 late samples are never back-filled": [
        "test_late_samples_are_counted_and_never_back_filled",
    ],
    "4 mask 1 for OK and HELD only": [
        "test_the_mask_is_one_for_ok_and_held_only",
    ],
    "4 LATE, MISSING, STALE": [
        "test_a_delay_beyond_the_deadline_is_late_and_costs_nothing_after_a_while",
        "test_an_input_absent_from_the_start_costs_missing_after_deadlines_and_returns_in_time",
    ],
    "4 INVALID": [
        "test_invalid_is_assigned_by_the_pipeline",
    ],
    "4 DISABLED": [
        "test_disabled_inputs",
    ],
    "5 a steady clock live, the bag's time in replay": [
        "test_the_two_clocks_are_never_compared",
        "test_polls_in_between_change_nothing",
    ],
    "6 exceptions are contained, no lock is held": [
        "test_an_exception_in_the_callee_is_contained_and_counted",
        "test_an_exception_in_on_reset_is_contained_and_counted",
        "test_the_callee_may_call_back",
    ],
    "7 outputs + drops = ticks": [
        "test_invariants",
    ],
    "8 monotonic output stamp": [
        "test_invariants",
    ],
    # edge cases of time
    "what would have matched ends being in vain": [
        "test_a_stream_that_is_a_little_later_than_its_tolerance_allows_comes_back_too",
    ],
    "backward jump on every stamp": [
        "test_a_bag_loop_resets_promptly_and_goes_on",
        "test_what_comes_from_before_a_loop_after_it_silences_nobody",
        "test_a_loop_with_dead_sensors_resets_too",
        "test_one_old_stamp_resets_nothing",
    ],
    "jump of the node's clock": [
        "test_a_jump_of_the_nodes_clock_is_one_reset_with_one_line_of_log",
        "test_a_reset_drops_open_sets_by_name_and_keeps_counters",
    ],
    "a reset flushes hysteresis and tf": [
        "test_a_reset_waits_for_everybody_anew",
    ],
    "small backward step": [
        "test_a_small_backward_step_is_no_reset",
    ],
    "forward jump, pause": [
        "test_a_forward_jump_flushes_and_makes_no_burst",
        "test_a_forward_jump_leaves_no_set_lying",
        "test_a_pause_of_everything_makes_no_empty_sets",
    ],
    "use_sim_time before the first /clock": [
        "test_before_the_first_clock_nothing_times_out_and_its_start_is_no_jump",
    ],
    "zero, inverted and far future stamps": [
        "test_zero_future_and_inverted_stamps_are_rejected_and_move_nothing",
        "test_without_a_clock_nothing_is_in_the_future",
    ],
    "duplicate stamp": [
        "test_a_duplicate_stamp_replaces_the_first_and_makes_no_second_tick",
    ],
    "reordered samples": [
        "test_reordered_samples_find_their_set_when_it_is_still_open",
        "test_a_set_put_in_late_holds_up_no_later_one",
    ],
    "different rates": [
        "test_30_and_10_hz_mix",
    ],
    "skewed clock": [
        "test_a_stamp_that_is_wrong_from_the_start_silences_its_own_input_only",
        "test_offset_corrects_a_skewed_clock",
    ],
    # streams
    "no events is not no packets": [
        "test_no_events_is_not_no_packets",
    ],
    "PARTIAL, with its fraction": [
        "test_a_partial_window_is_valid_while_half_of_it_is_there",
        "test_coverage_of_a_window_with_a_gap",
    ],
    # the mask that a fault must give
    "normal, and with 10 ms of noise": [
        "test_normal_operation_gives_every_input_at_every_tick",
        "test_stamp_noise_of_10_ms_loses_no_tick_and_no_match",
    ],
    "dropped, half dropped": [
        "test_all_masks",
        "test_half_of_the_samples_lost_at_random",
    ],
    "delayed below and beyond the deadline": [
        "test_a_delay_below_the_deadline_is_waited_for",
        "test_a_delay_beyond_the_deadline_is_late_and_costs_nothing_after_a_while",
    ],
    "wrong stamp": [
        "test_a_wrong_stamp_silences_its_own_input_only",
    ],
    "several inputs of one modality": [
        "test_several_inputs_of_one_kind",
    ],
}
"""Rule -> its tests. The rules are written out in mss_perception/collector.py. What the rest owes to them is tested
there: target_camera, calibration, TF, INVALID, frozen payloads, min_modalities, compute_policy and the hand-over to the
network in test_pipeline.py and test_replay.py, the clocks, QoS and diagnostics in test_node*.py, the decoders' time
wraps and lost packets in test_event*.py."""


def test_each_rule_has_its_tests():
    there = {name for path in Path(__file__).parent.glob("test_collector*.py")
             for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)}
    assert {rule: lost for rule, tests in RULES.items() if (lost := set(tests) - there)} == {}
