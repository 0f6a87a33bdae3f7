"""LiDAR lane: a point cloud as a range, intensity and height image in the target camera's view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mss_models.modality import Encoding
from mss_perception import kernels
from mss_perception.camera import Camera
from mss_perception.lane import LaneImage, LaneInvalid, require
from mss_perception.messages import Cloud, MessageError
from mss_perception.projection import Motion, ProjectedPoints, project_points

TIME_FIELDS = ("t", "time", "timestamp", "time_stamp")
INTENSITY_FIELDS = ("intensity", "reflectivity", "i")
# Point times farther from the stamp are in another unit, or nonsense; so are sweeps shorter than the other, except in
# the unit that the type suggests, for a cloud may hold few points.
LONGEST_SWEEP_SEC, SHORTEST_SWEEP_SEC = 2.0, 0.001


@dataclass
class LidarImage(LaneImage):
    """points: where each point is in the target camera; nearest: (H, W) float32 range in metres of what is drawn."""

    target: Camera | None = None
    points: ProjectedPoints | None = None
    nearest: np.ndarray | None = None

    def label_points(self, labels: np.ndarray, ignore_id: int = 255, keep_hidden: bool = False) -> np.ndarray:
        """Give each point the value of its pixel: (Hc, Wc) of the camera's size -> (N,) of the same type.

        A point outside the image, and unless `keep_hidden` one that is hidden behind a nearer one, gets `ignore_id`.
        """
        if labels.shape != (self.target.height, self.target.width):
            raise ValueError(f"labels are {labels.shape}; must be of the camera's size, {self.target.height} x "
                             f"{self.target.width}")
        return kernels.label_points(labels, self.points.uv, self.points.seen, self.points.xyz, self.nearest, ignore_id,
                                    keep_hidden)


class LidarLane:
    """Projects clouds into the target camera through its distortion; the nearest point wins.

    encoding 'range_intensity_height': see mss_models.modality.DEFAULT_ENCODINGS. Raises ValueError for another one.
    """

    def __init__(self, encoding: Encoding, target: Camera, height: int, width: int):
        require(encoding, "lidar", "range_intensity_height")
        self.target, self.height, self.width = target, height, width
        self.params = {"max_m": 80.0, "near_m": 1.0, "height_min_m": -3.0, "height_max_m": 7.0, "dilate_px": 1,
                       "intensity_scale": 1.0, **encoding.params}
        # Compile now: the first sweep of a running node must not wait seconds for the compiler.
        once = self.project(np.ones((1, 3), np.float32), None, Motion.fixed(np.eye(4)))
        once.label_points(np.zeros((target.height, target.width), np.uint8))

    def __call__(self, cloud: Cloud, motion: Motion, deskewed: bool = False) -> LidarImage:
        """One cloud, with where its sensor was (see Transforms.motion), -> LidarImage.

        figures: points (returns), points_in_image (depth > 0, 0 <= u < width, 0 <= v < height of the camera, before the
        z-buffer), deskewed. Raises LaneInvalid for a cloud without points or without x, y, z.
        """
        if not len(cloud):
            raise LaneInvalid("cloud is empty")
        try:
            xyz = cloud.xyz()
        except MessageError as error:
            raise LaneInvalid(str(error)) from error
        intensity = next((cloud.field(name) for name in INTENSITY_FIELDS if name in cloud.names), None)
        result = self.project(xyz, intensity, motion)
        result.figures["deskewed"] = deskewed
        if not result.figures["points"]:
            raise LaneInvalid(f"cloud has {len(cloud)} points and none is a return (all NaN or zero)")
        return result

    def project(self, xyz: np.ndarray, intensity: np.ndarray | None, motion: Motion) -> LidarImage:
        """(N, 3) points in the sensor's frame and their (N,) intensities (None: unknown, drawn as 1) -> LidarImage."""
        points = project_points(xyz, motion, self.target)
        if intensity is None:
            intensity = np.zeros(len(xyz), np.float32)
        p = self.params
        distance, codes = kernels.encode_lidar(
            points.xyz, points.seen, np.ascontiguousarray(intensity, np.float32), float(p["near_m"]),
            np.log(p["max_m"] / p["near_m"]), float(p["intensity_scale"]), float(p["height_min_m"]),
            float(p["height_max_m"]))
        half = np.array([p["dilate_px"] + 0.5], np.float32)
        image, nearest = kernels.draw_nearest(points.uv, points.seen, distance, codes, half,
                                              self.height, self.width, self.target.height, self.target.width)
        figures = {"points": int(points.returns), "points_in_image": int(np.count_nonzero(points.seen))}
        return LidarImage(image, figures, self.target, points, nearest)


def point_times_ns(cloud: Cloud) -> np.ndarray | None:
    """(N,) int64 ns at which each point was measured, in the clock of the cloud's stamp; None when that is not known.

    The field is the first of TIME_FIELDS. Floats are seconds, or else the largest unit among milliseconds, microseconds
    and nanoseconds that makes them a sweep; integers are nanoseconds, or microseconds when the sweep would else be
    shorter than 2 ms. Values are relative to the stamp, or absolute when they are near it. None without such a field,
    or when no reading makes it times near the stamp.
    """
    name = next((name for name in TIME_FIELDS if name in cloud.names), None)
    if name is None or not len(cloud):
        return None
    values = cloud.field(name)
    is_float = values.dtype.kind == "f"
    if values.ndim != 1:
        return None
    if is_float and not (finite := np.isfinite(values)).all():
        if not finite.any():
            return None
        values = np.where(finite, values, values[finite].min())     # points without a return; any time will do
    low, high = float(values.min()), float(values.max())
    longest, stamp = LONGEST_SWEEP_SEC, cloud.stamp_ns * 1e-9
    if is_float:
        units = (1_000_000_000, 1_000_000, 1_000, 1)        # seconds first, down to nanoseconds
    else:
        units = (1_000, 1) if 0 < high - low < 2_000_000 else (1, 1_000)
    for unit in units:
        first, last = low * unit * 1e-9, high * unit * 1e-9
        likely = unit == units[0] or last - first >= SHORTEST_SWEEP_SEC
        if likely and -longest <= first and last <= longest:
            if is_float:
                return cloud.stamp_ns + np.rint(values * float(unit)).astype(np.int64)
            return cloud.stamp_ns + values.astype(np.int64) * unit
        if stamp and stamp - longest <= first and last <= stamp + longest:
            # Seconds since 1970 times 1e9 do not fit float64's 53 bits: whole and part go separately.
            whole = np.floor(values)
            return whole.astype(np.int64) * unit + np.rint((values - whole) * unit).astype(np.int64)
    return None
