"""A small MUSES tree in the published layout, and its SDK's projection redone, with the nearest point on top."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

K = np.array([[1500.0, 0, 965.0], [0, 1480.0, 545.0], [0, 0, 1]])  # of 1920 x 1080
K_EVENT = np.array([[1010.0, 0, 633.0], [0, 1005.0, 362.0], [0, 0, 1]])  # of 1280 x 720
OPTICAL = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])  # of a body whose x points forwards
WIDTH, HEIGHT = 1920, 1080
EXPOSURE_US = (1_700_000_000_000_000, 1_700_000_000_008_000)
MIDDLE_SEC = sum(EXPOSURE_US) / 2e6


def place(rotation: np.ndarray, *at: float) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = rotation, at
    return T


def turn(axis: int, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    R = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return np.roll(np.roll(R, axis, 0), axis, 1)


CALIBRATION = {
    "intrinsics": {"rgb": {"K": K}, "event": {"K": K_EVENT}},
    "extrinsics": {"lidar2rgb": place(OPTICAL @ turn(2, 0.02), 0.05, -0.35, -0.2),
                   "radar2rgb": place(OPTICAL @ turn(2, -0.01), 0.1, -0.1, 0.4),
                   "event2rgb": place(turn(0, 0.012) @ turn(1, -0.02), 0.06, 0.0, 0.0),
                   "lidar2gnss": place(turn(0, np.pi) @ turn(2, 0.03), 1.2, 0.1, -0.4),
                   "radar2gnss": place(turn(0, np.pi), 2.0, 0.0, 0.3)},
}
GNSS = [0] * 28
GNSS[17:20], GNSS[23] = [300_000, -250_000, 1_500_000], 15_000  # 3, -2.5, 15 degrees/s; 15 m/s


def sweep(rng: np.random.Generator) -> np.ndarray:
    """(N, 6) x y z intensity ring time: a scene ahead, points behind, points of the car itself, hidden points."""
    ahead = np.stack([rng.uniform(4, 70, 3000), rng.uniform(-20, 20, 3000), rng.uniform(-2, 5, 3000)], -1)
    behind, own = ahead[:400] * [-1, 1, 1], rng.uniform((0.5, -0.1, -0.45), (0.8, 0.1, -0.25), (50, 3))
    hidden = ahead[:500] * 1.2
    xyz = np.concatenate([hidden, ahead, behind, own])
    times = MIDDLE_SEC + rng.uniform(-0.05, 0.05, len(xyz))
    return np.column_stack([xyz, rng.uniform(0, 255, len(xyz)), rng.integers(0, 64, len(xyz)), times])


def polar(rng: np.random.Generator) -> np.ndarray:
    """A polar image, (11 + 5000, 400) uint8; 5000 bins are 219 m."""
    image = np.zeros((5011, 400), np.uint8)
    echoes = rng.integers(11, 5011, 4000), rng.integers(0, 400, 4000)
    image[echoes] = rng.integers(1, 256, 4000)
    seconds, nanoseconds = divmod(round((MIDDLE_SEC - 0.1) * 1e6) * 1000, 10**9)
    for column in range(400):
        stamp = np.array([seconds, nanoseconds + column * 500_000], "<u4")
        image[:8, column] = stamp.view(np.uint8)
    image[10] = 255
    image[10, ::7] = 0
    return image


def events(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """x, y, t (us), p of 0.1 s, unsorted in x and y; many fall on few pixels."""
    count = 20_000
    x, y = rng.integers(0, 1280, count), rng.integers(0, 720, count)
    x[::2], y[::2] = 600 + x[::2] % 40, 300 + y[::2] % 40
    return {"x": x.astype(np.uint16), "y": y.astype(np.uint16), "t": np.sort(rng.integers(0, 100_000, count)),
            "p": rng.integers(0, 2, count).astype(np.uint8)}


def write_scene(root: Path, split: str, weather: str, time: str, scene: str, rng: np.random.Generator,
                size: tuple[int, int] = (192, 108), h5: bool = True) -> dict:
    """One scene's files; returns what they hold: 'lidar', 'radar', 'event', 'rgb' and 'labels'."""
    content = {"lidar": sweep(rng), "radar": polar(rng), "event": events(rng),
               "rgb": rng.integers(0, 256, (*size[::-1], 3)).astype(np.uint8),
               "labels": rng.choice([0, 10, 18, 255], size[::-1]).astype(np.uint8)}

    def path(folder: str, suffix: str) -> Path:
        file = root / folder / split / weather / time / f"{scene}_{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    content["lidar"].astype("<f8").tofile(path("lidar", "lidar.bin"))
    Image.fromarray(content["radar"]).save(path("radar", "radar.png"))
    Image.fromarray(content["rgb"]).save(path("frame_camera", "frame_camera.png"))
    Image.fromarray(content["labels"]).save(path("gt_semantic", "gt_labelTrainIds.png"))
    path("gnss", "gnss.txt").write_text(" ".join(map(str, GNSS)) + "\n")
    if h5:
        import h5py

        with h5py.File(path("event_camera", "event_camera.h5"), "w") as file:
            for name, values in content["event"].items():
                file.create_dataset(f"events/{name}", data=values, compression="gzip")
    _add_meta(root, scene, {
        "path_to_gnss": str(path("gnss", "gnss.txt").relative_to(root)),
        "frame_camera_exposure_start_timestamp_us": str(EXPOSURE_US[0]),
        "frame_camera_exposure_end_timestamp_us": str(EXPOSURE_US[1])})
    return content


