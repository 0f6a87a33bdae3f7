"""The other end of the node in its tests: real publishers and subscriptions in this process, the node in another."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from mss_models import checkpoint as checkpoints
from mss_models.labels import LABEL_SETS
from mss_models.modality import DEFAULT_ENCODINGS
from mss_models.system import create
from mss_perception import live
from mss_perception.camera import Camera
from mss_perception.messages import encode_camera_info, encode_cloud, encode_image, stamp_ns
from mss_perception.ros_compat import TYPES
from mss_perception.ros_process import leave

LABELS = LABEL_SETS["deliver"]
WIDTH, HEIGHT = 64, 48
CAMERA = Camera(WIDTH, HEIGHT, np.array([[50.0, 0, 31.5], [0, 50, 23.5], [0, 0, 1]]), "plumb_bob", (0.0,) * 5, "cam")
OUTPUTS = {"segmentation": Image, "segmentation/color": Image, "segmentation/overlay": Image, "confidence": Image,
           "points/labeled": PointCloud2, "modality_mask": DiagnosticArray}
BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


def random_network(folder: Path) -> Path:
    """A checkpoint of a small untrained network of four modalities."""
    torch.manual_seed(0)
    path = folder / "random.safetensors"
    model = create(system="segformer_mean", backbone="B0", head_width=32, num_classes=len(LABELS),
                   modalities=("rgb", "depth", "event", "lidar"))
    checkpoints.save(path, model, LABELS, DEFAULT_ENCODINGS, {}, image_size=(64, 64))
    return path


def start_node(folder, domain_id: int, *parameters: str) -> live.Process:
    """The node with `name:=value` parameters; its log is folder/node.log."""
    environment = os.environ | {"ROS_DOMAIN_ID": str(domain_id)}
    arguments = ["--ros-args"] + [word for one in parameters for word in ("-p", one)]
    return live.Process("mss_perception.node", arguments, folder / "node.log", environment)


def random_of(stamp: int, content: int | None) -> np.random.Generator:
    return np.random.default_rng((stamp if content is None else content) % 2**32)


class Peer:
    """Publishes sensors and keeps what the node publishes, by topic and stamp."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=live.free_domain())
        self.node = rclpy.create_node("peer", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.publishers = {}
        self.got = defaultdict(dict)        # output topic -> stamp -> message
        self.diagnostics = []
        for topic, kind in {"image": Image, "camera_info": CameraInfo, "points": PointCloud2}.items():
            self.publishers[topic] = self.node.create_publisher(kind, topic, BEST_EFFORT)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10)

    def listen(self, *topics: str) -> None:
        for topic in topics:
            self.node.create_subscription(
                OUTPUTS[topic], f"/mss_perception/{topic}",
                lambda message, topic=topic: self.got[topic].__setitem__(stamp_ns(message.header), message), 10)

    def spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)

    def until(self, condition, seconds: float = 30.0, act=lambda: None) -> bool:
        """Repeat `act` at 10 Hz until the condition holds; whether it did."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            act()
            self.spin(0.1)
        return True

    def connect(self, *topics: str) -> None:
        assert self.until(lambda: all(self.publishers[topic].get_subscription_count() for topic in topics))

    def camera(self, encoding: str = "rgb8", stamp: int | None = None, content: int | None = None) -> int:
        """One image with its camera_info; returns the stamp. content: gives the pixels, else the stamp does."""
        stamp = time.time_ns() if stamp is None else stamp
        pixels = random_of(stamp, content).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        image = encode_image(TYPES, pixels, "rgb8", stamp, "cam")
        image.encoding = encoding
        self.publishers["camera_info"].publish(encode_camera_info(TYPES, CAMERA, stamp))
        self.publishers["image"].publish(image)
        return stamp

    def points(self, stamp: int | None = None, frame: str = "cam", broken: bool = False,
               content: int | None = None) -> int:
        """One cloud of 500 points in front of the camera; broken: a third of its bytes are missing."""
        stamp = time.time_ns() if stamp is None else stamp
        x, y = random_of(stamp, content).uniform(-2, 2, (2, 500)).astype(np.float32)
        cloud = {"x": x, "y": y, "z": np.full(500, 5, np.float32), "intensity": np.full(500, 0.5, np.float32)}
        message = encode_cloud(TYPES, cloud, stamp, frame)
        if broken:
            message.data = message.data[:len(message.data) * 2 // 3]
        self.publishers["points"].publish(message)
        return stamp

    def mask(self, stamp: int) -> dict[str, str]:
        """Input -> state of the set with this stamp."""
        return {status.name.partition("/")[2]: status.message for status in self.got["modality_mask"][stamp].status[1:]}

    def summary(self, stamp: int) -> dict[str, str]:
        return {one.key: one.value for one in self.got["modality_mask"][stamp].status[0].values}

    def status(self, name: str):
        """The newest diagnostic status of that name, or None."""
        return next((one for message in reversed(self.diagnostics) for one in message.status
                     if one.name == f"mss_perception: {name}"), None)

    def close(self) -> None:
        self.executor.shutdown()
        leave(self.node)
