"""HHA: closed forms on planes, a plane fitted pixel by pixel, another camera, and what tf says of up and the ground."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from lone_input import lone_image

from mss_models.modality import DEFAULT_ENCODINGS, Encoding
from mss_perception import rigid
from mss_perception.camera import Camera
from mss_perception.config import Config
from mss_perception.depth import DepthLane
from mss_perception.hha import Level, fit_normals, level_of, lowest
from mss_perception.inputs import InputState, State
from mss_perception.messages import bag_types, encode_camera_info, encode_image
from mss_perception.sensors import Sample, Sensors
from mss_perception.transforms import Transforms

ENCODING = Encoding("depth", "hha")
CAMERA = Camera(96, 72, [[60, 0, 47], [0, 61, 35], [0, 0, 1]], frame_id="camera")
LENS = Camera(96, 72, [[60, 0, 47], [0, 61, 35], [0, 0, 1]], "plumb_bob", (-0.2, 0.03, 0.001, -0.002, 0.0))
# Frames with z up, in an optical frame that looks along their x.
OPTICAL = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])


def tilted(pitch, roll, height):
    """How a camera stands that is first pitched down and then rolled, by degrees: Level and its up as an array."""
    cp, sp, cr, sr = (f(math.radians(a)) for a in (pitch, roll) for f in (math.cos, math.sin))
    up = np.array([sr * cp, -cr * cp, -sp])
    return Level(tuple(up), height), up


def depth_of(camera, *planes):
    """(H, W) float32: z of the nearest of the planes n . X = d that each ray meets; NaN where it meets none.

    And which one it is, -1 for none."""
    rays = camera.pixel_rays()
    z = np.full((len(planes), len(rays)), np.inf)
    for k, (n, d) in enumerate(planes):
        with np.errstate(divide="ignore"):
            met = d / (rays @ n)
        z[k, met > 0] = met[met > 0]
    which = np.where(np.isfinite(z.min(0)), z.argmin(0), -1).reshape(camera.height, camera.width)
    depth = np.where(which >= 0, z.min(0).reshape(which.shape), np.nan)
    return depth.astype(np.float32), which


def direct(camera, depth, up, height, params=ENCODING.params):
    """(H, W, 3) float: the definition, pixel by pixel: a least squares plane through its window, and trigonometry."""
    rays = camera.pixel_rays().reshape(camera.height, camera.width, 3)
    result, radius = np.zeros(rays.shape), params["normal_radius_px"]
    for row, column in np.argwhere(np.isfinite(depth)):
        window = np.s_[max(0, row - radius):row + radius + 1, max(0, column - radius):column + radius + 1]
        inside = np.isfinite(depth[window])
        angle = 180.0
        spread = np.linalg.svd(rays[window][inside] - rays[window][inside].mean(0), compute_uv=False)
        if inside.sum() > 2 and spread[1] > 0.01 * spread[0]:
            n = np.linalg.lstsq(rays[window][inside], 1 / depth[window][inside].astype(float), rcond=None)[0]
            n *= np.sign(n @ rays[row, column])
            angle = np.degrees(np.arccos(np.clip(-n @ up / np.linalg.norm(n), -1, 1)))
        z = float(depth[row, column])
        result[row, column] = (params["disparity_m"] / max(z, params["near_m"]),
                               params["height_scale"] * (z * rays[row, column] @ up + height - params["height_min_m"]),
                               params["angle_offset"] + params["angle_scale"] * angle)
    return np.clip(result, 0, 255)


def inner(which, margin=4):
    """Pixels whose window is wholly of one plane."""
    window, values = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8), which.astype(np.int16)
    return (which >= 0) & (cv2.erode(values, window) == values) & (cv2.dilate(values, window) == values)


# --------------------------------------------------------------------------------------------------- closed forms

@pytest.mark.parametrize("camera", [CAMERA, LENS])
@pytest.mark.parametrize(("pitch", "roll"), [(0, 0), (15, 0), (-10, 8), (12, -20)])
def test_ground_wall_and_ceiling(camera, pitch, roll):
    level, up = tilted(pitch, roll, 1.4)
    forward = np.array([0.0, 0, 1]) - up[2] * up
    forward /= np.linalg.norm(forward)
    depth, which = depth_of(camera, (-up, 1.4), (forward, 6.0), (up, 1.0))
    result = DepthLane(ENCODING, camera, 72, 96)(depth, camera, None, level)
    inside, points = inner(which), depth[..., None] * camera.pixel_rays().reshape(72, 96, 3)
    height = points @ up + 1.4
    image = result.image.astype(float)
    assert np.abs(image[..., 0] - np.minimum(310 / np.maximum(depth, 1), 255)).max() <= 0.51
    for plane, angle, at in ((0, 0, 0.0), (1, 90, None), (2, 180, 2.4)):
        on = inside & (which == plane)
        assert on.sum() > 100
        assert np.abs(image[on, 2] - (38 + angle)).max() <= 0.51
        expected = np.clip(100 * (height[on] if at is None else at), 0, 255)
        assert np.abs(image[on, 1] - expected).max() <= 0.51
    assert result.figures == {"valid_fraction": 1.0, "camera_height_m": 1.4, "ground_known": True}


@pytest.mark.parametrize("slope", [5, 20, 45, 70])
def test_a_slope_has_its_angle(slope):
    # Rising ahead: its normal that points away from the camera leans forward and down.
    a = math.radians(slope)
    depth, which = depth_of(CAMERA, (np.array([0, math.cos(a), math.sin(a)]), 1.5))
    image = DepthLane(ENCODING, CAMERA, 72, 96)(depth, level=Level()).image
    on = inner(which)
    assert on.sum() > 100 and np.abs(image[on, 2] - (38.0 + slope)).max() <= 0.51


def test_without_tf_the_camera_is_level_and_the_ground_is_where_the_lowest_points_are():
    depth, which = depth_of(CAMERA, (np.array([0.0, 1, 0]), 1.25), (np.array([0.0, 0, 1]), 7.0))
    depth[5, 5] = 300.0                         # measured wrongly, far above
    depth[70, 3] = 40.0                         # and below
    result = DepthLane(ENCODING, CAMERA, 72, 96)(depth)
    assert result.figures["camera_height_m"] == pytest.approx(1.25, abs=0.01)
    assert result.figures["ground_known"] is False
    on = inner(which, 8)
    assert np.abs(result.image[on & (which == 0), 1].astype(int)).max() <= 1
    wall = on & (which == 1)
    height = 1.25 - depth * (np.arange(72)[:, None] - 35) / 61
    assert np.abs(result.image[wall, 1] - np.clip(100 * height[wall], 0, 255)).max() <= 1.5


def test_lowest_of_nothing_is_0():
    assert lowest(np.zeros((2, 8, 8), np.float32), np.full((8, 8), np.nan, np.float32), np.array([0, -1.0, 0])) == 0.0


# ------------------------------------------------------------------------------------------ against the direct way

def rough(camera, seed):
    """Bumpy ground and a box before a wall, with noise and holes."""
    rng = np.random.default_rng(seed)
    depth, _ = depth_of(camera, (np.array([0.05, 1, 0.1]), 1.3), (np.array([0.2, 0, 1]), 8.0))
    depth[20:50, 30:60] = 3.0 + 0.02 * np.arange(30)
    depth *= 1 + 0.02 * rng.standard_normal(depth.shape).astype(np.float32)
    depth[rng.random(depth.shape) < 0.3] = np.nan
    depth[:25, :40] = np.nan
    depth[10, 10:14] = 5.0                      # a line and a lonely point: no plane
    depth[3, 30] = 4.0
    return depth


@pytest.mark.parametrize("camera", [CAMERA, LENS])
@pytest.mark.parametrize("params", [{}, {"normal_radius_px": 1}, {"normal_radius_px": 10, "angle_scale": 0.7,
                                         "angle_offset": 5.0, "height_scale": 20.0, "height_min_m": -3.0,
                                         "disparity_m": 900.0, "near_m": 3.2}])
def test_codes_are_those_of_a_plane_fitted_pixel_by_pixel(camera, params):
    encoding = Encoding("depth", "hha", params=params)
    depth = rough(camera, 1)
    level, up = tilted(12, -5, 1.1)
    image = DepthLane(encoding, camera, 72, 96)(depth, level=level).image
    expected = direct(camera, depth, up, 1.1, encoding.params)
    error = np.abs(image - expected)
    assert np.array_equal(image.any(-1), np.isfinite(depth))
    assert error[..., :2].max() <= 0.51
    # Single precision of the rays, in windows of three pixels in nearly one line.
    assert np.quantile(error[..., 2], 0.995) <= 0.51 and error[..., 2].max() <= 1.5
    assert (image[3, 30, 2] == 38 + 180) == (encoding.params["normal_radius_px"] <= 3)
    assert len(np.unique(image[..., 2])) > 20


def normals_of(camera, depth):
    """(H, W, 3)"""
    rays = np.ascontiguousarray(camera.pixel_rays().T[:2], np.float32).reshape(2, *depth.shape)
    return np.moveaxis(fit_normals(rays, depth, 3), 0, -1)


def test_normals_point_away_and_have_length_1():
    depth = rough(CAMERA, 2)
    rays = CAMERA.pixel_rays().reshape(72, 96, 3)
    normals = normals_of(CAMERA, depth)
    there = np.isfinite(normals).all(-1)
    assert not there[~np.isfinite(depth)].any() and there.mean() > 0.4
    np.testing.assert_allclose(np.linalg.norm(normals[there], axis=-1), 1, atol=1e-6)
    assert (np.einsum("ijk,ijk->ij", normals, rays)[there] > 0).all()


def test_a_near_object_leaves_no_trace_beside_it():
    # The sums go over it and on: what they keep of it must not bend a far wall.
    depth, _ = depth_of(CAMERA, (np.array([0.3, 0.1, 1]), 60.0))
    wall = normals_of(CAMERA, depth)
    depth[30:40, 20:30] = 0.01
    normals = normals_of(CAMERA, depth)
    untouched = np.ones((72, 96), bool)
    untouched[26:44, 16:34] = False
    assert np.abs(normals - wall)[untouched].max() < 1e-6


def test_a_pixel_that_no_ray_has_is_no_measurement():
    # A lens whose polynomial turns back inside the image: its corners are outside the valid radius.
    camera = Camera(96, 72, CAMERA.K, "plumb_bob", (-0.6, 0.0, 0.0, 0.0, 0.0))
    blind = np.isnan(camera.pixel_rays()[:, 0]).reshape(72, 96)
    assert 0.05 < blind.mean() < 0.9
    result = DepthLane(ENCODING, camera, 72, 96)(np.full((72, 96), 4.0, np.float32))
    assert np.array_equal(result.image.any(-1), ~blind)
    assert result.figures["valid_fraction"] == pytest.approx(1 - blind.mean())


# ---------------------------------------------------------------------------------------- size and another camera

@pytest.mark.parametrize(("height", "width"), [(36, 48), (50, 33), (144, 192), (300, 60)])
def test_at_another_size_each_pixel_is_the_one_under_its_centre(height, width):
    level, up = tilted(10, 5, 1.4)
    depth, which = depth_of(CAMERA, (-up, 1.4), (np.array([0.3, 0, 1]), 6.0))
    image = DepthLane(ENCODING, CAMERA, height, width)(depth, level=level).image
    rows = ((np.arange(height) + 0.5) * 72 / height).astype(int)
    columns = ((np.arange(width) + 0.5) * 96 / width).astype(int)
    taken = np.ix_(rows, columns)
    full = direct(CAMERA, depth, up, 1.4)[taken]
    assert np.abs(image[..., :2] - full[..., :2]).max() <= 0.51
    on = inner(which, 12)[taken]        # windows of a smaller image reach farther
    assert on.sum() > 50 and np.abs(image[on, 2] - full[on, 2]).max() <= 0.51


def test_another_camera_shows_the_same_heights_and_angles():
    # A depth camera 0.5 m beside the target, turned and lower; both see ground and wall.
    level, up = tilted(10, 3, 1.5)
    camera = Camera(160, 120, [[100, 0, 79.5], [0, 100, 59.5], [0, 0, 1]], "plumb_bob", (0.05, -0.01, 0, 0, 0))
    T = rigid.matrix([0.5, 0.2, -0.1], [0.03, -0.05, 0.02, 0.99])
    planes = ((-up, 1.5), (np.array([0.1, 0, 1.0]), 7.0))
    # n . (R X + t) = d
    seen = [(T[:3, :3].T @ n, d - n @ T[:3, 3]) for n, d in planes]
    depth, _ = depth_of(camera, *seen)
    result = DepthLane(ENCODING, CAMERA, 72, 96)(depth, camera, T, level)
    truth, which = depth_of(CAMERA, *planes)
    on = inner(which, 6) & result.image.any(-1)
    assert on.sum() > 1500
    expected = direct(CAMERA, truth, up, 1.5)
    ground, wall = on & (which == 0), on & (which == 1)
    assert np.abs(result.image - expected)[on, 2].max() <= 1.01
    assert np.abs(result.image - expected)[ground, 1].max() <= 1.01
    # On the wall a pixel is up to one pixel of the depth camera beside its place: 7 cm.
    assert np.abs(result.image - expected)[wall, 1].max() <= 10 and np.abs(result.image - expected)[wall, 1].mean() < 4
    assert np.abs(result.image - expected)[wall, 0].max() <= 1.01
    assert result.figures["camera_height_m"] == pytest.approx(1.5 + up @ T[:3, 3], abs=1e-3)
    unknown = DepthLane(ENCODING, CAMERA, 72, 96)(depth, camera, T, Level(tuple(up)))
    assert np.abs(unknown.image.astype(int) - result.image)[on].max() <= 2
    assert not unknown.figures["ground_known"]


# ----------------------------------------------------------------------------------------------------------- from tf

def mounted(pitch, height):
    """T_base_camera of a camera that looks ahead, pitched down, `height` over the base frame's origin."""
    T, a = np.eye(4), math.radians(pitch)
    down = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    T[:3, :3], T[:3, 3] = down @ OPTICAL.T, [1.5, 0.2, height]
    return T


