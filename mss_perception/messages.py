"""ROS messages <-> arrays: the only place that knows how sensor messages are laid out.

Decoders read rclpy's and rosbags' message objects alike (same field names) and check every length before they use
it, so a hostile size never reads out of bounds or allocates. Encoders take `types`, a namespace of message classes:
`bag_types()` here for bags, the node's for rclpy.
"""

from __future__ import annotations

import array as buffers
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace

import cv2
import numpy as np

from mss_perception import rigid
from mss_perception.camera import Camera

# Every message class that encoders use, by the name they have in the `types` namespace.
MESSAGE_TYPES = {
    "Time": "builtin_interfaces/msg/Time",
    "Header": "std_msgs/msg/Header",
    "Image": "sensor_msgs/msg/Image",
    "CameraInfo": "sensor_msgs/msg/CameraInfo",
    "RegionOfInterest": "sensor_msgs/msg/RegionOfInterest",
    "PointCloud2": "sensor_msgs/msg/PointCloud2",
    "PointField": "sensor_msgs/msg/PointField",
    "Point": "geometry_msgs/msg/Point",
    "Vector3": "geometry_msgs/msg/Vector3",
    "Quaternion": "geometry_msgs/msg/Quaternion",
    "Pose": "geometry_msgs/msg/Pose",
    "PoseWithCovariance": "geometry_msgs/msg/PoseWithCovariance",
    "Twist": "geometry_msgs/msg/Twist",
    "TwistWithCovariance": "geometry_msgs/msg/TwistWithCovariance",
    "Transform": "geometry_msgs/msg/Transform",
    "TransformStamped": "geometry_msgs/msg/TransformStamped",
    "Odometry": "nav_msgs/msg/Odometry",
    "TFMessage": "tf2_msgs/msg/TFMessage",
    "DiagnosticArray": "diagnostic_msgs/msg/DiagnosticArray",
    "DiagnosticStatus": "diagnostic_msgs/msg/DiagnosticStatus",
    "KeyValue": "diagnostic_msgs/msg/KeyValue",
}


class MessageError(ValueError):
    """A message is malformed or of a kind that is not supported. The text names the field, its value and what fits."""


def stamp_ns(header) -> int:
    """Time stamp of a std_msgs/Header in integer nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def raw_bytes(data) -> np.ndarray:
    """Flat uint8 view, without a copy, of a message's uint8[] field (array.array, numpy array or bytes)."""
    return np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)


# ---------------------------------------------------------------------------------------------------------- images

# encoding -> (bytes per channel element, channels, OpenCV conversion to RGB or None)
PIXEL_FORMATS = {
    "rgb8": ("u1", 3, None),
    "bgr8": ("u1", 3, cv2.COLOR_BGR2RGB),
    "rgba8": ("u1", 4, cv2.COLOR_RGBA2RGB),
    "bgra8": ("u1", 4, cv2.COLOR_BGRA2RGB),
    "mono8": ("u1", 1, None),
    "16UC1": ("u2", 1, None),
    "32FC1": ("f4", 1, None),
}


def decode_image(msg) -> np.ndarray:
    """Pixels of a sensor_msgs/Image.

    Returns (H, W, 3) uint8 RGB for every colour encoding; (H, W) uint8 for mono8, uint16 for 16UC1, float32 for 32FC1,
    in native byte order. A view of the message's data where no conversion is needed: do not write to it.
    Raises MessageError for an unknown encoding, a zero size, a step shorter than a row, or too little data.
    """
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    if msg.encoding not in PIXEL_FORMATS:
        raise MessageError(f"image encoding {msg.encoding!r} is not supported; supported: {', '.join(PIXEL_FORMATS)}")
    kind, channels, conversion = PIXEL_FORMATS[msg.encoding]
    dtype = np.dtype(kind).newbyteorder(">" if msg.is_bigendian else "<")
    row = width * channels * dtype.itemsize
    if height <= 0 or width <= 0:
        raise MessageError(f"image of {width} x {height} pixels is empty")
    if step < row:
        raise MessageError(f"image step = {step} is less than a row of {width} {msg.encoding} pixels = {row} bytes")
    if len(msg.data) < step * height:
        raise MessageError(f"image data has {len(msg.data)} bytes; step {step} x height {height} = {step * height}")
    image = np.ndarray((height, width, channels), dtype, raw_bytes(msg.data),
                       strides=(step, channels * dtype.itemsize, dtype.itemsize))
    if conversion is not None:
        return cv2.cvtColor(image, conversion)
    if channels == 1:
        image = image[..., 0]
    return image if dtype.isnative else image.astype(dtype.newbyteorder("="))


