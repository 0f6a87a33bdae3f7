"""Things that stand in a street, each a function of a random generator; origin on the ground, +x along the street."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.synthetic.kernels import Material
from training.synthetic.looks import Look, Styles
from training.synthetic.mesh import (
    Mesh,
    box,
    cylinder,
    fan,
    icosphere,
    icosphere_vertices,
    make,
    merge,
    pose,
    prism,
    quads,
)

GREY_METAL = Look(Material.METAL, "Pole", (0.33, 0.34, 0.35))
SIGN_KINDS = 8


def tree(rng: np.random.Generator, height: float, leaves: int = 260) -> Mesh:
    """Trunk, a few dark inner blobs and a cloud of leaf triangles around them."""
    trunk = height * rng.uniform(0.28, 0.42)
    crown = (height - trunk) / 2
    spread = crown * rng.uniform(0.75, 1.15)
    green = np.array([0.10, 0.22, 0.045]) * rng.uniform(0.75, 1.35) * rng.uniform(0.8, 1.25, 3)
    leaf = Look(Material.LEAVES, "Vegetation", tuple(green))
    bark = Look(Material.BARK, "Vegetation", (0.16, 0.11, 0.075))
    top = (rng.normal(0, 0.1), rng.normal(0, 0.1), trunk + crown * 0.6)
    parts = [cylinder((0, 0, 0), top, 0.02 * height + 0.05, bark, 7, 0.012 * height + 0.02)]
    blobs = int(rng.integers(3, 6))
    centres = rng.normal(0, 0.38, (blobs, 3)) * [spread, spread, crown] + [0, 0, trunk + crown]
    radii = np.array([spread, spread, crown]) * rng.uniform(0.5, 0.72, (blobs, 1))
    for centre, radius in zip(centres, radii, strict=True):
        bumps = rng.uniform(0.78, 1.08, icosphere_vertices(1))
        parts.append(icosphere(radius * 0.86, centre, leaf, 1, bumps))
    which = rng.integers(0, blobs, leaves)
    direction = rng.normal(size=(leaves, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    at = centres[which] + direction * radii[which] * rng.uniform(0.8, 1.12, (leaves, 1))
    corners = at[:, None] + rng.normal(0, 0.11 + 0.009 * height, (leaves, 3, 3))
    foliage = make(corners.reshape(-1, 3), np.arange(3 * leaves).reshape(-1, 3), corners[..., :2], leaf)
    colour = foliage.colour * rng.uniform(0.7, 1.5, (leaves, 1)).astype(np.float32)
    return merge([*parts, replace(foliage, colour=colour)])


def bush(rng: np.random.Generator, length: float, height: float) -> Mesh:
    """A hedge of overlapping blobs along x."""
    look = Look(Material.LEAVES, "Vegetation", tuple(np.array([0.09, 0.2, 0.05]) * rng.uniform(0.8, 1.3)))
    count = max(1, int(length / (0.8 * height)))
    parts = []
    for x in (np.arange(count) - (count - 1) / 2) * length / count:
        radius = (0.75 * height, 0.6 * height, height * rng.uniform(0.85, 1.05))
        bumps = rng.uniform(0.85, 1.1, icosphere_vertices(1))
        parts.append(icosphere(radius, (x, rng.normal(0, 0.05), 0.1), look, 1, bumps))
    return merge(parts)


def lamp_post(rng: np.random.Generator, height: float, reach: float) -> tuple[Mesh, np.ndarray]:
    """A street lamp whose arm reaches `reach` metres towards +y; also the lamp's position (3,)."""
    lamp = np.array([0.0, reach, height - 0.12])
    look = Look(Material.METAL, "Pole", tuple(np.full(3, rng.uniform(0.12, 0.4))))
    return merge(
        [
            cylinder((0, 0, 0), (0, 0, height), 0.11, look, 7, 0.07),
            cylinder((0, 0, height - 0.15), (0, reach, height), 0.05, look, 5),
            box((0.3, 0.7, 0.14), (0, reach, height), look),
            quads(
                [[lamp + [-0.13, -0.3, 0], lamp + [0.13, -0.3, 0], lamp + [0.13, 0.3, 0], lamp + [-0.13, 0.3, 0]]],
                Look(Material.LAMP, "Pole", (0.85, 0.85, 0.8)),
            ),
        ]
    ), lamp


