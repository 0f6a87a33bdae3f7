"""A street by seed: its cross-section, what stands along it, and where vehicles and people may be.

Street coordinates (s, d): s along the centre line, d to its left, metres. Traffic keeps to the right, so the ego
vehicle's lanes are at d < 0. From the middle outwards: perhaps a median, lanes, perhaps a parking lane, kerb, pavement,
plots.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from training.synthetic import plots, props, vehicles
from training.synthetic.curve import Curve, ribbon
from training.synthetic.kernels import Material
from training.synthetic.looks import Look, Styles
from training.synthetic.mesh import Mesh, icosphere, merge, pose, quads

LANE = 3.2
KERB = 0.14
BEHIND, AHEAD = 50.0, 130.0  # street beyond the drive's two ends, metres


@dataclass
class Street:
    """What `build` returns. `lamps` (L, 3) world positions; `crossings` s of the zebra crossings; `median`, `half`: d
    at which the lanes begin and at which the kerb is."""

    curve: Curve
    lanes: int  # per direction
    parking: bool
    median: float
    half: float
    pavement: float
    crossings: list[float]
    mesh: Mesh | None = None
    styles: Styles = field(default_factory=Styles)
    lamps: np.ndarray | None = None

    def lane(self, index: int) -> float:
        """d of the middle of lane `index` of the ego's direction, 0 next to the centre line."""
        return -(self.median + (index + 0.5) * LANE)

    def place(self, mesh: Mesh, s: float, d: float, yaw: float = 0.0, z: float = 0.0) -> Mesh:
        """`mesh`, given along +x, at (s, d), turned by `yaw` against the street."""
        x, y = self.curve.xy(s, d)
        return mesh.moved(pose(x, y, z, self.curve.heading(s) + yaw))


def build(rng: np.random.Generator, length: float) -> Street:
    """A street for a drive from s = 0 to s = `length`."""
    start, end = -BEHIND, length + AHEAD
    curve = Curve(rng, start - 30, end + 30, rng.uniform(0.001, 0.012))
    lanes = int(rng.choice([1, 2], p=[0.72, 0.28]))
    parking = bool(rng.uniform() < 0.5)
    median = float(rng.choice([0.0, 1.0, 1.7], p=[0.5, 0.2, 0.3]))
    half = median + lanes * LANE + (2.2 if parking else 0.3)
    street = Street(curve, lanes, parking, median, half, rng.uniform(2.0, 3.6), [])
    parts: list[Mesh] = []
    lamps: list[np.ndarray] = []
    at = rng.uniform(4, 20)
    while at < length + 60:
        street.crossings.append(at)
        at += rng.uniform(38, 75)
    _ground(rng, street, parts, start, end)
    _carriageway(rng, street, parts, start, end)
    if median:
        _median(rng, street, parts, start, end)
    for side in (-1, 1):
        plots.fill_side(rng, street, parts, side, start, end)
        _furniture(rng, street, parts, lamps, side, start, end)
    _crossings(rng, street, parts)
    _overhead(rng, street, parts, length)
    street.mesh = merge(parts)
    street.lamps = np.array(lamps)
    return street


def _ground(rng: np.random.Generator, street: Street, parts: list[Mesh], start: float, end: float) -> None:
    """A wide meadow below everything, and hills on the horizon, well away from the whole street."""
    grass = Look(Material.GRASS, "Terrain", (0.13, 0.19, 0.055))
    line = street.curve.xy(np.arange(start, end, 10.0))
    low, high = line.min(0) - 350, line.max(0) + 350
    corners = [[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]]
    parts.append(quads(np.column_stack([corners, np.full(4, -0.12)]), grass))
    for _ in range(2 * len(line)):
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(110, 330)
        height, width = rng.uniform(12, 50), rng.uniform(45, 100)
        centre = line[rng.integers(len(line))] + distance * np.array([np.cos(angle), np.sin(angle)])
        if np.hypot(*(line - centre).T).min() > width + 60:
            parts.append(icosphere((width, width, height), (*centre, -2.0), grass, 2))


