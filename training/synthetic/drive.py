"""One drive along one street in one weather: everything that sensors look at."""

from __future__ import annotations

import numpy as np

from training.synthetic import layout, movers, weather
from training.synthetic.kernels import Material
from training.synthetic.mesh import Mesh
from training.synthetic.raycast import Hits, World
from training.synthetic.shading import Surface, radiance, surface
from training.synthetic.vehicles import HEAD_LIGHT_HEIGHT

_LAMP_REACH, _LAMP_COUNT = 28.0, 14
_SHADOW_LIFT = np.float32(0.02)  # metres off a surface, so that it does not shade itself


class Drive:
    """A street, its traffic and its light, by seed. Times are seconds from the drive's start.

    seed: integers as for numpy.random.SeedSequence. weather_name: one of weather.WEATHERS. duration: seconds for which
    there are street and traffic."""

    def __init__(self, seed, weather_name: str, duration: float) -> None:
        streams = np.random.SeedSequence(seed).spawn(4)
        street_rng, ego_rng, traffic_rng, light_rng = (np.random.default_rng(stream) for stream in streams)
        self.light = weather.light(weather_name, light_rng)
        self.street = layout.build(street_rng, 1.05 * movers.TOP_SPEED * duration + 20)
        self.ego = movers.Ego(ego_rng, self.street, duration)
        traffic = movers.populate(traffic_rng, self.street, self.ego, duration)
        self.world = World(self.street, self.ego, traffic)
        self._styles = self.street.styles.table()
        self._sodium = light_rng.uniform() < 0.5
        self._headlit = [
            mover
            for mover in traffic
            if isinstance(mover.form, Mesh) and np.any(mover.form.material == Material.HEADLIGHT)
        ]

    def surface(self, hits: Hits, directions: np.ndarray, pixel_angle: float) -> Surface:
        """The surfaces that rays of `pixel_angle` radians width hit."""
        grazing = np.abs(np.einsum("ij,ij->i", hits.normal, directions))
        footprint = hits.t * np.float32(pixel_angle) / np.sqrt(np.maximum(grazing, 0.02))
        return surface(hits, footprint.astype(np.float32), self.world.surfaces, self._styles, self.light)

    def radiance(self, hits: Hits, seen: Surface, origins: np.ndarray, directions: np.ndarray, t: float) -> np.ndarray:
        """(N, 3) f32 radiance of those surfaces, or of the sky, at time t."""
        lit = np.zeros(len(hits.face), bool)
        if self.light.shadows:
            towards = self.light.direction.astype(np.float32)
            which = np.flatnonzero((hits.face >= 0) & (hits.normal @ towards > 0))
            points = origins[which] + directions[which] * hits.t[which, None] + hits.normal[which] * _SHADOW_LIFT
            lit[which] = ~self.world.shadowed(points.astype(np.float32), towards, self.world.bodies(t))
        return radiance(seen, hits, origins, directions, lit, self.light, self._lamps(t), self._spots(t))

    def _lamps(self, t: float) -> np.ndarray:
        """(P, 7) street lamps near the ego vehicle: x y z, r g b, reach."""
        if not self.light.lamps:
            return np.zeros((0, 7))
        lamps = self.street.lamps
        ahead = self.ego.pose(t)[:2, :4] @ [15.0, 0, 0, 1]
        nearest = np.argsort(np.hypot(*(lamps[:, :2] - ahead).T), kind="stable")[:_LAMP_COUNT]
        colour = (1.0, 0.62, 0.28) if self._sodium else (0.95, 0.97, 1.0)
        return np.column_stack([lamps[nearest], np.tile([*colour, _LAMP_REACH], (len(nearest), 1))])

    def _spots(self, t: float) -> np.ndarray:
        """(Q, 6) head-lights of the ego vehicle and of the nearest others: x y z and direction."""
        if not self.light.lamps:
            return np.zeros((0, 6))
        here = self.ego.pose(t)
        poses, _ = movers.place(self.street.curve, self._headlit, t)
        order = np.argsort(np.hypot(*(poses[:, :2, 3] - here[:2, 3]).T), kind="stable")[:4]
        fronts = [float(self._headlit[i].form.vertices[:, 0].max()) for i in order]
        rows = []
        for pose, front in zip([here, *poses[order]], [2.0, *fronts], strict=True):
            for side in (-0.6, 0.6):
                at = pose @ [front + 0.05, side, HEAD_LIGHT_HEIGHT, 1]
                rows.append([*at[:3], *(pose[:3, :3] @ [0.998, 0, -0.06])])
        return np.array(rows)