def _plate(shape: str, size: float, look: Look) -> Mesh:
    """A sign's plate in the y-z plane, facing -x, centred on the origin; uv -1..1."""
    if shape == "square":
        outline = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)
    elif shape == "triangle":
        outline = np.array([[-1, -0.87], [1, -0.87], [0, 0.87]], float)
    else:
        angle = 2 * np.pi * (np.arange(12) + 0.5) / 12
        outline = np.column_stack([np.cos(angle), np.sin(angle)])
    points = np.column_stack([np.zeros(len(outline)), -outline[:, 0] * size / 2, outline[:, 1] * size / 2])
    return fan(points, look, outline)


def sign_post(rng: np.random.Generator, styles: Styles) -> Mesh:
    """One or two plates on a pole, facing -x (towards traffic that drives along +x)."""
    parts = [cylinder((0.05, 0, 0), (0.05, 0, 3.1), 0.045, GREY_METAL, 6)]
    top = 2.75
    for _ in range(int(rng.integers(1, 3))):
        kind = int(rng.integers(0, SIGN_KINDS))
        shape = {0: "disc", 1: "disc", 2: "triangle", 3: "triangle", 4: "disc"}.get(kind, "square")
        size = rng.uniform(0.75, 1.0)
        look = Look(Material.SIGN, "TrafficSign", (0.8, 0.8, 0.8), styles.add(kind, rng.uniform()))
        back = Look(Material.METAL, "TrafficSign", (0.4, 0.4, 0.42))
        parts.append(_plate(shape, size, look).moved(pose(z=top)))
        parts.append(_plate(shape, size, back).moved(pose(0.02, z=top)))
        top -= size + 0.05
    return merge(parts)


def gantry(rng: np.random.Generator, styles: Styles, width: float) -> Mesh:
    """Direction boards above the road on a beam between two posts at y = +-width / 2, facing -x."""
    parts = [cylinder((0, side * width / 2, 0), (0, side * width / 2, 6.6), 0.16, GREY_METAL, 7) for side in (-1, 1)]
    parts.append(box((0.25, width, 0.3), (0, 0, 6.4), GREY_METAL))
    for y in np.linspace(-width / 4, width / 4, 2):
        board = Look(Material.SIGN, "TrafficSign", (0.8, 0.8, 0.8), styles.add(SIGN_KINDS, rng.uniform()))
        half, low, high = width * 0.2, 5.2, 7.0
        corners = [[-0.2, y + half, low], [-0.2, y - half, low], [-0.2, y - half, high], [-0.2, y + half, high]]
        parts.append(quads([corners], board, [[[-1, -1], [1, -1], [1, 1], [-1, 1]]]))
    return merge(parts)


def traffic_light(rng: np.random.Generator, reach: float, red: bool) -> Mesh:
    """A pole at the kerb with a signal head, and a second one on an arm `reach` metres towards +y; facing -x."""
    housing = Look(Material.PLAIN, "TrafficLight", (0.03, 0.035, 0.03))
    lit = {True: ((1.0, 0.06, 0.03), 0), False: ((0.05, 1.0, 0.35), 2)}[red]
    parts = [
        cylinder((0, 0, 0), (0, 0, 5.6), 0.1, GREY_METAL, 7),
        cylinder((0, 0, 5.5), (0, reach, 5.7), 0.06, GREY_METAL, 6),
    ]
    for y, z, size in ((0.0, 2.5, 1.0), (reach, 5.0, 1.25)):
        head = [box((0.28, 0.42, 1.15), (0, 0, 0.55), housing)]
        angle = 2 * np.pi * np.arange(10) / 10
        for index in range(3):
            colour = lit[0] if index == lit[1] else ((0.12, 0.01, 0.01), (0.12, 0.09, 0.01), (0.01, 0.08, 0.03))[index]
            lens = Look(Material.SIGNAL if index == lit[1] else Material.PLAIN, "TrafficLight", colour)
            disc = np.column_stack(
                [np.full(10, -0.15), 0.14 * np.cos(angle), 0.92 - 0.36 * index + 0.14 * np.sin(angle)]
            )
            head.append(fan(disc, lens))
        parts.append(merge(head).moved(pose(-0.1, y, z, scale=size)))
    return merge(parts)


