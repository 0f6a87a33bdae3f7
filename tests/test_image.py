"""Image lane: size, averaging, grey, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from mss_models.modality import DEFAULT_ENCODINGS, Encoding
from mss_perception.camera import Camera
from mss_perception.image import ImageLane
from mss_perception.lane import LaneInvalid

CAMERA = Camera(64, 48, [[50, 0, 32], [0, 50, 24], [0, 0, 1]])


def lane(height, width):
    return ImageLane(DEFAULT_ENCODINGS["rgb"], CAMERA, height, width)


def test_same_size_is_the_picture_itself():
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    assert np.array_equal(lane(48, 64)(pixels).image, pixels)


def test_shrinking_averages_areas():
    pixels = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    expected = pixels.reshape(12, 4, 16, 4, 3).mean((1, 3))
    assert np.abs(lane(12, 16)(pixels).image - expected).max() <= 0.5 + 1e-9


def test_enlarging_keeps_the_range_and_the_orientation():
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32] = (200, 100, 50)
    image = lane(96, 128)(pixels).image
    assert image.shape == (96, 128, 3)
    assert tuple(image[10, 10]) == (200, 100, 50) and not image[90].any() and not image[:, 120].any()


def test_grey_becomes_three_equal_channels():
    pixels = np.random.default_rng(2).integers(0, 256, (48, 64), dtype=np.uint8)
    image = lane(48, 64)(pixels).image
    assert all(np.array_equal(image[..., channel], pixels) for channel in range(3))


@pytest.mark.parametrize(("pixels", "named"), [
    (np.zeros((48, 60, 3), np.uint8), "60 x 48.*64 x 48"), (np.zeros((48, 64), np.float32), "float32"),
    (np.zeros((48, 64), np.uint16), "uint16"),
])
def test_another_size_or_type_is_invalid(pixels, named):
    with pytest.raises(LaneInvalid, match=named):
        lane(32, 32)(pixels)


@pytest.mark.parametrize("wanted", [Encoding("rgb", "bayer"), Encoding("rgb", "rgb", 2), Encoding("depth", "rgb")])
def test_another_encoding_is_refused_at_once(wanted):
    with pytest.raises(ValueError, match="checkpoint wants"):
        ImageLane(wanted, CAMERA, 32, 32)
