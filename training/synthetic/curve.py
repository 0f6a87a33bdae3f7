"""The street's centre line: a smooth plane curve by arc length."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicHermiteSpline

from training.synthetic.looks import Look
from training.synthetic.mesh import Mesh, quads


class Curve:
    """x, y, heading over arc length s in [start, end]; curvature is a sum of slow sines, at most `bend` (1/m).

    Street coordinates: s along the curve, d to its left, metres. At s = 0 the curve passes the origin along +x.
    """

    STEP = 0.5  # metres between the knots of x and y

    def __init__(self, rng: np.random.Generator, start: float, end: float, bend: float) -> None:
        self._rate = 2 * np.pi / rng.uniform(70.0, 220.0, 3)
        self._phase = rng.uniform(0, 2 * np.pi, 3)
        self._weight = rng.dirichlet(np.ones(3)) * bend
        s = np.arange(start, end + self.STEP, self.STEP)
        # Simpson's rule for the positions. Cubics between them: a yaw rate needs a heading without steps.
        ends, middle = _unit(self.heading(s)), _unit(self.heading(s[:-1] + self.STEP / 2))
        steps = self.STEP / 6 * (ends[:-1] + 4 * middle + ends[1:])
        line = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
        origin = CubicHermiteSpline(s, line, ends)(0.0)
        self._line = CubicHermiteSpline(s, line - origin, ends)

    def heading(self, s):
        """Direction of the curve at s, radians: the integral of the curvature; 0 at s = 0."""
        s = np.asarray(s, np.float64)[..., None]
        return (self._weight / self._rate * (np.cos(self._phase) - np.cos(self._rate * s + self._phase))).sum(-1)

    def xy(self, s, d=0.0) -> np.ndarray:
        """(..., 2) of street coordinates s, d (broadcast); beyond its ends the line goes on straight."""
        s, d = np.broadcast_arrays(np.asarray(s, np.float64), np.asarray(d, np.float64))
        inside = np.clip(s, self._line.x[0], self._line.x[-1])
        ahead = _unit(self.heading(inside))
        left = np.stack([-ahead[..., 1], ahead[..., 0]], -1)
        return self._line(inside) + (s - inside)[..., None] * ahead + d[..., None] * left


def _unit(angle: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def ribbon(curve: Curve, s0: float, s1: float, d0, d1, z0: float, z1: float, look: Look) -> Mesh:
    """A strip from (d0, z0) to (d1, z1) along the curve; uv = (s, d), or (s, height) when it stands upright."""
    count = max(1, int(np.ceil((s1 - s0) / 3.0)))
    s = np.linspace(s0, s1, count + 1)
    left, right = curve.xy(s, d0), curve.xy(s, d1)
    low = np.column_stack([left, np.full(len(s), z0)])
    high = np.column_stack([right, np.full(len(s), z1)])
    corners = np.stack([low[:-1], low[1:], high[1:], high[:-1]], 1)
    v0, v1 = (z0, z1) if d0 == d1 else (d0, d1)
    uv = np.stack(
        [
            np.column_stack([s[:-1], np.full(count, v0)]),
            np.column_stack([s[1:], np.full(count, v0)]),
            np.column_stack([s[1:], np.full(count, v1)]),
            np.column_stack([s[:-1], np.full(count, v1)]),
        ],
        1,
    )
    return quads(corners, look, uv)
