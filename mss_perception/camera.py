"""Camera intrinsics: pinhole with ROS's distortion models, projection and its inverse.

Pixel coordinates have the centre of the top left pixel at (0, 0), as in ROS and OpenCV. Frames are optical (REP 103):
x right, y down, z forward. Distortion models and coefficient order are those of sensor_msgs/CameraInfo:
plumb_bob (k1 k2 p1 p2 k3), rational_polynomial (k1 k2 p1 p2 k3 k4 k5 k6, and OpenCV's thin prism s1 s2 s3 s4),
equidistant (k1 k2 k3 k4). OpenCV's tilted sensor (two more coefficients) is refused.

A distortion is one-to-one only up to some distance from the optical axis; beyond it, it folds points far outside the
view back into the image. `Camera.valid_radius` is that distance; points at or beyond it are never valid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from mss_perception import kernels

# model -> allowed numbers of coefficients
DISTORTION_MODELS = {"none": (0,), "plumb_bob": (0, 4, 5), "rational_polynomial": (8, 12), "equidistant": (4,)}
# sensor_msgs names of the same models elsewhere
ALIASES = {"": "none", "fisheye": "equidistant"}
# "No limit", for models that see less than the half space in front: a field of view of 179.9 degrees.
WIDEST = float(np.tan(np.deg2rad(89.95)))

# The tables of a calibration are as large as the image: a hostile size must not fill the memory.
MAX_PIXELS = 1 << 26
MAX_SIDE = (1 << 15) - 2        # as long as OpenCV maps pictures
# Larger coefficients are no lens, and their products no numbers.
MAX_COEFFICIENT = 1e6
SHORTEST_FOCAL, LONGEST_FOCAL = 1e-6, 1e9       # pixels; as far away may the principal point be


class CameraError(ValueError):
    """A calibration cannot be used. The message names the field, its value and what would be right."""


@dataclass(frozen=True, eq=False)
class Camera:
    """Intrinsics of one camera.

    width, height: pixels. K: (3, 3) float64. model: a key of DISTORTION_MODELS. D: its coefficients; with none any
    number of zeros, which are left out. frame_id: optical frame. Raises CameraError when the values make no camera.
    """

    width: int
    height: int
    K: np.ndarray
    model: str = "none"
    D: tuple[float, ...] = ()
    frame_id: str = ""

    def __post_init__(self):
        K = np.array(self.K, np.float64).reshape(3, 3)
        K.setflags(write=False)
        object.__setattr__(self, "K", K)
        D = tuple(float(value) for value in self.D)
        # Drivers send five zeros without a model, too.
        object.__setattr__(self, "D", () if self.model == "none" and not any(D) else D)
        if min(self.width, self.height) <= 0 or max(self.width, self.height) > MAX_SIDE or \
                self.width * self.height > MAX_PIXELS:
            raise CameraError(f"camera size {self.width} x {self.height} must be positive, at most {MAX_SIDE} on a "
                              f"side and at most {MAX_PIXELS} pixels in all")
        if not (np.abs(K) <= LONGEST_FOCAL).all() or min(K[0, 0], K[1, 1]) < SHORTEST_FOCAL:     # nor is NaN
            raise CameraError(f"camera matrix K = {K.ravel().tolist()} needs finite values, {LONGEST_FOCAL:g} pixels "
                              "at most, and positive focal lengths; is the camera calibrated?")
        if K[1, 0] or K[2].tolist() != [0, 0, 1]:
            raise CameraError(f"camera matrix K = {K.ravel().tolist()} must be fx s cx, 0 fy cy, 0 0 1")
        if self.model not in DISTORTION_MODELS:
            raise CameraError(f"distortion model {self.model!r} is unknown; known: {', '.join(DISTORTION_MODELS)}")
        if self.model == "rational_polynomial" and any(self.D[12:]):
            raise CameraError(f"distortion coefficients 13 and 14 (tilted sensor) are {self.D[12:]}; only 0 is "
                              "supported: calibrate without CALIB_TILTED_MODEL")
        if len(self.D) not in DISTORTION_MODELS[self.model] or not np.isfinite(self.D).all():
            raise CameraError(f"{self.model} needs {' or '.join(map(str, DISTORTION_MODELS[self.model]))} finite "
                              f"coefficients, got D = {self.D}")
        if max(map(abs, self.D), default=0.0) > MAX_COEFFICIENT:
            raise CameraError(f"distortion coefficients D = {self.D} must be at most {MAX_COEFFICIENT:g}")

    def __eq__(self, other) -> bool:
        return isinstance(other, Camera) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self):
        return self.width, self.height, self.K.tobytes(), self.model, self.D, self.frame_id

    @classmethod
    def from_info(cls, msg) -> Camera:
        """From a sensor_msgs/CameraInfo, for the raw (unrectified) image; region of interest and binning applied.

        Both as REP 104 defines them: K and the region are in pixels of the full sensor, binning comes last. A binned
        pixel is taken as the mean of its block, so that its centre is the block's.
        """
        model = ALIASES.get(msg.distortion_model, msg.distortion_model)
        D = [float(value) for value in msg.d]
        if model == "none" and any(D):
            raise CameraError(f"camera_info has coefficients D = {D} but distortion_model = {msg.distortion_model!r}")
        if model == "plumb_bob" and len(D) in (8, 12, 14):
            model = "rational_polynomial"       # the same formula; some drivers keep the name
        if model == "rational_polynomial":
            for used in (8, 12):
                if not any(D[used:]):
                    D = D[:used]
                    break
        if model in ("plumb_bob", "rational_polynomial") and not any(D):
            model, D = "none", []
        K = np.array(msg.k, np.float64).reshape(3, 3)
        roi = msg.roi
        width, height = int(roi.width or msg.width), int(roi.height or msg.height)
        if roi.x_offset + width > msg.width or roi.y_offset + height > msg.height:
            raise CameraError(f"camera_info's roi of {width} x {height} at {roi.x_offset}, {roi.y_offset} leaves the "
                              f"sensor of {msg.width} x {msg.height}")
        K[:2, 2] -= roi.x_offset, roi.y_offset
        bin_x, bin_y = max(1, int(msg.binning_x)), max(1, int(msg.binning_y))
        # What fills no block at the right and at the bottom is not part of the image.
        whole = cls(width - width % bin_x, height - height % bin_y, K, model, tuple(D), msg.header.frame_id.lstrip("/"))
        return whole if bin_x == bin_y == 1 else whole.scaled(whole.width // bin_x, whole.height // bin_y)

    def in_frame(self, frame_id: str) -> Camera:
        """The same camera with its data in another frame, with or without a leading slash; itself for none."""
        return replace(self, frame_id=frame) if (frame := frame_id.lstrip("/")) else self

    def scaled(self, width: int, height: int) -> Camera:
        """The same view on another pixel grid; pixel corners, not centres, stay where they are."""
        scale = np.diag([width / self.width, height / self.height, 1.0])
        shift = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        return replace(self, width=width, height=height, K=np.linalg.inv(shift) @ scale @ shift @ self.K)

    @cached_property
    def distortion(self) -> tuple[int, tuple[float, ...]]:
        """(kind, 12 coefficients) as the kernels take them; radial ones as rational_polynomial has them."""
        kind = kernels.EQUIDISTANT if self.model == "equidistant" else kernels.RADIAL
        return kind, self.D + (0.0,) * (12 - len(self.D))

    @cached_property
    def valid_radius(self) -> float:
        """Distance from the axis on the plane z = 1 below which the distortion is one-to-one; at most WIDEST."""
        return _valid_radius(*self.distortion)

    def project(self, xyz) -> tuple[np.ndarray, np.ndarray]:
        """(N, 3) points in the optical frame -> uv (N, 2) float64 pixels, valid (N,) bool.

        Valid: finite, z > 0 and inside `valid_radius`; not necessarily inside the image. uv is NaN where not valid.
        """
        kind, d = self.distortion
        return kernels.project(np.asarray(xyz, np.float64).reshape(-1, 3), self.K, kind, d, self.valid_radius)

    def unproject(self, uv) -> np.ndarray:
        """(N, 2) pixels -> (N, 3) float64 undistorted rays with z = 1; NaN where no ray has this pixel."""
        kind, d = self.distortion
        return kernels.unproject(np.asarray(uv, np.float64).reshape(-1, 2), self.K, kind, d, self.valid_radius)

    def pixel_rays(self, top: int = 0, rows: int | None = None) -> np.ndarray:
        """(rows * W, 3) float64 rays, z = 1, of all pixel centres of `rows` rows, row-major; None: to the last."""
        v, u = np.mgrid[top:self.height if rows is None else min(top + rows, self.height), :self.width]
        return self.unproject(np.stack([u.ravel(), v.ravel()], -1))


@lru_cache(maxsize=64)      # the same on every grid and with each camera_info, and the search takes milliseconds
def _valid_radius(kind: int, coefficients: tuple[float, ...]) -> float:
    d = np.array(coefficients)
    if kind == kernels.EQUIDISTANT:
        # d(theta_d)/d(theta) as a polynomial in theta^2
        squares = _positive_roots([1.0, 3 * d[0], 5 * d[1], 7 * d[2], 9 * d[3]])
        angle = min([np.arctan(WIDEST), *np.sqrt(squares)])
        return float(np.tan(angle))
    # r_d = r N(s) / D(s), s = r^2; its derivative's numerator is N D + 2 s (N' D - N D').
    N = np.polynomial.Polynomial([1.0, d[0], d[1], d[4]])
    D = np.polynomial.Polynomial([1.0, d[5], d[6], d[7]])
    slope = N * D + np.polynomial.Polynomial([0.0, 2.0]) * (N.deriv() * D - N * D.deriv())
    squares = _positive_roots(slope.coef) + _positive_roots(D.coef)
    radius = float(min([WIDEST, *np.sqrt(squares)]))
    return _unfolded_radius(d, radius) if d[2:4].any() or d[8:].any() else radius


def _positive_roots(ascending) -> list[float]:
    """Positive real roots up to WIDEST squared of 1 + c1 s + c2 s^2 + ..., coefficients in ascending order.

    Found as 1 / u of the polynomial in u = 1 / s, whose leading coefficient is 1: the last one may be as small as it
    likes, its root is then far away.
    """
    roots = np.roots(ascending)
    return [1 / u.real for u in roots if abs(u.imag) <= 1e-9 * abs(u) and u.real > WIDEST**-2]


def _unfolded_radius(d: np.ndarray, limit: float) -> float:
    """Radius up to which no direction folds, `limit` at most, with tangential and thin prism distortion.

    There is no closed form: the determinant of d(x', y') / d(x, y) is scanned along rays from the centre, where it is
    1, for the first that is not positive.
    """
    around = np.linspace(0, 2 * np.pi, 72, endpoint=False)[:, None]
    radius = np.tan(np.linspace(0, np.arctan(limit), 2000, endpoint=False))
    x, y, s = radius * np.cos(around), radius * np.sin(around), radius**2
    N, D = 1 + s * (d[0] + s * (d[1] + s * d[4])), 1 + s * (d[5] + s * (d[6] + s * d[7]))
    slope_N, slope_D = d[0] + s * (2 * d[1] + s * 3 * d[4]), d[5] + s * (2 * d[6] + s * 3 * d[7])
    ratio, slope = N / D, (slope_N * D - N * slope_D) / D**2        # of the radial part, and its derivative by s
    prism_x, prism_y = d[8] + 2 * d[9] * s, d[10] + 2 * d[11] * s
    shared = 2 * x * y * slope + 2 * d[2] * x + 2 * d[3] * y
    determinant = ((ratio + 2 * x * x * slope + 2 * d[2] * y + 6 * d[3] * x + 2 * x * prism_x)
                   * (ratio + 2 * y * y * slope + 6 * d[2] * y + 2 * d[3] * x + 2 * y * prism_y)
                   - (shared + 2 * y * prism_x) * (shared + 2 * x * prism_y))
    folded = np.flatnonzero(~(determinant > 0).all(0))      # NaN, of numbers beyond all bounds, is none either
    return float(radius[folded[0] - 1]) if len(folded) else limit