def _carriageway(rng: np.random.Generator, street: Street, parts: list[Mesh], start: float, end: float) -> None:
    grey = rng.uniform(0.055, 0.13)
    colour = tuple(grey * np.array([1.0, 0.99, 0.97]))
    lanes, half = street.lanes, street.half
    common = (half, lanes, LANE, float(street.parking), float(rng.integers(0, 2)), street.median)
    marked = {kind: Look(Material.ROAD, "Road", colour, street.styles.add(*common, float(kind))) for kind in range(3)}
    cuts = [start]
    kinds = []
    for at in street.crossings:  # zebra (kind 1) with a stop line (kind 2) on either side
        cuts += [at - 3.6, at - 3.1, at - 1.6, at + 1.6, at + 3.1, at + 3.6]
        kinds += [0, 2, 0, 1, 0, 2]
    cuts.append(end)
    kinds.append(0)
    for s0, s1, kind in zip(cuts[:-1], cuts[1:], kinds, strict=True):
        parts.append(ribbon(street.curve, s0, s1, -half, half, 0.0, 0.0, marked[kind]))
    stone = Look(Material.CONCRETE, "SideWalk", (0.4, 0.39, 0.37))
    slab = np.array([0.32, 0.31, 0.29]) * rng.uniform(0.75, 1.25)
    paving = Look(Material.PAVING, "SideWalk", tuple(slab), street.styles.add(rng.uniform(0.35, 0.8)))
    for side in (-1, 1):
        inner, outer = side * half, side * (half + street.pavement)
        parts.append(ribbon(street.curve, start, end, inner, inner, -0.02, KERB, stone))
        parts.append(ribbon(street.curve, start, end, inner, inner + side * 0.18, KERB, KERB, stone))
        parts.append(ribbon(street.curve, start, end, inner + side * 0.18, outer, KERB, KERB, paving))


def _median(rng: np.random.Generator, street: Street, parts: list[Mesh], start: float, end: float) -> None:
    """Between the zebra crossings: a strip of grass with a guard rail or a hedge, or, when wide, a tram's track."""
    tram = street.median > 1.5 and rng.uniform() < 0.75
    stone = Look(Material.CONCRETE, "SideWalk", (0.4, 0.39, 0.37))
    rail = rng.uniform() < 0.6
    cuts = [start, *(at + side * 2.2 for at in street.crossings for side in (-1, 1)), end]
    for s0, s1 in zip(cuts[0::2], cuts[1::2], strict=True):
        for side in (-1, 1):
            edge = side * street.median
            parts.append(ribbon(street.curve, s0, s1, edge, edge, -0.02, KERB, stone))
        if tram:
            parts += plots.track(street.curve, s0, s1, 0.0, street.median, KERB)
            continue
        parts.append(ribbon(street.curve, s0, s1, -street.median, street.median, KERB, KERB, plots.GRASS))
        for s in np.arange(s0 + 1.5, s1 - 6.0, 5.0):
            mesh = props.guard_rail(5.0) if rail else props.bush(rng, 4.0, rng.uniform(0.6, 0.9)).moved(pose(2.0))
            parts.append(street.place(mesh, s, 0.0, 0.0, KERB))


