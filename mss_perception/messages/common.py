"""What all kinds of messages share: the error, time stamps, bytes, headers and the message classes."""

from __future__ import annotations

import array as buffers
import struct
from functools import lru_cache
from types import SimpleNamespace

import numpy as np

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


# sec, nanosec of a Header, which CDR puts right behind 4 bytes; the lowest bit of the second tells the byte order.
STAMP = struct.Struct(">iI"), struct.Struct("<iI")


class MessageError(ValueError):
    """A message is malformed or of a kind that is not supported. The text names the field, its value and what fits."""


def stamp_ns(header) -> int:
    """Time stamp of a std_msgs/Header in integer nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def serialised_stamp_ns(cdr) -> int:
    """Time stamp in nanoseconds of a serialised message that begins with a std_msgs/Header; 0 where that is cut off."""
    if len(cdr) < 12:
        return 0
    sec, nanosec = STAMP[cdr[1] & 1].unpack_from(cdr, 4)
    return sec * 1_000_000_000 + nanosec


def raw_bytes(data) -> np.ndarray:
    """Flat uint8 view, without a copy, of a message's uint8[] field (array.array, numpy array or bytes)."""
    return np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)


def encode_header(types, stamp_ns: int, frame_id: str):
    seconds, nanoseconds = divmod(int(stamp_ns), 1_000_000_000)
    return types.Header(stamp=types.Time(sec=seconds, nanosec=nanoseconds), frame_id=frame_id)


@lru_cache(maxsize=1)
def bag_types() -> SimpleNamespace:
    """rosbags' classes of MESSAGE_TYPES by short name (Jazzy's definitions; the same in Kilted)."""
    from rosbags.typesys import Stores, get_typestore  # a node without bags need not have rosbags

    store = get_typestore(Stores.ROS2_JAZZY)
    return SimpleNamespace(**{name: store.types[full] for name, full in MESSAGE_TYPES.items()})


def _is_rclpy(types) -> bool:
    return hasattr(types.Image, "get_fields_and_field_types")


def no_data(types):
    return buffers.array("B") if _is_rclpy(types) else np.empty(0, np.uint8)


def with_data(types, message, values: np.ndarray):
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
