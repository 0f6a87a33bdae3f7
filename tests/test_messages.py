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


# ----------------------------------------------------------------------------------------------------------- clouds

def field(name, offset, datatype, count=1):
    return TYPES.PointField(name=name, offset=offset, datatype=datatype, count=count)


def cloud(data, fields, height, width, point_step, row_step, is_bigendian=False):
    return TYPES.PointCloud2(header=HEADER, height=height, width=width, fields=fields, is_bigendian=is_bigendian,
                             point_step=point_step, row_step=row_step, data=np.frombuffer(data, np.uint8),
                             is_dense=True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("height", "row_padding"), [(1, 0), (4, 0), (4, 9)])
def test_any_cloud_layout_reads_as_struct_reads_it(order, height, row_padding):
    # z before x, a gap, a float64 y, an array field, and an odd offset.
    layout = f"{order}f 2x H f d 3h B"
    step = struct.calcsize(layout.replace(" ", "")) + 3
    rng = np.random.default_rng(2)
    rows, expected = [], []
    for _ in range(height):
        row = b""
        for _ in range(5):
            z, ring, x, y, *more = rng.integers(0, 100, 8).tolist()
            row += struct.pack(layout.replace(" ", ""), z, ring, x, y, *more) + b"\xaa" * 3
            expected.append((x, y, z, ring, more[:3], more[3]))
        rows.append(row + b"\xbb" * row_padding)
    fields = [field("z", 0, 7), field("ring", 6, 4), field("x", 8, 7), field("y", 12, 8), field("normal", 20, 3, 3),
              field("label", 26, 2)]
    decoded = messages.decode_cloud(cloud(b"".join(rows), fields, height, 5, step, len(rows[0]), order == ">"))
    assert len(decoded) == height * 5 and decoded.frame_id == "frame" and decoded.stamp_ns == 12_345_678_901
    assert decoded.fields.shape == ((5,) if height == 1 else (height, 5))
    xyz = decoded.xyz()
    assert xyz.dtype == np.float32 and xyz.flags.c_contiguous
    assert np.array_equal(xyz, [one[:3] for one in expected])       # row by row
    assert np.array_equal(decoded.field("ring"), [one[3] for one in expected])
    assert np.array_equal(decoded.field("normal"), [one[4] for one in expected])
    assert np.array_equal(decoded.field("label"), [one[5] for one in expected])


def test_cloud_there_and_back_without_a_copy():
    rng = np.random.default_rng(3)
    fields = {"x": rng.random(50, np.float32), "y": rng.random(50, np.float32), "z": rng.random(50, np.float32),
              "intensity": rng.random(50, np.float32), "ring": rng.integers(0, 64, 50).astype(np.uint16),
              "time": rng.random(50)}
    message = messages.encode_cloud(TYPES, fields, 7, "lidar")
    decoded = messages.decode_cloud(message)
    assert decoded.names == tuple(fields) and message.point_step == 26 and message.row_step == 1300
    assert np.shares_memory(decoded.fields, message.data)
    for name, values in fields.items():
        assert np.array_equal(decoded.field(name), values)


def xyz_cloud(count=3, **changes):
    zeros = np.zeros(count, np.float32)
    message = messages.encode_cloud(TYPES, {"x": zeros, "y": zeros, "z": zeros}, 5, "lidar")
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def test_empty_clouds_are_empty_not_errors():
    assert len(messages.decode_cloud(xyz_cloud(0))) == 0
    assert messages.decode_cloud(xyz_cloud(0)).xyz().shape == (0, 3)
    # A field as large as the (unbounded) step of no points must not be allocated either.
    hostile = xyz_cloud(0, point_step=2**32 - 1, fields=[field("x", 0, 8, 2**28)])
    assert len(messages.decode_cloud(hostile)) == 0


@pytest.mark.parametrize(("changes", "named"), [
    ({"width": 4}, "row_step = 36"), ({"height": 2}, "36 bytes"),
    ({"point_step": 2**31, "row_step": 2**31}, "row_step"),
    ({"height": 2**32 - 1, "width": 1}, "36 bytes"), ({"width": 2**32 - 1, "point_step": 0}, "does not fit"),
    ({"row_step": 35}, "row_step = 35"), ({"data": np.zeros(35, np.uint8)}, "35 bytes"), ({"fields": []}, "no fields"),
    ({"fields": [field("x", 9, 7)]}, "does not fit point_step = 12"), ({"fields": [field("x", 0, 9)]}, "datatype 9"),
    ({"fields": [field("x", 0, 0)]}, "datatype 0"), ({"fields": [field("x", 0, 7, 0)]}, "does not fit"),
    ({"fields": [field("x", 0, 7, 2**32 - 1)]}, "does not fit"), ({"fields": [field("x", 2**32 - 1, 7)]}, "fit"),
    ({"fields": [field("x", 0, 7), field("x", 4, 7)]}, "twice"), ({"fields": [field("", 0, 7)]}, "empty or"),
])
def test_inconsistent_clouds_are_refused_by_name(changes, named):
    with pytest.raises(MessageError, match=named):
        messages.decode_cloud(xyz_cloud(**changes))


