"""A small recording for tests: a box crosses a road before a camera, a depth camera, a LiDAR and an event camera.

Rendered in closed form, so that it costs milliseconds and every value is known: a flat road 1.5 m below the sensors,
a box 10 m ahead that moves from left to right, sky above.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mss_models import checkpoint
from mss_models.labels import DELIVER
from mss_models.modality import DEFAULT_ENCODINGS, MODALITIES
from mss_models.system import create
from mss_perception import messages
from mss_perception.bags import BagWriter
from mss_perception.camera import Camera

START_NS = 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000
MS = 1_000_000
WIDTH, HEIGHT = 96, 64
ROAD, CAR, SKY = (DELIVER.names.index(name) for name in ("Road", "Cars", "Sky"))
COLOURS = {ROAD: (90, 90, 95), CAR: (200, 40, 40), SKY: (150, 190, 240)}
OPTICAL = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]], np.float64)   # base_link <- optical
LIDAR = np.eye(4)
LIDAR[2, 3] = 1.5
# sensor -> (stamp after the frame's reference time, latency), ns
TIMING = {"rgb": (0, 10 * MS), "depth": (2 * MS, 15 * MS), "lidar": (4 * MS, 30 * MS), "event": (0, 1 * MS)}


def camera(frame_id: str = "camera_optical") -> Camera:
    K = np.array([[80.0, 0, (WIDTH - 1) / 2], [0, 80.0, (HEIGHT - 1) / 2], [0, 0, 1]])
    return Camera(WIDTH, HEIGHT, K, "none", (), frame_id)


def render(t_sec: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels (H, W) uint8 and depth (H, W) float32 metres, NaN in the sky."""
    v, u = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    K = camera().K
    down = (v - K[1, 2]) / K[1, 1]
    depth = np.where(down > 0, 1.5 / np.maximum(down, 1e-9), np.nan)
    labels = np.where(down > 0, ROAD, SKY).astype(np.uint8)
    x = (u - K[0, 2]) / K[0, 0] * 10
    centre = -5 + 3 * t_sec
    box = (np.abs(x - centre) < 1.5) & (down * 10 > -1) & (down * 10 < 1.5)
    labels[box], depth[box] = CAR, 10.0
    depth[depth > 60] = np.nan
    return labels, depth.astype(np.float32)


def write_bag(path: Path, seconds: float = 2.0, leave_out: tuple[str, ...] = (), seed: int = 0) -> Path:
    """A bag with every default topic. `leave_out`: topics that are not written."""
    types, random = messages.bag_types(), np.random.default_rng(seed)
    entries: list[tuple[int, str, object]] = []
    static = [("base_link", "camera_optical", OPTICAL), ("base_link", "depth_optical", OPTICAL),
              ("base_link", "event_optical", OPTICAL), ("base_link", "lidar", LIDAR)]
    entries.append((START_NS, "/tf_static", messages.encode_transforms(types, static, START_NS)))
    for t in range(START_NS - PERIOD_NS, START_NS + int(seconds * 1e9) + 1, 20 * MS):
        pose = np.eye(4)
        entries.append((max(t, START_NS), "/odom", messages.encode_odometry(types, pose, t)))
    for frame in range(1, round(seconds * 10)):
        t_ref = START_NS + frame * PERIOD_NS
        labels, depth = render(frame * 0.1)
        rgb = np.zeros((HEIGHT, WIDTH, 3), np.int16)
        for label, colour in COLOURS.items():
            rgb[labels == label] = colour
        rgb = np.clip(rgb + random.integers(-8, 9, rgb.shape), 0, 255).astype(np.uint8)
        stamp, latency = TIMING["rgb"]
        for topic, message in (("/image", messages.encode_image(types, rgb, "rgb8", t_ref, "camera_optical")),
                               ("/camera_info", messages.encode_camera_info(types, camera(), t_ref)),
                               ("/labels", messages.encode_image(types, labels, "mono8", t_ref, "camera_optical"))):
            entries.append((t_ref + latency, topic, message))
        stamp, latency = TIMING["depth"]
        stamp += t_ref
        for topic, message in (("/depth/image", messages.encode_image(types, depth, "32FC1", stamp, "depth_optical")),
                               ("/depth/camera_info",
                                messages.encode_camera_info(types, camera("depth_optical"), stamp))):
            entries.append((stamp + latency, topic, message))
        stamp, latency = TIMING["lidar"]
        entries.append((t_ref + stamp + latency, "/points", _cloud(types, depth, labels, t_ref + stamp, random)))
    entries.append((START_NS + MS, "/events/camera_info",
                    messages.encode_camera_info(types, camera("event_optical"), START_NS)))
    previous = render(0.0)[0]
    for begin in range(START_NS, START_NS + int(seconds * 1e9), 10 * MS):
        labels = render((begin - START_NS) / 1e9)[0]
        v, u = np.nonzero(labels != previous)
        times = np.sort(begin + random.integers(0, 10 * MS, len(u)))
        packet = messages.encode_events(types, u, v, times, labels[v, u] == CAR, begin, "event_optical")
        entries.append((begin + 10 * MS + TIMING["event"][1], "/events", packet))
        previous = labels
    with BagWriter(path) as bag:
        for receive_ns, topic, message in sorted(entries, key=lambda entry: entry[0]):
            if topic not in leave_out:
                bag.write(topic, message, receive_ns)
    return path


def _cloud(types, depth: np.ndarray, labels: np.ndarray, stamp_ns: int, random: np.random.Generator):
    """Every other pixel with a depth as a LiDAR point: x y z intensity ring time."""
    v, u = np.nonzero(np.isfinite(depth[:, 1:]))       # not the first column: u = 0 may round to just outside
    v, u = v[::2], u[::2] + 1
    z, K = depth[v, u].astype(np.float64), camera().K
    points = np.stack([(u - K[0, 2]) / K[0, 0] * z, (v - K[1, 2]) / K[1, 1] * z, z, np.ones_like(z)])
    x, y, z, _ = np.linalg.inv(LIDAR) @ OPTICAL @ points
    return messages.encode_cloud(types, {
        "x": x.astype(np.float32), "y": y.astype(np.float32), "z": z.astype(np.float32),
        "intensity": (0.2 + 0.5 * (labels[v, u] == CAR)).astype(np.float32), "ring": (v % 32).astype(np.uint16),
        "time": -random.uniform(0, 0.1, len(z)).astype(np.float32)}, stamp_ns, "lidar")


def write_checkpoint(path: Path, modalities: tuple[str, ...] = MODALITIES) -> Path:
    """A small network with random weights."""
    import torch
    torch.manual_seed(0)
    model = create(system="segformer_mean", modalities=modalities, num_classes=len(DELIVER), backbone="B0",
                   head_width=16, drop_path=0.0)
    checkpoint.save(path, model, DELIVER, DEFAULT_ENCODINGS, {"recipe": "random weights, for tests"},
                    image_size=(HEIGHT, WIDTH))
    return path
