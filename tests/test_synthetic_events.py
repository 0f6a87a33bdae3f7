"""The event camera on intensities whose events are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from training.synthetic.event_camera import EventSensor

MS = 1_000_000


def sensor(first, t_ns=0, **options):
    quiet = {"spread": 0.0, "noise_hz": 0.0, "dark": 0.0, "threshold": 0.2} | options
    return EventSensor(np.asarray(first, float), t_ns, np.random.default_rng(0), **quiet)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_ramp_of_log_intensity_gives_evenly_spaced_events_of_its_sign(sign):
    camera = sensor(np.full((4, 6), 0.5))
    begin, end, slope = 0, 20 * MS, sign * 3.0 / (20 * MS)  # 3 units of log intensity: 15 thresholds of 0.2
    x, y, t, p = camera.advance(0.5 * np.exp(np.full((4, 6), slope * (end - begin))), end)
    assert (p == (sign > 0)).all()
    assert (np.diff(t) >= 0).all()
    assert (t % 1000 == 0).all()
    assert t.min() >= begin
    assert t.max() < end
    spacing = 0.2 / abs(slope)
    for row in range(4):
        for column in range(6):
            mine = t[(x == column) & (y == row)]
            assert len(mine) in (14, 15)  # the first comes after the rest of a threshold
            assert np.abs(np.diff(mine) - spacing).max() <= 1000


def test_the_level_is_carried_over_so_that_slow_changes_are_not_lost():
    slow, fast = sensor(np.full((8, 8), 0.5)), sensor(np.full((8, 8), 0.5))
    total = 0
    for step in range(1, 101):
        total += len(slow.advance(0.5 * np.exp(np.full((8, 8), 0.013 * step)), step * MS)[0])
    assert total == len(fast.advance(0.5 * np.exp(np.full((8, 8), 1.3)), 100 * MS)[0])


def test_up_and_down_again_gives_both_polarities_and_constant_light_none():
    camera = sensor(np.full((8, 8), 0.3))
    _, _, _, up = camera.advance(np.full((8, 8), 0.9), 10 * MS)
    _, _, _, down = camera.advance(np.full((8, 8), 0.3), 20 * MS)
    assert up.all()
    assert not down.any()
    assert abs(len(up) - len(down)) <= 64
    assert len(camera.advance(np.full((8, 8), 0.3), 30 * MS)[0]) == 0


def test_thresholds_differ_between_pixels_but_not_between_starts_of_one_device():
    image = np.full((64, 64), 0.2)
    counts = []
    for seed in (1, 2):
        camera = EventSensor(image, 0, np.random.default_rng(seed), threshold=0.2, spread=0.04, noise_hz=0.0, dark=0.0)
        x, y, _, _ = camera.advance(image * np.exp(4.0), 10 * MS)
        counts.append(np.bincount(y.astype(int) * 64 + x, minlength=64 * 64))
    assert counts[0].std() > 2  # about 20 events each, thresholds +- 20 %
    assert np.corrcoef(counts)[0, 1] > 0.9
    assert np.median(counts[0]) == pytest.approx(20, abs=1)


def test_background_events_have_the_given_rate_and_both_polarities():
    camera = sensor(np.full((50, 100), 0.5), noise_hz=5.0)
    x, y, t, p = camera.advance(np.full((50, 100), 0.5), 1000 * MS)
    assert len(t) == pytest.approx(25_000, rel=0.05)
    assert p.mean() == pytest.approx(0.5, abs=0.02)
    assert (np.diff(t) >= 0).all()
    assert x.max() == 99
    assert y.max() == 49


def test_dark_current_hides_contrast_in_the_dark():
    bright = sensor(np.full((8, 8), 0.5), dark=0.004).advance(np.full((8, 8), 1.0), 10 * MS)
    dim = sensor(np.full((8, 8), 0.0005), dark=0.004).advance(np.full((8, 8), 0.001), 10 * MS)
    assert len(bright[0]) > 2.5 * 64  # log 2 is 3.5 thresholds
    assert len(dim[0]) <= 64  # a fifth of the contrast is left: less than one threshold
