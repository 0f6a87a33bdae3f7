"""Depth lane: codes against the formula, nearest resampling, registration against a plane in closed form and a loop."""

from __future__ import annotations

import struct
from dataclasses import replace

import cv2
import numpy as np
import pytest
from lone_input import lone_image
from rosbags.typesys import Stores, get_typestore

from mss_models.modality import DEFAULT_ENCODINGS, Encoding
from mss_perception import rigid
from mss_perception.camera import Camera
from mss_perception.config import Config
from mss_perception.depth import DepthLane, same_view
from mss_perception.inputs import InputState, State
from mss_perception.lane import LaneInvalid
from mss_perception.messages import MessageError, bag_types, encode_camera_info, encode_image
from mss_perception.sensors import Sample, Sensors

ENCODING = DEFAULT_ENCODINGS["depth"]
TARGET = Camera(96, 64, [[60, 0, 47.5], [0, 60, 31.5], [0, 0, 1]], "plumb_bob", (-0.15, 0.02, 0.001, 0.001, 0.0))


def lane(height=64, width=96):
    return DepthLane(ENCODING, TARGET, height, width)


def codes(z, near=1.0, far=80.0):
    """The encoding's definition in float64, before rounding."""
    z = np.clip(z, near, far)
    return np.stack([1 + 254 * np.log(z / near) / np.log(far / near), 1 + 254 * near / z, np.full_like(z, 255.0)], -1)


def test_codes_are_the_definition():
    depth = np.random.default_rng(0).uniform(0.3, 120, (64, 96)).astype(np.float32)
    result = lane()(depth)
    assert np.abs(result.image - codes(depth.astype(np.float64))).max() <= 0.5 + 1e-3
    assert result.figures == {"valid_fraction": 1.0}
    assert result.image.min() >= 1      # 0 is "nothing here"


def test_millimetres_and_metres_agree():
    depth = np.random.default_rng(1).integers(0, 65536, (64, 96)).astype(np.uint16)
    metres = np.where(depth == 0, np.nan, depth / 1000).astype(np.float32)
    a, b = lane()(depth), lane()(metres)
    assert np.abs(a.image.astype(int) - b.image).max() <= 1 and a.figures == b.figures
    assert np.array_equal(a.image.any(-1), depth > 0)


def test_what_gives_no_distance_is_nothing_here():
    depth = np.full((64, 96), 5.0, np.float32)
    depth[0, :5] = np.nan, np.inf, -np.inf, 0.0, -3.0
    result = lane()(depth)
    assert not result.image[0, :5].any() and result.image[0, 5:].all() and result.image[1:].all()
    assert result.figures["valid_fraction"] == pytest.approx(1 - 5 / (64 * 96))


def test_resampling_never_makes_up_a_distance_between_near_and_far():
    depth = np.full((64, 96), 2.0, np.float32)
    depth[:, 41:] = 60.0
    depth[::7] = np.nan
    for size in ((64, 96), (33, 50), (100, 200), (7, 9)):
        image = lane(*size)(depth).image
        allowed = {(0, 0, 0), *(tuple(np.rint(codes(np.float64(z))).astype(int).tolist()) for z in (2.0, 60.0))}
        assert {tuple(pixel) for pixel in image.reshape(-1, 3).tolist()} <= allowed
        # Each pixel is the depth pixel under its centre.
        rows = ((np.arange(size[0]) + 0.5) * 64 / size[0]).astype(int)
        columns = ((np.arange(size[1]) + 0.5) * 96 / size[1]).astype(int)
        assert np.array_equal(image.any(-1), np.isfinite(depth[np.ix_(rows, columns)]))


@pytest.mark.parametrize("empty", [np.nan, np.inf, -np.inf, 0.0])
def test_an_image_without_any_measurement_is_invalid(empty):
    with pytest.raises(LaneInvalid, match="no valid pixel"):
        lane()(np.full((64, 96), empty, np.float32))
    with pytest.raises(LaneInvalid, match="no valid pixel"):
        lane()(np.zeros((64, 96), np.uint16))


