"""Procedural patterns, each averaged over the pixel's footprint on the surface so that nothing flickers as the camera
moves (a flicker would be false events): noise fades by octave, edges are box-filtered in closed form."""

from __future__ import annotations

import math

from mss_perception.compiled import compiled


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
