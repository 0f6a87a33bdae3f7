"""The compiled loops of shading: patterns, then what a surface is like, then its light.

They and the list of materials share one file because numba's cache on disk notices a change in a loop's own file only,
not in what it calls or in constants that it took from elsewhere.

Each pattern is averaged over the pixel's footprint on the surface, so that nothing flickers as the camera moves (a
flicker would be false events): noise fades by octave, edges are box-filtered in closed form.
"""

from __future__ import annotations

import math
from enum import IntEnum

from mss_perception.compiled import compiled


class Material(IntEnum):
    """What `shade_surface` gives a pattern, gloss and near-infrared reflectance each."""

    PLAIN = 0
    ROAD = 1  # asphalt with lane markings; uv = (s, d) of the street
    PAVING = 2
    GRASS = 3
    FACADE = 4  # plaster with windows; style = window grid
    BRICK = 5
    BARK = 6
    LEAVES = 7
    PAINT = 8  # car paint
    CAR_GLASS = 9  # uv = 0..1 over one side window
    RUBBER = 10
    METAL = 11
    SIGN = 12  # uv = -1..1 over the plate; style[0] = which sign
    LAMP = 13  # shines at night
    SIGNAL = 14  # traffic light lens, shines always
    CLOTH = 15
    WATER = 16
    CONCRETE = 17
    GRAVEL = 18
    BUS_SIDE = 19  # uv in metres along and above the floor
    HEADLIGHT = 20
    TAILLIGHT = 21
    TILES = 22
    WOOD = 23
    WHEEL = 24  # uv = -1..1 over the disc
    SOIL = 25


# Compiled code takes plain integers only.
(PLAIN, ROAD, PAVING, GRASS, FACADE, BRICK, BARK, LEAVES, PAINT, CAR_GLASS, RUBBER, METAL, SIGN, LAMP, SIGNAL, CLOTH,
 WATER, CONCRETE, GRAVEL, BUS_SIDE, HEADLIGHT, TAILLIGHT, TILES, WOOD, WHEEL, SOIL) = map(int, Material)
# --------------------------------------------------------------------------------------------------------- patterns


@compiled
def clamp(x, low, high):
    return low if x < low else (high if x > high else x)


@compiled
def cell(ix, iy, seed):
    """A hash of two integers and a seed, in [0, 1)."""
    h = (ix * 374761393 + iy * 668265263 + seed * 974634777) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 2246822519) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFFFF) / 16777216.0


@compiled
def value_noise(x, y, seed):
    """Smooth noise of unit cell size, in [-1, 1]."""
    fx, fy = math.floor(x), math.floor(y)
    ix, iy = int(fx), int(fy)
    u, v = x - fx, y - fy
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    low = cell(ix, iy, seed) * (1 - u) + cell(ix + 1, iy, seed) * u
    high = cell(ix, iy + 1, seed) * (1 - u) + cell(ix + 1, iy + 1, seed) * u
    return 2 * (low * (1 - v) + high * v) - 1


@compiled
def fractal(x, y, width, octaves, seed):
    """Noise of 1 m and finer; octaves smaller than two footprints (`width`, metres) are left out softly."""
    total, scale, amplitude = 0.0, 1.0, 0.5
    for octave in range(octaves):
        keep = clamp(2.0 - 2.0 * width * scale, 0.0, 1.0)
        if keep <= 0:
            break
        total += amplitude * keep * value_noise(x * scale, y * scale, seed + octave)
        scale *= 2.17
        amplitude *= 0.62
    return total


@compiled
def _train_integral(x, period, low, high):
    whole = math.floor(x / period)
    return whole * (high - low) + clamp(x - whole * period - low, 0.0, high - low)


@compiled
def train(x, period, low, high, width):
    """Share of the footprint x +- width / 2 covered by the pulses [low, high) that repeat with `period`."""
    width = max(width, 1e-4)
    return (
        _train_integral(x + width / 2, period, low, high) - _train_integral(x - width / 2, period, low, high)
    ) / width


