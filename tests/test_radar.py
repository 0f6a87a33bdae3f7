"""Radar lane: driver's fields, the encoding against a loop, the polar image against a loop, and a replay with radar."""

from __future__ import annotations

import json
import math

import boxes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lone_input import lone_image

from mss_models.modality import DEFAULT_ENCODINGS, DELIVER_MODALITIES, NO_INTENSITY, Encoding
from mss_perception import rigid
from mss_perception.bags import BagWriter
from mss_perception.camera import Camera
from mss_perception.config import Config, ConfigError
from mss_perception.inputs import InputState, State
from mss_perception.messages import (
    Cloud,
    MessageError,
    bag_types,
    decode_cloud,
    encode_camera_info,
    encode_cloud,
    encode_image,
    encode_transforms,
)
from mss_perception.projection import Motion
from mss_perception.radar import Detections, RadarLane, cloud_detections, polar_detections
from mss_perception.replay import Replay
from mss_perception.sensors import INVALID_DATA, Sample, Sensors

ENCODING = DEFAULT_ENCODINGS["radar"]
CAMERA = Camera(80, 60, [[40, 0, 39.5], [0, 40, 29.5], [0, 0, 1]], "plumb_bob", (-0.2, 0.03, 0.002, -0.001, 0.0),
                "camera_optical")
HERE = Motion.fixed(np.eye(4))
STAMP = 1_600_000_000_123_456_789


def floats(*values):
    return np.array(values, np.float32)


def cloud_of(**fields):
    return decode_cloud(encode_cloud(bag_types(), fields, STAMP, "radar"))


# ---------------------------------------------------------------------------------------------------------- detections

XYZ = {"x": floats(3, 6), "y": floats(4, -8), "z": floats(1, 0)}


@pytest.mark.parametrize(("fields", "speed", "intensity"), [
    ({"intensity": floats(10, 40), "velocity": floats(-2, 5)}, [-2, 5], [0.5, 1]),                      # ti_mmwave
    ({"intensity": floats(10, 40), "range": floats(5, 10), "doppler": floats(-2, 5)}, [-2, 5], [0.5, 1]),
    ({"radial_speed": floats(-2, 5), "power": floats(90, 99), "rcs": floats(-20, 10), "noise": floats(1, 1),
      "snr": floats(9, 9), "azimuth_angle": floats(0, 0), "elevation_angle": floats(0, 0),
      "range": floats(0, 0)}, [-2, 5], [0, 0.5]),                                                       # umrr
    ({"Doppler": floats(-2, 5), "Range": floats(0, 0), "Power": floats(10, 70), "Alpha": floats(0, 0)}, [-2, 5],
     [0.5, 1.5]),                                                                                       # Oculii
    ({"Range": floats(5, 10), "Velocity": floats(-2, 5), "AzimuthAngle": floats(0, 0)}, [-2, 5], None),  # CARLA
    ({"dyn_prop": np.int8([0, 1]), "id": np.int16([1, 2]), "rcs": floats(10, 40), "vx": floats(10, 3),
      "vy": floats(0, 4), "vx_comp": floats(9, 9), "vy_comp": floats(9, 9)}, [6, -1.4], [0.5, 1]),      # nuScenes
    ({"RCS": floats(10, 40), "v_r": floats(-2, 5), "v_r_compensated": floats(0, 0)}, [-2, 5], [0.5, 1]),    # VoD
    ({"radar_relative_radial_velocity": floats(-2, 5), "signal_to_noise_ratio": floats(10, 40)}, [-2, 5], [0.5, 1]),
    ({"v_doppler_mps": floats(-2, 5), "snr_db": floats(10, 40), "noise_db": floats(0, 0)}, [-2, 5], [0.5, 1]),
    ({"doppler_velocity": floats(-2, 5), "amplitude": floats(10, 40)}, [-2, 5], [0.5, 1]),              # radar_msgs
    ({}, [np.nan, np.nan], None),
])
def test_fields_of_common_drivers(fields, speed, intensity):
    found = cloud_detections(cloud_of(**XYZ, **fields), -20, 40)
    assert np.array_equal(found.xyz, np.stack(list(XYZ.values()), -1))
    np.testing.assert_allclose(found.speed, speed, rtol=1e-6)
    if intensity is None:
        assert found.intensity is None
    else:
        np.testing.assert_allclose(found.intensity, intensity, rtol=1e-6)


