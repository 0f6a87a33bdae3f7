"""Messages to arrays and back: every layout against struct or OpenCV, and hostile sizes."""

from __future__ import annotations

import importlib
import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mss_perception import messages, rigid
from mss_perception.messages import MessageError, bag_types

TYPES = bag_types()
HEADER = messages.encode_header(TYPES, 12_345_678_901, "frame")


def image(data, height, width, encoding, step, is_bigendian=0):
    return TYPES.Image(header=HEADER, height=height, width=width, encoding=encoding, is_bigendian=is_bigendian,
                       step=step, data=np.frombuffer(data, np.uint8))


# ---------------------------------------------------------------------------------------------------------- images

@pytest.mark.parametrize(("encoding", "to_rgb"), [
    ("rgb8", None), ("bgr8", cv2.COLOR_BGR2RGB), ("rgba8", cv2.COLOR_RGBA2RGB), ("bgra8", cv2.COLOR_BGRA2RGB)])
@pytest.mark.parametrize("padding", [0, 5])
def test_colour_comes_back_as_rgb(encoding, to_rgb, padding):
    channels = 4 if "a" in encoding else 3
    pixels = np.random.default_rng(0).integers(0, 256, (7, 11, channels), dtype=np.uint8)
    rows = np.full((7, 11 * channels + padding), 99, np.uint8)
    rows[:, :11 * channels] = pixels.reshape(7, -1)
    decoded = messages.decode_image(image(rows.tobytes(), 7, 11, encoding, rows.shape[1]))
    assert np.array_equal(decoded, pixels if to_rgb is None else cv2.cvtColor(pixels, to_rgb))


@pytest.mark.parametrize(("encoding", "letter"), [("mono8", "B"), ("16UC1", "H"), ("32FC1", "f")])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("padding", [0, 3])
def test_single_channels_in_either_byte_order(encoding, letter, order, padding):
    values = np.random.default_rng(1).integers(0, 250, (5, 6)).astype(letter)
    data = b"".join(struct.pack(f"{order}6{letter}", *row.tolist()) + b"\xee" * padding for row in values)
    decoded = messages.decode_image(image(data, 5, 6, encoding, len(data) // 5, order == ">"))
    assert decoded.dtype == values.dtype and decoded.dtype.isnative and np.array_equal(decoded, values)


def test_an_image_that_needs_no_conversion_is_not_copied():
    message = messages.encode_image(TYPES, np.zeros((4, 6, 3), np.uint8), "rgb8", 5, "camera")
    assert np.shares_memory(messages.decode_image(message), message.data)
    assert (messages.stamp_ns(message.header), message.header.frame_id, message.step) == (5, "camera", 18)


@pytest.mark.parametrize(("changes", "named"), [
    ({"encoding": "yuv999"}, "'yuv999'"), ({"height": 0}, "empty"), ({"width": 0}, "empty"),
    ({"step": 17}, "step = 17"), ({"height": 5}, "72 bytes"), ({"height": 2**32 - 1}, "72 bytes"),
    ({"width": 2**32 - 1}, "step = 18"), ({"width": 2**32 - 1, "step": 2**32 - 1}, "step"),
    ({"step": 2**32 - 1, "height": 2**32 - 1}, "72 bytes"), ({"encoding": "32FC1", "width": 5}, "step = 18"),
    ({"data": np.empty(0, np.uint8)}, "0 bytes"),
])
def test_inconsistent_images_are_refused_by_name(changes, named):
    message = messages.encode_image(TYPES, np.zeros((4, 6, 3), np.uint8), "rgb8", 5, "camera")
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(MessageError, match=named):
        messages.decode_image(message)


def test_encoding_the_wrong_array_is_refused():
    with pytest.raises(ValueError, match="rgb8 needs uint8"):
        messages.encode_image(TYPES, np.zeros((4, 6, 3), np.float32), "rgb8", 0, "")
    with pytest.raises(ValueError, match="32FC1 needs float32"):
        messages.encode_image(TYPES, np.zeros((4, 6, 1), np.float32), "32FC1", 0, "")


sizes = st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1))


@settings(max_examples=300, deadline=None)
@given(sizes, sizes, sizes, st.sampled_from([*messages.PIXEL_FORMATS, "", "rgb16"]), st.booleans(),
       st.binary(max_size=400))
def test_any_image_is_refused_or_wholly_readable(height, width, step, encoding, is_bigendian, data):
    try:
        decoded = messages.decode_image(image(data, height, width, encoding, step, is_bigendian))
    except MessageError:
        return
    assert decoded.shape[:2] == (height, width) and height * width <= len(data)
    decoded.astype(np.float64).sum()


# ------------------------------------------------------------------------------------------------- poses and rclpy

def pose(seed):
    rng = np.random.default_rng(seed)
    return rigid.matrix(rng.normal(size=3), rng.normal(size=4))


def test_transforms_and_odometry_there_and_back():
    sent = [("base_link", "camera", pose(0)), ("base_link", "lidar", pose(1))]
    found = messages.decode_transforms(messages.encode_transforms(TYPES, sent, 42))
    assert [one[:3] for one in found] == [("base_link", "camera", 42), ("base_link", "lidar", 42)]
    for (_, _, expected), (_, _, _, T) in zip(sent, found, strict=True):
        np.testing.assert_allclose(T, expected, atol=1e-12)
    parent, child, stamp, T = messages.decode_odometry(messages.encode_odometry(TYPES, pose(2), 43))
    assert (parent, child, stamp) == ("odom", "base_link", 43)
    np.testing.assert_allclose(T, pose(2), atol=1e-12)


@pytest.mark.parametrize("change", [{"w": 0.0, "x": 0.0, "y": 0.0, "z": 0.0}, {"w": float("nan")}, {"x": 5.0}])
def test_a_rotation_that_is_none_is_refused(change):
    message = messages.encode_odometry(TYPES, pose(3), 43)
    for name, value in change.items():
        setattr(message.pose.pose.orientation, name, value)
    with pytest.raises(MessageError, match="unit length"):
        messages.decode_odometry(message)


def rclpy_types():
    """rclpy's message classes, as the node has them; skips where ROS 2's Python messages are not installed."""
    found = {}
    for name, full in messages.MESSAGE_TYPES.items():
        package, _, kind = full.split("/")
        try:
            found[name] = getattr(importlib.import_module(f"{package}.msg"), kind)
        except ImportError:
            if name not in ("TFMessage",):      # tf2_msgs is not among the wheels
                pytest.skip(f"{package} is not installed")
    return SimpleNamespace(**found)


def test_rclpys_messages_are_written_and_read_alike():
    types = rclpy_types()
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    points = {name: rng.random(9, np.float32) for name in ("x", "y", "z", "intensity")}
    for make in (lambda types: messages.encode_image(types, pixels, "rgb8", 5, "camera"),
                 lambda types: messages.encode_cloud(types, points, 5, "lidar"),
                 lambda types: messages.encode_events(types, [1, 2], [3, 4], [6000, 8000], [0, 1], 5000, "event")):
        live, recorded = make(types), make(TYPES)
        assert bytes(live.data) == recorded.data.tobytes()
    assert np.array_equal(messages.decode_image(messages.encode_image(types, pixels, "rgb8", 5, "camera")), pixels)
    decoded = messages.decode_cloud(messages.encode_cloud(types, points, 5, "lidar"))
    assert np.array_equal(decoded.field("intensity"), points["intensity"]) and decoded.stamp_ns == 5
    np.testing.assert_allclose(messages.decode_odometry(messages.encode_odometry(types, pose(6), 43))[3], pose(6),
                               atol=1e-12)
