"""The compiled loops of the lanes: camera models, z-buffer, codes.

They share one file because numba's cache on disk notices a change in a loop's own file only, not in what it calls.
"""

from __future__ import annotations

import numpy as np

from mss_perception.compiled import compiled

RADIAL, EQUIDISTANT = 0, 1      # kinds of distortion
# A point is hidden when it is farther than the nearest one in its pixel by this ratio and this many metres: less than
# that is the slope of the ground inside one pixel.
HIDDEN_RATIO, HIDDEN_METRES = 1.1, 0.5
# Neighbours in a depth image that differ by less than this share of their depth are one surface.
SAME_SURFACE = 0.2

# --------------------------------------------------------------------------------------------------- camera models


@compiled
def distort(x, y, kind, d, valid_radius):
    """Normalised undistorted point (z = 1) -> distorted x, y and whether it is inside the valid radius.

    The formulas are OpenCV's (calib3d, projectPoints and fisheye::projectPoints).
    """
    s = x * x + y * y
    if not s < valid_radius * valid_radius:     # also NaN
        return np.nan, np.nan, False
    if kind == EQUIDISTANT:
        r = np.sqrt(s)
        theta = np.arctan(r)
        t = theta * theta
        bent = theta * (1.0 + t * (d[0] + t * (d[1] + t * (d[2] + t * d[3]))))
        scale = bent / r if r > 1e-9 else 1.0
        return x * scale, y * scale, True
    radial = (1.0 + s * (d[0] + s * (d[1] + s * d[4]))) / (1.0 + s * (d[5] + s * (d[6] + s * d[7])))
    return (x * radial + 2.0 * d[2] * x * y + d[3] * (s + 2.0 * x * x) + s * (d[8] + s * d[9]),
            y * radial + d[2] * (s + 2.0 * y * y) + 2.0 * d[3] * x * y + s * (d[10] + s * d[11]), True)


@compiled
def _bent_radius(theta, kind, d):
    """Distance from the principal point that the radial part of the distortion gives to an angle; x >= 0, y = 0."""
    if kind == EQUIDISTANT:
        t = theta * theta
        return theta * (1.0 + t * (d[0] + t * (d[1] + t * (d[2] + t * d[3]))))
    r = np.tan(theta)
    s = r * r
    return r * (1.0 + s * (d[0] + s * (d[1] + s * d[4]))) / (1.0 + s * (d[5] + s * (d[6] + s * d[7])))


@compiled
def undistort(x, y, kind, d, valid_radius):
    """Inverse of `distort`: x, y and whether there is one inside the valid radius.

    Newton's method; where it does not get there from the distorted point, which is far off with strong distortion, it
    starts again from the radial part's inverse by bisection.
    """
    a, b, found = _newton(x, y, 1.0, kind, d, valid_radius)
    target = np.sqrt(x * x + y * y)
    if not found and target > 0.0:
        a, b, found = _newton(x, y, _bisect(target, kind, d, valid_radius) / target, kind, d, valid_radius)
    return a, b, found


@compiled
def _bisect(target, kind, d, valid_radius):
    """Undistorted radius whose distorted one is `target`, radial part only."""
    low, high = 0.0, np.arctan(valid_radius)
    for _ in range(60):
        middle = 0.5 * (low + high)
        if _bent_radius(middle, kind, d) < target:
            low = middle
        else:
            high = middle
    return np.tan(low)


@compiled
def _newton(x, y, scale, kind, d, valid_radius):
    a, b = x * scale, y * scale
    for _ in range(12):
        found_x, found_y, inside = distort(a, b, kind, d, valid_radius)
        error_x, error_y = x - found_x, y - found_y
        if not inside or abs(error_x) + abs(error_y) < 1e-13:
            break
        # Numerical Jacobian: one formula for every model, and this runs only when a calibration changes.
        step = 1e-7
        ax, ay, _ = distort(a + step, b, kind, d, np.inf)
        bx, by, _ = distort(a, b + step, kind, d, np.inf)
        j00, j10 = (ax - found_x) / step, (ay - found_y) / step
        j01, j11 = (bx - found_x) / step, (by - found_y) / step
        determinant = j00 * j11 - j01 * j10
        if determinant == 0.0:
            break
        a += (j11 * error_x - j01 * error_y) / determinant
        b += (j00 * error_y - j10 * error_x) / determinant
    found_x, found_y, inside = distort(a, b, kind, d, valid_radius)
    return a, b, inside and abs(found_x - x) + abs(found_y - y) < 1e-9


