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

    The formulas are OpenCV's (calib3d, projectPoints and fisheye::projectPoints). d: 12 coefficients, as a tuple, which
    loops need not read again for every point. Beyond the valid radius, x and y mean nothing.
    """
    s = x * x + y * y
    inside = s < valid_radius * valid_radius     # False for NaN
    if kind == EQUIDISTANT:
        r = np.sqrt(s)
        theta = np.arctan(r)
        t = theta * theta
        bent = theta * (1.0 + t * (d[0] + t * (d[1] + t * (d[2] + t * d[3]))))
        scale = bent / r if r > 1e-9 else 1.0
        return x * scale, y * scale, inside
    radial = (1.0 + s * (d[0] + s * (d[1] + s * d[4]))) / (1.0 + s * (d[5] + s * (d[6] + s * d[7])))
    return (x * radial + 2.0 * d[2] * x * y + d[3] * (s + 2.0 * x * x) + s * (d[8] + s * d[9]),
            y * radial + d[2] * (s + 2.0 * y * y) + 2.0 * d[3] * x * y + s * (d[10] + s * d[11]), inside)


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


BLOCK = 1024        # points that take each step together: they stay in the fastest cache
EMPTY = np.uint64(np.float32(np.inf).view(np.uint32)) << np.uint64(32)     # key of a pixel in which nothing is


@compiled
def project_points(numbers, layout, T, knot, K, kind, d, valid_radius, width, height):
    """Points of the sensor's frame -> those that the target's camera sees: which they are (M,) uint32, rising, x, y and
    z (M,) float32 in its frame, and uv (M, 2); and how many of all are returns.

    numbers, layout: as of projection.numbers_of. Every step is a loop without branches over a block, which the compiler
    makes vector instructions of.
    """
    place_y, place_z, step, count = layout
    index, uv = np.empty(count, np.uint32), np.empty((count, 2))
    x, y, z = np.empty(count, np.float32), np.empty(count, np.float32), np.empty(count, np.float32)
    chosen, a, b, c, u, v = (np.empty(BLOCK, np.uint32), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK),
                             np.empty(BLOCK), np.empty(BLOCK))
    front, right, down, depth = np.empty(BLOCK, np.uint32), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    returns = seen = 0
    for first in range(0, count, BLOCK):
        size = min(BLOCK, count - first)
        begin, end = step * first, step * (first + size - 1) + 1
        returns += take_returns(numbers[begin:end:step], numbers[begin + place_y:end + place_y:step],
                                numbers[begin + place_z:end + place_z:step], a, b, c)
        if len(T) > 1:
            move_between(a[:size], b[:size], c[:size], T, knot[first:first + size])
        else:
            move(a[:size], b[:size], c[:size], T[0])
        ahead = choose_in_front(c[:size], front)
        for i in range(ahead):
            k = np.uintp(front[i])      # unsigned: an index that may be negative costs a test
            right[i], down[i], depth[i] = a[k], b[k], c[k]
        look(right[:ahead], down[:ahead], depth[:ahead], K, kind, d, valid_radius, u, v)
        inside = choose_inside(u[:ahead], v[:ahead], width, height, chosen)
        for i in range(inside):
            k, to = np.uintp(chosen[i]), np.uintp(seen + i)
            index[to], x[to], y[to], z[to] = first + front[k], right[k], down[k], depth[k]
            uv[to, 0], uv[to, 1] = u[k], v[k]
        seen += inside
    return index[:seen], x[:seen], y[:seen], z[:seen], uv[:seen], returns


@compiled
def choose_in_front(depth, chosen):
    """Write the places of positive depths into `chosen`; how many there are."""
    count = np.uintp(0)
    for i in range(len(depth)):
        chosen[count] = i
        count += np.uintp(depth[i] > 0.0)
    return np.int64(count)


@compiled
def choose_inside(u, v, width, height, chosen):
    """Write the places of pixels inside of the image into `chosen`; how many there are."""
    count = np.uintp(0)
    for i in range(len(u)):
        chosen[count] = i
        count += np.uintp((u[i] >= 0.0) & (u[i] < width) & (v[i] >= 0.0) & (v[i] < height))
    return np.int64(count)


@compiled
def take_returns(x, y, z, a, b, c):
    """Copy a block, NaN in place of what is no return; how many are. One array after the other: they may be strided."""
    for i in range(len(x)):
        a[i] = x[i]
    for i in range(len(x)):
        b[i] = y[i]
    for i in range(len(x)):
        c[i] = z[i]
    returns = 0
    for i in range(len(x)):
        # An infinite or NaN coordinate makes the sum of magnitudes neither; (0, 0, 0) makes it 0.
        size = abs(a[i]) + abs(b[i]) + abs(c[i])
        is_return = (size > 0.0) & (size < np.inf)
        a[i] = a[i] if is_return else np.nan
        returns += is_return
    return returns


@compiled
def move(a, b, c, pose):
    for i in range(len(a)):
        a[i], b[i], c[i] = (coordinate(pose, 0, a[i], b[i], c[i]), coordinate(pose, 1, a[i], b[i], c[i]),
                            coordinate(pose, 2, a[i], b[i], c[i]))


@compiled
def move_between(a, b, c, T, knot):
    """Each point by the two poses around its place between the knots, mixed linearly as Motion says."""
    last = len(T) - 1
    for i in range(len(a)):
        x, y, z, at = a[i], b[i], c[i], min(float(knot[i]), float(last))
        at = at if at > 0.0 else 0.0        # also NaN, which must not become an index
        k = np.uintp(min(int(at), last - 1))
        after, before = at - k, 1.0 - (at - k)
        a[i] = before * coordinate(T[k], 0, x, y, z) + after * coordinate(T[k + np.uintp(1)], 0, x, y, z)
        b[i] = before * coordinate(T[k], 1, x, y, z) + after * coordinate(T[k + np.uintp(1)], 1, x, y, z)
        c[i] = before * coordinate(T[k], 2, x, y, z) + after * coordinate(T[k + np.uintp(1)], 2, x, y, z)


@compiled
def coordinate(pose, row, x, y, z):
    return pose[row, 0] * x + pose[row, 1] * y + pose[row, 2] * z + pose[row, 3]


@compiled
def look(a, b, c, K, kind, d, valid_radius, u, v):
    """Points in front of a camera -> pixels; u is NaN where there is none."""
    fx, skew, cx, fy, cy = K[0, 0], K[0, 1], K[0, 2], K[1, 1], K[1, 2]
    for i in range(len(a)):
        x, y, inside = distort(a[i] / c[i], b[i] / c[i], kind, d, valid_radius)
        u[i] = fx * x + skew * y + cx if inside else np.nan
        v[i] = fy * y + cy



@compiled
def draw_nearest(uv, distance, codes, dilate, height, width, full_height, full_width):
    """Z-buffer: draw every point into its pixel and those up to `dilate` beside it, and keep the nearest per pixel,
    whatever their order.

    uv (M, 2) in the full image of full_height x full_width, distance (M,) float32 metres, codes (M,) uint32 what to
    draw, as `packed` gives it; it decides between two equally near points.
    Returns image (height, width, 3) uint8, 0 where there is nothing; own (rows + 2 dilate, width + 2 dilate) uint64,
    the keys of the points that are nearest in their own pixels, EMPTY in others, with an edge around; and the number of
    its first row but for the edge, for there are only those rows in which there may be something: a LiDAR sees a band
    of the image. The upper half of a key is the distance's bits.
    """
    scale_x, scale_y = width / full_width, height / full_height
    first, rows = band(uv, scale_y, dilate + 1.0, height)
    own = np.full((rows + 2 * dilate, width + 2 * dilate), EMPTY)
    near = distance.view(np.uint32)         # positive floats are in the order of their bits
    for i in range(len(uv)):
        u, v = place_on_grid(uv[i], scale_x, scale_y, width, height)
        lower(own, np.uintp(int(v) - first + dilate), np.uintp(int(u) + dilate), key_of(near[i], codes[i]))
    image = blank_around(height, width, first, rows)
    columns, keys = np.empty(own.shape[1], np.uint64), np.empty(width, np.uint64)
    for y in range(rows):       # the least of a square is that of its columns' least
        take_least(own[y:y + 2 * dilate + 1], columns)
        for i in range(width):
            keys[i] = columns[i]
        for k in range(1, 2 * dilate + 1):
            lower_all(keys, columns[k:k + width])
        colour(image[first + y], keys)
    return image, own, first


@compiled
def draw_squares(uv, distance, codes, half, height, width, full_height, full_width):
    """As draw_nearest, each point as a square of its own: half (M,) float32, half the side in pixels of the grid. It
    covers the pixels whose centres are in it, and at least the one that it falls into. Returns image and in how many
    pixels there is something."""
    scale_x, scale_y = width / full_width, height / full_height
    first, rows = band(uv, scale_y, half.max() if len(half) else np.float32(0.0), height)
    keys = np.full((rows, width), EMPTY)
    near = distance.view(np.uint32)
    for i in range(len(uv)):
        u, v = place_on_grid(uv[i], scale_x, scale_y, width, height)
        column, row, reach = int(u), int(v), half[i]
        left, right = int(np.floor(u - 0.5 - reach)) + 1, int(np.floor(u - 0.5 + reach))    # centres are at + 0.5
        top, bottom = int(np.floor(v - 0.5 - reach)) + 1, int(np.floor(v - 0.5 + reach))
        left, right = np.uintp(max(min(left, column), 0)), np.uintp(min(max(right, column), width - 1))
        top, bottom = np.uintp(max(min(top, row), 0) - first), np.uintp(min(max(bottom, row), height - 1) - first)
        for y in range(top, bottom + np.uintp(1)):
            for x in range(left, right + np.uintp(1)):
                lower(keys, y, x, key_of(near[i], codes[i]))
    image, drawn = blank_around(height, width, first, rows), 0
    for y in range(rows):
        colour(image[first + y], keys[y])
        drawn += (keys[y] < EMPTY).sum()
    return image, drawn


@compiled
def band(uv, scale, reach, height):
    """The first row that a square can touch, and how many there are from there to the last."""
    lowest, highest = np.inf, -np.inf
    for i in range(len(uv)):
        lowest, highest = min(lowest, uv[i, 1]), max(highest, uv[i, 1])
    if not lowest <= highest:
        return 0, 0
    first = max(int((lowest + 0.5) * scale - reach) - 1, 0)
    return first, min(int((highest + 0.5) * scale + reach) + 2, height) - first


@compiled
def place_on_grid(uv, scale_x, scale_y, width, height):
    """From the image's corner, which is the same in every size of the grid. The last half pixel before u = width, which
    is nearest to no pixel's centre, goes to the last pixel."""
    return min((uv[0] + 0.5) * scale_x, width - 0.5), min((uv[1] + 0.5) * scale_y, height - 0.5)


