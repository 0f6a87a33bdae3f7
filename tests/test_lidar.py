"""LiDAR lane: the nuScenes reference figures, a brute-force z-buffer, codes, times, deskew and labelled points."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mss_models.modality import DEFAULT_ENCODINGS, NO_INTENSITY, Encoding
from mss_perception import rigid
from mss_perception.camera import Camera
from mss_perception.lane import LaneInvalid
from mss_perception.lidar import LidarLane, point_times_ns
from mss_perception.messages import Cloud, MessageError, bag_types, decode_cloud, encode_cloud, encode_odometry
from mss_perception.projection import Motion
from mss_perception.transforms import Transforms

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
    figures = result.figures
    clipped = figures.pop("intensity_clipped")      # nuScenes' intensities are 0..255 in a float field
    assert figures == {"points": 34688, "no_return": 0, "points_in_image": expected, "deskewed": False}
    assert clipped == np.mean(sweep[:, 3] > 1) > 0.9
    assert values["points_in_image"] == expected
    assert result.image.shape == (*size, 3)


def draw(lane, xyz, intensity=None, motion=HERE):
    fields = {} if intensity is None else {"intensity": np.asarray(intensity, np.float32)}
    return lane(cloud_of(xyz, **fields), motion)


def labels_of(result, labels):
    """(N,) uint8: the label that each point of the cloud gets, 255 where it gets none."""
    found = result.labelled_points(labels, labels, 255)
    given = dict(zip(zip(*(found[name].tolist() for name in "xyz"), strict=True), found["label"], strict=True))
    whole = np.full(result.points.count, 255, np.uint8)
    whole[result.points.index] = [given.get(tuple(place), 255) for place in result.points.xyz.tolist()]
    return whole


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
    assert result.figures == {"points": returns, "no_return": len(xyz) - returns, "points_in_image": in_image,
                              "deskewed": False}
    assert in_image > 20
    assert np.abs(result.image - image).max() <= 0.5 + 1e-3        # rounded to the next code
    assert np.array_equal(result.image.any(-1), nearest < np.inf)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("size", "dilate"), [((60, 80), 1), ((60, 80), 0), ((33, 41), 2)])
def test_hidden_points_against_brute_force(seed, size, dilate):
    """Behind what is drawn in their pixel, also when that is a neighbour's square."""
    xyz, intensity = scene(seed)
    params = {**ENCODING.params, "dilate_px": dilate}
    result = draw(LidarLane(Encoding("lidar", ENCODING.name, params=params), CAMERA, *size), xyz, intensity)
    nearest = brute_force(xyz, intensity, CAMERA, *size, params)[1]
    uv, valid = CAMERA.project(xyz)
    inside = valid & (uv >= 0).all(1) & (uv < (80, 60)).all(1)
    columns, rows = np.minimum(np.floor((uv[inside] + 0.5) * np.divide(size[::-1], (80, 60))).astype(int),
                               np.subtract(size[::-1], 1)).T
    hidden = np.linalg.norm(xyz[inside], axis=1) > 1.1 * nearest[rows, columns] + 0.5
    assert hidden.any() and not hidden.all()
    labels = np.zeros((60, 80), np.uint8)
    found = result.labelled_points(labels, labels, 255)
    np.testing.assert_allclose(np.stack([found[name] for name in "xyz"], -1), xyz[inside][~hidden])


def test_a_cloud_that_the_camera_does_not_see_draws_nothing():
    result = draw(LidarLane(ENCODING, CAMERA, 60, 80), [[0, 0, -5], [50, 0, 1]])
    assert result.figures["points_in_image"] == 0 and not result.image.any()
    labels = np.zeros((60, 80), np.uint8)
    assert len(result.labelled_points(labels, labels, 255)["z"]) == 0


def test_codes_are_clipped_never_wrapped():
    camera = Camera(9, 9, [[4, 0, 4], [0, 4, 4], [0, 0, 1]])
    lane = LidarLane(ENCODING, camera, 9, 9)
    for z, expected in ((0.2, 1), (1.0, 1), (80.0, 255), (5000.0, 255)):
        image = draw(lane, [[0, 0, z]], [7.0]).image
        assert tuple(image[4, 4]) == (expected, 255, 1 + round(254 * 0.3))
    for y, expected in ((60.0, 1), (-60.0, 255)):
        assert draw(lane, [[0, y, 70.0]], [-3.0]).image[..., 2].max() == expected
    assert draw(lane, [[0, 0, 5.0]]).image[4, 4, 1] == NO_INTENSITY
    assert draw(lane, [[0, 0, 5.0]], [np.nan]).image[4, 4, 1] == 1