def encode_image(types, array: np.ndarray, encoding: str, stamp_ns: int, frame_id: str):
    """sensor_msgs/Image from (H, W) or (H, W, C) pixels already in the layout that `encoding` names."""
    kind, channels, _ = PIXEL_FORMATS[encoding]
    expected = array.shape[:2] + ((channels,) if channels > 1 else ())
    if array.shape != expected or array.dtype != np.dtype(kind):
        raise ValueError(f"{encoding} needs {np.dtype(kind)} of shape {expected}, got {array.dtype} {array.shape}")
    height, width = array.shape[:2]
    message = types.Image(
        header=encode_header(types, stamp_ns, frame_id), height=height, width=width, encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"), step=width * channels * array.itemsize, data=_no_data(types))
    return _with_data(types, message, array)


# ----------------------------------------------------------------------------------------------------- point clouds

# sensor_msgs/PointField.datatype -> numpy
POINT_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}


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

    def xyz(self) -> np.ndarray:
        """(N, 3) float32 positions, a contiguous copy."""
        points = np.empty((self.fields.size, 3), np.float32)
        for column, name in enumerate("xyz"):
            points[:, column] = self.field(name)
        return points


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
    names, formats, offsets = [], [], []
    for field in msg.fields:
        if field.datatype not in POINT_TYPES:
            raise MessageError(f"cloud field {field.name!r} has datatype {field.datatype}; known: 1 to 8")
        dtype = np.dtype(POINT_TYPES[field.datatype]).newbyteorder(">" if msg.is_bigendian else "<")
        if field.count < 1 or field.offset + dtype.itemsize * field.count > point_step:
            raise MessageError(f"cloud field {field.name!r} of {field.count} x {dtype} at offset {field.offset} does "
                               f"not fit point_step = {point_step}")
        if not field.name or field.name in names:
            raise MessageError(f"cloud field name {field.name!r} is empty or comes twice")
        names.append(field.name)
        formats.append(dtype if field.count == 1 else (dtype, (int(field.count),)))
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
        data=_no_data(types), is_dense=True)
    return _with_data(types, message, points)


# ----------------------------------------------------------------------------------------------------------- events

@dataclass(frozen=True)
class Events:
    """Events of one packet, by rising time. x, y uint16 pixels; t int64 ns (sensor or ROS time); p bool, True = ON.

    The packet covers [begin_ns, end_ns], events or not. width and height are the sensor's, 0 when not known.
    """

    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray
    begin_ns: int
    end_ns: int
    width: int = 0
    height: int = 0

    def __len__(self) -> int:
        return len(self.t)


