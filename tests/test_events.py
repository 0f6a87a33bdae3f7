"""Event lane: counts against brute force, the mapping between cameras against OpenCV, partial windows, resolutions."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from mss_models.modality import DEFAULT_ENCODINGS, Encoding
from mss_perception import rigid
from mss_perception.camera import Camera
from mss_perception.events import MAX_CAMERA_PIXELS, MAX_GRID_PIXELS, EventLane, pixel_sources
from mss_perception.lane import LaneInvalid
from mss_perception.messages import EventPicture, Events

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
    for count in (300, 65_236):     # 65536 in all
        many = np.full(count, 3, np.uint16)
        packets.append(Events(many, many, np.full(count, 90 * MS), np.ones(count, bool), 90 * MS, 90 * MS))
    result = lane()(packets, 100 * MS)
    assert tuple(result.image[3, 3]) == (255, 0, 0) and result.figures["on"] == 65_536
    assert result.image.sum() == 255


def test_packets_may_come_from_a_generator():
    packets = [packet(seed, 10 * seed, 10 * seed + 10, 70) for seed in range(10)]
    assert np.array_equal(lane()((one for one in packets), 100 * MS).image, lane()(packets, 100 * MS).image)
    assert lane()((one for one in packets), 100 * MS).figures["events"] > 300


def test_no_events_is_a_valid_empty_image():
    empty = Events(*(np.zeros(0, kind) for kind in (np.uint16, np.uint16, np.int64, bool)), 90 * MS, 100 * MS)
    for packets in ([empty], []):
        result = lane()(packets, 100 * MS)
        assert not result.image.any() and result.figures == {"events": 0, "on": 0, "off": 0, "coverage": 1.0}


def test_events_outside_the_sensor_are_not_counted():
    packets = [one_event(x, y, 90 * MS) for x, y in ((48, 0), (0, 32), (65535, 65535), *[(47, 31)] * 3)]
    result = lane()(packets, 100 * MS)
    assert (result.figures["events"], result.figures["outside"]) == (3, 3) and result.image[31, 47, 0] == 120
    assert result.image.sum() == 120


def test_events_of_a_larger_sensor_are_invalid():
    with pytest.raises(LaneInvalid, match=r"^\d+ of 400 events lie outside of the 48 x 32 pixels of camera_info"):
        lane()([packet(0, 60, 90, 400, width=96, height=64), packet(1, 0, 40, 400)], 100 * MS)


def test_a_grid_pixel_shows_the_mean_of_its_event_pixels():
    big = Camera(192, 128, [[160, 0, 95.5], [0, 160, 63.5], [0, 0, 1]])
    each = packet(3, 60, 100, 40_000, 192, 128)
    for gain in (16.0, 3.7, 199.0):
        encoding = Encoding("event", ENCODING.name, params={"window_sec": 0.05, "gain": gain})
        sums = np.zeros((32, 48, 2))
        np.add.at(sums, (each.y // 4, each.x // 4, np.where(each.p, 0, 1)), 1)
        expected = np.where(sums, np.clip(np.floor(gain * sums / 16 + 0.5), 1, 255), 0)
        image = EventLane(encoding, big, 32, 48, big, np.eye(4))([each], 100 * MS).image
        assert np.array_equal(image[..., :2], expected) and len(np.unique(image)) > 3


def test_the_same_edge_gives_the_same_codes_at_any_resolution():
    """An edge that sweeps over a third of the view: each event pixel on its way fires once, whatever its size."""
    images = []
    for scale in (0.5, 1, 1.5, 2, 3):
        camera = CAMERA.scaled(round(48 * scale), round(32 * scale))
        y, x = (grid.ravel() for grid in np.mgrid[:camera.height, :camera.width])
        swept = (x + 0.5) / scale < 16
        t = (60 + 30 * (x[swept] + 0.5) / scale / 16) * MS
        order = np.argsort(t)
        each = Events(x[swept][order].astype(np.uint16), y[swept][order].astype(np.uint16),
                      t[order].astype(np.int64), np.ones(len(order), bool), 60 * MS, 90 * MS)
        images.append(EventLane(ENCODING, CAMERA, 32, 48, camera, np.eye(4))([each], 100 * MS).image)
    for image in images:
        assert np.array_equal(image[:, :15], images[1][:, :15]) and not image[:, 17:].any()
    assert np.all(images[1][:, :16, 0] == 40)


def test_no_comb_of_empty_pixels_when_the_grid_is_finer():
    one = lane(96, 144)
    y, x = (grid.ravel().astype(np.uint16) for grid in np.mgrid[:32, :48])
    each = Events(x, y, np.full(len(x), 90 * MS), np.ones(len(x), bool), 90 * MS, 90 * MS)
    assert np.all(one([each], 100 * MS).image[..., 0] == 40)


def to_pixel(camera, point):
    """(x, y) of the pixel that OpenCV projects a point to, None outside."""
    if point[2] <= 1e-6:
        return None
    if np.hypot(point[0], point[1]) / point[2] >= camera.valid_radius:
        return None
    project = cv2.fisheye.projectPoints if camera.model == "equidistant" else cv2.projectPoints
    uv = project((point / point[2]).reshape(1, 1, 3), np.zeros(3), np.zeros(3), camera.K,
                 np.array(camera.D or (0.0,) * 4))[0]
    x, y = np.floor(uv.ravel() + 0.5).astype(int)
    return (x, y) if 0 <= x < camera.width and 0 <= y < camera.height else None


def to_ray(camera, x, y):
    """The ray, z = 1, of a pixel centre, by OpenCV."""
    uv, K, D = np.array([[[x, y]]], float), camera.K, np.array(camera.D or (0.0,) * 4)
    undistort = cv2.fisheye.undistortPoints if camera.model == "equidistant" else cv2.undistortPoints
    exactly = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12)
    return np.append(undistort(uv, K, D, criteria=exactly).ravel(), 1.0)


@pytest.mark.parametrize(("model", "D"), [("none", ()), ("plumb_bob", (-0.2, 0.05, 0.001, 0.002, 0)),
                                          ("equidistant", (0.02, -0.003, 0.0, 0.0))])
@pytest.mark.parametrize("plane", [0.0, 6.0])
@pytest.mark.parametrize(("height", "width"), [(9, 12), (30, 40), (72, 96)])        # coarser, alike and finer
def test_sources_of_every_grid_pixel_against_a_loop(model, D, plane, height, width):
    target = Camera(120, 90, [[70, 0, 60], [0, 70, 45], [0, 0, 1]], "plumb_bob", (-0.1, 0.01, 0, 0, 0))
    camera = Camera(48, 36, [[34, 0, 23], [0, 34, 17.6], [0, 0, 1]], model, D)
    T = rigid.matrix([0.3, -0.1, 0.05], [0.03, -0.02, 0.05, 1.0])
    grid, R, t = target.scaled(width, height), T[:3, :3], T[:3, 3]
    expected = [[] for _ in range(height * width)]
    for y in range(camera.height):
        for x in range(camera.width):
            ray = R @ to_ray(camera, x, y)
            point = t + ray * (plane - t[2]) / ray[2] if plane else ray
            if met := to_pixel(grid, point):
                expected[met[1] * width + met[0]].append(y * camera.width + x)
    for pixel in range(height * width):
        if not expected[pixel]:
            ray = to_ray(grid, pixel % width, pixel // width)
            if seen := to_pixel(camera, R.T @ (ray * plane - t if plane else ray)):
                expected[pixel].append(seen[1] * camera.width + seen[0])
    starts, sources = pixel_sources(target, height, width, camera, T, plane)
    found = [sources[begin:end].tolist() for begin, end in zip(starts[:-1], starts[1:], strict=True)]
    # A ray that meets a border between two pixels may fall to either.
    differing = sum(one != other for one, other in zip(found, expected, strict=True))
    assert differing <= 0.002 * height * width and sum(map(bool, expected)) > 0.5 * height * width


def test_images_too_large_for_a_table_are_refused():
    large = CAMERA.scaled(2048, MAX_CAMERA_PIXELS // 2048 + 1)
    with pytest.raises(LaneInvalid, match="event camera of 2048 x 2049 pixels: .* at most 4194304"):
        EventLane(ENCODING, CAMERA, 32, 48, large, np.eye(4))
    with pytest.raises(LaneInvalid, match="network's image of 8192 x 1025"):
        EventLane(ENCODING, CAMERA, MAX_GRID_PIXELS // 8192 + 1, 8192, CAMERA, np.eye(4))


def test_an_event_camera_that_looks_away_sees_nothing_of_the_target():
    starts, sources = pixel_sources(CAMERA, 32, 48, CAMERA, rigid.matrix([0, 0, 0], [0, 1, 0, 0]))
    assert len(sources) == 0 and not starts.any()


def test_another_encoding_is_refused_at_once():
    with pytest.raises(ValueError, match="'deliver_event'"):
        EventLane(Encoding("event", "deliver_event"), CAMERA, 32, 48, CAMERA, np.eye(4))


# --------------------------------------------------------------------------------------------------- partial windows

def test_coverage_is_what_numbered_packets_cover():
    packets = [replace(packet(k, begin, end, 50), lost=lost)
               for k, (begin, end, lost) in enumerate([(40, 60, 0), (60, 70, 0), (85, 95, 3), (95, 105, 0)])]
    figures = lane()(packets, 100 * MS, coverage=1.0).figures        # of 50..100 ms, 70..85 are missing
    assert (figures["coverage"], figures["lost_packets"]) == (0.7, 3)
    assert lane()(packets, 100 * MS, 90 * MS).figures["coverage"] == 0.5
    # A gap before the window is none of it; where packets have no numbers, the collector's word counts.
    assert "lost_packets" not in lane()(packets[2:], 140 * MS).figures
    assert lane()([*packets, packet(9, 70, 85, 50)], 100 * MS, coverage=0.9).figures["coverage"] == 0.9


def test_packets_of_another_camera_are_invalid():
    for width, height in ((640, 480), (32, 48)):
        with pytest.raises(LaneInvalid, match=f"of a camera of {width} x {height} pixels, camera_info says 48 x 32"):
            lane()([packet(0, 60, 90, 5), replace(packet(1, 60, 90, 5), width=width, height=height)], 100 * MS)
    blank = np.zeros((33, 48), bool)
    with pytest.raises(LaneInvalid, match="of a camera of 48 x 33 pixels"):
        lane()([EventPicture(blank, blank, 0, 90 * MS)], 100 * MS)


def test_of_pictures_the_one_nearest_in_time_counts():
    pictures = []
    for k, end in enumerate((40, 75, 108, 141)):
        on, off = np.zeros((2, 32, 48), bool)
        on[k, 0] = off[0, k] = True
        pictures.append(EventPicture(on, off, (end - 33) * MS, end * MS))
    result = lane()(pictures, 100 * MS, coverage=0.8)
    assert np.argwhere(result.image[..., 0]).tolist() == [[2, 0]]
    assert np.argwhere(result.image[..., 1]).tolist() == [[0, 2]]
    assert result.figures == {"events": 2, "on": 1, "off": 1, "coverage": 0.8}
