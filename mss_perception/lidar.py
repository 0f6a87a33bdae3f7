"""LiDAR lane: point clouds as one range, intensity and height image in the target camera's view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mss_models.modality import Encoding
from mss_perception import kernels
from mss_perception.camera import Camera
from mss_perception.lane import LaneImage, LaneInvalid, require
from mss_perception.messages import Cloud
from mss_perception.projection import Motion, ProjectedPoints, project_points

INTENSITY_FIELDS = ("intensity", "reflectivity", "i")
# More than this share of intensities beyond the driver's full scale: the scale is wrong, not the scene bright.
TOO_BRIGHT = 0.5

# Drivers' names of a point's time: velodyne `time` (float32 s), ouster_ros `t` (uint32 ns), hesai_ros_driver and
# rslidar_sdk `timestamp` (float64 s, absolute), livox_ros_driver2 `timestamp` (float64 ns, absolute) and `offset_time`
# (uint32 ns), Autoware's PointXYZIRCAEDT `time_stamp` (uint32 ns).
TIME_FIELDS = ("t", "time", "timestamp", "time_stamp", "offset_time")
TIME_UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
# Point times farther from the stamp are in another unit, or nonsense; so are sweeps shorter than the other, except in
# the unit that the type suggests, for a cloud may hold few points.
LONGEST_SWEEP_SEC, SHORTEST_SWEEP_SEC = 2.0, 0.001


@dataclass(frozen=True)
class Returns:
    """One cloud in the target camera's view: the points that it sees, and their (M,) float32 intensities with 1 = the
    driver's full scale.

    figures: points (returns), no_return (NaN, infinite, or exactly (0, 0, 0)), points_in_image (depth > 0,
    0 <= u < width, 0 <= v < height of the camera, before the z-buffer), deskewed; intensity_clipped, the share of
    intensities above full scale, when it is more than half, of all points and of those in the image.
    """

    points: ProjectedPoints
    intensity: np.ndarray
    figures: dict[str, int | float | bool]


@dataclass
class LidarImage(LaneImage):
    """points: where each point is in the target camera. drawn: own keys and first row of kernels.draw_nearest, and by
    how many pixels points are grown."""

    target: Camera | None = None
    points: ProjectedPoints | None = None
    drawn: tuple[np.ndarray, int, int] | None = None

    def labelled_points(self, labels: np.ndarray, confidence: np.ndarray, ignore_id: int) -> dict[str, np.ndarray]:
        """Columns x y z float32 metres in the target's frame, label and confidence uint8 of the points, in their order.

        labels, confidence: (Hc, Wc) uint8 of the camera's size; each point gets the values of its pixel. Left out are
        points outside the image, hidden behind a nearer one, or where labels is `ignore_id`. Raises ValueError for
        another size.
        """
        for values in (labels, confidence):
            if values.shape != (self.target.height, self.target.width):
                raise ValueError(f"labels or confidence are {values.shape}; must be of the camera's size, "
                                 f"{self.target.height} x {self.target.width}")
        p = self.points
        columns = kernels.labelled_points(labels, confidence, p.x, p.y, p.z, p.uv, (*self.drawn, len(self.image)),
                                          ignore_id)
        return dict(zip(("x", "y", "z", "label", "confidence"), columns, strict=True))


class LidarLane:
    """Projects clouds into the target camera through its distortion; the nearest point wins.

    encoding 'range_intensity_height': see mss_models.modality.SCHEMES. Raises ValueError for another one.
    """

    def __init__(self, encoding: Encoding, target: Camera, height: int, width: int):
        require(encoding, "range_intensity_height")
        self.target, self.height, self.width, self.params = target, height, width, encoding.params
        # Compile now: the first sweep of a running node must not wait seconds for the compiler.
        point = project_points(np.ones((1, 3), np.float32), Motion.fixed(np.eye(4)), target)
        labels = np.zeros((target.height, target.width), np.uint8)
        self.draw([Returns(point, np.ones(1, np.float32), {})]).labelled_points(labels, labels, 255)

    def __call__(self, cloud: Cloud, motion: Motion, deskewed: bool = False, intensity_max: float = 0.0) -> LidarImage:
        """The image of one cloud; see `locate`."""
        return self.draw([self.locate(cloud, motion, deskewed, intensity_max)])

    def locate(self, cloud: Cloud, motion: Motion, deskewed: bool = False, intensity_max: float = 0.0) -> Returns:
        """A cloud's points in the target camera.

        motion: where its sensor was (Transforms.moved); deskewed: every point is moved by its own time. intensity_max:
        what the driver sends for full intensity; 0 takes 255 for an integer field and 1 for a float field. Raises
        LaneInvalid or MessageError with the reason when there are no points, no returns, no x, y and z, or several
        values of one in a point.
        """
        if not len(cloud):
            raise LaneInvalid("cloud is empty")
        xyz = cloud.xyz()
        points = project_points(xyz, motion, self.target)
        if not points.returns:
            raise LaneInvalid(f"cloud has {len(cloud)} points and none is a return (all NaN or zero)")
        figures = {"points": points.returns, "no_return": len(cloud) - points.returns,
                   "points_in_image": len(points.index), "deskewed": deskewed}
        name = next((name for name in INTENSITY_FIELDS if name in cloud.names), None)
        if name is None:
            return Returns(points, np.zeros(len(points.index), np.float32), figures)    # NO_INTENSITY, once encoded
        raw = cloud.scalar(name)
        full = intensity_max or (1.0 if raw.dtype.kind == "f" else 255.0)
        with np.errstate(over="ignore", invalid="ignore"):
            intensity = raw[points.index].astype(np.float32) / np.float32(full)
        if np.count_nonzero(intensity > 1) > TOO_BRIGHT * len(intensity):
            with np.errstate(invalid="ignore"):     # damage may look like a signalling NaN
                clipped = np.count_nonzero((raw > full) & np.isfinite(xyz).all(1) & xyz.any(1)) / points.returns
            if clipped > TOO_BRIGHT:
                figures["intensity_clipped"] = clipped
        return Returns(points, intensity, figures)

    def draw(self, parts: Sequence[Returns]) -> LidarImage:
        """Clouds of one or several sensors -> one LidarImage, whose points are theirs in this order.

        figures: those of the cloud, when it is only one; several have their own.
        """
        points = ProjectedPoints.joined([one.points for one in parts])
        p = self.params
        distance, codes = kernels.encode_lidar(
            points.x, points.y, points.z, np.concatenate([one.intensity for one in parts]), p["near_m"],
            np.log(p["max_m"] / p["near_m"]), p["intensity_scale"], p["height_min_m"], p["height_max_m"])
        dilate = int(p["dilate_px"])
        image, own, first = kernels.draw_nearest(points.uv, distance, codes, dilate, self.height, self.width,
                                                 self.target.height, self.target.width)
        figures = dict(parts[0].figures) if len(parts) == 1 else {}
        return LidarImage(image, figures, self.target, points, (own, first, dilate))


def point_times_ns(cloud: Cloud, unit: str = "auto") -> np.ndarray | None:
    """(N,) int64 ns at which each point was measured, in the clock of the cloud's stamp; None when that is not known.

    The field is the first of TIME_FIELDS; its values are relative to the stamp, or absolute when they are near it.
    unit: a key of TIME_UNITS, or 'none' to leave the field alone, or 'auto': floats are seconds, or else the largest
    unit that makes them a sweep; integers are nanoseconds, or microseconds when the sweep would else be shorter than
    2 ms. None without such a field, or when no reading makes it times near the stamp. Raises MessageError for a field
    with several values per point.
    """
    name = next((name for name in TIME_FIELDS if name in cloud.names), None)
    if name is None or not len(cloud) or unit == "none":
        return None
    values = cloud.scalar(name)
    is_float = values.dtype.kind == "f"
    if is_float and not (finite := np.isfinite(values)).all():
        if not finite.any():
            return None
        values = np.where(finite, values, values[finite].min())     # points without a return; any time will do
    low, high = float(values.min()), float(values.max())
    longest, stamp = LONGEST_SWEEP_SEC, cloud.stamp_ns * 1e-9
    if unit != "auto":
        units = (TIME_UNITS[unit],)
    elif is_float:
        units = tuple(TIME_UNITS.values())                  # seconds first, down to nanoseconds
    else:
        units = (1_000, 1) if 0 < high - low < 2_000_000 else (1, 1_000)
    for ns in units:
        first, last = low * ns * 1e-9, high * ns * 1e-9
        likely = ns == units[0] or last - first >= SHORTEST_SWEEP_SEC
        if likely and -longest <= first and last <= longest:
            if is_float:
                return cloud.stamp_ns + np.rint(values * float(ns)).astype(np.int64)
            return cloud.stamp_ns + values.astype(np.int64) * ns
        if stamp - longest <= last <= stamp + longest and stamp > longest and values.dtype.itemsize == 8:
            timed = np.where(values == 0, high, values)             # 0 among absolute times is no return either
            if float(timed.min()) * ns * 1e-9 >= stamp - longest:
                # Seconds since 1970 times 1e9 do not fit float64's 53 bits: whole and part go separately.
                whole = np.floor(timed)
                return whole.astype(np.int64) * ns + np.rint((timed - whole) * ns).astype(np.int64)
    return None