@pytest.mark.parametrize(("field", "values", "full", "scale", "expected"), [
    ("intensity", np.float32([0.5]), 0.0, 1.0, 0.5), ("intensity", np.float32([51]), 255.0, 1.0, 0.2),
    ("intensity", np.uint8([51]), 0.0, 1.0, 0.2), ("reflectivity", np.uint16([51]), 0.0, 1.0, 0.2),
    ("reflectivity", np.uint16([3000]), 6000.0, 1.0, 0.5), ("i", np.float64([0.1]), 0.0, 0.5, 0.2),
    ("intensity", np.float32([100]), 0.0, 1.0, 1.0),
])
def test_intensity_is_measured_by_the_drivers_scale_then_by_the_networks(field, values, full, scale, expected):
    camera = Camera(9, 9, [[4, 0, 4], [0, 4, 4], [0, 0, 1]])
    encoding = Encoding("lidar", ENCODING.name, params={**ENCODING.params, "intensity_scale": scale})
    result = LidarLane(encoding, camera, 9, 9)(cloud_of([[0, 0, 5]], **{field: values}), HERE, intensity_max=full)
    assert result.image[4, 4, 1] == round(1 + 254 * expected)


@pytest.mark.parametrize(("bright", "figure"), [(5, None), (6, 0.6), (10, 1.0)])
def test_a_scale_that_most_intensities_exceed_is_reported(bright, figure):
    lane = LidarLane(ENCODING, CAMERA, 60, 80)
    intensity = np.where(np.arange(12) < bright, 40.0, 0.5).astype(np.float32)
    xyz = np.full((12, 3), 5.0, np.float32)
    xyz[10:] = np.nan, 0, 0             # points without a return have no say
    xyz.view(np.uint32)[11, 0] = 0x7FA00000     # a signalling NaN, of random bytes
    intensity[10:] = 99
    cloud = cloud_of(xyz, intensity=intensity)
    with np.errstate(all="raise"):
        assert lane(cloud, HERE).figures.get("intensity_clipped") == figure
    assert "intensity_clipped" not in lane(cloud, HERE, intensity_max=40).figures