@pytest.mark.parametrize("names", [("range", "azimuth", "elevation"), ("range", "azimuth_angle", "elevation_angle"),
                                   ("Range", "AzimuthAngle", "ElevationAngle"), ("distance", "azimuth", None)])
def test_polar_coordinates_are_rep_103s(names):
    distance, azimuth, elevation = 20.0, 0.3, 0.1 if names[2] else 0.0
    fields = {name: floats(value) for name, value in zip(names, (distance, azimuth, elevation), strict=True) if name}
    x, y, z = cloud_detections(cloud_of(**fields), 0, 1).xyz[0]
    assert math.hypot(x, y, z) == pytest.approx(distance, rel=1e-6)
    assert math.atan2(y, x) == pytest.approx(azimuth, rel=1e-6)            # left is positive
    assert math.asin(z / distance) == pytest.approx(elevation, rel=1e-6)   # up is positive


def test_a_radar_without_elevation_lies_in_its_plane():
    assert cloud_detections(cloud_of(x=floats(3), y=floats(4)), 0, 1).xyz.tolist() == [[3, 4, 0]]


@pytest.mark.parametrize(("fields", "named"), [
    ({"x": floats(1), "z": floats(1)}, "neither x and y nor range and azimuth; fields: x, z"),
    ({"range": floats(1)}, "fields: range"),
])
def test_a_cloud_without_positions_is_refused(fields, named):
    with pytest.raises(MessageError, match=named):
        cloud_detections(cloud_of(**fields), 0, 1)


def test_several_speeds_per_point_are_refused():
    fields = np.zeros(2, [("x", "f4"), ("y", "f4"), ("velocity", "f4", (3,))])
    with pytest.raises(MessageError, match="'velocity' has 3 values per point"):
        cloud_detections(Cloud(fields), 0, 1)


# --------------------------------------------------------------------------------------------------------------- image

def scene(seed, count=150):
    rng = np.random.default_rng(seed)
    xyz = rng.normal(scale=[8, 4, 30], size=(count, 3)).astype(np.float32)
    xyz[:5], xyz[5:8, 0], xyz[8:10, 2] = 0, np.nan, np.inf
    speed = rng.normal(scale=20, size=count).astype(np.float32)
    speed[::4] = np.nan
    return Detections(xyz, rng.uniform(-0.1, 1.1, count).astype(np.float32), speed)


def brute_force(found, height, width, params):
    """The encoding's definition, pixel by pixel."""
    r, image, nearest = params["dilate_px"], np.zeros((height, width, 3)), np.full((height, width), np.inf)
    for point, strength, speed in zip(found.xyz.astype(float), found.intensity, found.speed, strict=True):
        uv, valid = CAMERA.project(point[None])
        u, v = uv[0]
        if not point.any() or not valid[0] or not (0 <= u < CAMERA.width and 0 <= v < CAMERA.height):
            continue
        column = min(int((u + 0.5) * width / CAMERA.width), width - 1)
        row = min(int((v + 0.5) * height / CAMERA.height), height - 1)
        distance = np.linalg.norm(point)
        code = np.clip(1 + 254 * np.array([
            math.log(distance / params["near_m"]) / math.log(params["max_m"] / params["near_m"]), strength,
            (speed + params["doppler_max_mps"]) / (2 * params["doppler_max_mps"])]), 1, 255)
        if np.isnan(speed):
            code[2] = 0
        for y in range(max(0, row - r), min(height, row + r + 1)):
            for x in range(max(0, column - r), min(width, column + r + 1)):
                if distance < nearest[y, x]:
                    nearest[y, x], image[y, x] = distance, code
    return image