def test_a_missing_field_is_named_with_those_there():
    decoded = messages.decode_cloud(xyz_cloud(fields=[field("x", 0, 7), field("y", 4, 7)]))
    with pytest.raises(MessageError, match="'z'; fields: x, y"):
        decoded.xyz()


sizes = st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1))


@settings(max_examples=300, deadline=None)
@given(sizes, sizes, sizes, sizes, st.booleans(), st.binary(max_size=400),
       st.lists(st.tuples(st.sampled_from(["x", "y", "z", "t", ""]), sizes, st.integers(0, 255), sizes), max_size=5))
def test_any_cloud_is_refused_or_wholly_readable(height, width, point_step, row_step, is_bigendian, data, fields):
    message = cloud(data, [field(*one) for one in fields], height, width, point_step, row_step, is_bigendian)
    try:
        decoded = messages.decode_cloud(message)
    except MessageError:
        return
    assert len(decoded) == height * width
    assert decoded.fields.nbytes <= max(len(data), 0)
    for name in decoded.names:
        decoded.field(name).sum()


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


# ----------------------------------------------------------------------------------------------------------- events

def event_cloud(t, x=None, y=None, p=None):
    t = np.asarray(t)
    count = len(t)
    return messages.encode_cloud(TYPES, {
        "x": np.arange(count, dtype=np.uint16) if x is None else x, "y": np.zeros(count, np.uint16) if y is None else y,
        "t": t, "p": np.ones(count, np.uint8) if p is None else p}, 10_000_000_000, "event")


def test_events_there_and_back():
    rng = np.random.default_rng(4)
    x, y, p = rng.integers(0, 640, 100), rng.integers(0, 480, 100), rng.integers(0, 2, 100)
    t = 10_000_000_000 + np.sort(rng.integers(0, 10_000, 100)) * 1000
    events = messages.decode_events(messages.encode_events(TYPES, x, y, t, p, 10_000_000_000, "event"), 10_000_000)
    for found, expected in ((events.x, x), (events.y, y), (events.t, t), (events.p, p == 1)):
        assert np.array_equal(found, expected)
    assert (events.begin_ns, events.end_ns) == (10_000_000_000, 10_010_000_000)


@pytest.mark.parametrize(("t", "expected_us"), [
    (np.array([5, 9], np.uint32), [5, 9]), (np.array([-3, 9], np.int32), [-3, 9]),
    (np.array([0.000005, 0.000009]), [5, 9]), (np.array([10.000005, 10.000009]) + 1.6e9, None),
])
def test_event_times_by_type_and_range(t, expected_us):
    events = messages.decode_events(event_cloud(t))
    if expected_us is None:
        np.testing.assert_allclose(events.t, np.array([1_600_000_010_000_005_000, 1_600_000_010_000_009_000]), atol=300)
    else:
        assert np.array_equal(events.t - 10_000_000_000, np.array(expected_us) * 1000)
    assert events.begin_ns <= events.t[0] and events.end_ns >= events.t[-1]


def test_an_empty_packet_still_covers_its_time():
    events = messages.decode_events(event_cloud(np.zeros(0, np.uint32)), 10_000_000)
    assert (len(events), events.begin_ns, events.end_ns) == (0, 10_000_000_000, 10_010_000_000)


def test_unordered_events_come_back_in_order():
    events = messages.decode_events(event_cloud(np.array([9, 5, 7], np.uint32)))
    assert events.t.tolist() == sorted(events.t.tolist()) and events.x.tolist() == [1, 2, 0]


def test_impossible_event_coordinates_match_no_pixel():
    x = np.array([-1.0, np.nan, 3.0, 1e9], np.float32)
    y = np.array([-5, 1, 2, 3], np.int32)
    events = messages.decode_events(event_cloud(np.arange(4, dtype=np.uint32), x, y))
    assert events.x.tolist() == [65535, 65535, 3, 65535] and events.y.tolist() == [65535, 1, 2, 3]


@pytest.mark.parametrize(("message", "named"), [
    (event_cloud(np.array([np.nan, 1.0])), "NaN"), (event_cloud(np.array([1e300])), "impossible"), (xyz_cloud(), "'t'"),
    (SimpleNamespace(encoding="evt3", events=b""), "not supported"),
])
def test_messages_that_are_no_events_are_refused(message, named):
    with pytest.raises(MessageError, match=named):
        messages.decode_events(message)


def test_events_before_their_packet_do_not_fit():
    with pytest.raises(ValueError, match="do not fit"):
        messages.encode_events(TYPES, [1], [1], [4_000_000], [1], 5_000_000, "event")


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