def decode_events(msg, period_ns: int = 0) -> Events:
    """Events of one message that needs no decoder state: a PointCloud2 with x, y, t, p.

    `t` as uint32 or int32 is microseconds after header.stamp; as float it is seconds, absolute from 1e8 on and after
    header.stamp below. `period_ns` is the stream's packet spacing: the least that a packet covers after its stamp.
    Encodings whose decoder keeps state between packets (evt3, libcaer_cmp) belong to events.py.
    Raises MessageError for any other message.
    """
    if not hasattr(msg, "point_step"):
        raise MessageError(f"event message {type(msg).__name__} is not supported; supported: PointCloud2 with x, y, "
                           "t, p")
    cloud = decode_cloud(msg)
    begin = cloud.stamp_ns
    ticks = cloud.field("t")
    if ticks.dtype.kind in "ui":
        t = begin + ticks.astype(np.int64) * 1000
    else:
        if not np.isfinite(ticks).all() or (np.abs(ticks) > 9e9).any():
            raise MessageError("event times t hold NaN, infinite or impossible values; must be seconds")
        absolute = len(ticks) > 0 and float(ticks[0]) >= 1e8
        t = np.rint(ticks.astype(np.float64) * 1e9).astype(np.int64) + (0 if absolute else begin)
    x, y = (_pixels(cloud.field(name), name) for name in "xy")
    p = cloud.field("p") > 0
    if np.any(t[1:] < t[:-1]):
        order = np.argsort(t, kind="stable")
        x, y, t, p = x[order], y[order], t[order], p[order]
    end = max(begin + period_ns, int(t[-1])) if len(t) else begin + period_ns
    return Events(x, y, t, p, min(begin, int(t[0])) if len(t) else begin, end)


def _pixels(values: np.ndarray, name: str) -> np.ndarray:
    """Event coordinates as a contiguous uint16 copy; one outside 0..65535 becomes 65535, which no sensor has."""
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return np.ascontiguousarray(values, np.uint16)
    good = (values >= 0) & (values < 65535)     # False for NaN
    return np.where(good, values, 65535).astype(np.uint16)


def encode_events(types, x, y, t_ns, p, stamp_ns: int, frame_id: str):
    """Event packet as PointCloud2: x, y uint16, t uint32 microseconds after `stamp_ns`, p uint8; t_ns >= stamp_ns."""
    microseconds = (np.asarray(t_ns, np.int64) - stamp_ns) // 1000
    if len(microseconds) and (microseconds.min() < 0 or microseconds.max() > 0xFFFFFFFF):
        raise ValueError(f"event times from {microseconds.min()} to {microseconds.max()} us after the stamp do not "
                         "fit uint32")
    fields = {"x": np.asarray(x, np.uint16), "y": np.asarray(y, np.uint16),
              "t": microseconds.astype(np.uint32), "p": np.asarray(p, np.uint8)}
    return encode_cloud(types, fields, stamp_ns, frame_id)


# ------------------------------------------------------------------------------------------ calibration and motion

def encode_camera_info(types, camera: Camera, stamp_ns: int):
    """sensor_msgs/CameraInfo of a camera; P is K without rectification."""
    return types.CameraInfo(
        header=encode_header(types, stamp_ns, camera.frame_id), height=camera.height, width=camera.width,
        distortion_model="plumb_bob" if camera.model == "none" else camera.model,
        d=np.array(camera.D, np.float64), k=np.array(camera.K, np.float64).ravel(), r=np.eye(3).ravel(),
        p=np.hstack([camera.K, np.zeros((3, 1))]).ravel(), binning_x=0, binning_y=0,
        roi=types.RegionOfInterest(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False))


def decode_transforms(msg) -> list[tuple[str, str, int, np.ndarray]]:
    """(parent, child, stamp_ns, T_parent_child) of every transform of a tf2_msgs/TFMessage.

    Raises MessageError for numbers that are no rigid transform.
    """
    return [(one.header.frame_id.lstrip("/"), one.child_frame_id.lstrip("/"), stamp_ns(one.header),
             _pose(one.transform.translation, one.transform.rotation, f"transform to {one.child_frame_id!r}"))
            for one in msg.transforms]


def decode_odometry(msg) -> tuple[str, str, int, np.ndarray]:
    """(parent, child, stamp_ns, T_parent_child) of a nav_msgs/Odometry; parent is the fixed frame."""
    pose = msg.pose.pose
    return (msg.header.frame_id.lstrip("/"), msg.child_frame_id.lstrip("/"), stamp_ns(msg.header),
            _pose(pose.position, pose.orientation, f"odometry of {msg.child_frame_id!r}"))