@compiled
def project(xyz, K, kind, d, valid_radius):
    uv = np.full((len(xyz), 2), np.nan)
    valid = np.zeros(len(xyz), np.bool_)
    for i in range(len(xyz)):
        z = xyz[i, 2]
        if z > 0.0 and z < np.inf:
            x, y, inside = distort(xyz[i, 0] / z, xyz[i, 1] / z, kind, d, valid_radius)
            if inside:
                uv[i, 0] = K[0, 0] * x + K[0, 1] * y + K[0, 2]
                uv[i, 1] = K[1, 1] * y + K[1, 2]
                valid[i] = True
    return uv, valid


@compiled
def unproject(uv, K, kind, d, valid_radius):
    rays = np.full((len(uv), 3), np.nan)
    for i in range(len(uv)):
        y = (uv[i, 1] - K[1, 2]) / K[1, 1]
        x = (uv[i, 0] - K[0, 2] - K[0, 1] * y) / K[0, 0]
        a, b, found = undistort(x, y, kind, d, valid_radius)
        if found:
            rays[i, 0], rays[i, 1], rays[i, 2] = a, b, 1.0
    return rays


# ------------------------------------------------------------------------------------------- points into an image


@compiled
def project_points(xyz, T, knot, K, kind, d, valid_radius, width, height):
    count, last = len(xyz), len(T) - 1
    points = np.full((count, 3), np.nan, np.float32)
    uv = np.full((count, 2), np.nan)
    seen = np.zeros(count, np.bool_)
    returns = 0
    pose = T[0].copy()
    for i in range(count):
        x, y, z = float(xyz[i, 0]), float(xyz[i, 1]), float(xyz[i, 2])
        # An infinite or NaN coordinate makes the sum of magnitudes neither; (0, 0, 0) makes it 0.
        size = abs(x) + abs(y) + abs(z)
        if not (size > 0.0 and size < np.inf):
            continue
        returns += 1
        if last > 0:
            place = min(float(knot[i]), float(last))
            if not place > 0.0:     # also NaN, which must not become an index
                place = 0.0
            k = min(int(place), last - 1)
            part = place - k
            for row in range(3):
                for column in range(4):
                    pose[row, column] = T[k, row, column] + part * (T[k + 1, row, column] - T[k, row, column])
        a = pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z + pose[0, 3]
        b = pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z + pose[1, 3]
        c = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z + pose[2, 3]
        points[i, 0], points[i, 1], points[i, 2] = a, b, c
        if not c > 0.0:
            continue
        p, q, inside = distort(a / c, b / c, kind, d, valid_radius)
        if not inside:
            continue
        u = K[0, 0] * p + K[0, 1] * q + K[0, 2]
        v = K[1, 1] * q + K[1, 2]
        if u >= 0.0 and u < width and v >= 0.0 and v < height:
            uv[i, 0], uv[i, 1] = u, v
            seen[i] = True
    return points, uv, seen, returns


