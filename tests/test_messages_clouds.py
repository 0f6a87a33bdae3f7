"""PointCloud2 to arrays and back: every layout against struct, hostile ones, and through the lanes without a crash."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mss_models.modality import DEFAULT_ENCODINGS
from mss_perception import messages
from mss_perception.camera import Camera
from mss_perception.lane import LaneInvalid
from mss_perception.lidar import LidarLane, point_times_ns
from mss_perception.messages import MessageError, bag_types
from mss_perception.messages.clouds import MAX_FIELDS
from mss_perception.projection import Motion, project_points

TYPES = bag_types()
HEADER = messages.encode_header(TYPES, 12_345_678_901, "frame")
LETTERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 8: "d"}      # PointField.datatype -> struct


def field(name, offset, datatype, count=1):
    return TYPES.PointField(name=name, offset=offset, datatype=datatype, count=count)


def cloud(data, fields, height, width, point_step, row_step, is_bigendian=False):
    return TYPES.PointCloud2(header=HEADER, height=height, width=width, fields=fields, is_bigendian=is_bigendian,
                             point_step=point_step, row_step=row_step, data=np.frombuffer(data, np.uint8),
                             is_dense=True)


def xyz_cloud(count=3, **changes):
    zeros = np.zeros(count, np.float32)
    message = messages.encode_cloud(TYPES, {"x": zeros, "y": zeros, "z": zeros}, 5, "lidar")
    for name, value in changes.items():
        setattr(message, name, value)
    return message


@st.composite
def layouts(draw):
    """A valid PointCloud2 of random bytes: fields of any type and count in any order with gaps, padded points and rows,
    either byte order, organised or not."""
    fields, offset = [], 0
    for name in draw(st.permutations(["x", "y", "z", "intensity", "t", "ring"]))[:draw(st.integers(1, 6))]:
        offset += draw(st.integers(0, 5))
        datatype, count = draw(st.integers(1, 8)), draw(st.sampled_from([1, 1, 1, 2, 3]))
        fields.append(field(name, offset, datatype, count))
        offset += struct.calcsize(LETTERS[datatype]) * count
    point_step = offset + draw(st.integers(0, 7))
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    row_step = width * point_step + draw(st.integers(0, 9))
    size = row_step * height + draw(st.integers(0, 5))
    data = np.random.default_rng(draw(st.integers(0, 999))).bytes(size)
    return cloud(data, fields, height, width, point_step, row_step, draw(st.booleans()))


@settings(max_examples=300, deadline=None)
@given(layouts())
def test_any_layout_reads_as_struct_reads_it_row_by_row(message):
    decoded, order = messages.decode_cloud(message), ">" if message.is_bigendian else "<"
    assert decoded.fields.shape == ((message.width,) if message.height == 1 else (message.height, message.width))
    assert (len(decoded), decoded.frame_id, decoded.stamp_ns) == (message.height * message.width, "frame",
                                                                 12_345_678_901)
    data = message.data.tobytes()
    for one in message.fields:
        expected = []
        for row in range(message.height):
            for column in range(message.width):
                start = row * message.row_step + column * message.point_step + one.offset
                expected.append(struct.unpack_from(f"{order}{one.count}{LETTERS[one.datatype]}", data, start))
        expected = np.array(expected)
        assert np.array_equal(decoded.field(one.name), expected[:, 0] if one.count == 1 else expected,
                              equal_nan=expected.dtype.kind == "f")
        if one.count == 1:
            assert decoded.scalar(one.name).shape == (len(decoded),)
        else:
            with pytest.raises(MessageError, match=f"{one.name!r} has {one.count} values per point"):
                decoded.scalar(one.name)


def test_positions_of_an_organised_cloud_are_row_by_row():
    height, width = 3, 4
    data = b"".join(struct.pack(">dd", column, row) + struct.pack(">f", 10 * row + column) + b"\xaa" * 3
                    for row in range(height) for column in range(width))
    fields = [field("y", 8, 8), field("z", 16, 7), field("x", 0, 8)]
    decoded = messages.decode_cloud(cloud(data, fields, height, width, 23, 23 * width, True))
    xyz = decoded.xyz()
    assert xyz.dtype == np.float32
    for row in range(height):
        for column in range(width):
            assert xyz[row * width + column].tolist() == [column, row, 10 * row + column]
            assert decoded.fields[row, column]["z"] == 10 * row + column


@pytest.mark.parametrize(("height", "width", "offset", "gap", "padding", "is_view"), [
    (1, 5, 0, 4, 0, True), (3, 4, 4, 0, 0, True), (3, 4, 1, 6, 0, True), (3, 4, 0, 4, 8, False), (1, 1, 0, 4, 0, None)])
def test_positions_in_a_row_are_a_view_and_projected_as_a_copy_is(height, width, offset, gap, padding, is_view):
    step = offset + 12 + gap
    expected = np.random.default_rng(0).uniform(1, 9, (height, width, 3)).astype("<f4")
    data = np.zeros((height, width * step + padding), np.uint8)
    points = data[:, :width * step].reshape(height, width, step)
    points[..., offset:offset + 12] = expected.view(np.uint8)
    data[:, :width * step] = points.reshape(height, -1)
    fields = [field(name, offset + 4 * i, 7) for i, name in enumerate("xyz")]
    message = cloud(data.tobytes(), fields, height, width, step, data.shape[1])
    xyz = messages.decode_cloud(message).xyz()
    assert np.array_equal(xyz, expected.reshape(-1, 3))
    assert is_view is None or np.shares_memory(xyz, message.data) == is_view
    camera, still = Camera(1000, 1000, [[50, 0, 500], [0, 50, 500], [0, 0, 1]]), Motion.fixed(np.eye(4))
    found, copied = (project_points(one, still, camera) for one in (xyz, expected.reshape(-1, 3).copy()))
    assert len(found.index) and all(np.array_equal(getattr(found, name), getattr(copied, name))
                                    for name in ("index", "x", "y", "z", "uv"))


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
        assert np.array_equal(decoded.scalar(name), values)


def test_a_count_of_zero_is_one_value():
    """As old drivers send it and PCL reads it."""
    message = xyz_cloud(fields=[field(name, 4 * i, 7, 0) for i, name in enumerate("xyz")])
    assert messages.decode_cloud(message).xyz().shape == (3, 3)


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
    ({"fields": [field("x", 0, 0)]}, "datatype 0"), ({"fields": [field("x", 10, 7, 0)]}, "does not fit"),
    ({"fields": [field("x", 0, 7, 2**32 - 1)]}, "does not fit"), ({"fields": [field("x", 2**32 - 1, 7)]}, "not fit"),
    ({"fields": [field("x", 0, 7), field("x", 4, 7)]}, "twice"), ({"fields": [field("", 0, 7)]}, "empty or"),
])
def test_inconsistent_clouds_are_refused_by_name(changes, named):
    with pytest.raises(MessageError, match=named):
        messages.decode_cloud(xyz_cloud(**changes))


def test_a_cloud_of_countless_fields_is_refused():
    fields = [field(f"f{k}", 0, 2) for k in range(MAX_FIELDS + 1)]
    assert len(messages.decode_cloud(cloud(bytes(4), fields[:-1], 1, 1, 4, 4)).names) == MAX_FIELDS
    with pytest.raises(MessageError, match="cloud has 257 fields; at most 256"):
        messages.decode_cloud(cloud(bytes(4), fields, 1, 1, 4, 4))


def test_a_missing_field_is_named_with_those_there():
    decoded = messages.decode_cloud(xyz_cloud(fields=[field("x", 0, 7), field("y", 4, 7)]))
    with pytest.raises(MessageError, match="'z'; fields: x, y"):
        decoded.xyz()


def test_a_field_of_several_values_is_no_coordinate():
    message = xyz_cloud(fields=[field("x", 0, 7, 2), field("y", 4, 7), field("z", 8, 7)])
    with pytest.raises(MessageError, match="'x' has 2 values per point"):
        messages.decode_cloud(message).xyz()


# -------------------------------------------------------------------------------------------------- hostile clouds

LANE = LidarLane(DEFAULT_ENCODINGS["lidar"], Camera(16, 12, [[8, 0, 7.5], [0, 8, 5.5], [0, 0, 1]]), 12, 16)
sizes = st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1))


def through_the_lane(message):
    """Decode, time and draw, as the node does; only errors that make a sample INVALID may come out."""
    decoded = messages.decode_cloud(message)
    point_times_ns(decoded)
    return LANE(decoded, Motion.fixed(np.eye(4)))


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
@given(layouts())
def test_random_bytes_of_any_layout_never_break_the_lane(message):
    try:
        result = through_the_lane(message)
    except (MessageError, LaneInvalid):
        return
    assert 0 < result.figures["points"] <= message.height * message.width
    assert result.figures["points"] + result.figures["no_return"] == message.height * message.width


@pytest.mark.parametrize("name", ["intensity", "t", "x"])
def test_a_field_of_several_values_makes_the_sample_invalid_not_the_set_lost(name):
    names = ["x", "y", "z", name] if name not in "xyz" else ["x", "y", "z"]
    fields = [field(one, 12 * i, 7, 3 if one == name else 1) for i, one in enumerate(names)]
    step = 12 * len(names)
    message = cloud(np.ones(step // 4 * 5, "<f4").tobytes(), fields, 1, 5, step, step * 5)
    with pytest.raises((MessageError, LaneInvalid), match=f"{name!r} has 3 values per point"):
        through_the_lane(message)
