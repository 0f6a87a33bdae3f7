"""LiDAR lane: the nuScenes reference figures, a brute-force z-buffer, codes, times and labelled points."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mss_models.modality import DEFAULT_ENCODINGS, Encoding
from mss_perception.camera import Camera
from mss_perception.lane import LaneInvalid
from mss_perception.lidar import LidarLane, point_times_ns
from mss_perception.messages import Cloud, bag_types, decode_cloud, encode_cloud
from mss_perception.projection import Motion

ENCODING = DEFAULT_ENCODINGS["lidar"]
CAMERA = Camera(80, 60, [[40, 0, 39.5], [0, 40, 29.5], [0, 0, 1]], "plumb_bob", (-0.2, 0.03, 0.002, -0.001, 0.0))
HERE = Motion.fixed(np.eye(4))


def cloud_of(xyz, stamp_ns=0, **fields):
    xyz = np.asarray(xyz, np.float32).reshape(-1, 3)
    columns = {"x": xyz[:, 0].copy(), "y": xyz[:, 1].copy(), "z": xyz[:, 2].copy(), **fields}
    return decode_cloud(encode_cloud(bag_types(), columns, stamp_ns, "lidar"))


@pytest.mark.parametrize(("name", "expected"), [("CAM_FRONT", 3067), ("CAM_BACK", 4826), ("CAM_FRONT_LEFT", 3704)])
@pytest.mark.parametrize("size", [(512, 512), (900, 1600)])
def test_nuscenes_reference_counts(shared_data, name, expected, size):
    folder = shared_data / "nuscenes_frame"
    values = json.loads((folder / "calibration.json").read_text())["cameras"][name]
    sweep = np.fromfile(folder / "LIDAR_TOP.bin", "<f4").reshape(-1, 5)
    camera = Camera(values["width"], values["height"], values["K"])
    result = LidarLane(ENCODING, camera, *size)(cloud_of(sweep[:, :3], intensity=sweep[:, 3].copy()),
                                               Motion.fixed(np.array(values["camera_from_lidar"])))
    assert result.figures == {"points": 34688, "points_in_image": expected, "deskewed": False}
    assert values["points_in_image"] == expected
    assert result.image.shape == (*size, 3)


def scene(seed, count=400):
    rng = np.random.default_rng(seed)
    xyz = rng.normal(scale=[6, 4, 12], size=(count, 3)).astype(np.float32)
    xyz[:20] = 0
    xyz[20:30, 0], xyz[30:40, 2] = np.nan, np.inf
    return xyz, rng.uniform(-0.1, 1.2, count).astype(np.float32)


def brute_force(xyz, intensity, camera, height, width, params):
    """The encoding's definition, pixel by pixel: for each pixel, the nearest of the points whose square covers it."""
    r = params["dilate_px"]
    image = np.zeros((height, width, 3))
    nearest = np.full((height, width), np.inf)
    returns = in_image = 0
    for point, strength in zip(xyz.astype(np.float64), intensity, strict=True):
        if not np.isfinite(point).all() or not point.any():
            continue
        returns += 1
        uv, valid = camera.project(point[None])
        if not valid[0] or not (0 <= uv[0, 0] < camera.width and 0 <= uv[0, 1] < camera.height):
            continue
        in_image += 1
        column = min(int(np.floor((uv[0, 0] + 0.5) * width / camera.width)), width - 1)
        row = min(int(np.floor((uv[0, 1] + 0.5) * height / camera.height)), height - 1)
        distance = np.linalg.norm(point)
        codes = (np.log(distance / params["near_m"]) / np.log(params["max_m"] / params["near_m"]), strength,
                 (-point[1] - params["height_min_m"]) / (params["height_max_m"] - params["height_min_m"]))
        for y in range(max(0, row - r), min(height, row + r + 1)):
            for x in range(max(0, column - r), min(width, column + r + 1)):
                if distance < nearest[y, x]:
                    nearest[y, x] = distance
                    image[y, x] = np.clip(1 + 254 * np.array(codes), 1, 255)
    return image, nearest, returns, in_image


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("size", "dilate"), [((60, 80), 1), ((60, 80), 0), ((33, 41), 2), ((120, 160), 3)])
def test_image_and_figures_against_brute_force(seed, size, dilate):
    xyz, intensity = scene(seed)
    params = {**ENCODING.params, "dilate_px": dilate}
    lane = LidarLane(Encoding("lidar", ENCODING.name, params=params), CAMERA, *size)
    result = lane(cloud_of(xyz, intensity=intensity), HERE)
    image, nearest, returns, in_image = brute_force(xyz, intensity, CAMERA, *size, params)
    assert result.figures == {"points": returns, "points_in_image": in_image, "deskewed": False}
    assert in_image > 20
    np.testing.assert_allclose(result.nearest, nearest, rtol=1e-5)
    assert np.abs(result.image - image).max() <= 0.5 + 1e-3        # rounded to the next code
    assert np.array_equal(result.image.any(-1), nearest < np.inf)


