"""The sensors of MUSES, as recorded and as its SDK projects them, in the terms of the lanes of mss_perception.

Formats as in timbroed/MUSES, processing/: lidar_processing.py, radar_processing.py, event_camera_processing.py and
utils.py. Where the SDK projects a point behind the camera or draws a far one over a near one, the lanes do neither; its
counts of events wrap at 256, ours do not. Its pixel of a point at (u, v) is (floor u, floor v), and of an event the
nearest one; ours are the same, so that raw and projected sensors give the same picture.

Projected images (`project_sensors_to_rgb.py`: .npz, .npy or 16-bit .png) are turned back into what the sensor saw, one
point for each pixel, and go through the same lanes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from mss_perception.camera import Camera, CameraError
from mss_perception.messages import Cloud, Events, MessageError
from mss_perception.projection import Motion
from mss_perception.radar import Detections, polar_detections
from mss_perception.rigid import inverse
from training.datasets.sample import DatasetError, check_png, read_array, read_json, read_png

RGB_SIZE, EVENT_SIZE = (1920, 1080), (1280, 720)  # width, height, of which the matrices K are
NEAREST_M = 1.0  # LiDAR points closer than this are the car's own
INTENSITY_FULL = 255.0
PNG_SCALE, PNG_SHIFT = 150.0, 100.0  # a projected 16-bit value is (metres + 100) * 150, and the intensity alike
LONGEST_SEC = 2.0  # between a point and the picture
KNOT_SEC = 0.005  # of the motion during a sweep
# Of the GNSS file's one line of 28 integers: turn in 1e-5 degrees per second, about x forwards, y right, z down; speed
# over ground in mm/s.
GNSS_VALUES, GNSS_ROLL_RATE, GNSS_SPEED = 28, 17, 23
MOST_GNSS = 10**8  # of both


@dataclass(frozen=True)
class Rig:
    """calib.json. rgb, event: pinhole cameras. to_rgb, to_gnss: sensor -> (4, 4) into the optical frame of rgb, and
    into the GNSS frame (x forwards)."""

    rgb: Camera
    event: Camera
    to_rgb: dict[str, np.ndarray]
    to_gnss: dict[str, np.ndarray]

    @property
    def cell(self) -> Camera:
        """The rgb camera for points, which fall into the pixel whose corner, not centre, their (u, v) follows."""
        K = self.rgb.K.copy()
        K[:2, 2] -= 0.5
        return replace(self.rgb, K=K)


def read_rig(path: Path) -> Rig:
    """Raises DatasetError that names what is missing in calib.json."""
    content = read_json(path)

    def matrix(kind: str, *names: str) -> np.ndarray:
        node = content.get(kind)
        for name in names:
            node = node.get(name) if isinstance(node, dict) else None
        side = 3 if names[-1] == "K" else 4
        try:
            values = np.array(node, np.float64)
        except (TypeError, ValueError):
            values = np.zeros(0)
        where = f"{path}: {'/'.join((kind, *names))}"
        if values.shape != (side, side) or not np.isfinite(values).all():
            raise DatasetError(f"{where} is no {side} x {side} matrix of numbers")
        R = values[:3, :3]
        if side == 4 and not (np.abs(R @ R.T - np.eye(3)).max() < 0.01 and np.linalg.det(R) > 0
                              and values[3].tolist() == [0, 0, 0, 1]):
            raise DatasetError(f"{where} is no rigid transform: {values.tolist()}")
        return values

    try:
        rgb = Camera(*RGB_SIZE, matrix("intrinsics", "rgb", "K"), frame_id="rgb")
        event = Camera(*EVENT_SIZE, matrix("intrinsics", "event", "K"), frame_id="event")
    except CameraError as error:
        raise DatasetError(f"{path}: {error}") from error
    has = content.get("extrinsics")
    return Rig(rgb, event, {one: matrix("extrinsics", f"{one}2rgb") for one in ("lidar", "radar", "event")},
               {one: matrix("extrinsics", f"{one}2gnss") for one in ("lidar", "radar")
                if isinstance(has, dict) and f"{one}2gnss" in has})


# ------------------------------------------------------------------------------------------------------------ recorded


def read_lidar(path: Path) -> tuple[Cloud, np.ndarray]:
    """A .bin file -> its points with x, y, z, intensity from NEAREST_M on, and their times (N,) in seconds."""
    values = _bytes(path)
    if len(values) % 48:
        raise DatasetError(f"{path}: {len(values)} bytes; points of 6 float64 values (48 bytes) are needed")
    points = np.frombuffer(values, "<f8").reshape(-1, 6)
    with np.errstate(over="ignore", invalid="ignore"):
        points = points[np.linalg.norm(points[:, :3], axis=1) >= NEAREST_M]  # NaN is not
    return _cloud(points[:, :3], points[:, 3]), points[:, 5]


def read_radar(path: Path, max_m: float) -> tuple[Detections, np.ndarray]:
    """A polar image -> its returns up to max_m, and their times (N,) in seconds."""
    image = read_png(path)
    try:
        found, times_ns = polar_detections(image if image.ndim == 2 else np.ascontiguousarray(image[:, :, 0]), max_m)
    except MessageError as error:
        raise DatasetError(f"{path}: {error}") from error
    return found, times_ns * 1e-9


def read_events(path: Path, window_us: int) -> Events:
    """The events of the last window_us of a file, its end at t = 0. Raises DatasetError; needs h5py and hdf5plugin."""
    try:
        import h5py
        import hdf5plugin  # noqa: F401 - registers the compression of the files
    except ImportError as error:
        raise DatasetError(f"{path}: needs {error.name}; install the extra 'muses' (h5py and hdf5plugin), or project "
                           "the events with the SDK of MUSES") from error
    try:
        with h5py.File(path, "r") as file:
            t = file["events/t"][:].astype(np.int64)
            newest = t.max() if len(t) else 0
            chosen = np.flatnonzero(t >= newest - window_us)
            low, high = (chosen[0], chosen[-1] + 1) if len(chosen) else (0, 0)
            x, y, p = (np.rint(file[f"events/{name}"][low:high]).astype(np.int64)[chosen - low] for name in "xyp")
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise DatasetError(f"{path}: no readable events/x, y, t, p ({error})") from error
    width, height = EVENT_SIZE
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    order = np.argsort(t[chosen][inside], kind="stable")
    x, y, p, t = (one[inside][order] for one in (x, y, p, t[chosen] - newest))
    return Events(x.astype(np.uint16), y.astype(np.uint16), t * 1000, p == 1, -window_us * 1000, 0, width, height)


def motion_of(path: Path, middle_sec: float, times_sec: np.ndarray, rig: Rig, sensor: str) -> Motion:
    """The sensor's points, each measured at its own time, to where rgb saw them at the middle of its exposure.

    As motion_compensate_pcd of the SDK: in the GNSS frame, a shift by the speed over ground and then a turn by the
    rates about x, y, z, each times how much later the point was measured. path: the GNSS file of the scene.
    """
    try:
        values = [int(text) for text in path.read_text(encoding="utf-8").split("\n")[0].split()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read as {GNSS_VALUES} integers ({error})") from error
    if len(values) != GNSS_VALUES:
        raise DatasetError(f"{path}: {len(values)} values; {GNSS_VALUES} are needed")
    if sensor not in rig.to_gnss:
        raise DatasetError(f"calib.json: extrinsics/{sensor}2gnss is missing, which motion compensation needs")
    used = [*values[GNSS_ROLL_RATE : GNSS_ROLL_RATE + 3], values[GNSS_SPEED]]
    if max(map(abs, used)) > MOST_GNSS:
        raise DatasetError(f"{path}: turn and speed are {used}, which no car does")
    rates, speed = np.deg2rad(np.array(used[:3]) * 1e-5), used[3] * 1e-3
    late = times_sec - middle_sec
    if len(late) and not np.abs(late).max() <= LONGEST_SEC:  # NaN, too
        raise DatasetError(f"{path}: the {sensor} measured {np.abs(late).max():.3g} s away from the exposure that "
                           f"meta.json tells; at most {LONGEST_SEC:g} s are a sweep")
    first, last = (float(late.min()), float(late.max())) if len(late) else (0.0, 0.0)
    knots = np.linspace(first, last, max(2, int(np.ceil((last - first) / KNOT_SEC)) + 1))
    to_gnss = rig.to_gnss[sensor]
    T = np.stack([rig.to_rgb[sensor] @ inverse(to_gnss) @ _drift(rates, speed, one) @ to_gnss for one in knots])
    place = (late - first) / (last - first) * (len(knots) - 1) if last > first else np.zeros(len(late))
    return Motion(T, place.astype(np.float32))


def _drift(rates: np.ndarray, speed: float, late_sec: float) -> np.ndarray:
    """(4, 4): shift along x, then the turn Rz Ry Rx."""
    (sx, sy, sz), (cx, cy, cz) = np.sin(rates * late_sec), np.cos(rates * late_sec)
    turn = (np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
            @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]))
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = turn, turn @ [speed * late_sec, 0, 0]
    return T


# ----------------------------------------------------------------------------------------------------------- projected


def read_projected(path: Path) -> np.ndarray:
    """(H, W, 3) float32 of an image that the SDK wrote: channels in its order, metres and intensities, or counts."""
    if path.suffix == ".png":
        check_png(path)
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if image is not None and image.dtype == np.uint16:
            image = image.astype(np.float32) / np.float32(PNG_SCALE) - np.float32(PNG_SHIFT)
    else:
        image = read_array(path)
    if image is None or image.ndim != 3 or image.shape[2] != 3:
        raise DatasetError(f"{path}: {'unreadable' if image is None else image.shape}; an image of three channels is "
                           "needed")
    image = image.astype(np.float32)
    if not np.isfinite(image).all():
        raise DatasetError(f"{path}: {np.count_nonzero(~np.isfinite(image))} values are not finite")
    return image


def projected_lidar(image: np.ndarray, rig: Rig) -> Cloud:
    """Range, intensity and height -> the points in the optical frame of rgb."""
    xyz, intensity = _points(image, rig, "lidar")
    return _cloud(xyz, intensity)


def projected_radar(image: np.ndarray, rig: Rig) -> Detections:
    """Range and intensity -> the returns in the optical frame of rgb; intensity 0 is none."""
    xyz, intensity = _points(image, rig, "radar")
    xyz, intensity = xyz[intensity > 0].astype(np.float32), intensity[intensity > 0]
    return Detections(xyz, (intensity / np.float32(255)).astype(np.float32), np.full(len(xyz), np.nan, np.float32))


def projected_events(image: np.ndarray, rig: Rig) -> Events:
    """Counts ON and OFF -> the events on the pixels of the event camera, all at t = 0.

    A pixel of rgb that several event pixels fall into is shared out among them.
    """
    height, width = image.shape[:2]
    pixel = _event_pixels(rig, height, width)
    there = np.flatnonzero(pixel >= 0)
    order = there[np.argsort(pixel[there], kind="stable")]  # neighbours in this order share a pixel of rgb
    at = pixel[order]
    sharing = np.bincount(at, minlength=height * width)[at]
    place = np.arange(len(at)) - np.searchsorted(at, at)  # 0, 1, ... among those that share
    chosen, polarity = [], []
    for channel, on in ((0, True), (1, False)):
        counts = np.rint(image[:, :, channel]).astype(np.int64).ravel()[at]
        mine = counts // sharing + (place < counts % sharing)
        chosen.append(np.repeat(order, np.maximum(mine, 0)))
        polarity.append(np.full(len(chosen[-1]), on))
    pixels = np.concatenate(chosen)
    size = EVENT_SIZE
    return Events((pixels % size[0]).astype(np.uint16), (pixels // size[0]).astype(np.uint16),
                  np.zeros(len(pixels), np.int64), np.concatenate(polarity), -1, 0, *size)


def _event_pixels(rig: Rig, height: int, width: int) -> np.ndarray:
    """Flat pixel of a projected image that each event pixel, row-major, falls into; -1 outside. By rotation alone."""
    K = _scaled(rig, height, width)
    rays = rig.event.pixel_rays() @ rig.to_rgb["event"][:3, :3].T
    uv = rays @ K.T
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = np.floor(uv[:, :2].T / uv[:, 2] + 0.5)
    inside = (rays[:, 2] > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    return np.where(inside, np.where(inside, v, 0) * width + np.where(inside, u, 0), -1).astype(np.int64)


def _points(image: np.ndarray, rig: Rig, sensor: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) points in the optical frame of rgb, and their intensities.

    On the ray through the pixel's middle, as far away from the sensor, not from the camera, as the range says.
    """
    rows, columns = np.nonzero(image[:, :, 0] > 0)
    K = _scaled(rig, *image.shape[:2])
    rays = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], -1) @ np.linalg.inv(K).T
    sensor_at = rig.to_rgb[sensor][:3, 3]
    square, half = (rays * rays).sum(1), rays @ sensor_at
    distance = image[rows, columns, 0].astype(np.float64)
    inner = np.maximum(half**2 - square * (sensor_at @ sensor_at - distance**2), 0)
    along = (half + np.sqrt(inner)) / square
    return rays * along[:, None], image[rows, columns, 1]


def _scaled(rig: Rig, height: int, width: int) -> np.ndarray:
    """K of an image of another size, scaled as the SDK does."""
    return np.diag([width / RGB_SIZE[0], height / RGB_SIZE[1], 1.0]) @ rig.rgb.K


def _cloud(xyz: np.ndarray, intensity: np.ndarray) -> Cloud:
    fields = np.empty(len(xyz), [(name, "f4") for name in ("x", "y", "z", "intensity")])
    with np.errstate(over="ignore"):
        for column, name in enumerate("xyz"):
            fields[name] = xyz[:, column]
        fields["intensity"] = intensity
    return Cloud(fields)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
