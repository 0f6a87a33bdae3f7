"""The rows of the table: each gives our work and a peer's on the same input, as two functions without arguments."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from mss_models.modality import DEFAULT_ENCODINGS
from mss_models.runtime.readout import read_out
from mss_perception import messages
from mss_perception.camera import Camera
from mss_perception.events import EventLane
from mss_perception.image import ImageLane
from mss_perception.lidar import LidarLane
from mss_perception.messages.images import read_pixels
from mss_perception.projection import Motion

SIZE = 1024


@dataclass(frozen=True)
class Row:
    """target: the largest ours / peer that meets the goal; None where none is set. runs: how many to measure."""

    name: str
    peer_name: str
    ours: Callable[[], object]
    peer: Callable[[], object]
    target: float | None
    runs: int = 30


def camera(size: int = SIZE) -> Camera:
    return Camera(size, size, np.array([[size / 2, 0, size / 2], [0, size / 2, size / 2], [0, 0, 1]]), "plumb_bob",
                  (-0.1, 0.02, 1e-3, -1e-3, 0.0), "camera")


def lidar_projection() -> Row:
    """131,072 points in a PointCloud2 -> image, beside the float64 NumPy projection of the MUSES kind."""
    rng = np.random.default_rng(0)
    azimuth, elevation = rng.uniform(-np.pi, np.pi, 131_072), rng.uniform(-0.4, 0.2, 131_072)
    distance = rng.uniform(2, 80, 131_072)
    # x right, y down, z forward: the sensor sits in the camera, so the extrinsics are the identity.
    xyz = distance[:, None] * np.stack([np.cos(elevation) * np.sin(azimuth), -np.sin(elevation),
                                        np.cos(elevation) * np.cos(azimuth)], -1)
    intensity = rng.uniform(0, 1, 131_072)
    cloud = messages.encode_cloud(messages.bag_types(), {
        **{name: xyz[:, i].astype(np.float32) for i, name in enumerate("xyz")},
        "intensity": intensity.astype(np.float32)}, 1, "lidar")
    lane = LidarLane(DEFAULT_ENCODINGS["lidar"], camera(), SIZE, SIZE)
    still = Motion.fixed(np.eye(4))
    points = np.c_[xyz, intensity]
    K, T = camera().K, np.eye(4)

    def peer() -> np.ndarray:
        # What the MUSES SDK's projection does: float64, no distortion, neither z > 0 nor nearest wins, one store.
        homogeneous = np.c_[points[:, :3], np.ones(len(points))]
        moved = (T @ homogeneous.T).T[:, :3]
        pixels = (K @ moved.T).T
        with np.errstate(divide="ignore", invalid="ignore"):
            uv = pixels[:, :2] / pixels[:, 2:]
        inside = (uv[:, 0] >= 0) & (uv[:, 0] < SIZE) & (uv[:, 1] >= 0) & (uv[:, 1] < SIZE)
        image = np.zeros((SIZE, SIZE, 3))
        u, v = uv[inside].astype(int).T
        image[v, u] = np.c_[np.linalg.norm(moved[inside], axis=1), points[inside, 3], moved[inside, 1]]
        return image

    return Row("lidar: 131,072 points, PointCloud2 -> 1024 x 1024", "float64 NumPy, no z-buffer, no distortion",
               lambda: lane(messages.decode_cloud(cloud), still).image, peer, 1.0)


def event_accumulation() -> Row:
    """1 M events, 640 x 480 -> ON and OFF counts, beside numpy.bincount."""
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 640, 1_000_000).astype(np.uint16), rng.integers(0, 480, 1_000_000).astype(np.uint16)
    p, t = rng.integers(0, 2, 1_000_000).astype(bool), np.sort(rng.integers(0, 50_000_000, 1_000_000))
    own = Camera(640, 480, np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]]), frame_id="event")
    lane = EventLane(DEFAULT_ENCODINGS["event"], own, 480, 640, own, np.eye(4))
    packets = [messages.Events(x, y, t, p, 0, 50_000_000, 640, 480)]

    def peer() -> np.ndarray:
        index = (y.astype(np.int64) * 640 + x) * 2 + ~p
        return np.bincount(index, minlength=480 * 640 * 2).reshape(480, 640, 2)

    return Row("events: 1 M, 640 x 480 -> counts image", "numpy.bincount", lambda: lane(packets, 50_000_000).image,
               peer, 0.5)


def camera_image() -> Row:
    """A 1920 x 1080 bgr8 Image -> the network's 1024 x 576 RGB, beside the user's usual decoder and cv2.resize."""
    pixels = np.random.default_rng(2).integers(0, 255, (1080, 1920, 3)).astype(np.uint8)
    message = messages.encode_image(messages.bag_types(), pixels, "bgr8", 1, "camera")
    full = Camera(1920, 1080, np.array([[960.0, 0, 960], [0, 960, 540], [0, 0, 1]]), frame_id="camera")
    lane = ImageLane(DEFAULT_ENCODINGS["rgb"], full, 576, 1024)
    name, decode = usual_decoder()
    return Row("image: 1920 x 1080 bgr8 -> 1024 x 576 RGB", f"{name}, cv2.resize INTER_AREA",
               lambda: lane(read_pixels(message)).image,
               lambda: cv2.resize(decode(message), (1024, 576), interpolation=cv2.INTER_AREA), 1.0)


def usual_decoder() -> tuple[str, Callable[[object], np.ndarray]]:
    """What a user takes to make an RGB array of an Image: cv_bridge, else rosbags-image, else OpenCV by hand."""
    if importlib.util.find_spec("cv_bridge"):
        bridge = importlib.import_module("cv_bridge").CvBridge()
        return "cv_bridge", lambda message: bridge.imgmsg_to_cv2(message, "rgb8")
    if importlib.util.find_spec("rosbags.image"):
        convert = importlib.import_module("rosbags.image").message_to_cvimage
        return "rosbags-image", lambda message: convert(message, "rgb8")
    return "np.frombuffer, cv2.cvtColor", lambda message: cv2.cvtColor(
        np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3), cv2.COLOR_BGR2RGB)


def reading_out() -> Row:
    """Logits of 25 classes, 288 x 512 -> labels and confidence of a 1920 x 1080 camera, beside the textbook's lines."""
    torch.set_num_threads(1)
    coarse = torch.randn(1, 25, 72, 128, generator=torch.Generator().manual_seed(3))
    logits = F.interpolate(coarse, (288, 512), mode="bilinear").contiguous(memory_format=torch.channels_last)

    def peer() -> tuple[torch.Tensor, torch.Tensor]:
        resized = F.interpolate(logits, (1080, 1920), mode="bilinear", align_corners=False)
        confidence, labels = resized.softmax(dim=1).max(dim=1)
        return labels.to(torch.uint8), (255 * confidence).round_().to(torch.uint8)

    return Row("read-out: 25 x 288 x 512 logits -> 1920 x 1080", "F.interpolate, softmax, max",
               lambda: read_out(logits, (1080, 1920)), peer, 1.0)


ROWS: dict[str, Callable[[], Row]] = {
    "lidar": lidar_projection,
    "events": event_accumulation,
    "image": camera_image,
    "readout": reading_out,
}