def test_codes_are_clipped_never_wrapped():
    camera = Camera(9, 9, [[4, 0, 4], [0, 4, 4], [0, 0, 1]])
    lane = LidarLane(ENCODING, camera, 9, 9)
    for z, expected in ((0.2, 1), (1.0, 1), (80.0, 255), (5000.0, 255)):
        image = lane.project(np.array([[0, 0, z]], np.float32), np.array([7.0], np.float32), HERE).image
        assert tuple(image[4, 4]) == (expected, 255, 1 + round(254 * 0.3))
    for y, expected in ((60.0, 1), (-60.0, 255)):
        xyz = np.array([[0, y, 70.0]], np.float32)
        assert lane.project(xyz, np.array([-3.0], np.float32), HERE).image[..., 2].max() == expected
    unknown = lane.project(np.array([[0, 0, 5.0]], np.float32), None, HERE).image
    assert unknown[4, 4, 1] == 1


def test_intensity_scale_and_other_names_of_intensity():
    camera = Camera(9, 9, [[4, 0, 4], [0, 4, 4], [0, 0, 1]])
    encoding = Encoding("lidar", ENCODING.name, params={**ENCODING.params, "intensity_scale": 200.0})
    cloud = cloud_of([[0, 0, 5]], reflectivity=np.array([100], np.uint16))
    assert LidarLane(encoding, camera, 9, 9)(cloud, HERE).image[4, 4, 1] == 128


def test_points_behind_the_camera_or_folded_by_its_lens_never_appear():
    camera = Camera(640, 480, [[520, 0, 320], [0, 520, 240], [0, 0, 1]], "plumb_bob", (-0.35, 0, 0, 0, 0))
    lane = LidarLane(ENCODING, camera, 48, 64)
    for xyz in ([[0.1, 0.1, -5]], [[7.75, 0.5, 5]], [[0.0, 0.0, -1e-9]]):
        result = lane(cloud_of(xyz), HERE)
        assert result.figures["points_in_image"] == 0 and not result.image.any()


def test_points_move_with_the_sensor_between_knots():
    T = np.stack([np.eye(4)] * 3)
    T[:, 0, 3] = 0.0, 2.0, 3.0
    xyz = np.full((5, 3), [0.0, 0.0, 10.0], np.float32)
    motion = Motion(T, np.array([0.0, 0.5, 1.0, 1.5, 2.0], np.float32))
    result = LidarLane(ENCODING, CAMERA, 60, 80).project(xyz, None, motion)
    np.testing.assert_allclose(result.points.xyz[:, 0], [0, 1, 2, 2.5, 3])
    # A time outside the knots, as NaN times give, stays at the nearest one.
    motion = Motion(T, np.array([-9.0, 99.0, np.nan, 2.0, 2.0], np.float32))
    x = LidarLane(ENCODING, CAMERA, 60, 80).project(xyz, None, motion).points.xyz[:, 0]
    assert x[0] == 0 and x[1] == 3 and 0 <= x[2] <= 3
    with pytest.raises(ValueError, match="3 point times for 5 points"):
        LidarLane(ENCODING, CAMERA, 60, 80).project(xyz, None, Motion(T, np.zeros(3, np.float32)))