def draw(lane, found):
    return lane.draw([lane.locate(found, HERE)])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("size", "dilate"), [((60, 80), 4), ((33, 41), 0), ((120, 160), 2)])
def test_image_against_brute_force(seed, size, dilate):
    found, params = scene(seed), {**ENCODING.params, "dilate_px": dilate}
    result = draw(RadarLane(Encoding("radar", ENCODING.name, params=params), CAMERA, *size), found)
    expected = brute_force(found, *size, params)
    assert np.abs(result.image - expected).max() <= 0.5 + 1e-3
    assert np.array_equal(result.image[..., 0] > 0, expected[..., 0] > 0) and result.image[..., 0].any()
    assert result.figures["points"] == 140 and result.figures["no_return"] == 10
    assert 10 < result.figures["points_in_image"] < 140 and result.figures["deskewed"] is False


def test_several_radars_are_one_image_and_an_empty_scan_is_one_too():
    lane, turned = RadarLane(ENCODING, CAMERA, 60, 80), np.diag([-1.0, -1, 1, 1])
    first, second, none = scene(1), scene(2), Detections(np.zeros((0, 3), np.float32), None, floats())
    parts = [lane.locate(first, HERE), lane.locate(none, HERE), lane.locate(second, Motion.fixed(turned), True)]
    moved = Detections(np.concatenate([first.xyz, second.xyz * floats(-1, -1, 1)]),
                       np.concatenate([first.intensity, second.intensity]), np.concatenate([first.speed, second.speed]))
    expected = draw(lane, moved)
    assert np.array_equal(lane.draw(parts).image, expected.image) and expected.image.any()
    for name in ("points", "no_return", "points_in_image"):
        assert expected.figures[name] == sum(one.figures[name] for one in parts)
    assert [one.figures["deskewed"] for one in parts] == [False, False, True]
    empty = draw(lane, none)
    assert not empty.image.any() and empty.figures["points"] == 0


def test_a_radar_without_intensity_says_so():
    found = Detections(floats(0, 0, 10)[None], None, floats(np.nan))
    assert draw(RadarLane(ENCODING, CAMERA, 60, 80), found).image[30, 40].tolist()[1:] == [NO_INTENSITY, 0]


def test_another_encoding_is_refused_at_once():
    with pytest.raises(ValueError, match="'range_intensity_height'"):
        RadarLane(DEFAULT_ENCODINGS["lidar"], CAMERA, 60, 80)


# --------------------------------------------------------------------------------------------------------- polar image

