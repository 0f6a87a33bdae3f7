"""HHA: depth as horizontal disparity, height above ground and angle with gravity.

Gupta, Girshick, Arbelaez, Malik, "Learning Rich Features from RGB-D Images for Object Detection and Segmentation", ECCV
2014, with the scales of their released code (s-gupta/rcnn-depth, rcnn/saveHHA.m), which its Python version
(charlesCXK/Depth2HHA-python) keeps and the authors of DELIVER point to. Of depth z in metres, per channel, rounded and
clipped to 0..255:

    c0 = disparity_m / max(z, near_m)                     31000 / z in centimetres there
    c1 = height_scale (h - height_min_m)                  h: metres above the ground; centimetres there
    c2 = angle_offset + angle_scale a                     a: degrees between the surface and the horizontal

a is between gravity and the normal that points away from the camera: 0 on the ground, 90 on walls, 180 on ceilings.
Where too few neighbours have a depth for a normal a = 180, as there. No measurement is (0, 0, 0).

What is known here and had to be guessed there: gravity, from the normals of an indoor scene, and the camera's height,
from the lowest point. On a robot both come from tf, and the guesses are only what is left without it (see `Level`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mss_models.modality import Encoding
from mss_perception import kernels
from mss_perception.camera import Camera
from mss_perception.compiled import compiled
from mss_perception.projection import ProjectedPoints
from mss_perception.transforms import TransformMissing, Transforms

# Without a known camera height the ground is where this share of the points, in percent, is lower: not the very lowest,
# which is a wrong measurement.
GROUND_PERCENTILE = 1.0
GROUND_SAMPLING = 4         # of the pixels in each direction, to find it
NO_NORMAL_DEGREES = 180.0
# Pixels whose spread across a line is less than the root of this, relative to that along it, are in one: what a lens
# bends is no second dimension.
IN_A_LINE = 1e-4


@dataclass(frozen=True)
class Level:
    """Where a camera stands: up, a unit vector (3,) in its optical frame, and height_m, its metres above the ground.

    Without any knowledge up is the camera's -y, as if it were mounted level, and the height None: the ground is then
    where the lowest points are.
    """

    up: tuple[float, float, float] = (0.0, -1.0, 0.0)
    height_m: float | None = None

    def moved(self, T_here_there: np.ndarray) -> Level:
        """The same of another frame, whose place in this one is T_here_there (4, 4)."""
        up = T_here_there[:3, :3].T @ self.up
        height_m = None if self.height_m is None else self.height_m + float(np.dot(self.up, T_here_there[:3, 3]))
        return Level(tuple(up.tolist()), height_m)


def level_of(transforms: Transforms, frame: str, base_frame: str, time_ns: int) -> Level:
    """The Level of a camera's frame at a time, as far as tf tells.

    Up is the z axis (REP 103) of the fixed frame (REP 105), else of the base frame, which tilts with the vehicle. The
    ground is at the base frame's origin, as far below the camera as up says.
    """
    try:
        T_camera_base = _known(transforms, frame, base_frame, time_ns)
    except TransformMissing:
        T_camera_base = None
    try:
        T_camera_up = transforms.lookup(frame, transforms.fixed_frame, time_ns)
    except TransformMissing:
        T_camera_up = T_camera_base
    if T_camera_up is None:
        return Level()
    up = T_camera_up[:3, 2] / np.linalg.norm(T_camera_up[:3, 2])
    height_m = None if T_camera_base is None else -float(up @ T_camera_base[:3, 3])
    return Level(tuple(up.tolist()), height_m)


def _known(transforms: Transforms, target: str, source: str, time_ns: int) -> np.ndarray:
    """At a time, else as last known."""
    try:
        return transforms.lookup(target, source, time_ns)
    except TransformMissing:
        return transforms.lookup(target, source)


class HHA:
    """The codes of 'hha'. figures: camera_height_m, of the depth camera over the ground, and ground_known, whether it
    is tf's or that of the lowest points."""

    def __init__(self, encoding: Encoding):
        p = encoding.params
        self.radius = int(p["normal_radius_px"])
        self.scales = tuple(float(p[name]) for name in ("near_m", "disparity_m", "height_scale", "height_min_m",
                                                        "angle_scale", "angle_offset"))
        self._key: tuple = ()
        self._pixels: tuple[np.ndarray, ...] = ()

    def view(self, depth: np.ndarray, unit_m: float, camera: Camera, height: int, width: int,
             level: Level) -> tuple[np.ndarray, int, dict]:
        """(Hd, Wd) in units of unit_m -> (height, width, 3) uint8 by nearest pixel, number of valid pixels, figures.

        Neighbours are those of the result, or of the depth image where that is coarser: copies have no normal.
        """
        rows, columns = min(height, depth.shape[0]), min(width, depth.shape[1])
        if self._key != (camera, rows, columns):
            taken = _nearest(rows, depth.shape[0]), _nearest(columns, depth.shape[1])
            uv = np.stack(np.meshgrid(taken[1], taken[0]), -1).reshape(-1, 2)
            rays = np.ascontiguousarray(camera.unproject(uv)[:, :2].T, np.float32).reshape(2, rows, columns)
            self._key, self._pixels = (camera, rows, columns), (*taken, rays)
        *taken, rays = self._pixels
        metres = sample_depth(depth, unit_m, *taken)
        metres[np.isnan(rays[0])] = np.nan
        codes, figures = self._encode(rays, metres, metres, level)
        if (rows, columns) != (height, width):
            copied = np.ix_(_nearest(height, rows), _nearest(width, columns))
            codes, metres = codes[copied], metres[copied]
        return codes, int(np.count_nonzero(metres > 0)), figures

    def points(self, xyz: np.ndarray, points: ProjectedPoints, level: Level) -> tuple[np.ndarray, dict]:
        """Codes (M,) uint32 of the pixels of a depth image that the target camera sees, and figures.

        xyz: (3, Hd, Wd) in the depth camera's frame, NaN for none, and points: the same where the target camera sees
        them. Normals are of the depth camera's own image, in which neighbours are neighbours in space.
        """
        x, y, z = xyz
        shown = np.full(z.shape, np.nan, np.float32)
        shown.ravel()[points.index] = points.z
        metres = np.where(np.isnan(x), np.float32(np.nan), z)
        codes, figures = self._encode(np.stack([x / metres, y / metres]), metres, shown, level)
        return kernels.pack_codes(codes.reshape(-1, 3), points.index), figures

    def _encode(self, rays: np.ndarray, depth: np.ndarray, shown: np.ndarray, level: Level) -> tuple[np.ndarray, dict]:
        """Codes (H, W, 3) uint8. rays: (2, H, W) float32 x / z and y / z. depth: (H, W) float32 metres, NaN for none,
        in the frame of level. shown: (H, W), the depth that c0 tells of."""
        up = np.array(level.up)
        height_m = -lowest(rays, depth, up) if level.height_m is None else level.height_m
        normals = fit_normals(rays, depth, self.radius)
        codes = _codes(rays, depth, shown, normals, up, height_m, *self.scales)
        return codes, {"camera_height_m": round(height_m, 3), "ground_known": level.height_m is not None}