@compiled
def key_of(distance_bits, codes):
    return np.uint64(distance_bits) << np.uint64(32) | np.uint64(codes)


@compiled
def lower(keys, y, x, key):
    keys[y, x] = min(keys[y, x], key)


@compiled
def take_least(rows, result):
    for i in range(len(result)):        # an assignment of whole arrays takes four times as long
        result[i] = rows[0, i]
    for k in range(1, len(rows)):
        lower_all(result, rows[k])


@compiled
def lower_all(keys, others):
    for i in range(len(keys)):
        keys[i] = min(keys[i], others[i])


@compiled
def blank_around(height, width, first, rows):
    """An image (height, width, 3) uint8 that is 0 but for `rows` rows from the first on, which are still to be written.
    """
    image = np.empty((height, width, 3), np.uint8)
    image[:first] = 0
    image[first + rows:] = 0
    return image


@compiled
def colour(line, keys):
    """Write a row of an image (W, 3): the three codes in the lowest bytes of keys (W,)."""
    flat = line.reshape(-1)
    for i in range(len(keys)):
        codes = np.uint32(keys[i])
        flat[3 * i], flat[3 * i + 1], flat[3 * i + 2] = (np.uint8(codes), np.uint8(codes >> np.uint32(8)),
                                                         np.uint8(codes >> np.uint32(16)))