@compiled
def draw_nearest(uv, seen, distance, codes, half, height, width, full_height, full_width):
    """Z-buffer: draw every seen point as a square and keep the nearest per pixel; of two equal ones the first.

    uv (N, 2) in the full image of full_height x full_width, distance (N,) metres, codes (N, 3) uint8 what to draw.
    half (N,) float32, or (1,) for all: half the square's side in pixels of the grid; each point covers at least the
    pixel that it falls into.
    Returns image (height, width, 3) uint8 and nearest (height, width) float32 metres; 0 and inf where there is nothing.
    """
    image = np.zeros((height, width, 3), np.uint8)
    nearest = np.full((height, width), np.inf, np.float32)
    scale_x, scale_y = width / full_width, height / full_height
    for i in range(len(uv)):
        if not seen[i]:
            continue
        # From the image's corner, which is the same in every size of the grid. The last half pixel before u = width,
        # nearest to no pixel's centre, goes to the last pixel.
        u, v = min((uv[i, 0] + 0.5) * scale_x, width - 0.5), min((uv[i, 1] + 0.5) * scale_y, height - 0.5)
        column, row = int(u), int(v)
        # Pixel centres, at + 0.5, that the square covers.
        reach = half[i] if len(half) > 1 else half[0]
        left, right = int(np.floor(u - 0.5 - reach)) + 1, int(np.floor(u - 0.5 + reach))
        top, bottom = int(np.floor(v - 0.5 - reach)) + 1, int(np.floor(v - 0.5 + reach))
        left, right = max(min(left, column), 0), min(max(right, column), width - 1)
        top, bottom = max(min(top, row), 0), min(max(bottom, row), height - 1)
        mine = np.float32(distance[i])
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                if mine < nearest[y, x]:
                    nearest[y, x] = mine
                    image[y, x, 0], image[y, x, 1], image[y, x, 2] = codes[i, 0], codes[i, 1], codes[i, 2]
    return image, nearest


# ----------------------------------------------------------------------------------------------------------- codes


@compiled
def code_of_fraction(fraction):
    """0..1 -> 1..255, rounded and clipped; 0 is left for "nothing here". NaN becomes 1."""
    code = 1.0 + 254.0 * fraction
    if code >= 255.0:
        return np.uint8(255)
    return np.uint8(code + 0.5) if code > 1.0 else np.uint8(1)


@compiled
def code_of_distance(distance, near, log_span):
    """Metres -> 1..255, logarithmic from near to far: equal steps are equal ratios, as sensors' errors are.

    log_span: log(far / near), which the callers compute once. Single precision, for speed.
    """
    return code_of_fraction(np.log(np.float32(distance / near)) / np.float32(log_span))


# ----------------------------------------------------------------------------------------------------------- LiDAR


@compiled
def encode_lidar(xyz, seen, intensity, near, log_span, intensity_scale, low, high):
    """(N, 3) points in the target's frame -> range (N,) float32 metres and codes (N, 3) uint8, of the seen ones."""
    distance = np.empty(len(xyz), np.float32)
    codes = np.empty((len(xyz), 3), np.uint8)
    for i in range(len(xyz)):
        if seen[i]:
            distance[i] = np.sqrt(xyz[i, 0] ** 2 + xyz[i, 1] ** 2 + xyz[i, 2] ** 2)
            codes[i, 0] = code_of_distance(distance[i], near, log_span)
            codes[i, 1] = code_of_fraction(intensity[i] / intensity_scale)
            codes[i, 2] = code_of_fraction((-xyz[i, 1] - low) / (high - low))
    return distance, codes


@compiled
def label_points(labels, uv, seen, xyz, nearest, ignore_id, keep_hidden):
    result = np.full(len(uv), ignore_id, labels.dtype)
    height, width = labels.shape
    rows, columns = nearest.shape
    for i in range(len(uv)):
        if not seen[i]:
            continue
        u, v = uv[i, 0] + 0.5, uv[i, 1] + 0.5
        if not keep_hidden:
            front = nearest[min(int(v * rows / height), rows - 1), min(int(u * columns / width), columns - 1)]
            distance = np.sqrt(xyz[i, 0] ** 2 + xyz[i, 1] ** 2 + xyz[i, 2] ** 2)
            if distance > HIDDEN_RATIO * front + HIDDEN_METRES:
                continue
        result[i] = labels[min(int(v), height - 1), min(int(u), width - 1)]
    return result


# ----------------------------------------------------------------------------------------------------------- radar