def lowest(rays: np.ndarray, depth: np.ndarray, up: np.ndarray) -> float:
    """Height over the camera, in metres, below which GROUND_PERCENTILE of the points are; 0 without any point."""
    few = np.s_[::GROUND_SAMPLING, ::GROUND_SAMPLING]
    heights = (up[0] * rays[0][few] + up[1] * rays[1][few] + up[2]) * depth[few]
    heights = heights[np.isfinite(heights)]
    return float(np.percentile(heights, GROUND_PERCENTILE)) if len(heights) else 0.0


def _nearest(wanted: int, given: int) -> np.ndarray:
    """Which of `given` pixels is under the centre of each of `wanted`, in a row."""
    return ((np.arange(wanted) + 0.5) * given / wanted).astype(np.int64)


@compiled
def sample_depth(depth, unit_m, rows, columns):
    """The chosen pixels as (H, W) float32 metres, NaN where there is no measurement."""
    metres = np.full((len(rows), len(columns)), np.nan, np.float32)
    for i in range(len(rows)):
        line = depth[rows[i]]
        for j in range(len(columns)):
            z = unit_m * line[columns[j]]
            if z > 0.0 and z < np.inf:
                metres[i, j] = z
    return metres


@compiled
def fit_normals(rays, depth, radius):
    """Unit normals (3, H, W) float32 that point away from the camera; NaN where no plane can be fitted.

    rays: (2, H, W) float32 x / z and y / z. depth: (H, W) float32, NaN for none. The plane n . X = 1 goes through the
    pixels of a square window of side 2 radius + 1 that have a depth, cut off at the image's edge: 1 / z = n . (x, y, 1)
    is linear in the rays, and n is its least squares solution, as in the authors' computeNormalsSquareSupport.
    """
    height, width = depth.shape
    side = 2 * radius + 1
    normals = np.empty((3, height, width), np.float32)
    # Sums over the window's rows in each column, of 1, x, y, 1/z, xx, xy, yy, x/z, y/z; with empty columns beside the
    # image. They follow from those of the row before, in double precision: what is added and taken away leaves its
    # rounding errors.
    columns = np.zeros((9, width + side - 1))
    inside = columns[:, radius:radius + width]
    total = np.empty((9, width))
    for row in range(min(radius, height)):
        _add(inside, rays[0, row], rays[1, row], depth[row], 1.0)
    for row in range(height):
        if row + radius < height:
            _add(inside, rays[0, row + radius], rays[1, row + radius], depth[row + radius], 1.0)
        gone = row - radius - 1
        if gone >= 0:
            _add(inside, rays[0, gone], rays[1, gone], depth[gone], -1.0)
        total[:] = 0.0
        for k in range(9):
            window = total[k]
            for shift in range(side):
                part = columns[k, shift:shift + width]
                for i in range(width):
                    window[i] += part[i]
        _solve(total, rays[0, row], rays[1, row], depth[row], normals[:, row])
    return normals