# ----------------------------------------------------------------------------------------------------------- codes


@compiled
def packed(a, b, c):
    """Three codes as one number."""
    return np.uint32(a) | np.uint32(b) << np.uint32(8) | np.uint32(c) << np.uint32(16)


@compiled
def code_of_fraction(fraction):
    """0..1 -> 1..255, rounded and clipped; 0 is left for "nothing here". NaN becomes 1. Without branches."""
    code = np.float32(1.5) + np.float32(254.0) * np.float32(fraction)
    code = code if code > np.float32(1.0) else np.float32(1.0)
    return np.uint8(np.int32(code if code < np.float32(255.0) else np.float32(255.0)))


@compiled
def code_of_distance(distance, near, log_span):
    """Metres -> 1..255, logarithmic from near to far: equal steps are equal ratios, as sensors' errors are.

    log_span: log(far / near), which the callers compute once. Single precision, for speed.
    """
    return code_of_fraction(logarithm(np.float32(distance) / np.float32(near)) / np.float32(log_span))


@compiled
def logarithm(x):
    """Natural logarithm of a positive float32, as Cephes' logf (S. L. Moshier, cephes/single/logf.c) but without
    branches: a loop over it becomes vector instructions. Of 0 and infinity something far below and far above 0."""
    bits = np.int32(np.float32(x).view(np.int32) - np.int32(0x3F3504F3))     # of 1 / sqrt(2): what is left is around 1
    exponent = np.float32(bits >> np.int32(23))
    z = np.int32((bits & np.int32(0x7FFFFF)) + np.int32(0x3F3504F3)).view(np.float32) - np.float32(1.0)
    series = np.float32(7.0376836292e-2)
    for term in (-1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
                 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1):
        series = series * z + np.float32(term)
    return z + z * z * (z * series - np.float32(0.5)) + exponent * np.float32(0.6931471805599453)