def polar_image(bins=400, seed=0):
    """As MUSES stores it, with 9 of 10 intensities 0, every 7th column invalid, and a time per column."""
    rng = np.random.default_rng(seed)
    image = np.zeros((11 + bins, 400), np.uint8)
    image[11:] = np.where(rng.random((bins, 400)) < 0.1, rng.integers(1, 256, (bins, 400)), 0)
    image[10] = np.where(np.arange(400) % 7 == 0, 0, 255)
    image[8:10] = rng.integers(0, 256, (2, 400))            # the sweep counter, which nobody needs
    for column in range(400):
        image[:4, column] = list((STAMP // 10**9).to_bytes(4, "little"))
        image[4:8, column] = list((STAMP % 10**9 + 600_000 * column).to_bytes(4, "little"))
    return image


@pytest.mark.parametrize("max_m", [150.0, 9.0])
def test_polar_image_against_a_loop(max_m):
    image = polar_image()
    expected = []
    for column in range(145, 255):
        if not image[10, column]:
            continue
        azimuth = -math.radians(-180 + 0.9 * (column + 1))
        for row in range(11, len(image)):
            distance = 0.0438 * (row - 10)
            if image[row, column] and distance <= max_m:
                expected.append((distance * math.cos(azimuth), distance * math.sin(azimuth), -1.62,
                                 image[row, column] / 255, STAMP + 600_000 * column))
    found, times_ns = polar_detections(image, max_m)
    expected = np.array(expected, object)
    np.testing.assert_allclose(found.xyz, expected[:, :3].astype(float), atol=1e-4)
    np.testing.assert_allclose(found.intensity, expected[:, 3].astype(float), rtol=1e-6)
    assert times_ns.tolist() == expected[:, 4].tolist() and np.isnan(found.speed).all()
    assert found.xyz[:, 0].min() > 0 and found.xyz[0, 1] > 0 > found.xyz[-1, 1]      # ahead, from left to right


@pytest.mark.parametrize("image", [np.zeros((500, 400), np.uint16), np.zeros((500, 399), np.uint8),
                                   np.zeros((11, 400), np.uint8), np.zeros((500, 400, 3), np.uint8)])
def test_another_image_is_no_polar_one(image):
    with pytest.raises(MessageError, match=r"must be uint8 with more than 11 rows and 400 columns"):
        polar_detections(image, 150)


# ----------------------------------------------------------------------------------------------------- in the pipeline

def sensors(**parameters):
    config = Config.from_mapping({"inputs": ["rgb", "radar"], "radar.topic": "radar/points", **parameters})
    one = Sensors(config, {"radar": ENCODING}, (64, 64))
    one.cameras = {"rgb": CAMERA}
    one.transforms.add_static("base_link", "camera_optical", rigid.matrix([1, 0, 1.5], [-0.5, 0.5, -0.5, 0.5]))
    one.transforms.add_static("base_link", "radar", rigid.matrix([2, 0, 1.62], [0, 0, 0, 1]))
    return one


def image_of(one, message):
    state = InputState(State.OK, STAMP, 0, payload=Sample(message))
    return lone_image(one, "radar", state, STAMP)


def test_detections_go_from_the_message_to_the_image():
    message = encode_cloud(bag_types(), {"x": floats(19, 0), "y": floats(0, 0), "z": floats(0, 0),
                                         "rcs": floats(10, 0), "velocity": floats(-10, 0)}, STAMP, "radar")
    result = image_of(sensors(), message)
    assert result.figures == {"points": 1, "no_return": 1, "points_in_image": 1, "deskewed": False}
    distance = math.hypot(20, 0.12)
    expected = [round(1 + 254 * math.log(distance) / math.log(150)), round(1 + 254 * 0.5), round(1 + 254 * 30 / 80)]
    assert expected in result.image.reshape(-1, 3).tolist()
    assert round(1 + 254 * 5 / 35) in image_of(sensors(**{"radar.intensity_min": 5.0}), message).image[..., 1]


def test_a_polar_image_is_moved_column_by_column():
    one, message = sensors(), encode_image(bag_types(), polar_image(3000), "mono8", STAMP, "radar")
    assert image_of(one, message).figures["deskewed"] is False
    for ms in range(-400, 401, 20):
        T = rigid.matrix([15e-3 * ms, 0, 0], [0, 0, 0, 1])
        one.transforms.add("odom", "base_link", STAMP + ms * 1_000_000, T)
    moved = image_of(one, message)
    assert moved.figures["deskewed"] is True and moved.figures["points_in_image"] > 1000
    # The ground is below the horizon, and by the time of these columns the vehicle has driven on by 1.3 to 2.3 m.
    nearest = [np.flatnonzero(result.image.any((1, 2)))[[0, -1]] for result in (image_of(sensors(), message), moved)]
    assert nearest[0][0] > 20 and nearest[1][0] > 20 and nearest[0][1] > nearest[1][1]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["x", "y", "z", "range", "azimuth", "doppler", "vx", "vy", "rcs"]), unique=True,
                min_size=1), st.integers(0, 20), st.integers(0, 2**32))
