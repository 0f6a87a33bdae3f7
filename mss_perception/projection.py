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
    """Those points of a cloud that the target camera sees: depth > 0, 0 <= u < width and 0 <= v < height.

    index (M,) uint32: which they are, rising. x, y, z (M,) float32 metres in the target's optical frame. uv (M, 2)
    float64 pixels of the target's full image. returns: how many of the cloud's points are finite and not (0, 0, 0).
    count: how many it has.
    """

    index: np.ndarray
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    uv: np.ndarray
    returns: int
    count: int

    @property
    def xyz(self) -> np.ndarray:
        """(M, 3) float32, a copy."""
        return np.stack([self.x, self.y, self.z], -1)

    @classmethod
    def joined(cls, parts: Sequence[ProjectedPoints]) -> ProjectedPoints:
        """The points of several clouds, one after the other."""
        if len(parts) == 1:
            return parts[0]
        before = np.cumsum([0, *(part.count for part in parts)]).astype(np.uint32)
        index = np.concatenate([part.index + first for part, first in zip(parts, before, strict=False)])
        return cls(index, *(np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "y", "z", "uv")),
                   sum(part.returns for part in parts), int(before[-1]))


def project_points(xyz: np.ndarray, motion: Motion, camera: Camera) -> ProjectedPoints:
    """(N, 3) float32 or float64 points of the sensor's frame -> the camera's image."""
    knot = np.zeros(0, np.float32) if motion.knot is None else np.ascontiguousarray(motion.knot, np.float32)
    if motion.knot is not None and len(knot) != len(xyz):
        raise ValueError(f"motion has {len(knot)} point times for {len(xyz)} points")
    kind, coefficients = camera.distortion
    return ProjectedPoints(*kernels.project_points(
        *numbers_of(xyz), np.ascontiguousarray(motion.T[:, :3]), knot, camera.K, kind, coefficients,
        camera.valid_radius, camera.width, camera.height), len(xyz))


def numbers_of(xyz: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """(N, 3) points -> the numbers in memory from the first to the last, read-only, and how points lie in them: the
    places of y and z after x, the step to the next point, and N. So the compiler sees one type, however they lie."""
    size = xyz.itemsize
    if any(stride <= 0 or stride % size for stride in xyz.strides) or not xyz.flags.aligned:
        xyz = xyz.copy(order="C")
    step, place = (max(1, stride // size) for stride in xyz.strides)        # of a single point it may be 0
    numbers = np.lib.stride_tricks.as_strided(
        xyz, ((len(xyz) - 1) * step + 2 * place + 1 if len(xyz) else 0,), (size,), writeable=False)
    return numbers, (place, 2 * place, step, len(xyz))
