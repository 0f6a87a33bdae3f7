"""What the node publishes for each set: labels, pictures, labelled points, and the mask with the output's stamp."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2

from mss_models.labels import LabelSet
from mss_perception import draw, messages
from mss_perception.config import modality_of
from mss_perception.mask_message import mask_message
from mss_perception.pipeline import Output
from mss_perception.ros_compat import TYPES, cloud_message, image_message, vision_msgs


class Outputs:
    """The node's lifecycle publishers. `publish` may be called from the inference thread.

    views: by name. Several of them have topics of their own each: ~/<view>/segmentation ... instead of ~/segmentation.
    """

    def __init__(self, node: LifecycleNode, labels: LabelSet, views: Sequence[str]) -> None:
        self.node, self.labels = node, labels
        self.folders = {view: f"{view}/" if len(views) > 1 else "" for view in views}
        # Consumers may ask for reliable delivery; a best-effort one matches a reliable publisher too.
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        quiet = PublisherEventCallbacks(use_default_callbacks=False)    # each handler costs on every wait, see Topic
        types = {"segmentation": Image, "segmentation/color": Image, "segmentation/overlay": Image,
                 "segmentation/confidence": Image, "confidence": Image, "points/labeled": PointCloud2,
                 "modality_mask": DiagnosticArray}
        self.publishers = {
            folder + topic: node.create_lifecycle_publisher(message_type, f"~/{folder}{topic}", qos,
                                                            event_callbacks=quiet)
            for folder in self.folders.values() for topic, message_type in types.items()}
        if vision_msgs:
            latched = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                                 durability=DurabilityPolicy.TRANSIENT_LOCAL)
            self.publishers["label_info"] = node.create_lifecycle_publisher(
                vision_msgs.LabelInfo, "~/label_info", latched, event_callbacks=quiet)
        self._color_of_class = packed_colors(labels)

    def announce_labels(self) -> None:
        """Say once what the label ids mean."""
        if not vision_msgs:
            ids = ", ".join(f"{number} {name}" for number, name in enumerate(self.labels.names))
            self.node.get_logger().info(f"vision_msgs is not importable, so there is no ~/label_info; label ids: {ids}")
            return
        classes = [vision_msgs.VisionClass(class_id=number, class_name=name)
                   for number, name in enumerate(self.labels.names)]
        now = self.node.get_clock().now().nanoseconds
        self.publishers["label_info"].publish(vision_msgs.LabelInfo(
            header=messages.encode_header(TYPES, now, ""), class_map=classes, threshold=0.0))

    def publish(self, output: Output) -> None:
        """Publish one set in one view; of a dropped one only the mask. Pictures are made only for subscribers."""
        if not output.dropped:
            started = time.perf_counter()
            self._publish_pictures(output)
            output.latency_ms["publish"] = 1e3 * (time.perf_counter() - started)
            now_ns = self.node.get_clock().now().nanoseconds
            output.latency_ms["stamp_to_publish"] = (now_ns - output.t_ref_ns) / 1e6
        self.publishers[self.folders[output.view] + "modality_mask"].publish(mask_message(TYPES, output.record()))

    def _publish_pictures(self, output: Output) -> None:
        stamp, frame, folder = output.t_ref_ns, output.frame_id, self.folders[output.view]

        def image(topic: str, make: Callable[[], np.ndarray], encoding: str, always: bool = False) -> None:
            if always or self.wanted(folder + topic):
                self.publishers[folder + topic].publish(image_message(make(), encoding, stamp, frame))

        image("segmentation", lambda: output.labels, "mono8", always=True)
        image("confidence", lambda: output.confidence, "mono8")
        image("segmentation/confidence", lambda: output.confidence, "mono8")
        image("segmentation/color", lambda: self.labels.colorize(output.labels), "rgb8")
        image("segmentation/overlay", lambda: self.overlay(output), "rgb8")
        if output.make_points and self.wanted(folder + "points/labeled"):
            self.publishers[folder + "points/labeled"].publish(self.labelled_points(output))

    def wanted(self, topic: str) -> bool:
        return self.publishers[topic].get_subscription_count() > 0

    def overlay(self, output: Output) -> np.ndarray:
        """Colours over the target camera's picture, or over the first sensor that is there."""
        present = [name for name in (modality_of(output.view), *output.images) if name in output.images]
        height, width = output.labels.shape
        picture = draw.picture(present[0], output.images[present[0]]) if present else np.zeros((height, width, 3), "u1")
        return draw.overlay(picture, output.labels, self.labels)

    def labelled_points(self, output: Output) -> PointCloud2:
        """x y z float32, label and confidence uint8, rgb as PCL packs it into a float32."""
        columns = dict(output.points)
        columns["rgb"] = self._color_of_class[columns["label"]]
        return cloud_message(columns, output.t_ref_ns, output.frame_id)

    def destroy(self) -> None:
        for publisher in self.publishers.values():
            self.node.destroy_lifecycle_publisher(publisher)
        self.publishers = {}


def packed_colors(labels: LabelSet) -> np.ndarray:
    """(256,) float32 whose bits are 0x00RRGGBB of each class; black for ids that are no class."""
    palette = labels.colorize(np.arange(256, dtype=np.uint8)[None])[0].astype(np.uint32)
    return (palette[:, 0] << 16 | palette[:, 1] << 8 | palette[:, 2]).astype(np.uint32).view(np.float32)