@compiled
def pulse(x, low, high, width):
    """Share of the footprint x +- width / 2 covered by one interval [low, high)."""
    width = max(width, 1e-4)
    return clamp((min(high, x + width / 2) - max(low, x - width / 2)) / width, 0.0, 1.0)


@compiled
def lane_markings(s, d, width, style):
    """Share of a road footprint painted white. style = (kerb d, lanes per direction, lane width, parking lane,
    solid centre line, half width of the median, kind: 0 plain, 1 zebra crossing, 2 stop line)."""
    half, lanes, lane, parking, median = style[0], int(style[1]), style[2], style[3], style[5]
    kind = int(style[6])
    edge = median + lanes * lane
    if kind == 1:
        return train(d + half, 1.1, 0.3, 0.85, width) * pulse(d, 0.35 - half, half - 0.35, width)
    if kind == 2:
        return pulse(d, -edge, edge, width)
    dashed = train(s, 9.0, 0.0, 4.0, width)
    across = abs(d)
    painted = 0.0
    for k in range(1, lanes):
        painted += pulse(across, median + k * lane - 0.07, median + k * lane + 0.07, width) * dashed
    if median > 0:
        painted += pulse(across, median + 0.12, median + 0.24, width)
    elif style[4] > 0.5:
        painted += pulse(across, 0.07, 0.19, width)
    else:
        painted += pulse(d, -0.08, 0.08, width) * dashed
    side = train(s, 2.0, 0.0, 1.0, width) if parking > 0.5 else 1.0
    painted += pulse(across, edge - 0.08, edge + 0.08, width) * side
    return min(painted, 1.0)


@compiled
def bricks(u, v, width):
    """Share of mortar in the footprint, and a tint of the brick in [-1, 1]."""
    row = math.floor(v / 0.12)
    shift = 0.15 * (int(row) % 2)
    joint = min(1.0, train(v, 0.12, 0.0, 0.018, width) + train(u + shift, 0.3, 0.0, 0.018, width))
    keep = clamp(1.6 - 8 * width, 0.0, 1.0)
    return joint, keep * (2 * cell(int(math.floor((u + shift) / 0.3)), int(row), 5) - 1)


@compiled
def window_grid(u, v, width, style):
    """(share of window, share of frame, column, row) of a facade at u along, v up. style = (pitch u, pitch v, window
    width share, window height share, shop front, seed, brick, lit share)."""
    pitch_u, pitch_v = style[0], style[1]
    column, row = int(math.floor(u / pitch_u)), int(math.floor(v / pitch_v))
    if style[4] > 0.5 and v < pitch_v:
        a, b, c, d = 0.06 * pitch_u, 0.94 * pitch_u, 0.35, 0.82 * pitch_v
    else:
        a, b = (0.5 - style[2] / 2) * pitch_u, (0.5 + style[2] / 2) * pitch_u
        c, d = 0.27 * pitch_v, (0.27 + style[3]) * pitch_v
    glass = train(u, pitch_u, a, b, width) * train(v, pitch_v, c, d, width)
    frame = train(u, pitch_u, a - 0.09, b + 0.09, width) * train(v, pitch_v, c - 0.12, d + 0.09, width) - glass
    middle = (a + b) / 2
    bar = train(u, pitch_u, middle - 0.035, middle + 0.035, width) * train(v, pitch_v, c, d, width)
    return max(glass - bar, 0.0), max(frame, 0.0) + bar, column, row


