"""ROS messages <-> arrays: the only place that knows how sensor messages are laid out.

Decoders read rclpy's and rosbags' message objects alike (same field names) and check every length before they use
it, so a hostile size never reads out of bounds or allocates. Encoders take `types`, a namespace of message classes:
`bag_types()` here for bags, the node's for rclpy.
"""

from mss_perception.messages.camera_info import encode_camera_info
from mss_perception.messages.clouds import POINT_TYPES, Cloud, decode_cloud, encode_cloud
from mss_perception.messages.common import MESSAGE_TYPES, MessageError, bag_types, encode_header, raw_bytes, stamp_ns
from mss_perception.messages.events import EventPicture, Events, decode_events, encode_events
from mss_perception.messages.images import PIXEL_FORMATS, decode_depth, decode_image, encode_image
from mss_perception.messages.poses import (
    decode_odometry,
    decode_transform,
    decode_transforms,
    encode_odometry,
    encode_transforms,
)

__all__ = [
    "MESSAGE_TYPES", "PIXEL_FORMATS", "POINT_TYPES", "Cloud", "EventPicture", "Events", "MessageError", "bag_types",
    "decode_cloud", "decode_depth", "decode_events", "decode_image", "decode_odometry", "decode_transform",
    "decode_transforms", "encode_camera_info", "encode_cloud", "encode_events", "encode_header", "encode_image",
    "encode_odometry", "encode_transforms", "raw_bytes", "stamp_ns",
]
