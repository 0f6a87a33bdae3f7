"""Radar lane: detections, or a polar image, as a range, intensity and Doppler image in the target camera's view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mss_models.modality import Encoding
from mss_perception import kernels
from mss_perception.camera import Camera
from mss_perception.lane import LaneImage, require
from mss_perception.messages import Cloud, MessageError
from mss_perception.projection import Motion, ProjectedPoints, project_points

# Names of fields in lower case; the first that a cloud has counts. Of ti_mmwave_rospkg, smartmicro_ros2_radars (umrr),
# Provizio, CARLA's and Oculii's drivers, radar_msgs/RadarReturn, nuScenes and View of Delft.
SPEED_FIELDS = ("doppler", "velocity", "radial_speed", "radial_velocity", "doppler_velocity", "range_rate", "v_r", "vr",
                "v_doppler_mps", "radar_relative_radial_velocity")
INTENSITY_FIELDS = ("rcs", "intensity", "power", "amplitude", "snr", "snr_db", "signal_to_noise_ratio")
RANGE_FIELDS = ("range", "distance")
AZIMUTH_FIELDS = ("azimuth", "azimuth_angle", "azimuthangle")
ELEVATION_FIELDS = ("elevation", "elevation_angle", "elevationangle")

# The polar image of MUSES (Broedermann et al., ECCV 2024; its SDK, processing/radar_processing.py): one column per
# azimuth, 11 rows of header, then one row per range.
POLAR_AZIMUTHS, POLAR_HEADER_ROWS, POLAR_VALID_ROW = 400, 11, 10
POLAR_AHEAD = slice(145, 255)       # what the frame camera sees
POLAR_BIN_M = 0.0438
POLAR_HEIGHT_M = -1.62              # the radar has no elevation: every return is taken to lie on the ground


@dataclass(frozen=True)
class Detections:
    """What a radar found. xyz (N, 3) float32 metres in its frame, NaN or (0, 0, 0) for none.

    intensity (N,) float32, 0..1 of the driver's range, or None when not measured. speed (N,) float32 m/s away from the
    radar as measured by it (it moves, too), NaN where not measured.
    """

    xyz: np.ndarray
    intensity: np.ndarray | None
    speed: np.ndarray


@dataclass(frozen=True)
class Echoes:
    """One radar's detections in the target camera's view: points, (N,) float32 intensities 0..1 and speeds.

    figures: points, no_return (NaN, infinite, or exactly (0, 0, 0)), points_in_image (as of lidar.Returns), deskewed.
    """

    points: ProjectedPoints
    intensity: np.ndarray
    speed: np.ndarray
    figures: dict[str, int | float | bool]


class RadarLane:
    """Projects radar detections into the target camera through its distortion; the nearest wins.

    encoding 'range_intensity_doppler': see mss_models.modality.SCHEMES. Raises ValueError for another one.
    """

    def __init__(self, encoding: Encoding, target: Camera, height: int, width: int):
        require(encoding, "range_intensity_doppler")
        self.target, self.height, self.width, self.params = target, height, width, encoding.params
        one = Detections(np.ones((1, 3), np.float32), None, np.ones(1, np.float32))
        self.draw([self.locate(one, Motion.fixed(np.eye(4)))])      # compiles now, not while the first scan waits

    def locate(self, found: Detections, motion: Motion, deskewed: bool = False) -> Echoes:
        """A radar's detections in the target camera; an empty scan is a valid one: the radar found nothing.

        motion: where the radar was (Transforms.moved); deskewed: each detection is moved by its own time.
        """
        points = project_points(found.xyz, motion, self.target)
        intensity = np.zeros(points.count, np.float32) if found.intensity is None else found.intensity
        return Echoes(points, intensity[points.index], found.speed[points.index],
                      {"points": points.returns, "no_return": points.count - points.returns,
                       "points_in_image": len(points.index), "deskewed": deskewed})

    def draw(self, parts: Sequence[Echoes]) -> LaneImage:
        """Detections of at least one radar -> LaneImage. figures: the radar's, when it is only one."""
        points = ProjectedPoints.joined([one.points for one in parts])
        p = self.params
        distance, codes = kernels.encode_radar(
            points.x, points.y, points.z, np.concatenate([one.intensity for one in parts]),
            np.concatenate([one.speed for one in parts]), p["near_m"], np.log(p["max_m"] / p["near_m"]),
            p["doppler_max_mps"])
        half = np.full(len(distance), p["dilate_px"] + 0.5, np.float32)
        image, _ = kernels.draw_squares(points.uv, distance, codes, half, self.height, self.width, self.target.height,
                                        self.target.width)
        return LaneImage(image, dict(parts[0].figures) if len(parts) == 1 else {})


