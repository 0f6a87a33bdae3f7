"""Sets less often than the sensors' samples: what is late, dead or back must not depend on when the next set is due."""

from __future__ import annotations

import pytest
from collector_rig import EPOCH, LATENCY, PERIOD, Fault, Rig, assert_conserved, mask, masks, ns, waits

NAMES = tuple(PERIOD)
RATES = [2.0, 2.5, 5.0]     # sets a second; the slowest sensors have 10 samples


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kind", ["drop", "delay"])
@pytest.mark.parametrize("name", NAMES)
def test_a_sensor_that_returns_is_waited_for_after_recover_after_samples(name, kind, rate):
    """Whenever it returns: by the mask that is right recover_after + 1 periods after a fault's end."""
    for end in range(4200, 4700, 130):
        rig = Rig(tick_rate_hz=rate).play(6500, [Fault(name, kind, 2000, end, 295)])
        assert masks(rig.between(end + 3 * PERIOD[name], 6300)) == {"rdel"}, end
        assert_conserved(rig)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("amount", [160, 241, 295, 700])
@pytest.mark.parametrize("name", NAMES)
def test_a_delay_beyond_the_deadline_is_one_also_between_two_sets(name, amount, rate):
    """The reference's too: the next source takes over, though the late samples are newer than the newest set."""
    rig = Rig(tick_rate_hz=rate).play(9000, [Fault(name, "delay", 2950, 7000, amount)])
    during = rig.between(3050, 7000)
    others = "".join(one[0] for one in NAMES if one != name)
    assert masks(during) == {others} and len(during) >= 4 * rate - 1
    assert name not in {one.tick_source for one in during}
    assert not any(one.deadline_hit for one in during[3:])                      # nobody waits for what is late
    assert masks(rig.between(7000 + 3 * PERIOD[name], 8800)) == {"rdel"}
    assert_conserved(rig)


def test_a_silence_is_not_in_vain():
    """Many samples between two sets are no reason not to wait for a sensor that has just come back."""
    rig = Rig(["rgb", "lidar"], tick_rate_hz=1.0)
    for k in range(60):
        rig.advance(100 * k + 10)
        rig.add("rgb", 100 * k, now=100 * k + 10)
        if k < 15 or k >= 42:
            rig.advance(100 * k + 60)
            rig.add("lidar", 100 * k, now=100 * k + 60)
    rig.advance(6000)
    assert [mask(one) for one in rig.sets] == ["rl", "rl", "r", "r", "r", "rl"]
    assert waits(rig.sets)[4:] == [0, 50]


def test_a_sensor_whose_samples_never_match_is_in_vain_at_any_rate():
    rig = Rig(["rgb", "lidar"], inputs={"lidar": {"tolerance_sec": 0.04}}, tick_rate_hz=2.0)
    for k in range(60):
        rig.add("rgb", 100 * k, now=100 * k + 10)
        rig.advance(100 * k + 95)
        rig.add("lidar", 100 * k + 50, now=100 * k + 95)
        rig.advance(100 * k + 100)
    assert [wait > 0 for wait in waits(rig.sets)] == [True] * 3 + [False] * 9


@pytest.mark.parametrize("speed", [0.1, 0.5, 3.0])
def test_a_recording_played_slower_or_faster_than_it_was_made(speed):
    """Stamps and the steady clock then run at different rates, and nothing is late for that."""
    rig = Rig(tick_rate_hz=2.0, deadline_sec=max(0.1, 0.06 / speed))    # latencies differ by 40 ms of the recording
    messages = sorted((k * PERIOD[name] + LATENCY[name], name, k * PERIOD[name])
                      for name in NAMES for k in range(5000 // PERIOD[name]))
    for arrival, name, stamp in messages:
        rig.advance(arrival / speed)
        rig.add(name, stamp, arrival / speed, clock=EPOCH + ns(arrival))
    assert [mask(one) for one in rig.sets] == ["rdl"] + ["rdel"] * 9    # the first window has no events yet
    assert not any(rig.count(name)["late"] for name in NAMES)