def _add_meta(root: Path, scene: str, entry: dict) -> None:
    file = root / "meta.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | {scene: entry}))
    (root / "calib.json").write_text(json.dumps(CALIBRATION, default=lambda one: one.tolist()))


def write_projected(root: Path, split: str, weather: str, time: str, scene: str, content: dict, ending: str,
                    folder: str = "projected_to_rgb") -> dict[str, np.ndarray]:
    """The images that project_sensors_to_rgb.py writes, in its three formats; returns them."""
    images = {"lidar": project(content["lidar"][:, :4], "lidar", np.inf), "event_camera": counts(content["event"]),
              "radar": project(radar_points(content["radar"]), "radar", 150.0)}
    images["radar"][:, :, 2] = 0
    for name, image in images.items():
        file = root / folder / name / split / weather / time / f"{scene}_{name}{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        if ending == ".npz":
            np.savez_compressed(file, image)
        elif ending == ".npy":
            np.save(file, image)
        else:
            image = image if name == "event_camera" else ((image + 100) * 150).astype(np.uint16)
            cv2.imwrite(str(file), image)
    return images


def radar_points(image: np.ndarray) -> np.ndarray:
    """(N, 4) x y z intensity of what the camera may see, one by one."""
    azimuths = -np.radians(np.linspace(-180 + 0.9, 180, 400))
    rows = []
    for column in range(145, 255):
        for row in np.flatnonzero(image[11:, column]) if image[10, column] else ():
            distance = 0.0438 * (row + 1)
            rows.append((distance * np.cos(azimuths[column]), distance * np.sin(azimuths[column]), -1.62,
                         image[11 + row, column]))
    return np.array(rows, float)


def project(points: np.ndarray, sensor: str, farthest: float) -> np.ndarray:
    """(N, 4) x y z intensity -> (1080, 1920, 3) float32 range, intensity, height as the sensor has them."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    front = np.full((HEIGHT, WIDTH), np.inf)
    T = CALIBRATION["extrinsics"][f"{sensor}2rgb"]
    for point in points:
        distance = np.linalg.norm(point[:3])
        x, y, z = T[:3, :3] @ point[:3] + T[:3, 3]
        if not 1 <= distance <= farthest or z <= 0:
            continue
        u, v = K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]
        if 0 <= u < WIDTH and 0 <= v < HEIGHT and np.hypot(np.hypot(x, y), z) < front[int(v), int(u)]:
            front[int(v), int(u)] = np.hypot(np.hypot(x, y), z)
            image[int(v), int(u)] = distance, point[3], point[2]
    return image


def counts(events: dict[str, np.ndarray]) -> np.ndarray:
    """(1080, 1920, 3) uint8: ON, OFF, 0 of the last 30 ms, at infinity."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    recent = events["t"] >= events["t"].max() - 30_000
    R = CALIBRATION["extrinsics"]["event2rgb"][:3, :3]
    for x, y, p in zip(events["x"][recent], events["y"][recent], events["p"][recent], strict=True):
        ray = K @ R @ np.linalg.inv(K_EVENT) @ [float(x), float(y), 1.0]
        u, v = np.round(ray[:2] / ray[2]).astype(int)
        if 0 <= u < WIDTH and 0 <= v < HEIGHT:
            image[v, u, 1 - int(p)] += 1
    return image
