"""A radar at the front bumper: few detections, each with its speed towards or away from it, in any weather.

Rays stand for parts of the wave front. What they meet in one cell of azimuth, range and Doppler speed answers as one
target, whose radar cross section decides, by the radar equation (power ~ cross section / range^4), up to where it is
found. At 77 GHz fog takes nothing that matters within 120 m, and rain less than one dB.
"""

from __future__ import annotations

import numpy as np

from training.synthetic.drive import Drive
from training.synthetic.kernels import Material
from training.synthetic.rig import Radar

# Cross section per area that faces the radar, and how much of it depends on facing squarely.
_ECHO = np.full(len(Material), 0.5, np.float32)
_MIRROR = np.zeros(len(Material), np.float32)
for _material in (Material.PAINT, Material.METAL, Material.SIGN, Material.BUS_SIDE, Material.HEADLIGHT,
                  Material.TAILLIGHT, Material.WHEEL, Material.SIGNAL):
    _ECHO[_material], _MIRROR[_material] = 5.0, 0.8
for _material in (Material.ROAD, Material.PAVING, Material.GRASS, Material.SOIL, Material.WATER):
    _ECHO[_material] = 0.02
for _material in (Material.LEAVES, Material.BARK, Material.WOOD):
    _ECHO[_material] = 0.25
_ECHO[Material.CLOTH] = 1.2
_FALSE_ALARMS = 1.5  # a scan, on average
_STEP = 5e-3  # seconds, of the central differences


def scan(
    drive: Drive, radar: Radar, T_base_radar: np.ndarray, t: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Detections at time t as PointCloud2 fields (N,) f32: x y z metres in the radar's frame, velocity m/s away from
    the radar as it moves, rcs dBsm. The strongest ones, the nearest first."""
    pose = drive.ego.pose(t) @ T_base_radar
    own = (drive.ego.pose(t + _STEP) @ T_base_radar - drive.ego.pose(t - _STEP) @ T_base_radar)[:3, 3] / (2 * _STEP)
    columns, rows = radar.rays
    azimuth, elevation = np.meshgrid(
        np.linspace(-radar.azimuth, radar.azimuth, columns), np.linspace(-radar.elevation, radar.elevation, rows)
    )
    azimuth = (azimuth + rng.uniform(-0.5, 0.5, azimuth.shape) * 2 * radar.azimuth / columns).ravel()
    elevation = (elevation + rng.uniform(-0.5, 0.5, elevation.shape) * 2 * radar.elevation / rows).ravel()
    directions = _unit(azimuth, elevation) @ pose[:3, :3].T
    origins = np.tile(pose[:3, 3].astype(np.float32), (len(directions), 1))
    hits = drive.world.cast(origins, directions.astype(np.float32), drive.world.bodies(t))
    found = (hits.face >= 0) & (hits.t < radar.reach) & (hits.t > 1.0)
    azimuth, elevation, directions = azimuth[found], elevation[found], directions[found]
    distance = hits.t[found].astype(np.float64)
    material = drive.world.surfaces["material"][hits.face[found]]
    facing = np.abs(np.einsum("ij,ij->i", hits.normal[found], directions))
    share = (1 - _MIRROR[material]) * facing + _MIRROR[material] * facing**6
    patch = distance**2 * (2 * radar.azimuth / columns) * (2 * radar.elevation / rows)  # area across the ray
    section = _ECHO[material] * share * patch
    # the last row is what stands still
    moving = np.concatenate([drive.world.velocities(t), np.zeros((1, 3))])[hits.body[found]]
    speed = np.einsum("ij,ij->i", moving - own, directions)
    cells = np.stack([azimuth / radar.azimuth_cell, distance / radar.range_cell, speed / radar.speed_cell], -1)
    _, cell = np.unique(np.floor(cells).astype(np.int64), axis=0, return_inverse=True)
    cell = cell.ravel()
    total = np.bincount(cell, section)
    azimuth, elevation, distance, speed = (
        np.bincount(cell, section * one) / np.maximum(total, 1e-12) for one in (azimuth, elevation, distance, speed)
    )
    fluctuating = total * rng.exponential(1.0, len(total))  # Swerling's case I
    with np.errstate(divide="ignore"):
        rcs = 10 * np.log10(fluctuating)
    # Near echoes are turned down, so that the road in front does not drown the rest.
    excess = rcs + 40 * np.log10(radar.reference / np.maximum(distance, 20.0)) - radar.threshold
    false = min(rng.poisson(_FALSE_ALARMS), radar.most)
    seen = np.argsort(-excess, kind="stable")[: min(radar.most - false, np.count_nonzero(excess > 0))]
    azimuth, elevation, distance, speed, rcs = (
        np.concatenate([one[seen], rng.uniform(low, high, false)])
        for one, low, high in (
            (azimuth, -radar.azimuth, radar.azimuth), (elevation, -radar.elevation, radar.elevation),
            (distance, 2.0, radar.reach), (speed, -20.0, 5.0), (rcs, -12.0, 3.0))
    )
    order = np.argsort(distance, kind="stable")
    noise = rng.standard_normal((4, len(order)))
    place = _unit(azimuth[order] + np.radians(0.4) * noise[0], elevation[order] + np.radians(1.0) * noise[1])
    place = place * (distance[order] + 0.08 * noise[2])[:, None]
    fields = (*place.T, speed[order] + 0.05 * noise[3], rcs[order])
    return {
        name: values.astype(np.float32) for name, values in zip(("x", "y", "z", "velocity", "rcs"), fields, strict=True)
    }


def _unit(azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    """(N, 3) directions; azimuth to the left (REP 103), elevation upwards, radians."""
    level = np.cos(elevation)
    return np.stack([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)], -1)