def test_several_clouds_are_one_image_with_one_z_buffer():
    """As if one sensor had measured all points where they are in the camera's frame."""
    rng = np.random.default_rng(11)
    lane = LidarLane(ENCODING, CAMERA, 60, 80)
    clouds, xyz, intensity = [], [], []
    for seed in range(3):
        points, strength = scene(seed, 300)
        T = np.eye(4)
        T[:3, 3] = rng.normal(size=3)
        T[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        clouds.append(lane.locate(cloud_of(points, intensity=strength), Motion.fixed(T), seed > 0))
        moved = points @ T[:3, :3].T + T[:3, 3]
        moved[:40] = np.nan                     # (0, 0, 0) is no return in the sensor's frame, wherever that is
        xyz.append(moved.astype(np.float32))
        intensity.append(strength)
    together = lane.draw(clouds)
    expected = lane(cloud_of(np.concatenate(xyz), intensity=np.concatenate(intensity)), HERE)
    assert np.mean(together.image != expected.image) < 0.001        # float32 positions round differently
    np.testing.assert_allclose(together.points.xyz, np.concatenate(xyz)[together.points.index], atol=1e-4)
    assert together.points.count == 900
    for name in ("points", "no_return", "points_in_image"):
        assert expected.figures[name] == sum(one.figures[name] for one in clouds)
    assert [one.figures["deskewed"] for one in clouds] == [False, True, True]
    labels = rng.integers(0, 20, (60, 80)).astype(np.uint8)
    assert np.mean(labels_of(together, labels) != labels_of(expected, labels)) < 0.01
    assert np.array_equal(together.image, lane.draw(clouds[::-1]).image)


def test_of_two_clouds_the_nearer_point_wins_whatever_the_order():
    lane = LidarLane(ENCODING, CAMERA, 60, 80)
    near, far = (lane.locate(cloud_of([[0, 0, z]], intensity=np.float32([1])), HERE) for z in (5, 20))
    for clouds in ([near, far], [far, near]):
        result, labels = lane.draw(clouds), np.zeros((60, 80), np.uint8)
        assert result.labelled_points(labels, labels, 255)["z"].tolist() == [5] and result.image.any(-1).sum() == 9


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
    result = draw(LidarLane(ENCODING, CAMERA, 60, 80), xyz, motion=motion)
    np.testing.assert_allclose(result.points.xyz[:, 0], [0, 1, 2, 2.5, 3])
    # A time outside the knots, as NaN times give, stays at the nearest one.
    motion = Motion(T, np.array([-9.0, 99.0, np.nan, 2.0, 2.0], np.float32))
    x = draw(LidarLane(ENCODING, CAMERA, 60, 80), xyz, motion=motion).points.xyz[:, 0]
    assert x[0] == 0 and x[1] == 3 and 0 <= x[2] <= 3
    with pytest.raises(ValueError, match="3 point times for 5 points"):
        draw(LidarLane(ENCODING, CAMERA, 60, 80), xyz, motion=Motion(T, np.zeros(3, np.float32)))


@pytest.mark.parametrize(("cloud", "named"), [
    (cloud_of(np.zeros((0, 3))), "empty"), (cloud_of(np.zeros((4, 3))), "4 points and none is a return"),
    (cloud_of(np.full((4, 3), np.nan)), "none is a return"),
    (Cloud(np.zeros(3, [("x", "f4"), ("y", "f4")])), "no field 'z'"),
])
def test_clouds_without_points_are_invalid(cloud, named):
    with pytest.raises((LaneInvalid, MessageError), match=named):
        LidarLane(ENCODING, CAMERA, 60, 80)(cloud, HERE)


def test_another_encoding_is_refused_at_once():
    with pytest.raises(ValueError, match="'deliver_lidar'"):
        LidarLane(Encoding("lidar", "deliver_lidar"), CAMERA, 60, 80)


def test_points_get_the_label_and_confidence_of_their_pixel():
    xyz, _ = scene(5)
    labels, confidence = np.random.default_rng(6).integers(0, 20, (2, 60, 80)).astype(np.uint8)
    result = draw(LidarLane(ENCODING, CAMERA, 30, 40), xyz)
    visible = result.labelled_points(np.zeros_like(labels), confidence, 255)
    uv, valid = CAMERA.project(np.stack([visible[name] for name in "xyz"], -1))
    u, v = np.minimum(np.floor(uv + 0.5).astype(int), (79, 59)).T
    labelled = labels[v, u] != 3
    assert valid.all() and labelled.sum() > 50 and not labelled.all()
    found = result.labelled_points(labels, confidence, 3)
    assert np.array_equal(found["x"], visible["x"][labelled])
    assert np.array_equal(found["label"], labels[v, u][labelled])
    assert np.array_equal(found["confidence"], confidence[v, u][labelled])
    for wrong in ((labels[:, :-1], confidence), (labels, confidence[:-1])):
        with pytest.raises(ValueError, match="60 x 80"):
            result.labelled_points(*wrong, 255)


def test_a_hidden_point_gets_no_label():
    lane = LidarLane(ENCODING, CAMERA, 60, 80)
    #                 wall     behind it   beside it      same wall, a little farther
    xyz = np.array([[0, 0, 5], [0, 0, 20], [8, 0, 20], [0.02, 0, 5.2]], np.float32)
    labels = np.full((60, 80), 7, np.uint8)
    assert labels_of(draw(lane, xyz), labels).tolist() == [7, 255, 7, 7]


# ------------------------------------------------------------------------------------------------------ point times

STAMP = 1_600_000_000_123_456_789
SPREAD = [0, 50_000_000, 99_000_000]


@pytest.mark.parametrize(("name", "values", "offsets_ns"), [
    ("time", np.array([-0.1, -0.05, 0], np.float32), [-100_000_000, -50_000_000, 0]),       # velodyne_pointcloud
    ("t", np.array(SPREAD, np.uint32), SPREAD),                                             # ouster_ros
    ("timestamp", np.array([0, 0.05, 0.099]) + STAMP * 1e-9, SPREAD),                       # hesai, rslidar_sdk
    ("timestamp", np.array(SPREAD, np.float64) + STAMP, SPREAD),                            # livox_ros_driver2
    ("offset_time", np.array(SPREAD, np.uint32), SPREAD),                                   # Livox, converted
    ("time_stamp", np.array(SPREAD, np.uint32), SPREAD),                                    # Autoware, Nebula
    ("time_stamp", np.array([0, 0.05, 0.099]) + STAMP * 1e-9, SPREAD),                      # Autoware, older
    ("t", np.array([0, 50_000, 99_000], np.uint32), SPREAD),                                # us
    ("time", np.array([0, 50, 99], np.float32), SPREAD),                                    # ms
    ("time", np.array([0, 50_000, 99_000], np.float32), SPREAD),                            # us
    ("timestamp", np.array([0, 5e7, 9.9e7]), SPREAD),                                       # ns
    ("timestamp", np.array([0.05, 0, 0.099]) + [STAMP * 1e-9, 0, STAMP * 1e-9], [50_000_000, 99_000_000, 99_000_000]),
    ("time_stamp", np.array([np.nan, 0.05, np.inf], np.float32), [50_000_000, 50_000_000, 50_000_000]),
    ("t", np.zeros(3, np.uint32), [0, 0, 0]),
    ("time", np.zeros(3, np.float32), [0, 0, 0]),
])
def test_point_times_of_the_common_drivers(name, values, offsets_ns):
    times = point_times_ns(cloud_of(np.ones((3, 3)), STAMP, **{name: values}))
    assert times.dtype == np.int64
    np.testing.assert_allclose((times - STAMP).astype(float), offsets_ns, atol=500)     # float64 seconds end here


@pytest.mark.parametrize(("values", "unit", "offsets_ns"), [
    (np.array([0, 500_000, 990_000], np.uint32), "ns", [0, 500_000, 990_000]),      # a short sweep; auto takes us
    (np.array([0, 500_000, 990_000], np.uint32), "auto", [0, 500_000_000, 990_000_000]),
    (np.array([0, 0.5, 0.99], np.float32), "ms", [0, 500_000, 990_000]),
    (np.array([0, 50, 99], np.uint32), "ms", SPREAD),
    (np.array([0, 50, 99], np.uint32), "none", None), (np.array([0, 50, 99], np.uint32), "s", None),
    (np.array([0, 50, 99], np.float32) + 1e6, "ms", None),
])
def test_a_unit_that_is_configured_is_not_guessed(values, unit, offsets_ns):
    times = point_times_ns(cloud_of(np.ones((3, 3)), STAMP, t=values), unit)
    if offsets_ns is None:
        assert times is None
    else:
        np.testing.assert_allclose((times - STAMP).astype(float), offsets_ns, atol=500)


@pytest.mark.parametrize("fields", [
    {}, {"ring": np.zeros(3, np.uint16)}, {"t": np.full(3, np.nan)}, {"t": np.full(3, 1e30)},
    {"timestamp": np.array([0, 0.05, 0.1]) + 5e8}, {"t": np.array([0, 1, 2**32 - 1], np.uint32)},
    {"timestamp": np.full(3, STAMP * 1e-9, np.float32)},            # float32 holds this to 128 s only
])
def test_times_that_make_no_sense_are_no_times(fields):
    assert point_times_ns(cloud_of(np.ones((3, 3)), STAMP, **fields)) is None


def test_several_times_per_point_are_refused():
    with pytest.raises(MessageError, match="'t' has 2 values per point"):
        point_times_ns(Cloud(np.zeros(3, [("t", "f4", (2,))]), STAMP))


# ------------------------------------------------------------------------------------------------------------ deskew

MS = 1_000_000
SPEED, TURN = 15.0, np.deg2rad(30)      # m/s along the vehicle's x axis, rad/s to the left


def vehicle(t_ns):
    """T_odom_base (N, 4, 4) at (N,) times after STAMP: a circle, in closed form."""
    angle = TURN * np.atleast_1d(t_ns) * 1e-9
    T = np.tile(np.eye(4), (len(angle), 1, 1))
    T[:, 0, 0], T[:, 0, 1], T[:, 1, 0], T[:, 1, 1] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    T[:, 0, 3], T[:, 1, 3] = SPEED / TURN * np.sin(angle), SPEED / TURN * (1 - np.cos(angle))
    return T


T_BASE_LIDAR = rigid.matrix([0.9, 0.1, 1.9], [0.01, 0.02, 0.1, 0.99])
T_BASE_CAMERA = rigid.matrix([1.5, 0, 1.4], [-0.5, 0.5, -0.5, 0.5])      # looks along x


def sweep_of_a_street(t_ns):
    """Rays of a spinning LiDAR at (N,) times against the ground, two walls and one ahead -> hits in odom (N, 3), and in
    the sensor's frame at each point's own time (N, 3); NaN where a ray hits nothing within 120 m."""
    azimuth = -2 * np.pi * t_ns / (100 * MS)                    # clockwise, ten turns a second, forward at 0
    elevation = np.deg2rad(np.linspace(-24, 8, 32))[np.arange(len(t_ns)) % 32]
    direction = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth),
                          np.sin(elevation)], -1)
    T = vehicle(t_ns) @ T_BASE_LIDAR
    origin, direction_odom = T[:, :3, 3], np.einsum("nij,nj->ni", T[:, :3, :3], direction)
    distance = np.full(len(t_ns), np.inf)
    for normal, offset in (((0, 0, 1), 0), ((0, 1, 0), 9), ((0, 1, 0), -7), ((1, 0, 0), 45)):
        with np.errstate(divide="ignore"):
            along = (offset - origin @ normal) / (direction_odom @ normal)
        distance = np.where((along > 0) & (along < distance), along, distance)
    distance[distance > 120] = np.nan
    return origin + distance[:, None] * direction_odom, distance[:, None] * direction


