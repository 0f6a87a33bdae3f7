"""The pinhole form of distorted cameras against OpenCV, and labels that come back onto the camera's own pixels."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest

from mss_perception.camera import Camera
from mss_perception.rectify import WIDEST_DEG, Rectification, pinhole

K = np.array([[300.0, 0, 320], [0, 310, 235], [0, 0, 1]])
BARREL = Camera(640, 480, K, "plumb_bob", (-0.25, 0.06, 0.001, -0.0005, 0.0), "camera")
PINCUSHION = Camera(640, 480, K, "plumb_bob", (0.2, 0.05, 0.0, 0.0, 0.0), "camera")
FISHEYE = Camera(640, 480, K * [[0.6], [0.6], [1]], "equidistant", (0.02, -0.003, 0.0, 0.0), "camera")


@pytest.mark.parametrize("camera", [BARREL, PINCUSHION, FISHEYE], ids=lambda one: f"{one.model}{one.D[0]}")
def test_the_pinhole_form_holds_the_whole_picture_and_touches_it(camera):
    plain = pinhole(camera)
    assert (plain.model, plain.width, plain.height, plain.frame_id) == ("none", 640, 480, "camera")
    rays = camera.pixel_rays()
    within = np.abs(rays[:, :2]).max(axis=1) < np.tan(np.deg2rad(WIDEST_DEG))
    uv, valid = plain.project(rays[within])
    assert valid.all()
    low, high = uv.min(axis=0), uv.max(axis=0)
    assert (low >= -0.5).all() and (high <= [639.5, 479.5]).all()
    assert min(low[0], low[1], 639 - high[0], 479 - high[1]) < 2         # no wider than needed
    assert plain.K[1, 1] / plain.K[0, 0] == pytest.approx(camera.K[1, 1] / camera.K[0, 0])


def test_labels_come_back_to_where_opencv_says():
    rectification = Rectification(BARREL, 96, 128)
    truth = np.random.default_rng(0).integers(0, 25, (12, 16), np.uint8).repeat(40, 0).repeat(40, 1)
    got = rectification.back(truth, 255)
    assert (got != 255).all()
    # Independent: OpenCV says where a ray of the pinhole form lands in the camera's picture.
    y, x = (axis.ravel() for axis in np.mgrid[:480, :640])
    inner = (abs(x % 40 - 19.5) < 16) & (abs(y % 40 - 19.5) < 16)           # not beside another block
    rays = np.stack([x, y, np.ones_like(x)])[:, inner].T @ np.linalg.inv(rectification.pinhole.K).T
    landed = np.rint(cv2.projectPoints(rays, np.zeros(3), np.zeros(3), K, np.array(BARREL.D))[0][:, 0]).astype(int)
    u, v = landed.T
    seen = (u >= 0) & (u < 640) & (v >= 0) & (v < 480)
    assert seen.mean() > 0.8
    assert (got[v[seen], u[seen]] == truth[y[inner][seen], x[inner][seen]]).all()


def test_what_the_pinhole_form_does_not_hold_is_filled():
    wide = Camera(200, 200, np.array([[62.0, 0, 99.5], [0, 62, 99.5], [0, 0, 1]]), "equidistant", (0.0,) * 4)
    rectification = Rectification(wide, 100, 100)
    labels = rectification.back(np.full((200, 200), 7, np.uint8), 255)
    v, u = np.mgrid[:200, :200]
    angle = np.rad2deg(np.hypot(u - 99.5, v - 99.5) / 62)       # equidistant: radius = f * angle
    assert (labels[angle < WIDEST_DEG - 1] == 7).all()
    assert (labels[angle > 89.9] == 255).all()
    assert rectification.back(np.ones((100, 100, 3), np.uint8), 0).shape == (100, 100, 3)


def test_tables_are_made_in_strips():
    """A camera may have 2^26 pixels: all rays at once would take gigabytes."""
    large = BARREL.scaled(1200, 800)
    Rectification(BARREL, 96, 128)      # compiles
    tracemalloc.start()
    try:
        rectification = Rectification(large, 96, 128)
        table = 1200 * 800 * 2 * 4
        assert table <= tracemalloc.get_traced_memory()[1] < 3 * table
    finally:
        tracemalloc.stop()
    uv, _ = rectification.pinhole.project(large.pixel_rays())
    flat = rectification.back(np.tile((np.arange(1200) // 8).astype(np.uint8), (800, 1)), 255)
    expected = np.rint(uv[:, 0]).clip(0, 1199) // 8
    assert np.mean(np.abs(flat.ravel() - expected) <= 1) > 0.99
