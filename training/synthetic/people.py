"""Pedestrians: limbs that swing with the gait."""

from __future__ import annotations

import numpy as np

from training.synthetic.kernels import Material
from training.synthetic.looks import Look
from training.synthetic.mesh import Mesh, box, cylinder, icosphere, merge, pose

CLOTHES = np.array(
    [
        [0.5, 0.05, 0.05],
        [0.05, 0.1, 0.4],
        [0.6, 0.55, 0.1],
        [0.08, 0.3, 0.12],
        [0.6, 0.6, 0.6],
        [0.05, 0.05, 0.06],
        [0.45, 0.2, 0.4],
        [0.7, 0.35, 0.08],
        [0.3, 0.2, 0.12],
    ]
)
SKIN = np.array([[0.55, 0.36, 0.26], [0.42, 0.25, 0.16], [0.2, 0.11, 0.07], [0.6, 0.42, 0.32]])
_SIZES = ((0.72, 0.56), (0.92, 0.52), (1.0, 0.46), (1.08, 0.5))  # height and swing, of a child and of adults
HIP, KNEE, SHOULDER = 0.92, 0.48, 1.42


class Pedestrian:
    """A person of some build and clothing. `mesh(phase)` is the body at a phase (radians) of the double step; people
    of one `build` (size, swing of the legs, with a bag, in a skirt) have the same vertices and faces at every phase."""

    def __init__(self, rng: np.random.Generator) -> None:
        bag, skirt = bool(rng.uniform() < 0.35), bool(rng.uniform() < 0.3)
        self.scale, self.swing = _SIZES[rng.choice(len(_SIZES), p=(0.14, 0.24, 0.34, 0.28))]
        self.build = (self.scale, bag, skirt)
        top = CLOTHES[rng.integers(len(CLOTHES))] * rng.uniform(0.6, 1.25)
        bottom = np.array([[0.06, 0.08, 0.16], [0.05, 0.05, 0.05], [0.3, 0.25, 0.17], [0.2, 0.2, 0.22]])[
            rng.integers(4)
        ]
        cloth, trousers, skin, hair, shoe = (
            Look(Material.CLOTH, "Pedestrian", tuple(c))
            for c in (
                top,
                bottom,
                SKIN[rng.integers(len(SKIN))],
                np.array([0.1, 0.06, 0.03]) * rng.uniform(0.3, 4),
                (0.04, 0.04, 0.04),
            )
        )
        torso = [
            cylinder((0, 0, HIP - 0.06), (0, 0, SHOULDER + 0.05), 0.155, cloth, 8, 0.2, caps=cloth),
            icosphere((0.105, 0.09, 0.13), (0.02, 0, 1.63), skin, 1),
            icosphere((0.112, 0.1, 0.1), (-0.015, 0, 1.69), hair, 1),
        ]
        if bag:
            torso.append(
                box(
                    (0.18, 0.32, 0.42),
                    (-0.25, 0, 1.22),
                    Look(Material.CLOTH, "Pedestrian", tuple(rng.uniform(0.03, 0.4, 3))),
                )
            )
        if skirt:  # or a coat
            torso.append(cylinder((0, 0, 0.55), (0, 0, HIP + 0.1), 0.27, cloth, 8, 0.17))
        self._torso = merge(torso)
        self._thigh = cylinder((0, 0, 0), (0, 0, KNEE - HIP), 0.09, trousers, 6, 0.07)
        self._shin = merge(
            [
                cylinder((0, 0, 0), (0, 0, 0.06 - KNEE), 0.068, trousers, 6, 0.05),
                box((0.26, 0.1, 0.09), (0.06, 0, 0.045 - KNEE), shoe),
            ]
        )
        self._arm = merge(
            [
                cylinder((0, 0, 0), (0, 0, -0.3), 0.06, cloth, 6, 0.05),
                cylinder((0, 0, -0.3), (0.06, 0, -0.56), 0.05, cloth, 6, 0.04),
                icosphere(0.05, (0.07, 0, -0.6), skin, 0),
            ]
        )

    def step_length(self) -> float:
        """Metres per double step: what makes the feet stay on the ground."""
        return 4 * self.swing * HIP * self.scale * 0.95

    def mesh(self, phase: float) -> Mesh:
        parts = [self._torso]
        for side in (-1, 1):
            angle = self.swing * np.sin(phase + (np.pi / 2) * (1 + side))
            lift = max(0.0, np.cos(phase + (np.pi / 2) * (1 + side)))  # the leg that swings forward bends
            hip = pose(0, 0.1 * side, HIP, pitch=-angle)
            parts += [
                self._thigh.moved(hip),
                self._shin.moved(hip @ pose(z=KNEE - HIP, pitch=0.9 * lift + 0.08)),
                self._arm.moved(pose(0, 0.245 * side, SHOULDER, pitch=0.8 * angle, roll=0.12 * side)),
            ]
        return merge(parts).moved(pose(scale=self.scale))