def _furniture(rng: np.random.Generator, street: Street, parts: list[Mesh], lamps: list[np.ndarray], side: int,
               start: float, end: float) -> None:
    """Lamps, signs, trees, benches, bins, parked vehicles and cycles between the kerb and the plots."""
    kerb, z = street.half, KERB
    facing = 0.0 if side < 0 else np.pi  # towards the traffic of this side; +y of a prop then points to the road

    def along(low: float, high: float):
        s = start + rng.uniform(0, high)
        while s < end:
            if all(abs(s - crossing) > 4.5 for crossing in street.crossings):
                yield s
            s += rng.uniform(low, high)

    def put(mesh: Mesh, s: float, d: float, yaw: float = 0.0, height: float = z) -> None:
        parts.append(street.place(mesh, s, side * d, facing + yaw, height))

    height, reach = rng.uniform(5.5, 8.5), rng.uniform(0.8, 2.4)
    post, lamp = props.lamp_post(rng, height, reach)
    for s in along(20, 27):
        put(post, s, kerb + 0.5)
        x, y = street.curve.xy(s, side * (kerb + 0.5 - lamp[1]))
        lamps.append(np.array([x, y, lamp[2] + z - 0.1]))
    for s in along(8, 17):
        put(props.sign_post(rng, street.styles), s, kerb + rng.uniform(0.35, 0.7), rng.normal(0, 0.08))
    if rng.uniform() < 0.6:
        library = [props.tree(rng, rng.uniform(4.5, 8.5), 420) for _ in range(3)]
        for s in along(9, 17):
            put(library[rng.integers(3)], s, kerb + 0.9, rng.uniform(0, 6))
    for s in along(14, 45):  # railings at the kerb keep people off the road, guard rails keep vehicles on it
        railing = props.fence(rng, 5.0, rng.uniform(0.9, 1.15)) if rng.uniform() < 0.7 else props.guard_rail(5.0)
        for piece in range(int(rng.integers(1, 4))):
            if all(abs(s + 5 * piece - crossing) > 7 for crossing in street.crossings):
                put(railing.moved(pose(-2.5)), s + 5 * piece, kerb + 0.25)
    makers = [props.bench, props.rubbish_bin, props.hydrant, props.planter, props.boxes, props.cone, props.bus_stop,
              props.skip]
    chances = np.array([0.13, 0.2, 0.07, 0.12, 0.16, 0.1, 0.1, 0.12])
    for s in along(5, 12):
        maker = makers[rng.choice(len(makers), p=chances)]
        close = maker in (props.hydrant, props.cone, props.rubbish_bin)
        put(maker(rng), s, kerb + (0.5 if close else street.pavement - 0.9))
    for s in along(6, 18):
        wheeled = vehicles.parked(vehicles.two_wheeler(rng, ridden=False))
        put(wheeled, s, kerb + rng.uniform(0.5, 1.0), rng.choice([0.0, np.pi / 2, 1.2]) + rng.normal(0, 0.1))
    if street.parking:
        _parked(rng, street, parts, side, start, end)


def _parked(rng: np.random.Generator, street: Street, parts: list[Mesh], side: int, start: float, end: float) -> None:
    s = start + rng.uniform(0, 8)
    while s < end:
        if rng.uniform() < 0.25:  # a free space
            s += 8.0
            continue
        maker = (vehicles.car, vehicles.truck, vehicles.bus)[rng.choice(3, p=[0.83, 0.12, 0.05])]
        mesh = vehicles.parked(maker(rng))
        half_length = float(mesh.vertices[:, 0].max())
        middle, yaw = s + half_length, (0.0 if side < 0 else np.pi) + rng.normal(0, 0.02)
        if all(abs(middle - crossing) > half_length + 4 for crossing in street.crossings):
            parts.append(street.place(mesh, middle, side * (street.half - 1.1), yaw))
        s = middle + half_length + rng.uniform(0.7, 2.5)


def _crossings(rng: np.random.Generator, street: Street, parts: list[Mesh]) -> None:
    """Traffic lights, or signs, at the zebra crossings, for both directions."""
    for s in street.crossings:
        lit, red = rng.uniform() < 0.85, bool(rng.uniform() < 0.4)
        for side in (-1, 1):
            facing = 0.0 if side < 0 else np.pi
            mesh = props.traffic_light(rng, rng.uniform(2.5, 4.0), red) if lit else props.sign_post(rng, street.styles)
            parts.append(street.place(mesh, s + side * 2.6, side * (street.half + 0.4), facing, KERB))


def _overhead(rng: np.random.Generator, street: Street, parts: list[Mesh], length: float) -> None:
    """Gantries with direction boards, and sometimes a bridge."""
    s = rng.uniform(15, 60)
    while s < length + 90:
        if rng.uniform() < 0.16:
            deck, low = props.bridge(rng, 130.0, rng.uniform(6, 11))
            edge = street.half + street.pavement + 0.8
            parts.append(street.place(deck, s, 0.0))
            parts += [street.place(props.pier(low, 8.0), s, side * edge) for side in (-1, 1)]
        else:
            parts.append(street.place(props.gantry(rng, street.styles, 2 * street.half + 1.0), s, 0.0))
        s += rng.uniform(55, 120)