def cloud_detections(cloud: Cloud, intensity_min: float, intensity_max: float) -> Detections:
    """Detections of a PointCloud2: x and y, or range and azimuth (radians, left positive, REP 103).

    z, or elevation, is 0 without such a field. The speed is one of SPEED_FIELDS, or the radial part of vx and vy.
    intensity_min, intensity_max: what of one of INTENSITY_FIELDS becomes 0 and 1. Raises MessageError without positions
    or for a field with several values per point.
    """
    names = {name.lower(): name for name in reversed(cloud.names)}

    def column(*known: str) -> np.ndarray | None:
        name = next((names[name] for name in known if name in names), None)
        with np.errstate(over="ignore"):
            return None if name is None else cloud.scalar(name).astype(np.float32)

    none = np.zeros(len(cloud), np.float32)
    x, y, z = column("x"), column("y"), column("z")
    if x is None or y is None:
        distance, azimuth = column(*RANGE_FIELDS), column(*AZIMUTH_FIELDS)
        if distance is None or azimuth is None:
            raise MessageError(f"radar cloud has neither x and y nor range and azimuth; fields: "
                               f"{', '.join(cloud.names)}")
        elevation = column(*ELEVATION_FIELDS)
        elevation = none if elevation is None else elevation
        with np.errstate(invalid="ignore"):     # an infinite angle is no return
            level = distance * np.cos(elevation)
            x, y, z = level * np.cos(azimuth), level * np.sin(azimuth), distance * np.sin(elevation)
    xyz = np.stack([x, y, none if z is None else z], -1)
    speed, vx, vy = column(*SPEED_FIELDS), column("vx"), column("vy")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if speed is None:
            speed = np.full_like(none, np.nan) if vx is None or vy is None else (x * vx + y * vy) / np.hypot(x, y)
        raw = column(*INTENSITY_FIELDS)
        intensity = None if raw is None else (raw - np.float32(intensity_min)) / np.float32(
            intensity_max - intensity_min)
    return Detections(xyz, intensity, speed)


def polar_detections(image: np.ndarray, max_m: float) -> tuple[Detections, np.ndarray]:
    """A polar image of MUSES, (rows, 400) uint8 -> its returns up to max_m, and when each was measured, (N,) int64 ns.

    Columns of azimuths: rows 0 to 3 and 4 to 7 hold seconds and nanoseconds (uint32, little-endian), row 10 is 0 where
    the column is not valid, the rest are intensities by range, 0 for no return. Raises MessageError for another image.
    """
    if image.ndim != 2 or image.dtype != np.uint8 or image.shape[1] != POLAR_AZIMUTHS or \
            len(image) <= POLAR_HEADER_ROWS:
        raise MessageError(f"polar radar image is {image.dtype} {image.shape}; must be uint8 with more than "
                           f"{POLAR_HEADER_ROWS} rows and {POLAR_AZIMUTHS} columns")
    azimuths = -np.deg2rad(np.linspace(-180 + 360 / POLAR_AZIMUTHS, 180, POLAR_AZIMUTHS))[POLAR_AHEAD]
    columns = np.ascontiguousarray(image[:, POLAR_AHEAD].T)                     # (azimuths, rows)
    seconds, nanoseconds = (np.ascontiguousarray(columns[:, rows]).view("<u4")[:, 0].astype(np.int64)
                            for rows in (slice(0, 4), slice(4, 8)))
    distances = POLAR_BIN_M * np.arange(1, columns.shape[1] - POLAR_HEADER_ROWS + 1)
    values = columns[:, POLAR_HEADER_ROWS:] * (columns[:, POLAR_VALID_ROW:POLAR_VALID_ROW + 1] != 0)
    azimuth, distance = np.nonzero(values[:, :np.searchsorted(distances, max_m, side="right")])
    xyz = np.stack([distances[distance] * np.cos(azimuths[azimuth]), distances[distance] * np.sin(azimuths[azimuth]),
                    np.full(len(distance), POLAR_HEIGHT_M)], -1).astype(np.float32)
    intensity = values[azimuth, distance].astype(np.float32) / np.float32(255)
    return (Detections(xyz, intensity, np.full(len(xyz), np.nan, np.float32)),
            (seconds * 1_000_000_000 + nanoseconds)[azimuth])
