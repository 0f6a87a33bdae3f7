"""From hits to what a sensor sees: albedo and near-infrared reflectance of each material, then light."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mss_perception.compiled import compiled
from training.synthetic.looks import CLASS, Material
from training.synthetic.raycast import Hits
from training.synthetic.textures import (
    bricks,
    cell,
    clamp,
    fractal,
    lane_markings,
    pulse,
    sign_colour,
    train,
    value_noise,
    window_grid,
)
from training.synthetic.weather import Light

# numba takes enum members of module scope only as plain integers
PLAIN, ROAD, PAVING, GRASS, FACADE, BRICK, BARK, LEAVES = (int(m) for m in list(Material)[:8])
PAINT, CAR_GLASS, RUBBER, METAL, SIGN, LAMP, SIGNAL, CLOTH = (int(m) for m in list(Material)[8:16])
WATER, CONCRETE, GRAVEL, BUS_SIDE, HEADLIGHT, TAILLIGHT, TILES, WOOD, WHEEL, SOIL = (
    int(m) for m in list(Material)[16:]
)
ROAD_LINE = CLASS["RoadLine"]

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
    _surface(
        hits.face,
        hits.uv,
        footprint,
        surfaces["material"],
        surfaces["label"],
        surfaces["colour"],
        surfaces["style"],
        styles,
        _NIR,
        light.lamps,
        out.albedo,
        out.emission,
        out.gloss,
        out.nir,
        out.label,
    )
    return out


@compiled
def _surface(
    face, uv, footprint, materials, labels, colours, style_of, styles, nirs, lamps, albedo, emission, gloss, nir, label
):
    for i in range(len(face)):
        f = face[i]
        if f < 0:
            continue
        m, style = materials[f], styles[style_of[f]]
        u, v, w = uv[i, 0], uv[i, 1], footprint[i]
        r, g, b = colours[f, 0], colours[f, 1], colours[f, 2]
        label[i], reflect, shine, glow = labels[f], nirs[m], 0.0, 0.0
        k = 1.0  # brightness of the pattern
        if m == ROAD:
            k = 1 + 0.3 * fractal(u * 7, v * 7, w * 7, 4, 1) + 0.2 * fractal(u * 0.12, v * 0.5, w, 2, 9)
            crack = abs(value_noise(u * 0.35, v * 0.35 + 7, 3))
            k *= 1 - 0.45 * clamp(1 - crack * 45, 0.0, 1.0) * clamp(1.2 - 12 * w, 0.0, 1.0)
            paint = lane_markings(u, v, w, style)
            if paint > 0.5:
                label[i] = ROAD_LINE
            worn = paint * (0.88 + 0.3 * fractal(u * 2, v * 2, w * 2, 3, 4))
            asphalt = k * (1 - worn)
            r, g, b = r * asphalt + 0.72 * worn, g * asphalt + 0.72 * worn, b * asphalt + 0.7 * worn
            reflect = reflect * k * (1 - worn) + 0.8 * worn
            k = 1.0
        elif m == PAVING:
            pitch = style[0]
            joint = min(1.0, train(u, pitch, 0.0, 0.025, w) + train(v, pitch, 0.0, 0.025, w))
            tint = 2 * cell(int(math.floor(u / pitch)), int(math.floor(v / pitch)), 2) - 1
            k = (1 + 0.14 * tint * clamp(1.6 - 2 * w / pitch, 0.0, 1.0) + 0.18 * fractal(u * 2, v * 2, w * 2, 4, 6)) * (
                1 - 0.5 * joint
            )
        elif m == GRASS:
            k = 1 + 0.7 * fractal(u * 4, v * 4, w * 4, 4, 11) + 0.3 * fractal(u * 0.1, v * 0.1, w * 0.1, 3, 12)
            g *= 1 + 0.2 * fractal(u * 0.3, v * 0.3, w * 0.3, 2, 13)
        elif m == SOIL:
            k = 1 + 0.4 * fractal(u * 1.5, v * 1.5, w * 1.5, 5, 21)
        elif m == GRAVEL:
            k = 1 + 0.9 * fractal(u * 9, v * 9, w * 9, 3, 31)
        elif m == CONCRETE:
            k = 1 + 0.16 * fractal(u * 1.2, v * 1.2, w * 1.2, 5, 41) - 0.25 * train(u, 2.4, 0.0, 0.02, w)
        elif m == FACADE:
            pane, frame, column, row = window_grid(u, v, w, style)
            k = 1 + 0.1 * fractal(u * 0.8, v * 0.8, w, 4, 51 + int(style[5]))
            if style[6] > 0.5:
                mortar, tint = bricks(u, v, w)
                k *= (1 + 0.18 * tint) * (1 + 0.25 * mortar)
            dark = 0.035 + 0.09 * cell(column, row, int(style[5]))
            wall = max(0.0, 1 - pane - frame)
            r = r * k * wall + 0.55 * frame + dark * pane
            g = g * k * wall + 0.55 * frame + dark * 1.08 * pane
            b = b * k * wall + 0.53 * frame + dark * 1.2 * pane
            k = 1.0
            shine = 0.55 * pane
            reflect = reflect * wall + 0.35 * frame + 0.07 * pane
            if lamps > 0 and cell(column, row, int(style[5]) + 77) < style[7] + (
                0.4 if style[4] > 0.5 and row == 0 else 0.0
            ):
                glow = 0.16 * pane * lamps * (0.4 + cell(column, row, 78))
                emission[i, 0], emission[i, 1], emission[i, 2] = glow, 0.78 * glow, 0.45 * glow
                glow = 0.0
        elif m == BRICK:
            mortar, tint = bricks(u, v, w)
            k = 1 + 0.22 * tint + 0.14 * fractal(u, v, w, 4, 61)
            r, g, b = (
                r * (1 - mortar) + 0.4 * mortar,
                g * (1 - mortar) + 0.38 * mortar,
                b * (1 - mortar) + 0.35 * mortar,
            )
        elif m == TILES:
            k = (1 + 0.2 * fractal(u * 2, v * 2, w * 2, 3, 71)) * (1 - 0.35 * train(v, 0.35, 0.0, 0.07, w))
        elif m == WOOD:
            k = 1 + 0.3 * fractal(u * 9, v * 1.2, w * 5, 3, 81)
        elif m == BARK:
            k = 1 + 0.5 * fractal(u * 2, v * 9, w * 5, 3, 91)
        elif m == LEAVES:
            k = 1 + 0.75 * fractal(u * 3, v * 3, w * 3, 3, 101)
        elif m == PAINT:
            shine = 0.35
            reflect = 0.08 + 0.6 * (r + g + b) / 3
        elif m == CAR_GLASS:
            pillar = min(
                1.0,
                pulse(u, -1.0, 0.07, 0.02)
                + pulse(u, 0.93, 2.0, 0.02)
                + pulse(v, -1.0, 0.06, 0.02)
                + pulse(v, 0.92, 2.0, 0.02)
                + pulse(u, 0.5, 0.54, 0.02),
            )
            r, g, b = (
                r * pillar + 0.025 * (1 - pillar),
                g * pillar + 0.03 * (1 - pillar),
                b * pillar + 0.033 * (1 - pillar),
            )
            shine = 0.35 * pillar + 0.7 * (1 - pillar)
            reflect = 0.3 * pillar + 0.04 * (1 - pillar)
        elif m == METAL:
            k = 1 + 0.12 * fractal(u * 4, v * 4, w * 4, 2, 111)
            shine = 0.12
        elif m == SIGN:
            r, g, b = sign_colour(int(style[0]), style[1], u, v)
            glow = 0.0
        elif m == CLOTH:
            k = 1 + 0.2 * fractal(u * 6, v * 6, w * 6, 2, 121)
        elif m == WATER:
            shine = 0.9 * (1 + 0.25 * fractal(u * 1.2, v * 2.4, w * 2, 3, 131))
        elif m == BUS_SIDE:
            pane = train(u, 1.5, 0.06, 1.44, w) * pulse(v, 1.05, 2.15, w)
            r, g, b = r * (1 - pane) + 0.03 * pane, g * (1 - pane) + 0.035 * pane, b * (1 - pane) + 0.04 * pane
            shine = 0.3 + 0.4 * pane
            reflect = reflect * (1 - pane) + 0.05 * pane
            glow = 0.06 * pane * lamps
            if glow > 0:
                emission[i, 0], emission[i, 1], emission[i, 2] = glow, glow, 0.9 * glow
                glow = 0.0
        elif m == WHEEL:
            rim = math.sqrt(u * u + v * v)
            if rim > 0.66 or (rim > 0.2 and (math.atan2(v, u) * 5 / (2 * math.pi)) % 1.0 > 0.62):
                r, g, b = 0.02, 0.02, 0.02
                reflect = 0.06
            else:
                shine = 0.2
        elif m == LAMP:
            glow = 9.0 * lamps
        elif m == SIGNAL:
            glow = 1.1 if lamps > 0 else 0.75
        elif m == HEADLIGHT:
            glow = 7.0 * lamps
        elif m == TAILLIGHT:
            glow = 4.0 * lamps
        albedo[i, 0], albedo[i, 1], albedo[i, 2] = max(r * k, 0.0), max(g * k, 0.0), max(b * k, 0.0)
        gloss[i] = shine
        nir[i] = clamp(reflect * k, 0.0, 1.0)
        if glow > 0:
            emission[i, 0], emission[i, 1], emission[i, 2] = glow * r, glow * g, glow * b


@compiled
def sky(dx, dy, dz, direction, sun, zenith, horizon, clouds, seed):
    """Radiance (r, g, b) of the sky along a unit direction."""
    up = max(dz, 0.0)
    mix = up**0.45
    r = horizon[0] * (1 - mix) + zenith[0] * mix
    g = horizon[1] * (1 - mix) + zenith[1] * mix
    b = horizon[2] * (1 - mix) + zenith[2] * mix
    plane = 1.0 / (up + 0.12)
    n = 0.5 + 0.75 * fractal(dx * plane * 1.3 + seed, dy * plane * 1.3, 0.0, 4, 201)
    cover = clamp((n - (1 - clouds)) * 2.2, 0.0, 1.0) * clamp(up * 6, 0.0, 1.0)
    white = 0.9 * (horizon[0] + horizon[1] + horizon[2]) / 3 * (0.75 + 0.5 * n)
    r, g, b = r + (white - r) * cover, g + (white - g) * cover, b + (white - b) * cover
    aligned = dx * direction[0] + dy * direction[1] + dz * direction[2]
    if aligned > 0 and clouds < 0.99:
        halo = 0.35 * aligned**40 + (45.0 if aligned > 0.9994 else 0.0)
        r, g, b = r + halo * sun[0], g + halo * sun[1], b + halo * sun[2]
    return r, g, b


def radiance(
    surface: Surface,
    hits: Hits,
    origins: np.ndarray,
    directions: np.ndarray,
    lit: np.ndarray,
    light: Light,
    points: np.ndarray,
    spots: np.ndarray,
) -> np.ndarray:
    """(N, 3) f32 radiance towards the camera.

    lit (N,) bool: reached by the sun; points (P, 7): lamps at x y z, their colour and their range, metres, shining
    downwards; spots (Q, 6): head-lights at x y z and their unit direction. Lamps cast no shadows."""
    out = np.zeros((len(hits.face), 3), np.float32)
    _radiance(
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
        out,
    )
    return out


@compiled
def _radiance(
    face,
    t,
    normal,
    origins,
    directions,
    lit,
    albedo,
    emission,
    gloss,
    sun_at,
    sun,
    ambient,
    zenith,
    horizon,
    clouds,
    seed,
    lamps,
    points,
    spots,
    out,
):
    for i in range(len(face)):
        dx, dy, dz = directions[i, 0], directions[i, 1], directions[i, 2]
        if face[i] < 0:
            out[i, 0], out[i, 1], out[i, 2] = sky(dx, dy, dz, sun_at, sun, zenith, horizon, clouds, seed)
            continue
        nx, ny, nz = normal[i, 0], normal[i, 1], normal[i, 2]
        facing = max(nx * sun_at[0] + ny * sun_at[1] + nz * sun_at[2], 0.0) if lit[i] else 0.0
        dome = 0.62 + 0.38 * nz
        er, eg, eb = (
            sun[0] * facing + ambient[0] * dome,
            sun[1] * facing + ambient[1] * dome,
            sun[2] * facing + ambient[2] * dome,
        )
        if lamps > 0:
            x, y, z = origins[i, 0] + t[i] * dx, origins[i, 1] + t[i] * dy, origins[i, 2] + t[i] * dz
            for p in range(len(points)):
                lx, ly, lz = points[p, 0] - x, points[p, 1] - y, points[p, 2] - z
                square = lx * lx + ly * ly + lz * lz
                if square < points[p, 6] ** 2 and lz > 0:
                    distance = math.sqrt(square)
                    cosine = max((lx * nx + ly * ny + lz * nz) / distance, 0.0)
                    down = lz / distance
                    power = lamps * cosine * down * down * 11.0 / (square + 2.0) * (1 - square / points[p, 6] ** 2)
                    er, eg, eb = er + power * points[p, 3], eg + power * points[p, 4], eb + power * points[p, 5]
            for p in range(len(spots)):
                lx, ly, lz = spots[p, 0] - x, spots[p, 1] - y, spots[p, 2] - z
                square = lx * lx + ly * ly + lz * lz
                distance = math.sqrt(square) + 1e-6
                axis = -(lx * spots[p, 3] + ly * spots[p, 4] + lz * spots[p, 5]) / distance
                if axis > 0.8 and square < 3600:
                    cosine = max((lx * nx + ly * ny + lz * nz) / distance, 0.0)
                    beam = clamp((axis - 0.86) / 0.13, 0.0, 1.0) ** 2
                    power = lamps * (0.06 + 0.94 * cosine) * beam * 26.0 / (square + 6.0)
                    er, eg, eb = er + power, eg + 0.96 * power, eb + 0.86 * power
        r, g, b = albedo[i, 0] * er, albedo[i, 1] * eg, albedo[i, 2] * eb
        if gloss[i] > 0:
            along = dx * nx + dy * ny + dz * nz
            fresnel = gloss[i] * (0.06 + 0.94 * (1 - min(abs(along), 1.0)) ** 4)
            rx, ry, rz = dx - 2 * along * nx, dy - 2 * along * ny, dz - 2 * along * nz
            if rz > 0:
                sr, sg, sb = sky(rx, ry, rz, sun_at, sun, zenith, horizon, clouds, seed)
                cap = 1.6 if lit[i] else 0.7
                r, g, b = r + fresnel * min(sr, cap), g + fresnel * min(sg, cap), b + fresnel * min(sb, cap)
        out[i, 0], out[i, 1], out[i, 2] = r + emission[i, 0], g + emission[i, 1], b + emission[i, 2]