# ----------------------------------------------------------------------------------------------------------- LiDAR


@compiled
def encode_lidar(x, y, z, intensity, near, log_span, intensity_scale, low, high):
    """Points (M,) in the target's frame -> range (M,) float32 metres and codes (M,) uint32."""
    distance, codes = np.empty(len(x), np.float32), np.empty(len(x), np.uint32)
    for i in range(len(x)):
        distance[i] = distance_of(x[i], y[i], z[i])
        codes[i] = packed(code_of_distance(distance[i], near, log_span),
                          code_of_fraction(intensity[i] / intensity_scale),
                          code_of_fraction((-y[i] - low) / (high - low)))
    return distance, codes


@compiled
def distance_of(x, y, z):
    return np.sqrt(x * x + y * y + z * z)


@compiled
def labelled_points(labels, confidence, x, y, z, uv, nearest, ignore_id):
    """The points that are not hidden, and labelled: x, y, z (K,) float32, label and confidence (K,) uint8."""
    count = len(uv)
    x_of, y_of, z_of = np.empty(count, np.float32), np.empty(count, np.float32), np.empty(count, np.float32)
    label, sure = np.empty(count, np.uint8), np.empty(count, np.uint8)
    height, width = labels.shape
    n = np.uintp(0)
    for i in range(count):
        u, v = uv[i, 0] + 0.5, uv[i, 1] + 0.5
        row, column = min(int(v), height - 1), min(int(u), width - 1)
        x_of[n], y_of[n], z_of[n] = x[i], y[i], z[i]
        label[n], sure[n] = labels[row, column], confidence[row, column]
        n += np.uintp((label[n] != ignore_id) and
                      not is_hidden(distance_of(x[i], y[i], z[i]), u / width, v / height, nearest))
    return x_of[:n], y_of[:n], z_of[:n], label[:n], sure[:n]


@compiled
def is_hidden(distance, across, down, nearest):
    """Whether something nearer is drawn at this place, in 0..1 of the image from its corner. nearest: own and the first
    row as of draw_nearest, `dilate`, and how many rows the image has."""
    own, first, dilate, rows = nearest
    columns = own.shape[1] - 2 * dilate
    row, column = min(int(down * rows), rows - 1) - first, min(int(across * columns), columns - 1)
    key = EMPTY
    for y in range(row, row + 2 * dilate + 1):
        for x in range(column, column + 2 * dilate + 1):
            key = min(key, own[y, x])
    return distance > HIDDEN_RATIO * np.uint32(key >> np.uint64(32)).view(np.float32) + HIDDEN_METRES


# ----------------------------------------------------------------------------------------------------------- radar


@compiled
def encode_radar(x, y, z, intensity, speed, near, log_span, speed_max):
    """As encode_lidar; speed (M,) m/s, NaN where it is not measured."""
    distance, codes = np.empty(len(x), np.float32), np.empty(len(x), np.uint32)
    for i in range(len(x)):
        distance[i] = distance_of(x[i], y[i], z[i])
        moving = code_of_fraction(0.5 + 0.5 * speed[i] / speed_max) if speed[i] == speed[i] else np.uint8(0)
        codes[i] = packed(code_of_distance(distance[i], near, log_span), code_of_fraction(intensity[i]), moving)
    return distance, codes