def fence(rng: np.random.Generator, length: float, height: float) -> Mesh:
    """Posts, rails and slats with gaps, along x from 0 to `length`."""
    wooden = rng.uniform() < 0.5
    colour = np.array([0.36, 0.25, 0.15]) * rng.uniform(0.7, 1.7) if wooden else np.full(3, rng.uniform(0.03, 0.3))
    look = Look(Material.WOOD if wooden else Material.METAL, "Fence", tuple(colour))
    pitch, slat = (0.28, 0.16) if wooden else (0.24, 0.06)
    x = np.arange(pitch / 2, length, pitch)
    low, high = np.full_like(x, 0.1), height * (1 + 0.02 * rng.standard_normal(len(x)))
    flat = np.zeros_like(x)
    left, right = x - slat / 2, x + slat / 2
    corners = ((left, flat, low), (right, flat, low), (right, flat, high), (left, flat, high))
    slats = np.stack([np.stack(corner, 1) for corner in corners], 1)
    parts = [quads(slats, look)]
    parts += [box((length, 0.06, 0.09), (length / 2, 0.04, height * part), look) for part in (0.25, 0.82)]
    parts += [box((0.1, 0.1, height + 0.08), (at, 0.05, height / 2), look) for at in np.arange(0, length, 2.5)]
    return merge(parts)


def wall(rng: np.random.Generator, length: float, height: float) -> Mesh:
    brick = rng.uniform() < 0.6
    colour = np.array([0.36, 0.17, 0.11]) if brick else np.array([0.42, 0.41, 0.38])
    look = Look(Material.BRICK if brick else Material.CONCRETE, "Wall", tuple(colour * rng.uniform(0.7, 1.3)))
    cap = Look(Material.CONCRETE, "Wall", (0.45, 0.44, 0.42))
    return merge(
        [
            box((length, 0.3, height), (length / 2, 0, height / 2), look),
            box((length, 0.42, 0.1), (length / 2, 0, height + 0.05), cap),
        ]
    )


def guard_rail(length: float) -> Mesh:
    look = Look(Material.METAL, "GroundRail", (0.5, 0.51, 0.52))
    profile = np.array([[0.0, 0.48], [0.06, 0.55], [0.0, 0.63], [0.06, 0.71], [0.0, 0.79]])
    strips = [
        [[0, a[0], a[1]], [length, a[0], a[1]], [length, b[0], b[1]], [0, b[0], b[1]]]
        for a, b in zip(profile[:-1], profile[1:], strict=True)
    ]
    posts = [box((0.1, 0.14, 0.75), (x, 0.14, 0.37), look) for x in np.arange(1.0, length, 2.0)]
    return merge([quads(strips, look), *posts])


def chain(rng: np.random.Generator, length: float) -> Mesh:
    """Low posts with a chain, along x from 0 to `length`: of a quay, whose water stays in view."""
    look = Look(Material.METAL, "Static", (0.08, 0.08, 0.085))
    posts = [cylinder((x, 0, 0), (x, 0, 0.75), 0.07, look, 6, caps=look) for x in np.arange(0.8, length, 2.0)]
    return merge([*posts, box((length, 0.04, 0.05), (length / 2, 0, 0.55), look)])


def bench(rng: np.random.Generator) -> Mesh:
    wood = Look(Material.WOOD, "Static", (0.4, 0.24, 0.12))
    iron = Look(Material.METAL, "Static", (0.06, 0.06, 0.06))
    return merge(
        [
            box((1.8, 0.5, 0.07), (0, 0, 0.46), wood),
            box((1.8, 0.07, 0.45), (0, 0.27, 0.78), wood),
            box((0.08, 0.5, 0.44), (-0.7, 0, 0.22), iron),
            box((0.08, 0.5, 0.44), (0.7, 0, 0.22), iron),
        ]
    )


def planter(rng: np.random.Generator) -> Mesh:
    tub = Look(Material.CONCRETE, "Static", tuple(np.full(3, rng.uniform(0.3, 0.5))))
    return merge([box((1.3, 1.3, 0.7), (0, 0, 0.35), tub), bush(rng, 1.0, 0.65).moved(pose(z=0.65))])