@pytest.mark.parametrize(("depth", "named"), [
    (np.ones((64, 96)), "float64"), (np.ones((64, 96, 1), np.float32), "3 dimensions"),
    (np.ones((64, 96), np.uint8), "uint8"), (np.ones((64, 95), np.float32), "95 x 64.*96 x 64"),
])
def test_another_type_or_size_is_invalid(depth, named):
    with pytest.raises(LaneInvalid, match=named):
        lane()(depth, TARGET, np.eye(4))


def test_another_encoding_is_refused_at_once():
    with pytest.raises(ValueError, match="'deliver_depth'"):
        DepthLane(Encoding("depth", "deliver_depth"), TARGET, 64, 96)


def test_same_view_is_told_by_geometry_not_by_size():
    assert same_view(TARGET.scaled(48, 32), TARGET) and same_view(TARGET, TARGET.scaled(200, 10))
    assert not same_view(Camera(96, 64, [[60, 0, 46.5], [0, 60, 31.5], [0, 0, 1]], TARGET.model, TARGET.D), TARGET)
    assert not same_view(Camera(96, 64, TARGET.K), TARGET)


PLACE = rigid.matrix([0.4, -0.2, 0.1], [0.02, -0.03, 0.01, 0.99])      # T_target_depth
NORMAL, OFFSET = np.array([0.2, 0.3, 1.0]), 9.0                         # a plane NORMAL . x = OFFSET in the target


def depth_of_plane(camera):
    """What the other camera measures of the plane, by ray and plane."""
    R, t = PLACE[:3, :3], PLACE[:3, 3]
    z = (OFFSET - NORMAL @ t) / (camera.pixel_rays() @ R.T @ NORMAL)
    return z.reshape(camera.height, camera.width).astype(np.float32)


@pytest.mark.parametrize(("width", "height", "model", "D"), [
    (96, 64, "none", ()), (320, 240, "plumb_bob", (0.05, -0.01, 0, 0, 0)), (60, 45, "none", ()),
    (128, 100, "equidistant", (0.01, 0.0, 0.0, 0.0))])
def test_a_plane_seen_by_another_camera_lies_where_it_is(width, height, model, D):
    wide = Camera(width, height, [[0.45 * width, 0, width / 2], [0, 0.45 * width, height / 2], [0, 0, 1]], model, D)
    image = lane()(depth_of_plane(wide), wide, PLACE).image
    truth = (OFFSET / (TARGET.pixel_rays() @ NORMAL)).reshape(64, 96)
    # Which target pixels the other camera sees, with a margin of two of its pixels.
    points = TARGET.pixel_rays() * truth.reshape(-1, 1)
    uv, valid = wide.project((points - PLACE[:3, 3]) @ PLACE[:3, :3])
    covered = (valid & np.all((uv > 2) & (uv < [width - 3, height - 3]), axis=1)).reshape(64, 96)
    # A pixel on the rim may miss the measurement beside it that falls just outside the image.
    covered &= np.pad(np.ones((62, 94), bool), 1)
    assert covered.mean() > 0.5
    assert image.any(-1)[covered].all(), "cracks in a surface that was measured"
    # The nearest measurement within the footprint wins: about a pixel of the depth camera and half of the target's.
    reach = int(np.ceil(TARGET.K[0, 0] / wide.K[0, 0] + 0.5))
    padded = np.pad(truth, reach, mode="edge")
    shifts = [padded[dy:dy + 64, dx:dx + 96] for dy in range(2 * reach + 1) for dx in range(2 * reach + 1)]
    low, high = codes(np.min(shifts, 0))[..., 0], codes(np.max(shifts, 0))[..., 0]
    inside = (image[..., 0] >= low - 0.51) & (image[..., 0] <= high + 0.51)
    assert inside[covered].all()
    assert np.abs(image[..., 0] - codes(truth)[..., 0])[covered].mean() < 1.0