def about_y(degrees):
    a = math.radians(degrees) / 2
    return rigid.matrix([30.0, -4, 2], [0, math.sin(a), 0, math.cos(a)])


def test_up_is_the_fixed_frames_and_the_ground_is_under_the_base():
    transforms = Transforms("odom")
    assert level_of(transforms, "camera", "base_link", 5) == Level()
    transforms.add_static("base_link", "camera", mounted(12, 1.6))
    level = level_of(transforms, "camera", "base_link", 5)
    np.testing.assert_allclose(level.up, tilted(12, 0, 0)[1], atol=1e-12)
    assert level.height_m == pytest.approx(1.6)
    # The vehicle pitches down by 8 degrees: so does the camera.
    transforms.add("odom", "base_link", 5, about_y(8))
    level = level_of(transforms, "camera", "base_link", 5)
    np.testing.assert_allclose(level.up, tilted(20, 0, 0)[1], atol=1e-12)
    a = math.radians(8)
    assert level.height_m == pytest.approx(1.6 * math.cos(a) - 1.5 * math.sin(a))
    # At a time without odometry the base's z is what is left.
    np.testing.assert_allclose(level_of(transforms, "camera", "base_link", 10**12).up, tilted(12, 0, 0)[1], atol=1e-12)
    # A base frame that is not there leaves up, and the height to the lowest points.
    other = level_of(transforms, "camera", "elsewhere", 5)
    assert other.height_m is None and other.up == level.up