def bus_stop(rng: np.random.Generator) -> Mesh:
    """A shelter open towards +y."""
    frame = Look(Material.METAL, "Static", (0.15, 0.16, 0.17))
    board = Look(Material.PLAIN, "Static", tuple(rng.uniform(0.1, 0.8, 3)))
    glass = Look(Material.PLAIN, "Static", (0.35, 0.45, 0.48))
    posts = [box((0.1, 0.1, 2.5), (x, y, 1.25), frame) for x in (-1.9, 1.9) for y in (-0.7, 0.7)]
    return merge(
        [
            *posts,
            box((4.2, 1.8, 0.14), (0, 0, 2.55), frame),
            box((3.8, 0.05, 1.9), (0, -0.7, 1.3), glass),
            box((0.12, 1.3, 1.9), (1.9, 0, 1.3), board),
            box((2.4, 0.4, 0.08), (-0.3, -0.4, 0.5), frame),
        ]
    )


def hydrant(rng: np.random.Generator) -> Mesh:
    red = Look(Material.PLAIN, "Static", (0.55, 0.05, 0.03))
    return merge(
        [
            cylinder((0, 0, 0), (0, 0, 0.75), 0.16, red, 8, caps=red),
            icosphere(0.17, (0, 0, 0.78), red, 1),
            cylinder((-0.28, 0, 0.5), (0.28, 0, 0.5), 0.08, red, 7, caps=red),
        ]
    )


def rubbish_bin(rng: np.random.Generator) -> Mesh:
    """A wheeled rubbish bin: movable, so class Dynamic as in CARLA."""
    colour = np.array([[0.05, 0.16, 0.07], [0.05, 0.08, 0.2], [0.25, 0.2, 0.03], [0.1, 0.1, 0.1]])[rng.integers(4)]
    look = Look(Material.PLAIN, "Dynamic", tuple(colour))
    low = np.array([[-0.28, -0.28], [0.28, -0.28], [0.28, 0.28], [-0.28, 0.28]])
    body = prism(low, 0.05, 1.0, look)
    return merge([body, box((0.66, 0.66, 0.09), (0, 0, 1.05), look)])


def boxes(rng: np.random.Generator) -> Mesh:
    """A heap of cardboard boxes: Dynamic."""
    look = Look(Material.PLAIN, "Dynamic", (0.42, 0.29, 0.16))
    parts = []
    for _ in range(int(rng.integers(2, 5))):
        size = rng.uniform(0.4, 0.9, 3)
        place = pose(*rng.uniform(-0.7, 0.7, 2), yaw=rng.uniform(0, 3))
        parts.append(box(size, (0, 0, size[2] / 2), look).moved(place))
    return merge(parts)


def skip(rng: np.random.Generator) -> Mesh:
    """An open container for rubble, wider at the top, with some of it inside: Dynamic."""
    colour = np.array([[0.5, 0.33, 0.03], [0.1, 0.22, 0.35], [0.3, 0.06, 0.04]])[rng.integers(3)]
    look = Look(Material.METAL, "Dynamic", tuple(colour * rng.uniform(0.8, 1.2)))
    low = np.array([[-1.1, -0.55, 0.1], [1.1, -0.55, 0.1], [1.1, 0.55, 0.1], [-1.1, 0.55, 0.1]])
    high = low * [1.35, 1.25, 1] + [0, 0, rng.uniform(1.0, 1.4)]
    sides = np.stack([low, np.roll(low, -1, 0), np.roll(high, -1, 0), high], 1)
    rubble = Look(Material.SOIL, "Dynamic", (0.3, 0.26, 0.22))
    return merge([quads(sides, look), fan(high - [0, 0, 0.15], rubble)])


def cone(rng: np.random.Generator) -> Mesh:
    """A traffic cone: Dynamic."""
    orange = Look(Material.PLAIN, "Dynamic", (0.85, 0.17, 0.02))
    white = Look(Material.PLAIN, "Dynamic", (0.85, 0.85, 0.85))
    return merge(
        [
            box((0.42, 0.42, 0.05), (0, 0, 0.025), orange),
            cylinder((0, 0, 0.05), (0, 0, 0.35), 0.16, orange, 8, 0.105),
            cylinder((0, 0, 0.35), (0, 0, 0.55), 0.105, white, 8, 0.07),
            cylinder((0, 0, 0.55), (0, 0, 0.78), 0.07, orange, 8, 0.03, caps=orange),
        ]
    )


