"""The sensors on the vehicle: where they sit, how they see, when they measure and when their messages arrive."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mss_perception.camera import Camera
from mss_perception.rigid import inverse
from training.synthetic.mesh import pose

MS = 1_000_000  # nanoseconds
COARSE = 4  # of the case eventlowres


@dataclass(frozen=True)
class Timing:
    """Period between samples; offset of the sample's stamp against the rgb frame it belongs to; latency from stamp to
    reception, with a jitter's standard deviation. Nanoseconds."""

    period_ns: int
    offset_ns: int
    latency_ns: int
    jitter_ns: int


TIMING = {
    "rgb": Timing(100 * MS, 0, 14 * MS, 1 * MS),
    "depth": Timing(100 * MS, 4 * MS, 26 * MS, 2 * MS),
    "lidar": Timing(100 * MS, -6 * MS, 17 * MS, 1 * MS),  # stamp = end of the sweep
    "radar": Timing(100 * MS, -3 * MS, 12 * MS, 1 * MS),
    "event": Timing(10 * MS, 0, 3 * MS, MS // 2),  # stamp = begin of the packet; latency counts from its end
    "odom": Timing(10 * MS, 0, 1 * MS, 0),
}

# optical axes (x right, y down, z forward; REP 103) in a body whose x points forwards
_OPTICAL = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], float)


@dataclass(frozen=True)
class Lidar:
    """A spinning LiDAR: ring elevations (radians), columns per turn, farthest return and its noise, metres."""

    elevations: np.ndarray
    columns: int
    reach: float = 100.0
    noise: float = 0.02


@dataclass(frozen=True)
class Radar:
    """A radar that looks ahead. Half angles of its view and cells, radians; farthest detection and range cell, metres;
    Doppler cell, m/s; `reference`: where a target of 1 m^2 is as strong as the noise; `threshold`: dB above it that
    make a detection; `most` of them a scan; `rays` across and up that its simulation casts."""

    azimuth: float = np.radians(60.0)
    elevation: float = np.radians(9.0)
    azimuth_cell: float = np.radians(1.5)
    range_cell: float = 0.6
    speed_cell: float = 0.25
    reach: float = 120.0
    reference: float = 70.0
    threshold: float = 6.0
    most: int = 128
    rays: tuple[int, int] = (241, 15)


@dataclass(frozen=True)
class Rig:
    """Cameras, LiDAR, radar, and T_base_<frame> (4, 4) of every sensor frame."""

    rgb: Camera
    depth: Camera
    event: Camera
    lidar: Lidar
    radar: Radar
    mounts: dict[str, np.ndarray]

    @classmethod
    def of_size(cls, size: int, events_coarse: bool = False) -> Rig:
        """The rig whose rgb camera has size x size pixels; the other sensors scale with it. `size` >= 16.

        events_coarse: its event camera has 1 / COARSE as many pixels across and down."""
        if size < 16:
            raise ValueError(f"size = {size} pixels is too small; at least 16")
        focal = size / 2.0  # 90 degrees across before distortion
        rgb = _camera(size, size, focal, 0.505, 0.492, (-0.09, 0.012, 0.0006, -0.0005, 0.001), "camera_optical")
        depth = _camera(
            size, size * 3 // 4, 0.93 * focal, 0.497, 0.508, (-0.045, 0.006, -0.0003, 0.0004, 0.0), "depth_optical"
        )
        event = _camera(
            size, size * 3 // 4, 0.95 * focal, 0.503, 0.495, (-0.11, 0.02, 0.0004, 0.0007, -0.002), "event_optical"
        )
        if events_coarse:
            event = event.scaled(max(1, event.width // COARSE), max(1, event.height // COARSE))
        mounts = {
            "camera_optical": pose(1.55, 0.0, 1.46, yaw=0.004, pitch=0.035) @ _OPTICAL,
            "depth_optical": pose(1.55, -0.06, 1.46, yaw=-0.008, pitch=0.045) @ _OPTICAL,
            "event_optical": pose(1.55, 0.07, 1.47, yaw=0.006, pitch=0.04, roll=0.007) @ _OPTICAL,
            "radar": pose(2.05, 0.0, 0.55, yaw=0.003),
            "lidar": pose(0.7, 0.0, 1.92, yaw=0.01, pitch=0.008),
        }
        rings = int(np.clip(size // 5, 32, 64))
        # denser around the horizon, as on sensors made for the road
        spread = np.linspace(-1, 1, rings)
        elevations = np.radians(-7.0 + 12.0 * spread + 8.0 * spread**3)
        return cls(rgb, depth, event, Lidar(elevations, 900), Radar(), mounts)

    def camera(self, name: str) -> Camera:
        return {"rgb": self.rgb, "depth": self.depth, "event": self.event}[name]

    def mount(self, frame: str) -> np.ndarray:
        """T_base_frame."""
        return self.mounts[frame]

    def between(self, target: str, source: str) -> np.ndarray:
        """T_target_source of two sensor frames."""
        return inverse(self.mounts[target]) @ self.mounts[source]


def _camera(width: int, height: int, focal: float, cx: float, cy: float, distortion: tuple, frame: str) -> Camera:
    matrix = np.array([[focal, 0, cx * width - 0.5], [0, focal * 1.003, cy * height - 0.5], [0, 0, 1]])
    return Camera(width, height, matrix, "plumb_bob", distortion, frame)
