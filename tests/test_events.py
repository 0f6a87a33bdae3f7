"""Event lane: counts against brute force, the mapping between cameras."""

from __future__ import annotations

import numpy as np
import pytest

from mss_models.modality import DEFAULT_ENCODINGS, Encoding
from mss_perception import rigid
from mss_perception.camera import Camera
from mss_perception.events import EventLane, pixel_sources
from mss_perception.messages import Events

ENCODING = DEFAULT_ENCODINGS["event"]       # 50 ms, gain 40
MS = 1_000_000
CAMERA = Camera(48, 32, [[40, 0, 23.5], [0, 40, 15.5], [0, 0, 1]])


def lane(height=32, width=48):
    return EventLane(ENCODING, CAMERA, height, width, CAMERA, np.eye(4))


def packet(seed, begin_ms, end_ms, count, width=48, height=32):
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(begin_ms * MS, end_ms * MS, count))
    return Events(rng.integers(0, width, count).astype(np.uint16), rng.integers(0, height, count).astype(np.uint16), t,
                  rng.random(count) < 0.6, begin_ms * MS, end_ms * MS)


def one_event(x, y, t, on=True):
    return Events(np.array([x], np.uint16), np.array([y], np.uint16), np.array([t], np.int64), np.array([on]), t, t)


def test_window_counts_against_brute_force():
    packets = [packet(seed, 10 * seed, 10 * seed + 10, 700) for seed in range(20)]
    one = lane()
    for t_ref in (60 * MS, 123 * MS + 4567, 200 * MS):      # one window leaves nothing behind for the next
        result = one(packets, t_ref, coverage=0.75)
        expected = np.zeros((32, 48, 3), int)
        for each in packets:
            for x, y, t, on in zip(each.x, each.y, each.t, each.p, strict=True):
                if t_ref - 50 * MS <= t <= t_ref:
                    expected[y, x, 0 if on else 1] += 1
        on, off = expected[..., 0].sum(), expected[..., 1].sum()
        assert result.figures == {"events": on + off, "on": on, "off": off, "coverage": 0.75}
        assert on > 100 and off > 100
        assert np.array_equal(result.image, np.minimum(255, 40 * expected))


def test_both_ends_of_the_window_belong_to_it():
    packets = [one_event(5, 6, t) for t in (50 * MS - 1, 50 * MS, 100 * MS, 100 * MS + 1)]
    assert lane()(packets, 100 * MS).figures["events"] == 2


def test_events_after_what_was_known_are_left_out():
    one, known = lane(), packet(0, 50, 80, 300)
    later = packet(1, 81, 100, 300)
    before, after = one([known], 100 * MS, 80 * MS), one([known, later], 100 * MS, 80 * MS)
    assert np.array_equal(before.image, after.image) and before.figures == after.figures
    assert one([known, later], 100 * MS).figures["events"] == 600


def test_counts_clip_and_never_wrap():
    packets = []
    for count in (300, 70_000):
        many = np.full(count, 3, np.uint16)
        packets.append(Events(many, many, np.full(count, 90 * MS), np.ones(count, bool), 90 * MS, 90 * MS))
    result = lane()(packets, 100 * MS)
    assert tuple(result.image[3, 3]) == (255, 0, 0) and result.figures["on"] == 70_300
    assert result.image.sum() == 255


def test_no_events_is_a_valid_empty_image():
    empty = Events(*(np.zeros(0, kind) for kind in (np.uint16, np.uint16, np.int64, bool)), 90 * MS, 100 * MS)
    for packets in ([empty], []):
        result = lane()(packets, 100 * MS)
        assert not result.image.any() and result.figures == {"events": 0, "on": 0, "off": 0, "coverage": 1.0}


def test_events_outside_the_sensor_are_not_counted():
    packets = [one_event(x, y, 90 * MS) for x, y in ((48, 0), (0, 32), (65535, 65535), (47, 31))]
    result = lane()(packets, 100 * MS)
    assert result.figures["events"] == 1 and result.image[31, 47, 0] == 40


@pytest.mark.parametrize(("model", "D"), [("none", ()), ("plumb_bob", (-0.2, 0.05, 0.001, 0.002, 0)),
                                          ("equidistant", (0.02, 0.0, 0.0, 0.0))])
@pytest.mark.parametrize("plane", [0.0, 6.0])
def test_event_pixels_land_where_their_ray_meets_the_target(model, D, plane):
    target = Camera(120, 90, [[70, 0, 60], [0, 70, 45], [0, 0, 1]], "plumb_bob", (-0.1, 0.01, 0, 0, 0))
    camera = Camera(64, 48, [[45, 0, 31], [0, 45, 23], [0, 0, 1]], model, D)
    T = rigid.matrix([0.3, -0.1, 0.05], [0.03, -0.02, 0.05, 1.0])
    one = EventLane(ENCODING, target, 30, 40, camera, T, plane)
    landed = 0
    for x in range(0, 64, 7):
        for y in range(0, 48, 5):
            image = one([one_event(x, y, 90 * MS, on=False)], 100 * MS).image
            ray = T[:3, :3] @ camera.unproject([[x, y]])[0]
            point = ray if not plane else T[:3, 3] + ray * (plane - T[2, 3]) / ray[2]
            uv, valid = target.scaled(40, 30).project(point[None])
            u, v = np.floor(uv[0] + 0.5) if valid[0] else (-1, -1)
            if 0 <= u < 40 and 0 <= v < 30:
                landed += 1
                assert image[int(v), int(u), 1] == 40
                image[max(0, int(v) - 1):int(v) + 2, max(0, int(u) - 1):int(u) + 2] = 0
            assert not image.any()      # nowhere else, but for a neighbour that no ray meets
    assert landed > 50


def test_every_event_pixel_in_view_is_counted_when_the_grid_is_coarser():
    big = Camera(192, 128, [[160, 0, 95.5], [0, 160, 63.5], [0, 0, 1]])
    each = packet(3, 60, 100, 3000, 192, 128)
    encoding = Encoding("event", ENCODING.name, params={"window_sec": 0.05, "gain": 1.0})
    one = EventLane(encoding, big, 32, 48, big, np.eye(4))
    expected = np.zeros((32, 48, 2), int)
    np.add.at(expected, (each.y // 4, each.x // 4, np.where(each.p, 0, 1)), 1)
    assert expected.max() < 255
    assert np.array_equal(one([each], 100 * MS).image[..., :2], expected)


def test_no_comb_of_empty_pixels_when_the_grid_is_finer():
    one = lane(96, 144)
    y, x = (grid.ravel().astype(np.uint16) for grid in np.mgrid[:32, :48])
    each = Events(x, y, np.full(len(x), 90 * MS), np.ones(len(x), bool), 90 * MS, 90 * MS)
    assert np.all(one([each], 100 * MS).image[..., 0] == 40)


def test_an_event_camera_that_looks_away_sees_nothing_of_the_target():
    starts, sources = pixel_sources(CAMERA, 32, 48, CAMERA, rigid.matrix([0, 0, 0], [0, 1, 0, 0]))
    assert len(sources) == 0 and not starts.any()


def test_another_encoding_is_refused_at_once():
    with pytest.raises(ValueError, match="'voxel_grid'"):
        EventLane(Encoding("event", "voxel_grid"), CAMERA, 32, 48, CAMERA, np.eye(4))
