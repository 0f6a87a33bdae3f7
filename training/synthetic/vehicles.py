"""Cars, buses, trucks and two-wheelers; origin on the ground below the middle, +x forwards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.synthetic.kernels import Material
from training.synthetic.looks import Look
from training.synthetic.mesh import Mesh, box, cylinder, fan, icosphere, loft, merge, quads
from training.synthetic.people import CLOTHES, SKIN

_PAINTS = np.array(
    [
        [0.6, 0.6, 0.6],
        [0.75, 0.75, 0.74],
        [0.04, 0.04, 0.045],
        [0.25, 0.26, 0.27],
        [0.45, 0.03, 0.025],
        [0.03, 0.08, 0.3],
        [0.1, 0.2, 0.12],
        [0.5, 0.38, 0.05],
        [0.08, 0.25, 0.38],
        [0.35, 0.3, 0.24],
    ]
)
_TYRE = (0.02, 0.02, 0.02)
HEAD_LIGHT_HEIGHT = 0.65


def _section(x: float, half: float, low: float, high: float, bevel: float) -> np.ndarray:
    """One cross-section ring (6, 3) at x: a box with bevelled upper corners."""
    return np.array(
        [
            [x, -half, low],
            [x, half, low],
            [x, half, high - bevel],
            [x, half - bevel, high],
            [x, -half + bevel, high],
            [x, -half, high - bevel],
        ]
    )


def _wheel(x: float, y: float, radius: float, width: float, label: str) -> Mesh:
    tyre = Look(Material.RUBBER, label, _TYRE)
    disc = Look(Material.WHEEL, label, (0.45, 0.45, 0.46))
    return cylinder((x, y - width / 2, radius), (x, y + width / 2, radius), radius, tyre, 12, caps=disc)


def _panel(x: float, y: float, z: float, width: float, height: float, look: Look) -> Mesh:
    """A small upright rectangle across the driving direction."""
    w, h = width / 2, height / 2
    return quads([[[x, y - w, z - h], [x, y + w, z - h], [x, y + w, z + h], [x, y - w, z + h]]], look)


def _lights(front: float, rear: float, offset: float, z: float, label: str, size: float = 0.34) -> list[Mesh]:
    head = Look(Material.HEADLIGHT, label, (0.8, 0.8, 0.78))
    tail = Look(Material.TAILLIGHT, label, (0.45, 0.02, 0.02))
    plate = Look(Material.PLAIN, label, (0.75, 0.75, 0.7))
    parts = [_panel(front, side * offset, z, size, 0.16, head) for side in (-1, 1)]
    parts += [_panel(rear, side * offset, z + 0.06, size * 0.85, 0.2, tail) for side in (-1, 1)]
    return [*parts, _panel(front, 0, z - 0.22, 0.5, 0.11, plate), _panel(rear, 0, z - 0.12, 0.5, 0.11, plate)]


def car(rng: np.random.Generator) -> Mesh:
    """A saloon, an estate or a small van: body, cabin with windows, wheels, lights."""
    kind = rng.choice(["saloon", "estate", "van"], p=[0.5, 0.3, 0.2])
    length = {"saloon": 4.5, "estate": 4.4, "van": 4.9}[kind] * rng.uniform(0.93, 1.07)
    half, belt = 0.89 * rng.uniform(0.95, 1.05), {"van": 1.12}.get(kind, 0.92)
    roof = {"saloon": 1.44, "estate": 1.56, "van": 1.98}[kind] * rng.uniform(0.97, 1.04)
    paint = Look(Material.PAINT, "Cars", tuple(_PAINTS[rng.integers(len(_PAINTS))] * rng.uniform(0.7, 1.2)))
    glass = Look(Material.CAR_GLASS, "Cars", paint.colour)
    a, b = -length / 2, length / 2
    body = [
        (a, 0.86, 0.42, belt - 0.18),
        (a + 0.12, 0.96, 0.28, belt - 0.02),
        (a + 0.5, 1.0, 0.24, belt),
        (b - 1.25, 1.0, 0.24, belt),
        (b - 0.3, 0.97, 0.26, belt - 0.17),
        (b, 0.84, 0.36, belt - 0.3),
    ]
    sections = [_section(x, half * w, low, high, 0.07) for x, w, low, high in body]
    parts = [loft(sections, paint), fan(sections[0], paint), fan(sections[-1], paint)]
    # The cabin narrows upwards: four glass sides between the belt line and the roof, and the roof itself.
    rear, front = {"saloon": (a + 0.75, b - 1.3), "estate": (a + 0.08, b - 1.25), "van": (a + 0.05, b - 0.95)}[kind]
    slope = {"saloon": (0.6, 0.85), "estate": (0.22, 0.8), "van": (0.08, 0.7)}[kind]
    low_ring = np.array(
        [
            [rear, -half + 0.04, belt - 0.02],
            [front, -half + 0.04, belt - 0.02],
            [front, half - 0.04, belt - 0.02],
            [rear, half - 0.04, belt - 0.02],
        ]
    )
    tuck = 0.17 if kind != "van" else 0.08
    high_ring = low_ring + np.array(
        [[slope[0], tuck, 0], [-slope[1], tuck, 0], [-slope[1], -tuck, 0], [slope[0], -tuck, 0]]
    )
    high_ring[:, 2] = roof
    sides = np.stack([low_ring, np.roll(low_ring, -1, 0), np.roll(high_ring, -1, 0), high_ring], 1)
    unit = [[[0, 0], [1, 0], [1, 1], [0, 1]]]
    parts += [quads(sides, glass, unit), fan(high_ring, paint)]
    wheel = 0.32 if kind != "van" else 0.36
    parts += [_wheel(x, side * (half - 0.08), wheel, 0.2, "Cars") for x in (a + 0.85, b - 0.9) for side in (-1, 1)]
    parts += _lights(b + 0.012, a - 0.012, half * 0.64, 0.63, "Cars")
    return merge(parts)


def bus(rng: np.random.Generator) -> Mesh:
    """A city bus, 10-12 m, with a band of windows."""
    length, half, height = rng.uniform(9.5, 12.0), 1.27, rng.uniform(3.0, 3.3)
    colour = np.array([[0.55, 0.04, 0.03], [0.65, 0.5, 0.05], [0.06, 0.22, 0.5], [0.65, 0.66, 0.66], [0.1, 0.35, 0.15]])
    side = Look(Material.BUS_SIDE, "Bus", tuple(colour[rng.integers(len(colour))] * rng.uniform(0.8, 1.15)))
    roof = Look(Material.PAINT, "Bus", (0.6, 0.6, 0.6))
    parts = [box((length, 2 * half, height - 0.35), (0, 0, 0.35 + (height - 0.35) / 2), side, roof)]
    parts += [box((2.2, 1.6, 0.3), (x, 0, height + 0.15), roof) for x in (-2.0, 2.2)]
    parts += [_wheel(x, s * (half - 0.1), 0.48, 0.3, "Bus") for x in (-length * 0.28, length * 0.3) for s in (-1, 1)]
    parts += _lights(length / 2 + 0.02, -length / 2 - 0.02, half * 0.75, 0.85, "Bus", 0.4)
    board = Look(Material.SIGNAL, "Bus", (0.9, 0.45, 0.03))
    return merge([*parts, _panel(length / 2 + 0.02, 0, height - 0.25, 1.6, 0.28, board)])


def truck(rng: np.random.Generator) -> Mesh:
    """A lorry: cab, and a box or a flat bed behind it."""
    length, half = rng.uniform(6.5, 9.5), 1.2
    paint = Look(Material.PAINT, "Truck", tuple(_PAINTS[rng.integers(len(_PAINTS))]))
    cargo = Look(Material.METAL, "Truck", tuple(rng.uniform(0.25, 0.75) * rng.uniform(0.75, 1.1, 3)))
    frame = Look(Material.METAL, "Truck", (0.05, 0.05, 0.05))
    glass = Look(Material.CAR_GLASS, "Truck", paint.colour)
    front, rear, cab = length / 2, -length / 2, 1.9
    cab_height = rng.uniform(2.5, 3.0)
    back = front - cab
    low = np.array([[back, -half, 1.55], [front, -half, 1.55], [front, half, 1.55], [back, half, 1.55]])
    high = low + np.array([[0, 0.1, 0], [-0.25, 0.1, 0], [-0.25, -0.1, 0], [0, -0.1, 0]])
    high[:, 2] = cab_height
    sides = np.stack([low, np.roll(low, -1, 0), np.roll(high, -1, 0), high], 1)
    parts = [
        box((cab, 2 * half, 1.15), (front - cab / 2, 0, 0.98), paint),
        quads(sides, glass, [[[0, 0], [1, 0], [1, 1], [0, 1]]]),
        fan(high, paint),
        box((length, 1.0, 0.25), (0, 0, 0.75), frame),
    ]
    bed = length - cab - 0.25
    if rng.uniform() < 0.75:
        top = rng.uniform(2.9, 3.6)
        parts.append(box((bed, 2 * half + 0.06, top - 0.95), (rear + bed / 2, 0, 0.95 + (top - 0.95) / 2), cargo))
    else:
        load = Look(Material.WOOD, "Truck", (0.35, 0.24, 0.14))
        parts += [
            box((bed, 2 * half, 0.15), (rear + bed / 2, 0, 1.0), cargo),
            box((bed * 0.8, 1.9, rng.uniform(0.6, 1.3)), (rear + bed / 2, 0, 1.5), load),
        ]
    parts += [
        _wheel(x, s * (half - 0.12), 0.48, 0.32, "Truck")
        for x in (front - 1.0, rear + 1.9, rear + 0.85)
        for s in (-1, 1)
    ]
    parts += _lights(front + 0.02, rear - 0.02, half * 0.75, 0.8, "Truck", 0.36)
    return merge(parts)


def two_wheeler(rng: np.random.Generator, ridden: bool) -> Mesh:
    """A bicycle or a motor scooter, with its rider when `ridden` (DELIVER has no class of its own for riders)."""
    motor = rng.uniform() < 0.45
    colour = tuple(rng.uniform(0.03, 0.55, 3))
    frame = Look(Material.PAINT, "TwoWheeler", colour)
    tyre = Look(Material.RUBBER, "TwoWheeler", _TYRE)
    radius, base = (0.29, 0.62) if motor else (0.35, 0.54)
    parts = []
    for x in (-base, base):
        if motor:
            parts.append(_wheel(x, 0, radius, 0.14, "TwoWheeler"))
            continue
        angle = 2 * np.pi * np.arange(14) / 14
        circle = np.column_stack([np.cos(angle), np.zeros(14), np.sin(angle)])
        centre = np.array([x, 0, radius])
        for y in (-0.022, 0.022):  # the tyre's two flanks
            ring = np.stack([radius * circle, (radius - 0.055) * circle])
            parts.append(loft(ring + centre + [0, y, 0], tyre))
        parts.append(loft(np.stack([radius * circle + [0, -0.022, 0], radius * circle + [0, 0.022, 0]]) + centre, tyre))
        parts.append(cylinder(centre - [0.3, 0, 0], centre + [0.3, 0, 0], 0.012, tyre, 4))
        parts.append(cylinder(centre - [0, 0, 0.3], centre + [0, 0, 0.3], 0.012, tyre, 4))
    seat, bar = np.array([-0.28, 0, 0.95]), np.array([0.42, 0, 1.05])
    if motor:
        seat = np.array([-0.25, 0, 0.8])
        parts += [
            box((0.85, 0.34, 0.35), (-0.3, 0, 0.58), frame),
            box((0.6, 0.32, 0.12), (0.1, 0, 0.35), frame),
            box((0.12, 0.42, 0.65), (0.42, 0, 0.68), frame),
            box((0.8, 0.3, 0.12), (-0.3, 0, 0.8), tyre),
            _panel(0.52, 0, 0.9, 0.2, 0.16, Look(Material.HEADLIGHT, "TwoWheeler", (0.8, 0.8, 0.78))),
        ]
    else:
        crank = np.array([-0.05, 0, 0.33])
        for a, b in (
            ((-base, 0, radius), crank),
            (crank, seat),
            (crank, (0.4, 0, 0.88)),
            ((-0.22, 0, 0.82), (0.4, 0, 0.88)),
            ((base, 0, radius), bar),
            ((-base, 0, radius), (-0.22, 0, 0.82)),
        ):
            parts.append(cylinder(a, b, 0.026, frame, 5))
        parts.append(box((0.26, 0.14, 0.06), seat, tyre))
    parts.append(cylinder(bar - [0, 0.3, 0], bar + [0, 0.3, 0], 0.022, tyre, 5))
    if ridden:
        parts.append(_rider(rng, seat, bar, motor))
    return merge(parts)


def _rider(rng: np.random.Generator, seat: np.ndarray, bar: np.ndarray, helmet: bool) -> Mesh:
    cloth = Look(Material.CLOTH, "TwoWheeler", tuple(CLOTHES[rng.integers(len(CLOTHES))] * rng.uniform(0.6, 1.2)))
    trousers = Look(Material.CLOTH, "TwoWheeler", tuple(np.array([0.08, 0.09, 0.14]) * rng.uniform(0.5, 2)))
    skin = Look(Material.CLOTH, "TwoWheeler", tuple(SKIN[rng.integers(len(SKIN))]))
    hat = Look(Material.PLAIN, "TwoWheeler", tuple(rng.uniform(0.05, 0.7, 3))) if helmet else skin
    hip, neck = seat + [0.0, 0, 0.08], seat + [0.3, 0, 0.62]
    parts = [cylinder(hip, neck, 0.17, cloth, 7, 0.2, caps=cloth), icosphere(0.13, neck + [0.06, 0, 0.2], hat, 1)]
    for side in (-1, 1):
        foot = np.array([0.05 + 0.1 * side, 0.12 * side, 0.3])
        knee = np.array([0.25 + 0.06 * side, 0.14 * side, 0.68 + 0.06 * side])
        parts += [
            cylinder(hip + [0, 0.1 * side, 0], knee, 0.085, trousers, 6, 0.065),
            cylinder(knee, foot, 0.06, trousers, 6, 0.045),
            cylinder(neck + [0, 0.19 * side, -0.05], bar + [0, 0.24 * side, 0.03], 0.05, cloth, 6, 0.04),
        ]
    return merge(parts)



def parked(mesh: Mesh) -> Mesh:
    """The same vehicle with its lights off."""
    lit = np.isin(mesh.material, (Material.HEADLIGHT, Material.TAILLIGHT))
    return replace(mesh, material=np.where(lit, np.uint8(Material.PLAIN), mesh.material))
