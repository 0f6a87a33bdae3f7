"""Types of the node's messages, as ROS writes them: of its inputs by modality, and of everything else.

No ROS is needed here: the configuration, replay, check and the reference pages share this table with the node.
"""

from __future__ import annotations

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CLOUD, INFO = "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/CameraInfo"
EVENT_PACKET = "event_camera_msgs/msg/EventPacket"
EVENT_ARRAYS = ("dvs_msgs/msg/EventArray", "prophesee_event_msgs/msg/EventArray")
ODOMETRY, TF = "nav_msgs/msg/Odometry", "tf2_msgs/msg/TFMessage"
DIAGNOSTICS, LABEL_INFO = "diagnostic_msgs/msg/DiagnosticArray", "vision_msgs/msg/LabelInfo"

ACCEPTED: dict[str, dict[str, str]] = {
    "rgb": {
        IMAGE: "colour or grey image of the camera, unrectified",
        COMPRESSED: "the same as JPEG or PNG",
    },
    "depth": {
        IMAGE: "depth along the optical axis: 32FC1 in metres, 16UC1 (or mono16) in millimetres (REP 118)",
        COMPRESSED: "the same as compressedDepth (PNG or RVL), or 16UC1 as PNG",
    },
    "event": {
        CLOUD: "events as points x, y (pixels), t (uint32: microseconds after the stamp; float: seconds), p (ON > 0)",
        EVENT_PACKET: "packed events: evt3, libcaer, libcaer_cmp or mono",
        **dict.fromkeys(EVENT_ARRAYS, "a list of events"),
        IMAGE: "a picture that was drawn of events: blue ON and red OFF, or lighter and darker than grey",
    },
    "lidar": {
        CLOUD: "one sweep: x, y, z in metres; intensity and time per point where there are such fields",
    },
    "radar": {
        CLOUD: "detections: x, y, z in metres or range and azimuth; speed and intensity where there are such fields",
        IMAGE: "a polar image as of MUSES, mono8",
    },
}
"""Modality -> type -> content of the messages that an input can read; the first type is the default."""


def default_type(modality: str) -> str:
    return next(iter(ACCEPTED[modality]))