def test_random_bytes_never_break_the_lane(names, count, seed):
    message = encode_cloud(bag_types(), {name: np.zeros(count, np.float32) for name in names}, STAMP, "radar")
    message.data = np.frombuffer(np.random.default_rng(seed).bytes(len(message.data)), np.uint8)
    try:
        image_of(SENSORS, message)
    except INVALID_DATA:
        assert not {"x", "y"} <= set(names) and not {"range", "azimuth"} <= set(names)


SENSORS = sensors()


def test_radar_is_an_input_only_where_it_is_named():
    assert "radar" not in Config().inputs
    inputs = ["rgb", "lidar", "radar"]
    config = Config.from_mapping({"radar": {"frame_id": "radar_front", "intensity_max": 60}, "inputs": inputs})
    assert list(config.inputs) == inputs
    assert config.inputs["radar"].frame_id == "radar_front" and config.topic_roles()["/radar"] == "radar"
    assert Config.from_mapping({"inputs": inputs}).inputs["radar"].frame_id == ""      # not the one before's
    with pytest.raises(ConfigError, match=r"radar\.topic is given, but radar is none of inputs"):
        Config.from_mapping({"radar.topic": "a"})
    with pytest.raises(ConfigError, match=r"radar\.intensity_min = 50 must be less than radar\.intensity_max = 40"):
        Config.from_mapping({"inputs": inputs, "radar.intensity_min": 50.0})
    with pytest.raises(ConfigError, match=r"radar\.colour"):
        Config.from_mapping({"inputs": inputs, "radar.colour": 1})


@pytest.mark.parametrize("trained", [True, False])
def test_a_bag_with_radar_replays_with_a_network_that_knows_it_and_with_one_that_does_not(tmp_path, trained):
    types, clouds = bag_types(), [floats(20, 30), floats(25), floats(np.nan), floats()]
    with BagWriter(tmp_path / "bag") as bag:
        mounts = [("base_link", "camera_optical", boxes.OPTICAL), ("base_link", "radar", np.eye(4))]
        bag.write("/tf_static", encode_transforms(types, mounts, boxes.START_NS), boxes.START_NS)
        for i, x in enumerate(clouds):
            t, pixels = boxes.START_NS + i * boxes.PERIOD_NS, np.full((boxes.HEIGHT, boxes.WIDTH, 3), 9 + i, np.uint8)
            bag.write("/camera_info", encode_camera_info(types, boxes.camera(), t), t + boxes.MS)
            bag.write("/image", encode_image(types, pixels, "rgb8", t, "camera_optical"), t + 2 * boxes.MS)
            cloud = encode_cloud(types, {"x": x, "y": 0 * x, "z": 0 * x, "rcs": x, "velocity": x}, t, "radar")
            bag.write("/detections", cloud, t + 3 * boxes.MS)
    modalities = ("rgb", "lidar", "radar") if trained else DELIVER_MODALITIES
    checkpoint = boxes.write_checkpoint(tmp_path / "net.safetensors", modalities)
    config = Config.from_mapping({"checkpoint": str(checkpoint), "precision": "fp32", "device": "cpu", "threads": 1,
                                  "width": 32, "height": 32, "inputs": ["rgb", "lidar", "radar"],
                                  "radar.topic": "detections"})
    Replay(tmp_path / "bag", tmp_path / "out", config, report=False, progress=False)()
    records = [json.loads(line) for line in (tmp_path / "out" / "frames.jsonl").read_text().splitlines()]
    assert len(records) == 4 and not any(record["dropped"] for record in records)
    assert [record["mask"].get("radar") for record in records] == [True if trained else None] * 4
    if trained:
        found = [record["inputs"]["radar"] for record in records]
        assert [(one["points"], one["no_return"], one["points_in_image"]) for one in found] == [
            (2, 0, 2), (1, 0, 1), (0, 1, 0), (0, 0, 0)]
