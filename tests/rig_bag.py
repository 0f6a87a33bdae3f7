"""A recording of a rig whose topics, rates, offsets and latencies a test chooses; its scene is that of boxes.py."""

from __future__ import annotations

from pathlib import Path

import boxes
import numpy as np

from mss_perception import messages
from mss_perception.bags import BagWriter

MS, SECOND = 1_000_000, 1_000_000_000
START = boxes.START_NS
NAMES = {"rgb": "/front/image_raw", "rgb/info": "/front/camera_info", "depth": "/stereo/depth/image_rect",
         "depth/info": "/stereo/depth/camera_info", "lidar": "/top_lidar/points", "odom": "/vehicle/odometry"}


def rig_bag(path: Path, *, rgb_hz: float = 30, depth_hz: float = 30, lidar_hz: float = 10, lidar_offset_ms: float = 7,
            latency_ms: dict[str, float] | None = None, sweep_start: bool = False, seconds: float = 2.0,
            leave_out: tuple[str, ...] = (), change=lambda role, message: message) -> Path:
    """Camera, depth camera and LiDAR under names of their own, each at its rate; `change` may alter any message.

    sweep_start: the LiDAR is stamped at its sweep's start, not its end.
    """
    types, latency = messages.bag_types(), {"rgb": 10, "depth": 12, "lidar": 15} | (latency_ms or {})
    entries = []

    def add(role: str, stamp: int, message, delay_ms: float = 0.0) -> None:
        entries.append((stamp + round(delay_ms * MS), NAMES.get(role, role), change(role, message)))

    mounts = [("base_link", "camera_optical", boxes.OPTICAL), ("base_link", "depth_optical", boxes.OPTICAL),
              ("base_link", "lidar", boxes.LIDAR)]
    add("/tf_static", START, messages.encode_transforms(types, mounts, START))
    for t in range(START - SECOND // 5, START + round(seconds * SECOND), 20 * MS):
        add("odom", t, messages.encode_odometry(types, np.eye(4), t), 1)
    for role, rate, frame in (("rgb", rgb_hz, "camera_optical"), ("depth", depth_hz, "depth_optical")):
        for k in range(round(seconds * rate)):
            stamp = START + round(k / rate * SECOND)
            labels, depth = boxes.render(k / rate)
            colours = np.zeros((boxes.HEIGHT, boxes.WIDTH, 3), np.uint8)
            for label, colour in boxes.COLOURS.items():
                colours[labels == label] = colour
            colours[0, 0] = k % 256     # no two frames are the same
            depth[-1, 0] = 1 + k / 1000
            image = messages.encode_image(types, colours if role == "rgb" else depth,
                                          "rgb8" if role == "rgb" else "32FC1", stamp, frame)
            add(role, stamp, image, latency[role])
            add(f"{role}/info", stamp, messages.encode_camera_info(types, boxes.camera(frame), stamp), latency[role])
    for k in range(round(seconds * lidar_hz)):
        stamp = START + round(k / lidar_hz * SECOND + lidar_offset_ms * MS)
        count = 400
        forward = np.linspace(4, 20, count).astype(np.float32)
        times = np.linspace(0, 0.9 / lidar_hz, count).astype(np.float32) - (0 if sweep_start else np.float32(
            0.9 / lidar_hz))
        cloud = {"x": forward, "y": np.sin(forward) + np.float32(k / 1000), "z": np.full(count, -1, np.float32),
                 "intensity": np.full(count, 0.5, np.float32), "time": times}
        add("lidar", stamp, messages.encode_cloud(types, cloud, stamp, "lidar"),
            latency["lidar"] + (900 / lidar_hz if sweep_start else 0))
    with BagWriter(path) as bag:
        for receive_ns, topic, message in sorted(entries, key=lambda entry: entry[0]):
            if topic not in leave_out and message is not None:
                bag.write(topic, message, receive_ns)
    return path