@pytest.mark.parametrize(("cloud", "named"), [
    (cloud_of(np.zeros((0, 3))), "empty"), (cloud_of(np.zeros((4, 3))), "4 points and none is a return"),
    (cloud_of(np.full((4, 3), np.nan)), "none is a return"),
    (Cloud(np.zeros(3, [("x", "f4"), ("y", "f4")])), "no field 'z'"),
])
def test_clouds_without_points_are_invalid(cloud, named):
    with pytest.raises(LaneInvalid, match=named):
        LidarLane(ENCODING, CAMERA, 60, 80)(cloud, HERE)


def test_another_encoding_is_refused_at_once():
    with pytest.raises(ValueError, match="'spherical'"):
        LidarLane(Encoding("lidar", "spherical"), CAMERA, 60, 80)


def test_points_get_the_label_of_their_pixel():
    xyz, _ = scene(5)
    labels = np.random.default_rng(6).integers(0, 20, (60, 80)).astype(np.uint8)
    result = LidarLane(ENCODING, CAMERA, 30, 40).project(xyz, None, HERE)
    found = result.label_points(labels, keep_hidden=True)
    uv, valid = CAMERA.project(xyz)
    for i in range(len(xyz)):
        inside = valid[i] and 0 <= uv[i, 0] < 80 and 0 <= uv[i, 1] < 60
        if inside:
            u, v = np.minimum(np.floor(uv[i] + 0.5).astype(int), (79, 59))
        assert found[i] == (labels[v, u] if inside else 255)
    with pytest.raises(ValueError, match="60 x 80"):
        result.label_points(labels[:, :-1])


def test_a_hidden_point_gets_no_label():
    lane = LidarLane(ENCODING, CAMERA, 60, 80)
    #                 wall     behind it   beside it      same wall, a little farther
    xyz = np.array([[0, 0, 5], [0, 0, 20], [8, 0, 20], [0.02, 0, 5.2]], np.float32)
    labels = np.full((60, 80), 7, np.uint8)
    assert lane.project(xyz, None, HERE).label_points(labels).tolist() == [7, 255, 7, 7]
    assert lane.project(xyz, None, HERE).label_points(labels, keep_hidden=True).tolist() == [7, 7, 7, 7]


STAMP = 1_600_000_000_123_456_789


@pytest.mark.parametrize(("name", "values", "offsets_ns"), [
    ("t", np.array([0, 50_000_000, 99_000_000], np.uint32), [0, 50_000_000, 99_000_000]),           # Ouster: ns
    ("t", np.array([0, 50_000, 99_000], np.uint32), [0, 50_000_000, 99_000_000]),                   # us
    ("time", np.array([-0.1, -0.05, 0], np.float32), [-100_000_000, -50_000_000, 0]),               # Velodyne: s
    ("time", np.array([0, 50, 99], np.float32), [0, 50_000_000, 99_000_000]),                       # ms
    ("time", np.array([0, 50_000, 99_000], np.float32), [0, 50_000_000, 99_000_000]),               # us
    ("timestamp", np.array([0, 5e7, 9.9e7]), [0, 50_000_000, 99_000_000]),                          # ns
    ("timestamp", np.array([0, 0.05, 0.099]) + STAMP * 1e-9, [0, 50_000_000, 99_000_000]),          # Hesai: absolute s
    ("timestamp", np.array([0, 5e7, 9.9e7]) + STAMP, [0, 50_000_000, 99_000_000]),                  # Livox: absolute ns
    ("time_stamp", np.array([np.nan, 0.05, np.inf], np.float32), [50_000_000, 50_000_000, 50_000_000]),
    ("t", np.zeros(3, np.uint32), [0, 0, 0]),
])
def test_point_times_by_name_type_and_range(name, values, offsets_ns):
    times = point_times_ns(cloud_of(np.ones((3, 3)), STAMP, **{name: values}))
    assert times.dtype == np.int64
    np.testing.assert_allclose((times - STAMP).astype(float), offsets_ns, atol=500)     # float64 seconds end here


@pytest.mark.parametrize("fields", [
    {}, {"ring": np.zeros(3, np.uint16)}, {"t": np.full(3, np.nan)}, {"t": np.full(3, 1e30)},
    {"timestamp": np.array([0, 0.05, 0.1]) + 5e8}, {"t": np.array([0, 1, 2**32 - 1], np.uint32)},
])
def test_times_that_make_no_sense_are_no_times(fields):
    assert point_times_ns(cloud_of(np.ones((3, 3)), STAMP, **fields)) is None
