"""Camera models against OpenCV, and the valid radius against a dense scan of the polynomial."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mss_perception.camera import MAX_PIXELS, Camera, CameraError
from mss_perception.messages import bag_types, encode_camera_info

K = [[520.0, 0.0, 330.5], [0.0, 515.0, 241.25], [0.0, 0.0, 1.0]]
PLUMB_BOB = (-0.28, 0.07, 0.0008, -0.0011, -0.004)
RATIONAL = (0.9, 0.4, -0.0004, 0.0006, 0.02, 1.2, 0.6, 0.05)
THIN_PRISM = (*RATIONAL, 0.004, -0.0006, -0.003, 0.0005)
FISHEYE = (-0.02, 0.006, -0.004, 0.0007)
MODELS = [("none", ()), ("plumb_bob", PLUMB_BOB[:4]), ("plumb_bob", PLUMB_BOB), ("rational_polynomial", RATIONAL),
          ("rational_polynomial", THIN_PRISM), ("equidistant", FISHEYE)]


def camera(model="none", D=(), width=640, height=480):
    return Camera(width, height, K, model, D, "camera_optical")


def opencv_project(xyz, model, D):
    if model == "equidistant":
        return cv2.fisheye.projectPoints(xyz[:, None], np.zeros(3), np.zeros(3), np.array(K), np.array(D))[0][:, 0]
    return cv2.projectPoints(xyz, np.zeros(3), np.zeros(3), np.array(K), np.array(D) if D else None)[0][:, 0]


@pytest.mark.parametrize(("model", "D"), MODELS)
def test_projection_is_opencvs(model, D):
    one = camera(model, D)
    rng = np.random.default_rng(0)
    # Everything that the camera can see, up to its valid radius or 80 degrees off the axis.
    angle = rng.uniform(0, min(np.arctan(one.valid_radius) * 0.999, np.deg2rad(80)), 5000)
    around, z = rng.uniform(0, 2 * np.pi, 5000), rng.uniform(0.1, 90, 5000)
    r = np.tan(angle)
    xyz = np.stack([r * np.cos(around) * z, r * np.sin(around) * z, z], -1)
    uv, valid = one.project(xyz)
    assert valid.all()
    expected = opencv_project(xyz, model, D)
    assert np.abs(uv - expected).max() <= 1e-3
    assert np.abs(uv - expected).max() <= 1e-9 * np.abs(expected).max()


@pytest.mark.parametrize(("model", "D"), MODELS)
def test_unproject_inverts_project_over_the_image(model, D):
    one = camera(model, D)
    rays = one.pixel_rays()
    assert np.isfinite(rays).all() and np.all(rays[:, 2] == 1.0)
    uv, valid = one.project(rays * 7.5)
    v, u = np.mgrid[:480, :640]
    assert valid.all()
    np.testing.assert_allclose(uv, np.stack([u.ravel(), v.ravel()], -1), atol=1e-6)


STRONG = [("plumb_bob", (-0.35, 0.0, 0.0, 0.0, 0.0)), ("plumb_bob", (-0.4, 0.12, 0.0, 0.0, -0.02)),
          ("plumb_bob", (0.1, -0.2, 0.0, 0.0, 0.0)), ("rational_polynomial", (0.3, 0.0, 0, 0, 0, 0.9, 0.8, 0.0)),
          ("rational_polynomial", (0.0, 0.0, 0, 0, 0, -0.3, 0.0, 0.0)), ("equidistant", (-0.2, 0.0, 0.0, 0.0)),
          ("equidistant", (0.05, -0.1, 0.0, 0.0))]


@pytest.mark.parametrize(("model", "D"), STRONG)
def test_valid_radius_is_where_the_polynomial_turns(model, D):
    one = camera(model, D)
    # Scan the radius outwards; the oracle is the first step at which OpenCV's distorted radius does not grow.
    angle = np.linspace(0, np.deg2rad(89.9), 400_000)[1:]
    xyz = np.stack([np.tan(angle), np.zeros_like(angle), np.ones_like(angle)], -1)
    distorted = (opencv_project(xyz, model, D)[:, 0] - K[0][2]) / K[0][0]
    falls = np.flatnonzero(np.diff(distorted) <= 0)
    expected = angle[falls[0]] if len(falls) else angle[-1]
    assert np.arctan(one.valid_radius) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(("model", "D"), STRONG)
def test_points_behind_or_beyond_never_appear(model, D):
    one = camera(model, D)
    rng = np.random.default_rng(1)
    direction = rng.normal(size=(20_000, 3))
    _, valid = one.project(direction)
    radius = np.hypot(direction[:, 0], direction[:, 1]) / direction[:, 2]
    may_appear = (direction[:, 2] > 0) & (radius < one.valid_radius)
    assert np.array_equal(valid, may_appear)


# Hardly any radial part: the tangential one or the thin prism folds what is far off the axis.
SKEWED = [("plumb_bob", (0.0, 0.0, 0.0, -0.02)), ("plumb_bob", (0.0, 0.0, 0.01, 0.02, 0.0)),
          ("plumb_bob", (-0.05, 0.0, 0.03, -0.02, 0.0)),
          ("rational_polynomial", (0, 0, 0, 0, 0, 0, 0, 0, -0.1, 0.0, 0.0, 0.02)),
          ("rational_polynomial", (0.1, 0, 0, 0, 0, 0.05, 0, 0, 0.0, -0.05, -0.2, 0.0))]


@pytest.mark.parametrize(("model", "D"), STRONG + SKEWED)
def test_no_two_directions_that_are_valid_share_a_pixel(model, D):
    """One-to-one: from every pixel that a valid point falls on, the way back leads to that point and no other."""
    one = camera(model, D)
    rng = np.random.default_rng(4)
    angle, around = np.arctan(one.valid_radius) * rng.uniform(0, 0.999, 4000), rng.uniform(0, 2 * np.pi, 4000)
    rays = np.stack([np.tan(angle) * np.cos(around), np.tan(angle) * np.sin(around), np.ones(4000)], -1)
    uv, valid = one.project(rays)
    assert valid.all()
    # Along each ray from the centre OpenCV's distortion must not turn: its local area keeps its sign.
    for share in np.linspace(0.05, 1, 20):
        near, step = rays * [share, share, 1], 1e-6
        at = [opencv_project(near + step * np.array(shift), model, D) for shift in ((1, 0, 0), (-1, 0, 0), (0, 1, 0),
                                                                                   (0, -1, 0))]
        a, b = at[0] - at[1], at[2] - at[3]
        if model != "equidistant":      # OpenCV's fisheye is less smooth than such a step needs
            assert (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] > 0).all()
    back = one.unproject(uv[::10])
    found = np.isfinite(back[:, 0])
    np.testing.assert_allclose(back[found], rays[::10][found], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("model", "D"), SKEWED)
def test_what_tangential_distortion_folds_never_appears(model, D):
    """Without the limit it would: that is what makes the test above worth having."""
    one = camera(model, D)
    angle, around = np.meshgrid(np.linspace(0, np.deg2rad(89.9), 1500)[1:], np.linspace(0, 2 * np.pi, 90))
    rays = np.stack([np.tan(angle) * np.cos(around), np.tan(angle) * np.sin(around), np.ones_like(angle)], -1)
    rays = rays.reshape(-1, 3)
    uv, valid = one.project(rays)
    raw = opencv_project(rays, model, D)
    inside = (raw >= 0).all(1) & (raw[:, 0] < 640) & (raw[:, 1] < 480)
    nearby = np.hypot(rays[:, 0], rays[:, 1]) < 1.2     # the lens' true field of view, with room to spare
    assert (inside & ~nearby).any() and (inside & nearby).any()
    assert not (valid & inside & ~nearby).any() and valid[inside & nearby].all()


def test_a_folded_point_would_fall_into_the_image_without_the_valid_radius():
    model, D = STRONG[0]
    beyond = np.array([[1.55, 0.1, 1.0]])
    u, v = opencv_project(beyond, model, D)[0]
    assert 0 <= u < 640 and 0 <= v < 480
    uv, valid = camera(model, D).project(beyond)
    assert not valid[0] and np.isnan(uv).all()


def test_pixels_that_no_ray_reaches_have_no_ray():
    one = camera("plumb_bob", STRONG[0][1], width=4000)
    rays = one.unproject([[330.5, 241.25], [3500.0, 241.25]])
    np.testing.assert_allclose(rays[0], [0, 0, 1], atol=1e-12)
    assert np.isnan(rays[1]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_points_that_are_not_finite_are_not_valid(bad, axis):
    point = np.array([[0.1, 0.2, 1.0]])
    point[0, axis] = bad
    for model, D in MODELS:
        assert not camera(model, D).project(point)[1][0]


def test_scaling_keeps_pixel_corners():
    one = camera("plumb_bob", PLUMB_BOB)
    small = one.scaled(160, 240)
    points = np.random.default_rng(2).uniform([-1, -1, 2], [1, 1, 9], (500, 3))
    uv, _ = one.project(points)
    np.testing.assert_allclose(small.project(points)[0], (uv + 0.5) * [0.25, 0.5] - 0.5, atol=1e-9)
    assert (small.width, small.height, small.frame_id) == (160, 240, "camera_optical")


@pytest.mark.parametrize("named, frame", [("", "camera_optical"), ("lens", "lens"), ("/lens", "lens")])
def test_in_another_frame(named, frame):
    assert camera("plumb_bob", PLUMB_BOB).in_frame(named).frame_id == frame


def info(**changes):
    message = encode_camera_info(bag_types(), camera("plumb_bob", PLUMB_BOB), 5)
    for name, value in changes.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(("model", "D"), MODELS)
def test_camera_info_there_and_back(model, D):
    one = camera(model, D)
    back = Camera.from_info(encode_camera_info(bag_types(), one, 123))
    assert back == one and hash(back) == hash(one)
    assert back != one.scaled(320, 240) and back != "camera"


def test_camera_info_region_of_interest_and_binning():
    message = info(binning_x=2, binning_y=2)
    message.roi.x_offset, message.roi.y_offset, message.roi.width, message.roi.height = 100, 40, 400, 200
    one, full = Camera.from_info(message), camera("plumb_bob", PLUMB_BOB)
    assert (one.width, one.height) == (200, 100)
    points = np.random.default_rng(3).uniform([-1, -1, 2], [1, 1, 9], (100, 3))
    np.testing.assert_allclose(one.project(points)[0], (full.project(points)[0] - [100, 40] + 0.5) / 2 - 0.5, atol=1e-9)


def test_binning_that_does_not_divide_the_image_keeps_its_scale():
    message = info(binning_x=3, binning_y=7)        # 640 x 480 -> 213 x 68, one column and four rows left over
    one, full = Camera.from_info(message), camera("plumb_bob", PLUMB_BOB)
    assert (one.width, one.height) == (213, 68)
    points = np.random.default_rng(3).uniform([-1, -1, 2], [1, 1, 9], (100, 3))
    np.testing.assert_allclose(one.project(points)[0], (full.project(points)[0] + 0.5) / [3, 7] - 0.5, atol=1e-9)


def test_camera_info_as_drivers_send_it():
    assert Camera.from_info(info(d=np.zeros(5))).model == "none"
    assert Camera.from_info(info(d=np.array(RATIONAL))).model == "rational_polynomial"
    padded = info(distortion_model="rational_polynomial", d=np.array([*RATIONAL, 0, 0, 0, 0, 0, 0]))
    assert Camera.from_info(padded).D == RATIONAL
    prism = info(distortion_model="rational_polynomial", d=np.array([*THIN_PRISM, 0, 0]))
    assert Camera.from_info(prism).D == THIN_PRISM
    assert Camera.from_info(info(d=np.array(THIN_PRISM))).D == THIN_PRISM
    assert Camera.from_info(info(d=np.zeros(14))).model == "none"
    assert Camera.from_info(info(distortion_model="fisheye", d=np.array(FISHEYE))).model == "equidistant"
    for name in ("", "none"):
        for count in (0, 4, 5, 8):
            one = Camera.from_info(info(distortion_model=name, d=np.zeros(count)))
            assert one == camera() and (one.model, one.D) == ("none", ())


def test_zeros_are_no_distortion():
    assert camera("none", [0, 0, 0, 0, -0.0]) == camera() and camera("none", [0] * 5).D == ()
    for D in ((0.1,), (0, 0, 0, 0, 1e-300), (np.nan,), (np.inf, 0)):
        with pytest.raises(CameraError, match="none needs 0 finite coefficients, got D = "):
            camera("none", D)


@pytest.mark.parametrize(("changes", "named"), [
    ({"k": np.zeros(9)}, "calibrated"), ({"k": np.full(9, np.nan)}, "K ="), ({"width": 0}, "0 x 480"),
    ({"k": np.array([520, 0, -1e308, 0, 515, 241, 0, 0, 1])}, r"1e\+09 pixels at most"),    # a finite number
    ({"width": 2**32 - 1, "height": 2**32 - 1}, str(MAX_PIXELS)), ({"distortion_model": "omni"}, "'omni'"),
    ({"d": np.ones(3)}, "4 or 5"), ({"d": np.array([0.1, np.nan, 0, 0, 0])}, "finite"),
    ({"distortion_model": "", "d": np.ones(4)}, "distortion_model"),
    ({"distortion_model": "none", "d": np.array([0, 0, 0, 0, 0.1])}, "distortion_model = 'none'"),
    ({"distortion_model": "none", "d": np.array([np.nan] * 5)}, "distortion_model = 'none'"),
    ({"distortion_model": "equidistant"}, "equidistant needs 4"),
    ({"distortion_model": "rational_polynomial", "d": np.ones(9)}, "needs 8 or 12"),
    ({"distortion_model": "rational_polynomial", "d": np.ones(14)}, "tilted sensor"),
    ({"distortion_model": "plumb_bob", "d": np.ones(14)}, "tilted sensor"),
    ({"distortion_model": "thin_prism"}, "'thin_prism' is unknown; known: none, plumb_bob"),
    ({"k": np.array([500.0, 0, 320, 0, 500, 240, 0, 0, 0])}, "must be fx s cx, 0 fy cy, 0 0 1"),
    ({"k": np.array([500.0, 0, 320, 3, 500, 240, 0, 0, 1])}, "must be fx s cx"),
    ({"k": np.array([1e300, 0, 320, 0, 500, 240, 0, 0, 1])}, "1e.09 pixels at most"),
    ({"d": np.array([0.1, 2e6, 0, 0, 0])}, "at most 1e.06"), ({"binning_x": 641}, "0 x 480"),
    ({"height": 1 << 20, "width": 1 << 20}, "at most"), ({"width": 40_000}, "40000 x 480 must be .* 32766 on a side"),
])
def test_useless_camera_info_is_refused_by_name(changes, named):
    with pytest.raises(CameraError, match=named):
        Camera.from_info(info(**changes))


@pytest.mark.parametrize("roi", [(600, 0, 100, 480), (0, 200, 640, 281), (1, 0, 0, 0), (2**32 - 1, 0, 640, 480)])
def test_a_region_of_interest_outside_the_sensor_is_refused(roi):
    message = info()
    message.roi.x_offset, message.roi.y_offset, message.roi.width, message.roi.height = roi
    with pytest.raises(CameraError, match="leaves the sensor of 640 x 480"):
        Camera.from_info(message)


@pytest.mark.parametrize("tiny", [5e-324, 1e-310, -1e-310, 1e-200])
def test_a_vanishing_coefficient_changes_nothing(tiny):
    """LAPACK takes no polynomial whose last coefficient vanishes against the others."""
    for model, D in (("plumb_bob", (-0.3, 0, 1e-3, 1e-3, 0)), ("plumb_bob", (0, 0, 0, 0, 0)),
                     ("rational_polynomial", (0.1, -0.2, 0, 0, 0, 0.05, 0, 0)), ("equidistant", (-0.1, 0.01, 0, 0))):
        close = tuple(value or tiny for value in D)
        assert camera(model, close).valid_radius == pytest.approx(camera(model, D).valid_radius, rel=1e-12)


numbers = st.one_of(st.floats(), st.floats(-3, 3), st.floats(-1e6, 1e6), st.floats(-1e-290, 1e-290),
                    st.sampled_from([0.0, 1.0, 500.0]))
counts = st.one_of(st.integers(0, 700), st.integers(0, 2**32 - 1))


@settings(max_examples=400, deadline=None)
@given(st.lists(numbers, min_size=9, max_size=9), st.lists(numbers, max_size=15),
       st.sampled_from(["", "none", "plumb_bob", "rational_polynomial", "equidistant", "fisheye", "omni"]),
       st.lists(counts, min_size=8, max_size=8), st.booleans())
def test_any_camera_info_is_refused_or_makes_a_camera(k, d, model, sizes, upright):
    message = info(k=np.array([k[0], 0, k[2], 0, k[4], k[5], 0, 0, 1] if upright else k), d=np.array(d),
                   distortion_model=model, width=sizes[0], height=sizes[1], binning_x=sizes[2] % 4, binning_y=sizes[3])
    roi = message.roi
    roi.x_offset, roi.y_offset, roi.width, roi.height = sizes[4:]
    try:
        one = Camera.from_info(message)
    except CameraError:
        return
    rays = np.random.default_rng(0).normal(size=(50, 3))
    uv, valid = one.project(rays)
    assert not valid[rays[:, 2] <= 0].any() and one.valid_radius > 0
    assert (np.isfinite(uv).all(1) | ~valid).all()
    one.unproject(rays[:, :2] * 100)