@compiled
def sign_colour(kind, seed, x, y):
    """Colour (r, g, b) of a sign's plate at x, y in -1..1."""
    r = math.sqrt(x * x + y * y)
    if kind == 0:  # prohibition: white in a red ring, dark bar
        if r > 0.72:
            return 0.7, 0.02, 0.02
        return (0.03, 0.03, 0.03) if abs(y) < 0.16 and abs(x) < 0.45 else (0.85, 0.85, 0.85)
    if kind == 1:  # no entry
        return (0.85, 0.85, 0.85) if abs(y) < 0.2 and abs(x) < 0.68 else (0.7, 0.02, 0.02)
    if kind == 2 or kind == 3:  # warning: red-edged triangle
        inside = y > -0.62 and abs(x) < 0.62 * (0.62 - y) / 1.24 + 0.02
        if not inside:
            return 0.7, 0.02, 0.02
        return (0.03, 0.03, 0.03) if abs(x) < 0.09 and -0.5 < y < 0.15 else (0.85, 0.85, 0.82)
    if kind == 4:  # order: blue disc with an arrow
        return (
            (0.85, 0.85, 0.85)
            if (abs(x) < 0.13 and abs(y) < 0.55) or (y > 0.1 and abs(x) < 0.6 - y)
            else (0.01, 0.08, 0.45)
        )
    if kind == 5:  # parking
        letter = (-0.4 < x < -0.15 and abs(y) < 0.6) or (
            0.05 < y < 0.6 and abs(x) < 0.4 and not (0.2 < y < 0.42 and -0.15 < x < 0.18)
        )
        return (0.85, 0.85, 0.85) if letter else (0.01, 0.08, 0.45)
    if kind == 6:  # zebra crossing: blue square, white triangle
        return (0.85, 0.85, 0.85) if y > -0.6 and abs(x) < 0.6 * (0.6 - y) / 1.2 else (0.01, 0.08, 0.45)
    if kind == 7:  # priority road: yellow diamond on white
        return (0.8, 0.45, 0.02) if abs(x) + abs(y) < 0.7 else (0.85, 0.85, 0.85)
    back = (0.0, 0.12, 0.32) if seed < 0.5 else (0.0, 0.22, 0.1)  # direction board with lines of lettering
    if max(abs(x), abs(y)) > 0.94:
        return 0.85, 0.85, 0.85
    line = (
        cell(int(math.floor(x * 14)), int(math.floor(y * 3)), int(seed * 1000)) > 0.3
        and abs((y * 3) % 1.0 - 0.5) < 0.22
    )
    return (0.85, 0.85, 0.85) if line and abs(x) < 0.8 else back


# --------------------------------------------------------------------------------------------------------- surfaces


@compiled
def shade_surface(
    face, uv, footprint, materials, labels, colours, style_of, styles, nirs, road_line, lamps, wet,
    albedo, emission, gloss, nir, label,
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
                label[i] = road_line
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
        if wet > 0 and m in (ROAD, PAVING, SOIL, GRAVEL):
            # A film of water darkens, mirrors at grazing angles and sends a laser's light elsewhere; puddles more so.
            pool = clamp(3.5 * fractal(u * 0.3, v * 0.45, w * 0.4, 3, 141) - 0.55, 0.0, 1.0) * wet
            k *= (1 - 0.45 * wet) * (1 - 0.5 * pool)
            reflect *= (1 - 0.55 * wet) * (1 - 0.85 * pool)
            shine = wet * (0.3 + 0.65 * pool)
        albedo[i, 0], albedo[i, 1], albedo[i, 2] = max(r * k, 0.0), max(g * k, 0.0), max(b * k, 0.0)
        gloss[i] = shine
        nir[i] = clamp(reflect * k, 0.0, 1.0)
        if glow > 0:
            emission[i, 0], emission[i, 1], emission[i, 2] = glow * r, glow * g, glow * b


# ------------------------------------------------------------------------------------------------------------ light


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


@compiled
def shade_radiance(
    face, t, normal, origins, directions, lit, albedo, emission, gloss, sun_at, sun, ambient, zenith, horizon, clouds,
    seed, lamps, points, spots, mirrored, out,
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
                if len(mirrored) and mirrored[i, 0] >= 0:
                    sr, sg, sb = mirrored[i, 0], mirrored[i, 1], mirrored[i, 2]
                else:
                    sr, sg, sb = sky(rx, ry, rz, sun_at, sun, zenith, horizon, clouds, seed)
                cap = 1.6 if lit[i] or len(mirrored) else 0.7
                r, g, b = r + fresnel * min(sr, cap), g + fresnel * min(sg, cap), b + fresnel * min(sb, cap)
        out[i, 0], out[i, 1], out[i, 2] = r + emission[i, 0], g + emission[i, 1], b + emission[i, 2]
