"""From hits to what a sensor sees: albedo and near-infrared reflectance of each material, then light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.synthetic.kernels import Material, shade_radiance, shade_surface
from training.synthetic.looks import CLASS
from training.synthetic.raycast import Hits
from training.synthetic.weather import Light

# Reflectance of each material at the LiDAR's wavelength (905 nm), where the pattern does not say otherwise.
_NIR = np.full(len(Material), 0.3, np.float32)
for _material, _value in (
    (Material.ROAD, 0.12),
    (Material.PAVING, 0.3),
    (Material.GRASS, 0.5),
    (Material.FACADE, 0.4),
    (Material.BRICK, 0.32),
    (Material.BARK, 0.25),
    (Material.LEAVES, 0.55),
    (Material.PAINT, 0.25),
    (Material.CAR_GLASS, 0.05),
    (Material.RUBBER, 0.05),
    (Material.METAL, 0.4),
    (Material.SIGN, 1.0),
    (Material.CLOTH, 0.4),
    (Material.WATER, 0.02),
    (Material.CONCRETE, 0.36),
    (Material.GRAVEL, 0.25),
    (Material.BUS_SIDE, 0.3),
    (Material.HEADLIGHT, 0.7),
    (Material.TAILLIGHT, 0.9),
    (Material.LAMP, 0.3),
):
    _NIR[_material] = _value


@dataclass
class Surface:
    """Of N hits: albedo (N, 3) f32; emission (N, 3) f32 radiance; gloss, nir (N,) f32 0..1; label (N,) u8."""

    albedo: np.ndarray
    emission: np.ndarray
    gloss: np.ndarray
    nir: np.ndarray
    label: np.ndarray


def surface(
    hits: Hits, footprint: np.ndarray, surfaces: dict[str, np.ndarray], styles: np.ndarray, light: Light
) -> Surface:
    """The surface under every hit; sky where nothing was hit. `footprint` (N,): width of the pixel there, metres."""
    count = len(hits.face)
    out = Surface(
        np.zeros((count, 3), np.float32),
        np.zeros((count, 3), np.float32),
        np.zeros(count, np.float32),
        np.zeros(count, np.float32),
        np.full(count, CLASS["Sky"], np.uint8),
    )
    shade_surface(
        hits.face,
        hits.uv,
        footprint,
        surfaces["material"],
        surfaces["label"],
        surfaces["colour"],
        surfaces["style"],
        styles,
        _NIR,
        CLASS["RoadLine"],
        light.lamps,
        light.rain,
        out.albedo,
        out.emission,
        out.gloss,
        out.nir,
        out.label,
    )
    return out


def radiance(
    surface: Surface,
    hits: Hits,
    origins: np.ndarray,
    directions: np.ndarray,
    lit: np.ndarray,
    light: Light,
    points: np.ndarray,
    spots: np.ndarray,
    mirrored: np.ndarray,
) -> np.ndarray:
    """(N, 3) f32 radiance towards the camera.

    lit (N,) bool: reached by the sun; points (P, 7): lamps at x y z, their colour and their range, metres, shining
    downwards; spots (Q, 6): head-lights at x y z and their unit direction. Lamps cast no shadows. mirrored (N, 3) f32:
    what glossy surfaces show, negative where they show the sky; (0, 3): the sky everywhere."""
    out = np.zeros((len(hits.face), 3), np.float32)
    shade_radiance(
        hits.face,
        hits.t,
        hits.normal,
        origins,
        directions,
        lit,
        surface.albedo,
        surface.emission,
        surface.gloss,
        light.direction,
        light.sun,
        light.sky,
        light.zenith,
        light.horizon,
        light.clouds,
        float(light.seed),
        light.lamps,
        points,
        spots,
        mirrored,
        out,
    )
    return out
