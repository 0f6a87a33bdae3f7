"""tf2_msgs/TFMessage and nav_msgs/Odometry <-> 4x4 matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mss_perception import rigid
from mss_perception.messages.common import MessageError, encode_header, stamp_ns


def decode_transforms(msg) -> list[tuple[str, str, int, np.ndarray]]:
    """decode_transform of every one of a tf2_msgs/TFMessage."""
    return [decode_transform(one) for one in msg.transforms]


def decode_transform(msg) -> tuple[str, str, int, np.ndarray]:
    """(parent, child, stamp_ns, T_parent_child) of a geometry_msgs/TransformStamped.

    Raises MessageError for numbers that are no rigid transform, and for a frame without a name or in itself.
    """
    what = f"transform to {msg.child_frame_id!r}"
    return *_frames(msg, what), stamp_ns(msg.header), _pose(msg.transform.translation, msg.transform.rotation, what)


def decode_odometry(msg) -> tuple[str, str, int, np.ndarray]:
    """(parent, child, stamp_ns, T_parent_child) of a nav_msgs/Odometry; parent is the fixed frame.

    Raises MessageError as decode_transform does.
    """
    pose, what = msg.pose.pose, f"odometry of {msg.child_frame_id!r}"
    return *_frames(msg, what), stamp_ns(msg.header), _pose(pose.position, pose.orientation, what)


def _frames(msg, what: str) -> tuple[str, str]:
    """Parent and child. As for tf2: a frame in itself would take its true place's, and cut off all that hangs on it."""
    parent, child = msg.header.frame_id.lstrip("/"), msg.child_frame_id.lstrip("/")
    if not parent or not child or parent == child:
        raise MessageError(f"{what} is in frame {msg.header.frame_id!r}; both must have names, and different ones")
    return parent, child


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


def _triple(kind, values):
    return kind(x=float(values[0]), y=float(values[1]), z=float(values[2]))


def _quaternion(types, T: np.ndarray):
    x, y, z, w = rigid.quaternion_from_rotation(T[:3, :3])
    return types.Quaternion(x=float(x), y=float(y), z=float(z), w=float(w))