def building(rng: np.random.Generator, styles: Styles, width: float, depth: float, height: float, shop: bool) -> Mesh:
    """A block with windows, x in 0..width, y in -depth..0 (front at y = 0), a cornice and a parapet or a roof."""
    colour = _FACADE_COLOURS[rng.integers(len(_FACADE_COLOURS))] * rng.uniform(0.75, 1.2)
    brick = float(rng.uniform() < 0.35)
    pitch_v = rng.uniform(2.9, 3.6)
    style = styles.add(
        rng.uniform(1.8, 3.4),
        pitch_v,
        rng.uniform(0.4, 0.68),
        rng.uniform(0.45, 0.66),
        float(shop),
        rng.uniform(0, 1000),
        brick,
        rng.uniform(0.1, 0.45),
    )
    look = Look(Material.FACADE, "Building", tuple(np.clip(colour, 0, 0.85)), style)
    trim = Look(Material.CONCRETE, "Building", tuple(np.clip(colour * 1.25, 0, 0.8)))
    roof = Look(Material.TILES, "Building", tuple(np.array([0.3, 0.13, 0.09]) * rng.uniform(0.5, 1.3)))
    ring = np.array([[0, 0], [width, 0], [width, -depth], [0, -depth]], float)
    parts = [prism(ring, -0.3, height, look, roof)]
    if rng.uniform() < 0.45 and height < 16:
        eaves, ridge = 0.5, height + 0.4 * depth * rng.uniform(0.6, 1.1)
        a, b = np.array([-eaves, eaves, height]), np.array([width + eaves, eaves, height])
        c, d = np.array([width + eaves, -depth - eaves, height]), np.array([-eaves, -depth - eaves, height])
        e, f = np.array([-eaves, -depth / 2, ridge]), np.array([width + eaves, -depth / 2, ridge])
        gable = Look(Material.PLAIN, "Building", look.colour)
        parts += [quads([[a, b, f, e], [c, d, e, f]], roof), fan([a, e, d], gable), fan([b, c, f], gable)]
    else:
        parts.append(box((width + 0.3, 0.5, 0.45), (width / 2, 0.05, height), trim))
        if rng.uniform() < 0.5:
            parts.append(
                box((width * 0.3, depth * 0.3, 2.4), (width * rng.uniform(0.3, 0.7), -depth / 2, height + 1.2), trim)
            )
    if shop:
        awning = Look(Material.PLAIN, "Building", tuple(rng.uniform(0.05, 0.6, 3)))
        parts.append(quads([[[0.4, 0, 3.1], [width - 0.4, 0, 3.1], [width - 0.4, 1.1, 2.6], [0.4, 1.1, 2.6]]], awning))
    else:
        for floor in range(1, min(7, int(height / pitch_v))):
            if rng.uniform() < 0.3:
                parts.append(
                    box((width * 0.4, 1.0, 1.0), (width * rng.uniform(0.25, 0.75), 0.5, floor * pitch_v + 0.35), trim)
                )
    return merge(parts)


def bridge(rng: np.random.Generator, length: float, width: float) -> Mesh:
    """A road bridge across the street: deck along y (|y| < length / 2) on piers, parapets."""
    look = Look(Material.CONCRETE, "Bridge", tuple(np.full(3, rng.uniform(0.28, 0.45))))
    low = rng.uniform(5.6, 6.6)
    parts = [box((width, length, 1.1), (0, 0, low + 0.55), look)]
    parts += [box((0.25, length, 1.0), (side * width / 2, 0, low + 1.6), look) for side in (-1, 1)]
    return merge(parts), low


def pier(low: float, width: float) -> Mesh:
    look = Look(Material.CONCRETE, "Bridge", (0.36, 0.35, 0.34))
    return box((width * 0.85, 1.1, low), (0, 0, low / 2), look)


_FACADE_COLOURS = np.array(
    [
        [0.55, 0.5, 0.42],
        [0.5, 0.33, 0.24],
        [0.42, 0.2, 0.14],
        [0.62, 0.56, 0.4],
        [0.4, 0.42, 0.44],
        [0.6, 0.58, 0.54],
        [0.45, 0.5, 0.52],
        [0.58, 0.44, 0.36],
        [0.35, 0.3, 0.27],
    ]
)
