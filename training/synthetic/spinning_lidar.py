"""A spinning LiDAR: every column is cast from where the vehicle is at that column's own time."""

from __future__ import annotations

import numpy as np

from training.synthetic import air
from training.synthetic.drive import Drive
from training.synthetic.rig import Lidar

_SLICES = 5  # traffic stands still for a fifth of a sweep: 0.2 m at 10 m/s, of which half is error at most


def sweep(
    drive: Drive, lidar: Lidar, T_base_lidar: np.ndarray, end: float, period: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """One turn that ends at time `end`, as PointCloud2 fields (N,): x y z f32 metres in the LiDAR's frame at the
    point's own time, intensity f32 0..1, ring u16 (0 lowest), time f32 seconds relative to `end`, in (-period, 0].

    The turn runs clockwise from behind. Weak returns are lost: dark, mirroring, grazing and far surfaces, and what fog
    and rain take; droplets send some of it back too early."""
    rings, columns = len(lidar.elevations), lidar.columns
    times = period * ((np.arange(columns) + 1) / columns - 1)
    azimuth = np.pi - 2 * np.pi * (np.arange(columns) + 0.5) / columns
    poses = drive.ego.pose(end + times) @ T_base_lidar  # (columns, 4, 4)
    cos, sin = np.cos(lidar.elevations), np.sin(lidar.elevations)
    local = np.stack(
        [np.cos(azimuth)[:, None] * cos, np.sin(azimuth)[:, None] * cos, np.broadcast_to(sin, (columns, rings))], -1
    )  # (columns, rings, 3)
    directions = np.einsum("cij,crj->cri", poses[:, :3, :3], local).astype(np.float32)
    origins = np.broadcast_to(poses[:, None, :3, 3], directions.shape).astype(np.float32)
    found = []
    for part in np.array_split(np.arange(columns), _SLICES):
        bodies = drive.world.bodies(end + float(times[part].mean()))
        found.append(_returns(drive, origins[part].reshape(-1, 3), directions[part].reshape(-1, 3), bodies, lidar, rng))
    distance, intensity = (np.concatenate(column) for column in zip(*found, strict=True))
    kept = np.isfinite(distance)
    points = (local.reshape(-1, 3)[kept] * distance[kept, None]).astype(np.float32)
    column, ring = np.divmod(np.flatnonzero(kept), rings)
    return {
        "x": points[:, 0].copy(),
        "y": points[:, 1].copy(),
        "z": points[:, 2].copy(),
        "intensity": intensity[kept],
        "ring": ring.astype(np.uint16),
        "time": times[column].astype(np.float32),
    }


def _returns(drive: Drive, origins, directions, bodies, lidar: Lidar, rng) -> tuple[np.ndarray, np.ndarray]:
    """Measured range (N,) f64 with noise, NaN where nothing came back, and intensity (N,) f32 in 0..1."""
    hits = drive.world.cast(origins, directions, bodies)
    seen = drive.surface(hits, directions, 0.003)
    facing = np.clip(-np.einsum("ij,ij->i", hits.normal, directions), 0.0, 1.0)
    # the better a surface sends light straight back (signs, plates), the less its angle matters
    strength = seen.nir * facing ** (1.0 - seen.nir) * air.there_and_back(np.minimum(hits.t, 300.0), drive.light)
    chance = 0.99 * (1.0 - np.exp(-strength * 22.0 * (30.0 / np.maximum(hits.t, 1.0)) ** 2))
    kept = (hits.face >= 0) & (hits.t > 0.8) & (hits.t < lidar.reach) & (rng.random(len(chance)) < chance)
    distance = np.where(kept, hits.t + lidar.noise * rng.standard_normal(len(chance)), np.nan)
    intensity = np.clip(strength * (1 + 0.06 * rng.standard_normal(len(chance))), 0.0, 1.0).astype(np.float32)
    return air.false_returns(distance, intensity, drive.light, rng)


def jittered(cloud: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The sweep of a LiDAR that shakes on its mount: its own frame swings by about a degree, many times a turn, and
    nothing tells where it was."""
    size, rate = np.radians(rng.uniform(0.8, 2.0, 3)), 2 * np.pi * rng.uniform(15.0, 45.0, 3)
    roll, pitch, yaw = (
        size[:, None] * np.sin(rate[:, None] * cloud["time"] + rng.uniform(0, 2 * np.pi, (3, 1)))
        + np.radians(0.4) * rng.standard_normal((3, len(cloud["time"])))
    )
    distance = np.sqrt(cloud["x"] ** 2 + cloud["y"] ** 2 + cloud["z"] ** 2)
    scale = 1 + 0.05 * rng.standard_normal(len(distance)) / np.maximum(distance, 0.5)  # 5 cm
    x, y, z = (cloud[name] * scale for name in "xyz")
    turned = {"x": x - yaw * y + pitch * z, "y": y + yaw * x - roll * z, "z": z - pitch * x + roll * y}  # small angles
    return {**cloud, **{name: values.astype(np.float32) for name, values in turned.items()}}