@compiled
def _add(columns, x, y, depth, sign):
    """Add one row of pixels to the sums of their columns, or with sign -1 take it away. Without branches, to be
    vectorised."""
    n, nx, ny, nw, nxx, nxy, nyy, nxw, nyw = (columns[0], columns[1], columns[2], columns[3], columns[4], columns[5],
                                              columns[6], columns[7], columns[8])
    for i in range(len(depth)):
        there = depth[i] > 0.0
        one = sign if there else 0.0
        u, v = np.float64(x[i]) if there else 0.0, np.float64(y[i]) if there else 0.0
        w = one / (np.float64(depth[i]) if there else 1.0)
        n[i] += one
        nx[i] += one * u
        ny[i] += one * v
        nw[i] += w
        nxx[i] += one * u * u
        nxy[i] += one * u * v
        nyy[i] += one * v * v
        nxw[i] += w * u
        nyw[i] += w * v


@compiled
def _solve(total, x, y, depth, normals):
    """One row of normals (3, W) from the sums over their windows (9, W), by way of the covariances."""
    n, nx, ny, nw, nxx, nxy, nyy, nxw, nyw = (total[0], total[1], total[2], total[3], total[4], total[5], total[6],
                                              total[7], total[8])
    a_of, b_of, c_of = normals[0], normals[1], normals[2]
    for i in range(len(depth)):
        share = 1.0 / n[i]
        mean_x, mean_y, mean_w = nx[i] * share, ny[i] * share, nw[i] * share
        xx, yy = nxx[i] * share - mean_x * mean_x, nyy[i] * share - mean_y * mean_y
        xy = nxy[i] * share - mean_x * mean_y
        xw, yw = nxw[i] * share - mean_x * mean_w, nyw[i] * share - mean_y * mean_w
        # The determinant is left in as a factor: only the direction is wanted.
        determinant = xx * yy - xy * xy
        a, b = yy * xw - xy * yw, xx * yw - xy * xw
        c = mean_w * determinant - a * mean_x - b * mean_y
        found = (depth[i] > 0.0) & (n[i] > 2.5) & (determinant > IN_A_LINE * (xx + yy) * (xx + yy))
        # Away from the camera is where n . X is positive, as it is of a plane that its points lie on.
        length = np.sqrt(a * a + b * b + c * c) * (1.0 if a * x[i] + b * y[i] + c >= 0.0 else -1.0)
        scale = 1.0 / length if found else np.nan
        a_of[i], b_of[i], c_of[i] = a * scale, b * scale, c * scale


