"""Image lane: size, averaging, order of channels, other intrinsics, compressed pictures, refusals."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from lone_input import lone_image
from rosbags.typesys import Stores, get_typestore

from mss_models.modality import DEFAULT_ENCODINGS, Encoding
from mss_perception.camera import Camera
from mss_perception.config import Config
from mss_perception.image import ImageLane
from mss_perception.inputs import InputState, State
from mss_perception.lane import LaneInvalid
from mss_perception.messages import MessageError, bag_types, encode_camera_info, encode_header, encode_image
from mss_perception.messages.images import Pixels
from mss_perception.sensors import Sample, Sensors

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


def areas(pixels, height, width):
    """Mean over the part of the picture under each pixel of the result, by going through its pixels one by one."""
    result = np.zeros((height, width, pixels.shape[2]))
    scale_y, scale_x = pixels.shape[0] / height, pixels.shape[1] / width
    for y, x in np.ndindex(height, width):
        for row in range(pixels.shape[0]):
            for column in range(pixels.shape[1]):
                share = (max(0.0, min(row + 1, (y + 1) * scale_y) - max(row, y * scale_y))
                         * max(0.0, min(column + 1, (x + 1) * scale_x) - max(column, x * scale_x)))
                result[y, x] += share * pixels[row, column] / (scale_y * scale_x)
    return result


@pytest.mark.parametrize(("order", "chosen"), [("rgb", [0, 1, 2]), ("bgr", [2, 1, 0]), ("rgba", [0, 1, 2]),
                                               ("bgra", [2, 1, 0]), ("grey", [0, 0, 0])])
@pytest.mark.parametrize("padding", [0, 5])
def test_shrinking_by_any_ratio_puts_channels_in_order(order, chosen, padding):
    channels = 1 if order == "grey" else len(order)
    rows = np.random.default_rng(5).integers(0, 256, (13, 17 * channels + padding), dtype=np.uint8)
    pixels = np.ndarray((13, 17, channels), np.uint8, rows, strides=(rows.shape[1], channels, 1))
    rows.setflags(write=False)
    camera = Camera(17, 13, CAMERA.K)
    one = ImageLane(DEFAULT_ENCODINGS["rgb"], camera, 5, 7)
    image = one(Pixels(pixels[..., 0] if channels == 1 else pixels, order)).image
    assert np.abs(image - areas(pixels, 5, 7)[..., chosen]).max() <= 0.5 + 1e-3
    assert image.shape == (5, 7, 3) and image.dtype == np.uint8


@pytest.mark.parametrize("order", ["bgr", "rgba", "bgra"])
@pytest.mark.parametrize("size", [(48, 64), (96, 128), (24, 100)])
def test_channels_are_put_in_order_at_every_size(order, size):
    rgb = np.random.default_rng(6).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    by_name = dict(zip("rgba", (*np.moveaxis(rgb, -1, 0), np.full((48, 64), 9, np.uint8)), strict=True))
    pixels = np.stack([by_name[letter] for letter in order], -1)
    assert np.array_equal(lane(*size)(Pixels(pixels, order)).image, lane(*size)(rgb).image)


def test_arrays_of_any_memory_layout_are_taken():
    pixels = np.random.default_rng(9).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for view in (pixels[:, ::-1], pixels[..., ::-1], pixels[::-1], np.asfortranarray(pixels)):
        assert np.array_equal(lane(20, 30)(view).image, lane(20, 30)(np.ascontiguousarray(view)).image)


def test_shrinking_is_opencvs_area():
    pixels = np.random.default_rng(7).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    one = ImageLane(DEFAULT_ENCODINGS["rgb"], Camera(1920, 1080, [[1000, 0, 960], [0, 1000, 540], [0, 0, 1]]), 512, 896)
    expected = cv2.resize(pixels, (896, 512), interpolation=cv2.INTER_AREA)
    assert np.abs(one(pixels).image.astype(int) - expected).max() <= 1


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


def seen_pattern(camera):
    """(H, W, 3) uint8: smooth in the direction of the ray, and so the same scene for every camera at this place."""
    x, y, _ = camera.pixel_rays().T
    colours = np.stack([128 + 100 * np.sin(4 * x), 128 + 100 * np.cos(5 * y), 128 + 100 * np.sin(3 * (x + y))], -1)
    return np.rint(colours).astype(np.uint8).reshape(camera.height, camera.width, 3)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (24, 32), (33, 50), (80, 120)])
@pytest.mark.parametrize("raw", [
    Camera(128, 96, [[90, 0, 63], [0, 92, 47], [0, 0, 1]], "plumb_bob", (-0.2, 0.03, 0.001, -0.002, 0)),
    Camera(60, 50, [[40, 0, 31], [0, 41, 24], [0, 0, 1]], "equidistant", (0.02, -0.003, 0, 0))])
def test_a_raw_image_is_mapped_to_a_rectified_camera(raw, height, width):
    one = ImageLane(DEFAULT_ENCODINGS["rgb"], CAMERA, height, width, raw)
    image = one(seen_pattern(raw)).image
    grid = CAMERA.scaled(width, height)
    uv, valid = raw.project(grid.pixel_rays())
    covered = (valid & np.all((uv > 3) & (uv < [raw.width - 4, raw.height - 4]), axis=1)).reshape(height, width)
    assert covered.mean() > 0.5
    error = np.abs(image.astype(int) - seen_pattern(grid))[covered]
    # An eighth of a pixel of the camera moves the pattern by 1; averages over slopes are off by a little more.
    assert error.mean() < 2 and error.max() <= 12
    outside = (valid & np.any((uv < -3) | (uv > [raw.width + 2, raw.height + 2]), axis=1)).reshape(height, width)
    assert not image[outside].any()


COMPRESSED = get_typestore(Stores.ROS2_JAZZY).types["sensor_msgs/msg/CompressedImage"]


def sensors(**cameras):
    made = Sensors(Config(), {"rgb": DEFAULT_ENCODINGS["rgb"]}, (32, 32))
    for name, camera in cameras.items():
        made.learn(f"{name}/info", encode_camera_info(bag_types(), camera, 0))
    return made


def image_of(made, message):
    return lone_image(made, "rgb", InputState(State.OK, 5, payload=Sample(message)), 5).image


def test_a_compressed_picture_gives_what_the_raw_one_gives():
    pixels = np.random.default_rng(8).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    made, types = sensors(rgb=CAMERA), bag_types()
    raw = encode_image(types, pixels, "rgb8", 5, "camera")
    _, file = cv2.imencode(".png", pixels[..., ::-1])
    message = COMPRESSED(header=encode_header(types, 5, "camera"), format="rgb8; png compressed bgr8", data=file)
    image = image_of(made, message)
    assert image.shape == (32, 32 * 64 // 48 // 32 * 32, 3) and np.array_equal(image, image_of(made, raw))
    _, message.data = cv2.imencode(".png", pixels[:, :60])
    with pytest.raises(MessageError, match="image is 60 x 48, camera_info says 64 x 48"):
        image_of(made, message)


def test_depth_instead_of_a_picture_is_invalid():
    made = sensors(rgb=CAMERA)
    for values, encoding in ((np.ones((48, 64), np.uint16), "16UC1"), (np.ones((48, 64), np.float32), "32FC1")):
        with pytest.raises(LaneInvalid, match="8 bit colour or grey"):
            image_of(made, encode_image(bag_types(), values, encoding, 5, "camera"))


@pytest.mark.parametrize(("pixels", "named"), [
    (np.zeros((48, 60, 3), np.uint8), "60 x 48.*64 x 48"), (np.zeros((48, 64), np.float32), "float32"),
    (np.zeros((48, 64), np.uint16), "uint16"),
])
def test_another_size_or_type_is_invalid(pixels, named):
    with pytest.raises(LaneInvalid, match=named):
        lane(32, 32)(pixels)


@pytest.mark.parametrize("wanted", [Encoding("depth", "hha")])
def test_another_encoding_is_refused_at_once(wanted):
    with pytest.raises(ValueError, match="checkpoint wants"):
        ImageLane(wanted, CAMERA, 32, 32)
