"""Points into an image: where the sensor was, and where the target camera sees them.

LiDAR points and the pixels of a depth camera that sits elsewhere both go through here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mss_perception import kernels
from mss_perception.camera import Camera


@dataclass(frozen=True)
class Motion:
    """Where a moving sensor was: T (M, 4, 4) maps its frame to the target's at M knots in time.

    knot (N,) float32 is each point's place between knots, 0..M-1; None for a single transform (M = 1). Between two
    knots matrices are mixed linearly, which is exact to the square of the rotation from one to the next.
    """

    T: np.ndarray
    knot: np.ndarray | None = None

    @classmethod
    def fixed(cls, T: np.ndarray) -> Motion:
        return cls(np.asarray(T, np.float64).reshape(1, 4, 4))


@dataclass(frozen=True)
class ProjectedPoints:
    """The points of a cloud, and those of them that the target camera sees: depth > 0, 0 <= u < width, 0 <= v < height.

    xyz (N, 3) float32 metres in the target's optical frame, NaN for no return. index (M,) uint32: which of them are
    seen, rising. uv (M, 2) float64: where, in pixels of the target's full image. returns: points that are finite and
    not (0, 0, 0).
    """

    xyz: np.ndarray
    index: np.ndarray
    uv: np.ndarray
    returns: int

    @classmethod
    def joined(cls, parts: Sequence[ProjectedPoints]) -> ProjectedPoints:
        """The points of several clouds, one after the other."""
        if len(parts) == 1:
            return parts[0]
        before = np.cumsum([0, *(len(part.xyz) for part in parts[:-1])])
        return cls(np.concatenate([part.xyz for part in parts]),
                   np.concatenate([part.index + np.uint32(count) for part, count in zip(parts, before, strict=True)]),
                   np.concatenate([part.uv for part in parts]), sum(part.returns for part in parts))


def project_points(xyz: np.ndarray, motion: Motion, camera: Camera) -> ProjectedPoints:
    """(N, 3) float32 or float64 points of the sensor's frame -> the camera's image."""
    knot = np.zeros(0, np.float32) if motion.knot is None else np.ascontiguousarray(motion.knot, np.float32)
    if motion.knot is not None and len(knot) != len(xyz):
        raise ValueError(f"motion has {len(knot)} point times for {len(xyz)} points")
    kind, coefficients = camera.distortion
    return ProjectedPoints(*kernels.project_points(
        *np.ascontiguousarray(xyz.T), np.ascontiguousarray(motion.T[:, :3]), knot, camera.K, kind, coefficients,
        camera.valid_radius, camera.width, camera.height))
