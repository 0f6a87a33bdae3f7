"""Rhythm of stamps and the offset between two streams of them, against the streams they were made of."""

from __future__ import annotations

import numpy as np
import pytest
from rig_bag import MS, START

from mss_perception.timing import phase, rhythm


@pytest.mark.parametrize("period_ms", [(100, 100), (100, 33.333333), (33.333333, 100), (50, 10)])
@pytest.mark.parametrize("offset_ms", [0, 3.2, -4.9, 16.5, 50.0])
def test_phase_against_the_stamps_it_was_made_of(period_ms, offset_ms):
    random = np.random.default_rng(abs(hash((period_ms, offset_ms))) % 2**32)
    sensor_ms, reference_ms = period_ms
    reference = START + np.arange(300) * reference_ms * MS + random.normal(0, 0.2 * MS, 300)
    sensor = START + (np.arange(300) * sensor_ms + offset_ms) * MS + random.normal(0, 0.2 * MS, 300)
    keep = random.random(300) > 0.2         # a fifth of the samples is lost
    found = phase(sensor[keep].astype(np.int64), reference.astype(np.int64))
    modulo = min(period_ms)
    assert found.in_step and found.modulo_ns == pytest.approx(modulo * MS, rel=0.01)
    assert abs((found.offset_ns / MS - offset_ms + modulo / 2) % modulo - modulo / 2) < 0.1
    assert abs(found.offset_ns) <= found.modulo_ns / 2 + MS
    assert found.spread_ns < 1.0 * MS


def test_phase_of_streams_that_drift_apart():
    reference = START + np.arange(600) * 100 * MS
    found = phase(START + np.arange(600) * 100 * MS * 10002 // 10000, reference)     # 200 ppm, 12 ms in a minute
    assert found.drift_ppm == pytest.approx(200, rel=0.01)
    assert not phase(START + np.arange(600) * 107 * MS, reference).in_step
    assert phase(reference[:3], reference) is None


def test_rhythm():
    times = np.cumsum([0, 10, 10, 10, 30, 10, -20, 0, 40]) * MS
    found = rhythm(times)
    assert (found.period_ns, found.gaps, found.back, found.repeated) == (10 * MS, 2, 1, 1)
    assert rhythm([5, 5]) is None