def _pose(position, orientation, what: str) -> np.ndarray:
    translation = np.array([position.x, position.y, position.z], np.float64)
    quaternion = np.array([orientation.x, orientation.y, orientation.z, orientation.w], np.float64)
    if not np.isfinite(translation).all() or not abs(np.linalg.norm(quaternion) - 1.0) < 0.01:
        raise MessageError(f"{what} has translation {translation} and quaternion {quaternion}; must be finite and of "
                           "unit length")
    return rigid.matrix(translation, quaternion)


def encode_transforms(types, transforms: Sequence[tuple[str, str, np.ndarray]], stamp_ns: int):
    """tf2_msgs/TFMessage from (parent, child, T_parent_child) triples."""
    stamped = [types.TransformStamped(
        header=encode_header(types, stamp_ns, parent), child_frame_id=child,
        transform=types.Transform(translation=_triple(types.Vector3, T[:3, 3]), rotation=_quaternion(types, T)))
        for parent, child, T in transforms]
    return types.TFMessage(transforms=stamped)


def encode_odometry(types, T_fixed_base: np.ndarray, stamp_ns: int, frame_id: str = "odom",
                    child_frame_id: str = "base_link", linear=(0.0, 0.0, 0.0), angular=(0.0, 0.0, 0.0)):
    """nav_msgs/Odometry; linear m/s and angular rad/s are in the child frame. Covariances are 0 (unknown)."""
    pose = types.Pose(position=_triple(types.Point, T_fixed_base[:3, 3]), orientation=_quaternion(types, T_fixed_base))
    twist = types.Twist(linear=_triple(types.Vector3, linear), angular=_triple(types.Vector3, angular))
    return types.Odometry(
        header=encode_header(types, stamp_ns, frame_id), child_frame_id=child_frame_id,
        pose=types.PoseWithCovariance(pose=pose, covariance=np.zeros(36)),
        twist=types.TwistWithCovariance(twist=twist, covariance=np.zeros(36)))


def encode_header(types, stamp_ns: int, frame_id: str):
    seconds, nanoseconds = divmod(int(stamp_ns), 1_000_000_000)
    return types.Header(stamp=types.Time(sec=seconds, nanosec=nanoseconds), frame_id=frame_id)


def _triple(kind, values):
    return kind(x=float(values[0]), y=float(values[1]), z=float(values[2]))


def _quaternion(types, T: np.ndarray):
    x, y, z, w = rigid.quaternion_from_rotation(T[:3, :3])
    return types.Quaternion(x=float(x), y=float(y), z=float(z), w=float(w))


# ------------------------------------------------------------------------------------------------- message classes

@lru_cache(maxsize=1)
def bag_types() -> SimpleNamespace:
    """rosbags' classes of MESSAGE_TYPES by short name (Jazzy's definitions; the same in Kilted)."""
    from rosbags.typesys import Stores, get_typestore  # a node without bags need not have rosbags

    store = get_typestore(Stores.ROS2_JAZZY)
    return SimpleNamespace(**{name: store.types[full] for name, full in MESSAGE_TYPES.items()})


def _is_rclpy(types) -> bool:
    return hasattr(types.Image, "get_fields_and_field_types")


def _no_data(types):
    return buffers.array("B") if _is_rclpy(types) else np.empty(0, np.uint8)


def _with_data(types, message, values: np.ndarray):
    """Set message.data to the values' bytes: one copy for rclpy, a view for rosbags."""
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    if _is_rclpy(types):
        # rclpy takes an array.array('B') as it is; anything else it checks byte by byte in Python.
        data = buffers.array("B")
        data.frombytes(memoryview(flat))
        message.data = data
    else:
        message.data = flat
    return message
