"""The rows of the table: each gives our work and a peer's on the same input, as two functions without arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mss_models.modality import DEFAULT_ENCODINGS
from mss_perception import messages
from mss_perception.camera import Camera
from mss_perception.events import EventLane
from mss_perception.lidar import LidarLane
from mss_perception.projection import Motion

SIZE = 1024


@dataclass(frozen=True)
class Row:
    """target: the largest ours / peer that meets the goal; None where none is set."""

    name: str
    peer_name: str
    ours: Callable[[], object]
    peer: Callable[[], object]
    target: float | None


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


def image_decoding() -> Row:
    """A 1024 x 1024 bgr8 Image -> RGB array, beside the copy and flip that a plain NumPy user writes."""
    pixels = np.random.default_rng(2).integers(0, 255, (SIZE, SIZE, 3)).astype(np.uint8)
    message = messages.encode_image(messages.bag_types(), pixels, "bgr8", 1, "camera")
    return Row("image: 1024 x 1024 bgr8 -> RGB", "np.frombuffer(...)[..., ::-1].copy()",
               lambda: messages.decode_image(message),
               lambda: np.frombuffer(message.data, np.uint8).reshape(SIZE, SIZE, 3)[..., ::-1].copy(), 1.0)


ROWS: dict[str, Callable[[], Row]] = {
    "lidar": lidar_projection,
    "events": event_accumulation,
    "image": image_decoding,
}