def test_the_nearer_surface_wins_and_its_shadow_stays_empty():
    # A post in front of a wall, seen by a camera 1 m to the right: behind the post the target has seen nothing.
    camera = Camera(96, 64, [[60, 0, 47.5], [0, 60, 31.5], [0, 0, 1]])
    target = DepthLane(ENCODING, camera, 64, 96)
    depth = np.full((64, 96), 20.0, np.float32)
    depth[:, 40:50] = 4.0
    T = np.eye(4)
    T[0, 3] = 1.0
    image = target(depth, camera, T).image
    near, far = (int(np.rint(codes(np.float64(z))[0])) for z in (4.0, 20.0))
    row = image[32, :, 0]
    post = np.flatnonzero(row == near)
    # At 4 m the metre is 15 pixels, at 20 m 3: the post is at 55..64, its shadow in the wall begins at 43.
    assert post[0] in (54, 55) and post[-1] in (64, 65) and set(row[43:53]) == {0}
    assert set(row[3:42]) == {far}


def test_registration_is_the_brute_force_loop():
    """Every pixel of a random, broken depth image, one after the other, in float64 and with OpenCV's projection."""
    camera = Camera(24, 18, [[20, 0, 11.2], [0, 21, 8.7], [0, 0, 1]])
    depth = np.random.default_rng(9).choice([3.0, 3.2, 3.4, 9.0, np.nan], (18, 24)).astype(np.float32)
    grid_h, grid_w = 40, 72
    scale = np.array([grid_w / TARGET.width, grid_h / TARGET.height])
    v, u = np.mgrid[:18, :24]
    rays = np.dstack([(u - 11.2) / 20, (v - 8.7) / 21])
    points = np.dstack([rays, np.ones((18, 24))]) * depth[..., None]
    points = points @ PLACE[:3, :3].T + PLACE[:3, 3]
    finite = np.isfinite(points).all(-1)
    uv = np.full((18, 24, 2), np.nan)
    uv[finite] = cv2.projectPoints(points[finite], np.zeros(3), np.zeros(3), TARGET.K, np.array(TARGET.D))[0][:, 0]
    seen = finite & (points[..., 2] > 0) & np.all((uv >= 0) & (uv < [TARGET.width, TARGET.height]), axis=-1)
    front = np.full((grid_h, grid_w), np.inf)
    for row, column in zip(*np.nonzero(seen), strict=True):
        z, steps = points[row, column, 2], []
        for other in ((row, column + 1), (row + 1, column)):
            if other[0] < 18 and other[1] < 24 and seen[other] and \
                    abs(points[other][2] - z) < 0.2 * min(points[other][2], z):
                steps.append(np.abs((uv[other] - uv[row, column]) * scale).max())
        half = 0.6 * max(steps) if steps else 0.6 * scale[0] * TARGET.K[0, 0] / camera.K[0, 0]
        place = (uv[row, column] + 0.5) * scale
        for y, x in np.ndindex(grid_h, grid_w):
            mine = (y, x) == (int(place[1]), int(place[0]))
            if mine or abs(x + 0.5 - place[0]) <= half and abs(y + 0.5 - place[1]) <= half:
                front[y, x] = min(front[y, x], z)
    image = DepthLane(ENCODING, TARGET, grid_h, grid_w)(depth, camera, PLACE).image
    expected = np.where(np.isfinite(front)[..., None], codes(np.where(np.isfinite(front), front, 1.0)), 0)
    # A square's edge may fall on a pixel's centre, where single and double precision part.
    assert (np.abs(image - expected).max(-1) > 0.6).sum() <= 3
    assert 0.2 < np.isfinite(front).mean() < 1


