"""Parts of ROS 2 that the wheels on PyPI lack: the real one where it is importable, a stand-in elsewhere.

| part | where importable | elsewhere |
| --- | --- | --- |
| message_filters | base of `Subscriber` | the class below with the same two methods |
| cv_bridge | makes the published images, if it can: it may be built for another NumPy | messages.encode_image |
| sensor_msgs_py | makes the published clouds | messages.encode_cloud |
| tf2_msgs | /tf and /tf_static are subscribed | extrinsics come from the parameter calibration_file |
| vision_msgs | ~/label_info is published | it is not; the log lists the classes |
| event_camera_msgs, dvs_msgs, prophesee_event_msgs | events may come as their messages | events come as PointCloud2 \
(x, y, t, p) or pictures |

Received messages are decoded by mss_perception.messages everywhere, so that live and replay give the same bits.
"""

from __future__ import annotations

import importlib
from types import ModuleType, SimpleNamespace

import numpy as np
from sensor_msgs.msg import Image, PointCloud2, PointField

from mss_perception import messages


def optional(name: str) -> ModuleType | None:
    """The module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def working_cv_bridge() -> tuple[ModuleType | None, str]:
    """(cv_bridge if it makes images, why not if it is there). One that was built for another NumPy fails where its
    compiled part is loaded: at import, or not before an image is made."""
    try:
        module = importlib.import_module("cv_bridge")
        module.CvBridge().cv2_to_imgmsg(np.zeros((1, 1), np.uint8), "mono8")
    except Exception as error:  # SystemError, AttributeError ...: whatever it is, there is another way
        absent = isinstance(error, ModuleNotFoundError) and error.name == "cv_bridge"
        return None, "" if absent else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return module, ""


message_filters = optional("message_filters")
cv_bridge, cv_bridge_failure = working_cv_bridge()
point_cloud2 = optional("sensor_msgs_py.point_cloud2")
tf2_msgs = optional("tf2_msgs.msg")
vision_msgs = optional("vision_msgs.msg")
event_camera_msgs = optional("event_camera_msgs.msg")
dvs_msgs = optional("dvs_msgs.msg")
prophesee_event_msgs = optional("prophesee_event_msgs.msg")


class StandInSubscriber:
    """What is used of message_filters.Subscriber."""

    def __init__(self, node, message_type, topic: str, **options) -> None:
        self.callbacks = []
        self.sub = node.create_subscription(message_type, topic, self.callback, **options)

    def registerCallback(self, callback) -> None:  # noqa: N802 (the name is message_filters')
        self.callbacks.append(callback)

    def signalMessage(self, *values) -> None:  # noqa: N802 (the name is message_filters')
        for callback in self.callbacks:
            callback(*values)


class Subscriber(message_filters.Subscriber if message_filters else StandInSubscriber):
    """A message_filters subscriber whose callbacks also get the message info: it holds the sequence number."""

    def callback(self, message, info) -> None:
        self.signalMessage(message, info)


def message_class(type_name: str):
    """rclpy's class of `package/msg/Name`; None where the package is not installed."""
    package, _, name = type_name.split("/")
    return getattr(optional(f"{package}.msg"), name, None)


def ros_types() -> SimpleNamespace:
    """ROS's message classes by short name, as the functions `messages.encode_*` take them; those that are installed."""
    found = {}
    for short, full in messages.MESSAGE_TYPES.items():
        module = optional(full.rpartition("/")[0].replace("/", "."))
        if module:
            found[short] = getattr(module, short)
    return SimpleNamespace(**found)


TYPES = ros_types()


def image_message(array: np.ndarray, encoding: str, stamp_ns: int, frame_id: str) -> Image:
    """sensor_msgs/Image of a uint8 array, (H, W) for mono8 or (H, W, 3) for rgb8."""
    if cv_bridge is None:
        return messages.encode_image(TYPES, array, encoding, stamp_ns, frame_id)
    return cv_bridge.CvBridge().cv2_to_imgmsg(array, encoding, header=messages.encode_header(TYPES, stamp_ns, frame_id))


def cloud_message(columns: dict[str, np.ndarray], stamp_ns: int, frame_id: str) -> PointCloud2:
    """sensor_msgs/PointCloud2 of equally long one-dimensional arrays, one per field, packed in their order."""
    if point_cloud2 is None:
        return messages.encode_cloud(TYPES, columns, stamp_ns, frame_id)
    points = np.rec.fromarrays(list(columns.values()), names=list(columns))
    fields = [PointField(name=name, offset=points.dtype.fields[name][1], datatype=DATATYPES[array.dtype.name], count=1)
              for name, array in columns.items()]
    return point_cloud2.create_cloud(messages.encode_header(TYPES, stamp_ns, frame_id), fields, points)


DATATYPES = {"int8": PointField.INT8, "uint8": PointField.UINT8, "int16": PointField.INT16,
             "uint16": PointField.UINT16, "int32": PointField.INT32, "uint32": PointField.UINT32,
             "float32": PointField.FLOAT32, "float64": PointField.FLOAT64}


def describe() -> str:
    """One line for the log: which parts are ROS's and which are not."""
    parts = {"message_filters": message_filters, "cv_bridge": cv_bridge, "sensor_msgs_py": point_cloud2,
             "tf2_msgs": tf2_msgs, "vision_msgs": vision_msgs, "event_camera_msgs": event_camera_msgs,
             "dvs_msgs": dvs_msgs, "prophesee_event_msgs": prophesee_event_msgs}
    used = ", ".join(name for name, module in parts.items() if module) or "none"
    missing = ", ".join(name for name, module in parts.items() if not module) or "none"
    broken = f"; cv_bridge does not work here ({cv_bridge_failure})" if cv_bridge_failure else ""
    return f"ROS packages in use: {used}; not importable, so done otherwise or without: {missing}{broken}"