def pixel_errors(end_ms, lag_ms):
    """Distance in pixels of each drawn point from its true pixel, with the lane's deskew and without: two (M,)."""
    camera = Camera(1024, 1024, [[512, 0, 511.5], [0, 512, 511.5], [0, 0, 1]], "plumb_bob", (-0.1, 0.02, 1e-3, -1e-3))
    lane, end, t_ref = LidarLane(ENCODING, camera, 256, 256), end_ms * MS, (end_ms - lag_ms) * MS
    times = end - np.arange(32 * 1024)[::-1] * (100 * MS) // (32 * 1024)
    hits, measured = sweep_of_a_street(times)
    cloud = cloud_of(measured, STAMP + end, time=((times - end) * 1e-9).astype(np.float32))
    frames = Transforms()
    frames.add_static("base_link", "camera", T_BASE_CAMERA)
    frames.add_static("base_link", "lidar", T_BASE_LIDAR)
    for ms in range(0, end_ms + 20, 20):                        # 50 Hz
        frames.add_odometry(encode_odometry(bag_types(), vehicle(ms * MS)[0], STAMP + ms * MS))
    truth = rigid.inverse(vehicle(t_ref)[0] @ T_BASE_CAMERA)
    expected, _ = camera.project(hits @ truth[:3, :3].T + truth[:3, 3])
    errors = []
    for times_ns in (point_times_ns(cloud), None):
        motion, deskewed = frames.moved("camera", "lidar", times_ns, cloud.stamp_ns, STAMP + t_ref)
        assert deskewed == (times_ns is not None)
        if not deskewed:
            motion = Motion.fixed(frames.lookup("camera", "lidar"))
        points = lane(cloud, motion, deskewed).points
        both = np.isfinite(expected[points.index, 0])
        errors.append(np.linalg.norm(points.uv[both] - expected[points.index][both], axis=1))
    return errors


@pytest.mark.parametrize(("end_ms", "lag_ms"), [(1_000, 0), (1_013, 50), (987, 100), (1_000, -30)])
def test_a_spinning_lidars_static_points_land_on_their_true_pixel(end_ms, lag_ms):
    """At 15 m/s and 30 degrees/s. lag_ms: how long before the sweep's end the image was taken."""
    with_deskew, without = pixel_errors(end_ms, lag_ms)
    assert len(with_deskew) > 5000 and with_deskew.max() < 0.5
    assert np.median(without) > 5