@compiled
def encode_radar(xyz, seen, intensity, speed, near, log_span, speed_max):
    """(N, 3) points in the target's frame -> range (N,) float32 metres and codes (N, 3) uint8, of the seen ones."""
    distance = np.empty(len(xyz), np.float32)
    codes = np.empty((len(xyz), 3), np.uint8)
    for i in range(len(xyz)):
        if seen[i]:
            distance[i] = np.sqrt(xyz[i, 0] ** 2 + xyz[i, 1] ** 2 + xyz[i, 2] ** 2)
            codes[i, 0] = code_of_distance(distance[i], near, log_span)
            codes[i, 1] = code_of_fraction(intensity[i])
            measured = not np.isnan(speed[i])
            codes[i, 2] = code_of_fraction(0.5 + 0.5 * speed[i] / speed_max) if measured else np.uint8(0)
    return distance, codes


# ----------------------------------------------------------------------------------------------------------- depth


@compiled
def depth_codes(z, near, far, log_span):
    """Metres along the optical axis -> the three channels."""
    z = min(max(z, near), far)
    return code_of_distance(z, near, log_span), code_of_fraction(near / z), np.uint8(255)


@compiled
def resample_depth(depth, unit_m, height, width, near, far, log_span):
    """(Hd, Wd) depths of unit_m metres -> image (height, width, 3) uint8 by nearest pixel, number of valid pixels."""
    image = np.zeros((height, width, 3), np.uint8)
    rows, columns = depth.shape
    column_of = ((np.arange(width) + 0.5) * columns / width).astype(np.int64)
    valid = 0
    for y in range(height):
        source_row = depth[int((y + 0.5) * rows / height)]
        for x in range(width):
            z = unit_m * source_row[column_of[x]]
            if z > 0.0 and z < np.inf:
                image[y, x, 0], image[y, x, 1], image[y, x, 2] = depth_codes(z, near, far, log_span)
                valid += 1
    return image, valid


@compiled
def unproject_depth(depth, unit_m, rays):
    """(N,) depths and (N, 3) rays with z = 1 -> (N, 3) float32 metres, NaN where there is no measurement."""
    xyz = np.full((len(depth), 3), np.nan, np.float32)
    for i in range(len(depth)):
        z = unit_m * depth[i]
        if z > 0.0 and z < np.inf:
            xyz[i, 0], xyz[i, 1], xyz[i, 2] = rays[i, 0] * z, rays[i, 1] * z, z
    return xyz


@compiled
def encode_depth(xyz, seen, near, far, log_span):
    codes = np.empty((len(xyz), 3), np.uint8)
    for i in range(len(xyz)):
        if seen[i]:
            codes[i, 0], codes[i, 1], codes[i, 2] = depth_codes(xyz[i, 2], near, far, log_span)
    return codes


@compiled
def depth_footprint(uv, seen, z, columns, scale_x, scale_y, alone, footprint, largest):
    """Half the side, in grid pixels, of the square that each pixel of a depth image becomes: (N,) float32.

    uv (N, 2) and z (N,) of its row-major pixels, `columns` in a row. Half the way to the neighbour on the right or
    below, whichever is farther, times `footprint`: no crack opens in a surface, however it is slanted or magnified.
    A neighbour that is not seen or belongs to another surface leaves it at `alone`.
    """
    half = np.full(len(uv), alone * footprint, np.float32)
    for i in range(len(uv)):
        if not seen[i]:
            continue
        farthest = 0.0
        for k in (i + 1, i + columns):
            if k < len(uv) and seen[k] and not (k == i + 1 and k % columns == 0) and \
                    abs(z[k] - z[i]) < SAME_SURFACE * min(z[k], z[i]):
                farthest = max(farthest, max(abs(uv[k, 0] - uv[i, 0]) * scale_x, abs(uv[k, 1] - uv[i, 1]) * scale_y))
        if farthest > 0.0:
            half[i] = min(0.5 * farthest * footprint, largest)
    return half
