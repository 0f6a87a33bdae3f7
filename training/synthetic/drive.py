"""One drive along one street in one weather: everything that sensors look at."""

from __future__ import annotations

import numpy as np

from training.synthetic import air, layout, movers, weather
from training.synthetic.kernels import Material
from training.synthetic.mesh import Mesh
from training.synthetic.raycast import Hits, World
from training.synthetic.shading import Surface, radiance, surface
from training.synthetic.vehicles import HEAD_LIGHT_HEIGHT

_LAMP_REACH, _LAMP_COUNT = 28.0, 14
_BLURRED = 0.02  # width of what a pixel sees in wet ground, radians
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

    def radiance(
        self, hits: Hits, seen: Surface, origins: np.ndarray, directions: np.ndarray, t: float, mirrors: bool = True
    ) -> np.ndarray:
        """(N, 3) f32 radiance of those surfaces, or of the sky, at time t, as it arrives through the air.

        mirrors: wet ground shows what stands on it; else, as everything glossy, the sky only."""
        mirrored = np.zeros((0, 3), np.float32)
        if mirrors and self.light.rain:
            mirrored = self._mirrored(hits, seen, origins, directions, t)
        arriving = self._shaded(hits, seen, origins, directions, t, mirrored)
        return air.veil(arriving, hits.t, directions, self.light)

    def _mirrored(self, hits: Hits, seen: Surface, origins, directions, t: float) -> np.ndarray:
        """(N, 3) f32: what wet, level ground shows, -1 where there is none."""
        light = np.full((len(hits.face), 3), -1, np.float32)
        which = np.flatnonzero((hits.face >= 0) & (seen.gloss > 0.15) & (hits.normal[:, 2] > 0.95) & (hits.t < 60))
        if len(which):
            normal, towards = hits.normal[which], directions[which]
            points = origins[which] + towards * hits.t[which, None] + normal * _SHADOW_LIFT
            away = towards - 2 * np.einsum("ij,ij->i", towards, normal)[:, None] * normal
            found = self.world.cast(points, away, self.world.bodies(t))
            surfaces = self.surface(found, away, _BLURRED)
            light[which] = self._shaded(found, surfaces, points, away, t, np.zeros((0, 3), np.float32))
        return light

    def _shaded(self, hits: Hits, seen: Surface, origins, directions, t: float, mirrored: np.ndarray) -> np.ndarray:
        lit = np.zeros(len(hits.face), bool)
        if self.light.shadows:
            towards = self.light.direction.astype(np.float32)
            which = np.flatnonzero((hits.face >= 0) & (hits.normal @ towards > 0))
            points = origins[which] + directions[which] * hits.t[which, None] + hits.normal[which] * _SHADOW_LIFT
            lit[which] = ~self.world.shadowed(points.astype(np.float32), towards, self.world.bodies(t))
        return radiance(seen, hits, origins, directions, lit, self.light, self._lamps(t), self._spots(t), mirrored)

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