# ----------------------------------------------------------------------------------------------------------- depth


@compiled
def depth_codes(z, near, far, log_span):
    """Metres along the optical axis, float32 -> the three channels."""
    z = min(max(z, np.float32(near)), np.float32(far))
    return code_of_distance(z, near, log_span), code_of_fraction(np.float32(near) / z), np.uint8(255)


@compiled
def resample_depth(depth, unit_m, height, width, near, far, log_span):
    """(Hd, Wd) depths of unit_m metres -> image (height, width, 3) uint8 by nearest pixel, number of valid pixels."""
    image = np.empty((height, width, 3), np.uint8)
    rows, columns = depth.shape
    column_of = ((np.arange(width) + 0.5) * columns / width).astype(np.uintp)
    metres, valid, nothing = np.empty(width, np.float32), 0, np.uint8(0)
    for y in range(height):
        source, line = depth[int((y + 0.5) * rows / height)], image[y]
        for x in range(width):
            metres[x] = np.float32(unit_m) * np.float32(source[column_of[x]])
        for x in range(width):      # without branches, to be vectorised
            z = metres[x]
            there = (z > np.float32(0.0)) & (z < np.float32(np.inf))
            a, b, c = depth_codes(z if there else np.float32(near), near, far, log_span)
            line[x, 0], line[x, 1] = a if there else nothing, b if there else nothing
            line[x, 2] = c if there else nothing
            valid += there
    return image, valid


@compiled
def unproject_depth(depth, unit_m, rays):
    """(N,) depths and (N, 3) rays with z = 1 -> (3, N) float32 metres, NaN where there is no measurement."""
    xyz = np.empty((3, len(depth)), np.float32)
    nothing = np.float32(np.nan)
    for i in range(len(depth)):
        z = np.float32(unit_m * depth[i])
        z = z if (z > np.float32(0.0)) & (z < np.float32(np.inf)) else nothing
        xyz[0, i], xyz[1, i], xyz[2, i] = rays[i, 0] * z, rays[i, 1] * z, z
    return xyz


@compiled
def encode_depth(z, near, far, log_span):
    """Metres along the optical axis (M,) float32 -> codes (M,) uint32."""
    codes = np.empty(len(z), np.uint32)
    for i in range(len(z)):
        a, b, c = depth_codes(z[i], near, far, log_span)
        codes[i] = packed(a, b, c)
    return codes


@compiled
def depth_footprint(index, z, uv, columns, scale_x, scale_y, alone, footprint, largest):
    """Half the side, in grid pixels, of the square that each pixel of a depth image becomes: (M,) float32.

    index (M,): which of the row-major pixels, `columns` in a row, are seen, z (M,) at which depth and uv (M, 2) where.
    Half the way to the neighbour on the right or below, whichever is farther, times `footprint`: no crack opens in a
    surface, however it is slanted or magnified. A neighbour that is not seen or belongs to another surface leaves it at
    `alone`.
    """
    half = np.full(len(uv), alone * footprint, np.float32)
    below = 0
    for i in range(len(uv)):
        number, farthest = index[i], 0.0
        while below < len(uv) and index[below] < number + columns:
            below += 1
        for other, there in ((i + 1, number + 1), (below, number + columns)):
            if other < len(uv) and index[other] == there and not (other == i + 1 and there % columns == 0) and \
                    abs(z[other] - z[i]) < SAME_SURFACE * min(z[other], z[i]):
                farthest = max(farthest, max(abs(uv[other, 0] - uv[i, 0]) * scale_x,
                                             abs(uv[other, 1] - uv[i, 1]) * scale_y))
        if farthest > 0.0:
            half[i] = min(0.5 * farthest * footprint, largest)
    return half


@compiled
def pack_codes(codes, index):
    """The rows `index` (M,) of codes (N, 3) uint8 -> (M,) uint32."""
    result = np.empty(len(index), np.uint32)
    for k in range(len(index)):
        i = np.uintp(index[k])
        result[k] = packed(codes[i, 0], codes[i, 1], codes[i, 2])
    return result