def test_compressed_depth_gives_what_raw_depth_gives():
    encodings, types = {"rgb": DEFAULT_ENCODINGS["rgb"], "depth": ENCODING}, bag_types()
    sensors = Sensors(Config(), encodings, (32, 32))
    for name in ("rgb", "depth"):
        sensors.learn(f"{name}/info", encode_camera_info(types, replace(TARGET, frame_id="camera"), 0))
    depth = np.random.default_rng(2).integers(0, 9000, (64, 96)).astype(np.uint16)
    header = struct.pack("<iff", 0, 0.0, 0.0)
    raw = encode_image(types, depth, "16UC1", 5, "camera")
    compressed = get_typestore(Stores.ROS2_JAZZY).types["sensor_msgs/msg/CompressedImage"](
        header=raw.header, format="16UC1; compressedDepth png",
        data=np.frombuffer(header + cv2.imencode(".png", depth)[1].tobytes(), np.uint8))
    images = [lone_image(sensors, "depth", InputState(State.OK, 5, payload=Sample(message)), 5)
              for message in (raw, compressed)]
    assert np.array_equal(images[0].image, images[1].image) and images[0].figures == images[1].figures
    raw = encode_image(types, depth[:, :90], "16UC1", 5, "camera")
    with pytest.raises(MessageError, match="90 x 64, camera_info says 96 x 64"):
        lone_image(sensors, "depth", InputState(State.OK, 5, payload=Sample(raw)), 5)


def test_a_held_image_of_the_target_camera_itself_is_moved_to_the_reference_time():
    """Half a second at 8 m/s towards a wall 10 m ahead. Within the tolerance, 30 ms, it is not worth that."""
    types, stamp, target = bag_types(), 10**12, replace(TARGET, model="none", D=(), frame_id="camera")
    sensors = Sensors(Config.from_mapping({"depth.hold_sec": 1.0}), {"depth": ENCODING}, (64, 96))
    sensors.cameras = {"rgb": target, "depth": target}
    sensors.transforms.add_static("base_link", "camera", rigid.matrix([0, 0, 0], [-0.5, 0.5, -0.5, 0.5]))
    state = InputState(State.HELD, stamp, payload=Sample(encode_image(
        types, np.full((64, 96), 10, np.float32), "32FC1", stamp, "camera")))

    def seen(after_ms):
        return lone_image(sensors, "depth", state, stamp + after_ms * 1_000_000).image

    at_10_m = seen(500)     # nothing is known of the motion
    for ms in range(-100, 601, 20):
        sensors.transforms.add("odom", "base_link", stamp + ms * 1_000_000,
                               rigid.matrix([8e-3 * ms, 0, 0], [0, 0, 0, 1]))
    assert np.abs(at_10_m - codes(np.full((64, 96), 10.0))).max() <= 0.5 + 1e-3
    assert np.array_equal(seen(30), at_10_m)
    for after_ms in (31, 250, 500):
        moved = seen(after_ms)[4:-4, 4:-4]      # of a square's edge on a pixel's centre, a border pixel may be left out
        assert np.abs(moved - codes(np.full(moved.shape[:2], 10 - 8e-3 * after_ms))).max() <= 0.5 + 1e-3


def test_a_camera_that_looks_elsewhere_is_invalid_with_the_reason():
    camera = Camera(96, 64, TARGET.K)
    behind = rigid.matrix([0, 0, 0], [0, 1, 0, 0])
    with pytest.raises(LaneInvalid, match="target camera's view"):
        lane()(np.full((64, 96), 5.0, np.float32), camera, behind)


def test_an_absurd_focal_length_does_not_draw_forever():
    camera = Camera(96, 64, [[1e-3, 0, 47.5], [0, 1e-3, 31.5], [0, 0, 1]])
    one = DepthLane(ENCODING, TARGET, 512, 512)
    with pytest.raises(LaneInvalid):
        one(np.full((64, 96), 5.0, np.float32), camera, rigid.matrix([0, 0, -20], [0, 0, 0, 1]))
    one(np.full((64, 96), 1e-3, np.float32), camera, rigid.matrix([0, 0, 5], [0, 0, 0, 1]))
