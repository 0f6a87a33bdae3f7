"""The collector at work: ticks, matching, emission, streams and memory, each rule by itself on a simulated rig.

How time misbehaves is in test_collector_cases.py, with a table of which test holds which rule.
"""

from __future__ import annotations

import itertools
import logging

import pytest
from collector_rig import EPOCH, LATENCY, MS, STEADY, WINDOW, Fault, Rig, assert_conserved, mask, masks, ns, waits

from mss_perception.collector import Collector, InputState, State
from mss_perception.config import CollectorConfig, InputConfig

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
        return [(one.t_ref_ns, mask(one), one.emitted_ns - one.opened_ns) for one in rig.sets]

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


@pytest.mark.parametrize("rate", [5.0, 10.0, 20.0])
def test_a_stream_alone_ticks_at_tick_rate(rate):
    rig = Rig(["event"], tick_rate_hz=rate).play(4000)
    assert {b - a for a, b in zip(rig.ticks, rig.ticks[1:], strict=False)} == {1000 / rate}
    assert len(rig.sets) == pytest.approx(4 * rate, abs=1) and masks(rig.sets) == {"e"}


def test_a_tick_can_make_way_for_another_sources_at_the_same_instant():
    """The tick at 250 moves the phase to one for which the events cover a window."""
    rig = Rig(["event", "lidar"], inputs={"event": {"recover_after": 50}, "lidar": {"recover_after": 50}})
    rig.add("lidar", 0)
    rig.advance(300)
    for stamp in (330, 340, 350):                               # but not the one at 300
        rig.add("event", stamp)
    assert rig.ticks == [0] and rig.collector.counters["ticks"] == 1
    rig.add("lidar", 250, now=356)
    assert rig.collector.counters["ticks"] == 3
    rig.advance(1000)
    assert rig.ticks == [0, 250, 350] and [one.tick_source for one in rig.sets] == ["lidar", "lidar", "event"]


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


def test_a_set_is_emitted_with_the_last_sample_that_it_waits_for():
    rig = Rig().play(1000)
    for name in ("event", "rgb", "depth"):
        rig.add(name, 1000)
    assert rig.ticks[-1] == 900
    rig.add("lidar", 1000, now=1046)
    assert rig.ticks[-1] == 1000 and rig.sets[-1].emitted_ns == STEADY + ns(1046) and not rig.sets[-1].deadline_hit


def test_deadline_sec_may_change_while_running():
    rig = Rig(["rgb", "lidar"]).play(1000)
    rig.config.deadline_sec = 0.02
    rig.add("rgb", 1000, now=1010)
    rig.advance(1030)
    assert rig.ticks[-1] == 1000 and rig.sets[-1].deadline_hit and waits(rig.sets)[-1] == pytest.approx(20)


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


@pytest.mark.parametrize("lost, present", [(2, True), (3, False)])
def test_a_partial_window_is_valid_while_half_of_it_is_there(lost, present):
    """Packets of 10 ms, windows of 50; missing_after = 1 bridges a gap of one packet at most."""
    rig = Rig(["rgb", "event"], inputs={"event": {"missing_after": 1}})
    for stamp in range(10, 610, 10):
        if not 570 <= stamp < 570 + 10 * lost:
            rig.add("event", stamp)
        if stamp % 100 == 0:
            rig.add("rgb", stamp, now=stamp + 7)
    rig.advance(1000)
    partial = rig.between(600, 601)[0].inputs["event"]
    assert partial.present is present and partial.coverage == pytest.approx(1 - lost / 5)


def test_a_stream_window_may_end_within_tolerance_of_the_tick():
    rig = Rig(["rgb", "event"]).play(1000)
    rig.add("rgb", 999, now=1030)
    rig.advance(2000)
    state = rig.sets[-1].inputs["event"]
    assert state.state is State.OK and state.delta_ns == -9 * MS and 0.5 < state.coverage < 1


# ---- memory


def test_the_oldest_arrival_is_evicted_not_the_oldest_stamp():
    rig = Rig(["rgb", "lidar"], tick_source=["rgb"], inputs={"lidar": {"queue": 3}})
    for number, stamp in enumerate((300, 100, 200, 400)):       # no ticks: nothing else empties the queue
        rig.add("lidar", stamp, now=410 + number, payload=stamp)
    for stamp in (100, 200, 300, 400):
        rig.add("rgb", stamp, now=420)
    rig.advance(1000)
    assert [one.inputs["lidar"].payload for one in rig.sets] == [100, 200, None, 400]
    assert rig.count("lidar")["evicted"] == 1


def test_what_open_sets_would_take_stays_until_they_are_emitted():
    """All sets wait for the LiDAR until their deadline, in which a camera at 30 Hz gives more than a queue."""
    rig = Rig(["rgb", "depth", "lidar"], deadline_sec=0.5, max_pending=5, inputs={"lidar": {"missing_after": 100}})
    rig.play(3000, periods={"rgb": 100 / 3, "depth": 100 / 3}, faults=[Fault("lidar", "drop", 0, 3000)])
    assert len(rig.sets) > 20 and masks(rig.sets) == {"rd"} and rig.count("rgb")["evicted"] > 0
    assert rig.collector.status()["inputs"]["rgb"]["queued"] <= rig.inputs[0].queue + rig.config.max_pending


def test_max_bytes_bounds_the_queue_but_keeps_the_newest_sample():
    rig = Rig(["rgb", "lidar"], tick_source=["rgb"], inputs={"lidar": {"max_bytes": 100_000}})
    for stamp, nbytes in ((100, 60_000), (200, 30_000), (300, 20_000), (400, 200_000)):
        rig.add("lidar", stamp, nbytes=nbytes)
        status = rig.collector.status()["inputs"]["lidar"]
        assert (status["queued"], status["queued_bytes"]) == {
            100: (1, 60_000), 200: (2, 90_000), 300: (2, 50_000), 400: (1, 200_000)}[stamp]
    assert rig.count("lidar")["evicted"] == 3


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