def test_a_level_moves_with_its_frame():
    level, up = tilted(10, 20, 1.2)
    T = rigid.matrix([0.3, -0.4, 0.5], [0.1, 0.2, -0.1, 0.9])
    moved, point = level.moved(T), np.array([1.0, 2, 3])
    # The height of one point over the ground is the same in both.
    assert np.dot(moved.up, point) + moved.height_m == pytest.approx(up @ (T[:3, :3] @ point + T[:3, 3]) + 1.2)
    assert level.moved(np.eye(4)) == level and Level().moved(T).height_m is None


def test_the_sensors_take_up_and_height_from_tf():
    encodings, types = {"rgb": DEFAULT_ENCODINGS["rgb"], "depth": ENCODING}, bag_types()
    sensors = Sensors(Config(), encodings, (96, 96))
    for name in ("rgb", "depth"):
        sensors.learn(f"{name}/info", encode_camera_info(types, CAMERA, 0))
    up = tilted(15, 0, 0)[1]
    depth, which = depth_of(CAMERA, (-up, 1.3))
    state = InputState(State.OK, 5, payload=Sample(encode_image(types, depth, "32FC1", 5, "camera")))
    guessed = lone_image(sensors, "depth", state, 5)
    sensors.transforms.add_static("base_link", "camera", mounted(15, 1.3))
    known = lone_image(sensors, "depth", state, 5)
    assert known.figures["ground_known"] and known.figures["camera_height_m"] == pytest.approx(1.3, abs=2e-3)
    ground = known.image[90:, 20:100]
    assert np.abs(ground[..., 2] - 38.0).max() <= 1 and ground[..., 1].max() <= 1
    assert not guessed.figures["ground_known"] and np.abs(guessed.image[90:, 20:100, 2] - (38.0 + 15)).max() <= 1


def test_the_sensors_take_up_from_a_pitching_vehicle():
    encodings, types = {"rgb": DEFAULT_ENCODINGS["rgb"], "depth": ENCODING}, bag_types()
    sensors = Sensors(Config(), encodings, (96, 96))
    for name in ("rgb", "depth"):
        sensors.learn(f"{name}/info", encode_camera_info(types, CAMERA, 0))
    sensors.transforms.add_static("base_link", "camera", mounted(15, 1.3))
    sensors.transforms.add("odom", "base_link", 5, about_y(5))
    depth, _ = depth_of(CAMERA, (-tilted(20, 0, 0)[1], 1.2))
    state = InputState(State.OK, 5, payload=Sample(encode_image(types, depth, "32FC1", 5, "camera")))
    assert np.abs(lone_image(sensors, "depth", state, 5).image[90:, 20:100, 2] - 38.0).max() <= 1
