"""sensor_msgs/PointCloud2 <-> structured arrays."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mss_perception.messages.common import MessageError, encode_header, no_data, raw_bytes, stamp_ns, with_data

# sensor_msgs/PointField.datatype -> numpy
POINT_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
MAX_FIELDS = 256        # several times what any driver sends


@dataclass(frozen=True)
class Cloud:
    """A point cloud: (N,) or, when organised, (H, W) structured array with the message's field names.

    `stamp_ns` and `frame_id` are the message's; positions are metres in that frame.
    """

    fields: np.ndarray
    stamp_ns: int = 0
    frame_id: str = ""

    def __len__(self) -> int:
        return self.fields.size

    @property
    def names(self) -> tuple[str, ...]:
        return self.fields.dtype.names or ()

    def field(self, name: str) -> np.ndarray:
        """One field, flat and row-major: (N,), or (N, count) for a field of several values."""
        if name not in self.names:
            raise MessageError(f"point cloud has no field {name!r}; fields: {', '.join(self.names)}")
        values = self.fields[name]
        return values.reshape(self.fields.size, *values.shape[self.fields.ndim:])

    def scalar(self, name: str) -> np.ndarray:
        """(N,) values of a field that has one value per point, row-major. Raises MessageError where it has several."""
        values = self.field(name)
        if values.ndim != 1:
            raise MessageError(f"point cloud field {name!r} has {values.shape[1]} values per point; must have one")
        return values

    def xyz(self) -> np.ndarray:
        """(N, 3) float32 positions; what float32 cannot hold becomes infinite. A view of the message's data where x, y
        and z are such numbers one after the other, as nearly all drivers send them; do not write to it."""
        x, y, z = (self.scalar(name) for name in "xyz")
        kinds, (at_x, at_y, at_z) = zip(*(self.fields.dtype.fields[name][:2] for name in "xyz"), strict=True)
        in_row = set(kinds) == {np.dtype(np.float32)} and (at_y, at_z) == (at_x + 4, at_x + 8)
        if in_row and x.strides[0] == self.fields.dtype.itemsize:       # else x is a copy of an organised cloud's rows
            return np.lib.stride_tricks.as_strided(x, (len(x), 3), (x.strides[0], 4), writeable=False)
        with np.errstate(over="ignore"):
            return np.stack([one.astype(np.float32) for one in (x, y, z)], -1)


def decode_cloud(msg) -> Cloud:
    """A sensor_msgs/PointCloud2 of any field layout, byte order, point_step and row_step as a view of its data.

    Raises MessageError when sizes disagree, a field leaves the point, has an unknown type, or a name comes twice.
    """
    height, width = int(msg.height), int(msg.width)
    point_step, row_step, count = int(msg.point_step), int(msg.row_step), int(msg.height) * int(msg.width)
    if count and row_step < width * point_step:
        raise MessageError(f"cloud row_step = {row_step} is less than width {width} x point_step {point_step}")
    if count and len(msg.data) < row_step * height:
        raise MessageError(f"cloud data has {len(msg.data)} bytes; row_step {row_step} x height {height} = "
                           f"{row_step * height}")
    if len(msg.fields) > MAX_FIELDS:
        raise MessageError(f"cloud has {len(msg.fields)} fields; at most {MAX_FIELDS} are read")
    names, formats, offsets = [], [], []
    for field in msg.fields:
        if field.datatype not in POINT_TYPES:
            raise MessageError(f"cloud field {field.name!r} has datatype {field.datatype}; known: 1 to 8")
        dtype = np.dtype(POINT_TYPES[field.datatype]).newbyteorder(">" if msg.is_bigendian else "<")
        values = max(1, int(field.count))       # old drivers leave 0 for one; PCL reads it so, too
        if field.offset + dtype.itemsize * values > point_step:
            raise MessageError(f"cloud field {field.name!r} of {values} x {dtype} at offset {field.offset} does not "
                               f"fit point_step = {point_step}")
        if not field.name or field.name in names:
            raise MessageError(f"cloud field name {field.name!r} is empty or comes twice")
        names.append(field.name)
        formats.append(dtype if values == 1 else (dtype, (values,)))
        offsets.append(int(field.offset))
    if not names:
        raise MessageError("cloud has no fields; at least x, y and z are needed")
    if not count:
        # Here point_step, and so the size of a field, is bounded by nothing.
        scalars = [(name, np.uint8) for name in names]
        return Cloud(np.empty(0, scalars), stamp_ns(msg.header), msg.header.frame_id)
    # point_step is at most len(data) here, so the dtype's size is bounded by the message's own.
    dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": point_step})
    points = np.ndarray((height, width), dtype, raw_bytes(msg.data), strides=(row_step, point_step))
    return Cloud(points[0] if height == 1 else points, stamp_ns(msg.header), msg.header.frame_id)


def encode_cloud(types, fields: Mapping[str, np.ndarray], stamp_ns: int, frame_id: str):
    """Unorganised sensor_msgs/PointCloud2 from equally long (N,) arrays by field name, tightly packed."""
    codes = {np.dtype(kind): code for code, kind in POINT_TYPES.items()}
    for name, values in fields.items():
        if values.dtype not in codes or values.ndim != 1:
            raise ValueError(f"cloud field {name!r} is {values.dtype} {values.shape}; must be (N,) of an (u)int8, 16, "
                             "32 or float32, 64")
    dtype = np.dtype([(name, values.dtype) for name, values in fields.items()])
    count = len(next(iter(fields.values())))
    points = np.empty(count, dtype)
    for name, values in fields.items():
        points[name] = values
    message = types.PointCloud2(
        header=encode_header(types, stamp_ns, frame_id), height=1, width=count,
        fields=[types.PointField(name=name, offset=dtype.fields[name][1], datatype=codes[dtype[name]], count=1)
                for name in fields],
        is_bigendian=sys.byteorder == "big", point_step=dtype.itemsize, row_step=dtype.itemsize * count,
        data=no_data(types), is_dense=True)
    return with_data(types, message, points)