@compiled
def _codes(rays, depth, shown, normals, up, height_m, near, disparity, height_scale, height_min, angle_scale,
           angle_offset):
    """In single precision and without branches, to be vectorised."""
    height, width = depth.shape
    codes = np.empty((height, width, 3), np.uint8)
    line = np.empty((3, width), np.uint8)
    up_x, up_y, up_z = np.float32(up[0]), np.float32(up[1]), np.float32(up[2])
    metre, degree = np.float32(height_scale), np.float32(angle_scale)
    # The + 0.5 rounds what is cut off later.
    lowest_code, level_code = np.float32(height_scale * (height_m - height_min) + 0.5), np.float32(angle_offset + 0.5)
    one_metre, nearest_m = np.float32(disparity), np.float32(near)
    half, zero = np.float32(0.5), np.uint8(0)
    for row in range(height):
        x, y, z_of, shown_of = rays[0, row], rays[1, row], depth[row], shown[row]
        normal_x, normal_y, normal_z = normals[0, row], normals[1, row], normals[2, row]
        c0, c1, c2 = line[0], line[1], line[2]
        for i in range(width):
            there = (z_of[i] > np.float32(0.0)) & (shown_of[i] > np.float32(0.0))
            above = (x[i] * up_x + y[i] * up_y + up_z) * z_of[i]
            cosine = -(normal_x[i] * up_x + normal_y[i] * up_y + normal_z[i] * up_z)
            angle = _arccos_degrees(cosine)
            angle = angle if cosine == cosine else np.float32(NO_NORMAL_DEGREES)
            seen_at = shown_of[i] if shown_of[i] > nearest_m else nearest_m
            a, b = _byte(one_metre / seen_at + half), _byte(metre * above + lowest_code)
            c = _byte(degree * angle + level_code)
            c0[i], c1[i], c2[i] = a if there else zero, b if there else zero, c if there else zero
        for i in range(width):
            codes[row, i, 0], codes[row, i, 1], codes[row, i, 2] = c0[i], c1[i], c2[i]
    return codes


@compiled
def _arccos_degrees(cosine):
    """Within 0.004 degrees (Abramowitz and Stegun, Handbook of Mathematical Functions, 4.4.45); of NaN any number."""
    size = abs(cosine) if abs(cosine) < np.float32(1.0) else np.float32(1.0)
    series = np.float32(1.5707288) + size * (np.float32(-0.2121144) + size * (np.float32(0.0742610) + size
                                                                             * np.float32(-0.0187293)))
    angle = np.float32(180.0 / np.pi) * np.sqrt(np.float32(1.0) - size) * series
    return angle if cosine >= np.float32(0.0) else np.float32(180.0) - angle


@compiled
def _byte(value):
    """Clipped to 0..255 and cut off."""
    value = value if value > np.float32(0.0) else np.float32(0.0)
    return np.uint8(np.int32(value if value < np.float32(255.0) else np.float32(255.0)))
