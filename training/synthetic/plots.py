"""What lies beyond the pavement: houses, gardens, parks, walls, yards, canals, tracks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from training.synthetic import props, vehicles
from training.synthetic.curve import Curve, ribbon
from training.synthetic.kernels import Material
from training.synthetic.looks import Look
from training.synthetic.mesh import Mesh, pose

if TYPE_CHECKING:  # layout calls this file
    from training.synthetic.layout import Street

_DEPTH = 45.0  # how far plots reach from the pavement, metres


def fill_side(rng: np.random.Generator, street: Street, parts: list[Mesh], side: int, start: float, end: float) -> None:
    """Fill one side of the street with plots of random kinds; appends meshes to `parts`."""
    kinds = list(_KINDS)
    shares = np.array([_KINDS[kind][0] for kind in kinds])
    s = start
    while s < end:
        kind = kinds[rng.choice(len(kinds), p=shares / shares.sum())]
        width = rng.uniform(*_KINDS[kind][1:])
        kind(rng, Plot(street, parts, side, s, s + width))
        s += width


class Plot:
    """A stretch s0..s1 of one side. Plot coordinates: x along its front as seen from the road side, y < 0 inwards."""

    def __init__(self, street: Street, parts: list[Mesh], side: int, s0: float, s1: float) -> None:
        self.street, self.parts, self.side, self.s0, self.s1 = street, parts, side, s0, s1
        self.edge = street.half + street.pavement
        self.width = s1 - s0

    def put(self, mesh: Mesh, along: float, inwards: float, yaw: float = 0.0, z: float = 0.0) -> None:
        """`mesh` with its +y towards the road, `along` metres into the plot and `inwards` metres from the pavement."""
        s = self.s0 + along if self.side < 0 else self.s1 - along
        facing = 0.0 if self.side < 0 else np.pi
        self.parts.append(self.street.place(mesh, s, self.side * (self.edge + inwards), facing + yaw, z))

    def row(self, make: Callable[[float], Mesh], inwards: float, longest: float = 6.0) -> None:
        """The whole front in equal pieces `make(length)`, x from 0 to `length`, short enough to follow the curve."""
        count = max(1, round(self.width / longest))
        length = self.width / count
        piece = make(length).moved(pose(-length / 2))
        for index in range(count):
            self.put(piece, (index + 0.5) * length, inwards)

    def ground(self, look: Look, inwards: float = 0.0, outwards: float = _DEPTH, z: float = 0.1) -> None:
        near, far = self.side * (self.edge + inwards), self.side * (self.edge + outwards)
        self.parts.append(ribbon(self.street.curve, self.s0, self.s1, near, far, z, z, look))


GRASS = Look(Material.GRASS, "Terrain", (0.12, 0.2, 0.05))
PAVED = Look(Material.CONCRETE, "Ground", (0.33, 0.31, 0.28))
WATER = Look(Material.WATER, "Water", (0.025, 0.05, 0.05))
EARTH = Look(Material.SOIL, "Ground", (0.3, 0.22, 0.14))


def _trees(rng: np.random.Generator, plot: Plot, count: int, nearest: float, farthest: float) -> None:
    for _ in range(count):
        tree = props.tree(rng, rng.uniform(5, 12), 260)
        plot.put(tree, rng.uniform(1, plot.width - 1), rng.uniform(nearest, farthest), rng.uniform(0, 6))


def _houses(rng: np.random.Generator, plot: Plot) -> None:
    """One or two blocks of flats or shops close to the pavement."""
    gap = rng.choice([0.0, 0.6, 2.0, 3.5])
    plot.ground((PAVED, EARTH, GRASS)[rng.choice(3, p=[0.55, 0.15, 0.3])] if gap > 1 else PAVED)
    count = int(np.ceil(plot.width / 15))
    borders = np.concatenate(
        [[0.0], (np.arange(1, count) + rng.uniform(-0.2, 0.2, count - 1)) * plot.width / count, [plot.width]]
    )
    for x0, x1 in zip(borders[:-1], borders[1:], strict=True):
        height = rng.uniform(6, 11) if rng.uniform() < 0.45 else rng.uniform(11, 26)
        block = props.building(rng, plot.street.styles, x1 - x0, rng.uniform(9, 14), height, rng.uniform() < 0.5)
        plot.put(block.moved(pose((x0 - x1) / 2)), (x0 + x1) / 2, gap + rng.choice([0.0, 0.35]))


def _villa(rng: np.random.Generator, plot: Plot) -> None:
    """A house in a garden behind a fence, a hedge or a wall."""
    plot.ground(GRASS)
    width = rng.uniform(8, 11)
    house = props.building(rng, plot.street.styles, width, 9.0, rng.uniform(5.5, 8), False)
    plot.put(house, rng.uniform(1, plot.width - width - 1), rng.uniform(5, 8))
    border = rng.uniform()
    if border < 0.45:
        height = rng.uniform(1.0, 1.6)
        plot.row(lambda length: props.fence(rng, length, height), 0.15)
    elif border < 0.8:
        height = rng.uniform(0.9, 1.5)
        plot.row(lambda length: props.wall(rng, length, height), 0.2)
    else:
        height = rng.uniform(0.9, 1.4)
        plot.row(lambda length: props.bush(rng, length, height).moved(pose(length / 2)), 0.6)
    _trees(rng, plot, int(rng.integers(1, 4)), 2.0, 14)


def _park(rng: np.random.Generator, plot: Plot) -> None:
    plot.ground(GRASS)
    _trees(rng, plot, int(rng.integers(5, 9)), 2.0, 30)
    for _ in range(int(rng.integers(0, 3))):
        hedge = props.bush(rng, rng.uniform(1, 5), rng.uniform(0.6, 1.3))
        plot.put(hedge, rng.uniform(2, plot.width - 2), rng.uniform(1.5, 8))
    if rng.uniform() < 0.5:
        height = rng.uniform(0.8, 1.3)
        plot.row(lambda length: props.fence(rng, length, height), 0.2)
    plot.put(props.bench(rng), rng.uniform(2, plot.width - 2), 1.2)
    if rng.uniform() < 0.6:  # a pond, with a rim of stones
        plot.ground(Look(Material.GRAVEL, "Terrain", (0.3, 0.29, 0.26)), 3.0, 12.5, 0.105)
        plot.ground(WATER, 3.4, 12.0, 0.115)


def _walled(rng: np.random.Generator, plot: Plot) -> None:
    plot.ground(GRASS)
    height = rng.uniform(1.6, 3.0)
    plot.row(lambda length: props.wall(rng, length, height), 0.25)
    _trees(rng, plot, int(rng.integers(2, 5)), 3.0, 18)


def _yard(rng: np.random.Generator, plot: Plot) -> None:
    """Bare earth, gravel or paving, often behind a fence, with parked vehicles and things lying about."""
    plot.ground((EARTH, EARTH._replace(material=Material.GRAVEL, colour=(0.34, 0.32, 0.3)), PAVED)[rng.integers(3)])
    if rng.uniform() < 0.55:
        height = rng.uniform(1.2, 1.9)
        plot.row(lambda length: props.fence(rng, length, height), 0.2)
    for x in np.arange(3.0, plot.width - 3, 5.5):
        maker = [vehicles.car, vehicles.truck, props.boxes, props.rubbish_bin][rng.choice(4, p=[0.4, 0.25, 0.2, 0.15])]
        turn = np.pi / 2 if maker in (vehicles.car, vehicles.truck) else 0.0
        mesh = maker(rng)
        plot.put(vehicles.parked(mesh), x, rng.uniform(5.5, 8), turn + rng.normal(0, 0.1))
    hall = props.building(rng, plot.street.styles, plot.width * 0.8, 10.0, rng.uniform(5, 9), False)
    plot.put(hall, plot.width * 0.1, 20.0)


def _canal(rng: np.random.Generator, plot: Plot) -> None:
    """Water along the street behind a guard rail, houses on the far bank."""
    quay = Look(Material.CONCRETE, "Ground", (0.36, 0.34, 0.31))
    plot.ground(quay, 0.0, 0.8)
    plot.ground(WATER, 0.8, 26.0, -0.09)
    plot.row(props.guard_rail if rng.uniform() < 0.6 else partial(props.chain, rng), 0.45)
    plot.ground(GRASS, 26.0, _DEPTH)
    for along in np.arange(0, plot.width - 12, 16.0):
        house = props.building(rng, plot.street.styles, rng.uniform(9, 15), 10.0, rng.uniform(7, 14), False)
        plot.put(house, along, 29.0)
    _trees(rng, plot, int(plot.width / 9), 26.6, 28)


def _square(rng: np.random.Generator, plot: Plot) -> None:
    """A paved square with benches, planters and trees in front of set-back houses."""
    plot.ground(PAVED if rng.uniform() < 0.5 else EARTH)
    for _ in range(int(rng.integers(2, 6))):
        maker = (props.bench, props.planter, props.rubbish_bin, props.boxes)[rng.integers(4)]
        plot.put(maker(rng), rng.uniform(1, plot.width - 1), rng.uniform(1, 9), rng.uniform(0, 6))
    _trees(rng, plot, 3, 3.0, 12)
    house = props.building(rng, plot.street.styles, plot.width * 0.9, 10.0, rng.uniform(8, 18), True)
    plot.put(house, plot.width * 0.05, 15.0)


def track(curve: Curve, s0: float, s1: float, d: float, half: float, z: float) -> list[Mesh]:
    """Ballast from d - half to d + half at height z, with a pair of rails on it."""
    parts = [ribbon(curve, s0, s1, d - half, d + half, z, z, Look(Material.GRAVEL, "RailTrack", (0.27, 0.24, 0.21)))]
    steel = Look(Material.METAL, "RailTrack", (0.42, 0.36, 0.32))
    top = z + 0.15
    for rail in (d - 0.72, d + 0.72):
        low, high = rail - 0.06, rail + 0.06
        parts += [
            ribbon(curve, s0, s1, *face, steel)
            for face in ((low, high, top, top), (low, low, z, top), (high, high, z, top))
        ]
    return parts


def _tracks(rng: np.random.Generator, plot: Plot) -> None:
    """A railway beside the street, behind a guard rail."""
    plot.ground(GRASS, 0.0, _DEPTH, 0.02)
    for inwards in (2.4, 6.2):
        plot.parts += track(plot.street.curve, plot.s0, plot.s1, plot.side * (plot.edge + inwards), 1.6, 0.12)
    plot.row(props.guard_rail, 0.4)
    _trees(rng, plot, 4, 11, 25)


# share of plots, and their shortest and longest front, metres
_KINDS = {
    _houses: (0.24, 14, 30),
    _villa: (0.14, 13, 22),
    _park: (0.1, 14, 30),
    _walled: (0.15, 14, 26),
    _yard: (0.12, 16, 30),
    _square: (0.09, 14, 24),
    _canal: (0.13, 30, 60),
    _tracks: (0.07, 30, 60),
}
