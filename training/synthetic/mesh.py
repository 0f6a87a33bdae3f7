"""Triangle meshes with a look per face, and the shapes that everything is put together from.

Right-handed, metres, z up. Faces are seen from both sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from training.synthetic.looks import CLASS, Look


@dataclass(frozen=True)
class Mesh:
    """vertices (V, 3) f32; faces (F, 3) i32; uv (F, 3, 2) f32 per corner; material, label (F,) u8;
    colour (F, 3) f32; style (F,) i32."""

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    material: np.ndarray
    label: np.ndarray
    colour: np.ndarray
    style: np.ndarray

    def __len__(self) -> int:
        return len(self.faces)

    def moved(self, pose: np.ndarray) -> Mesh:
        """The mesh under the 4 x 4 transform `pose`."""
        return replace(self, vertices=(self.vertices @ pose[:3, :3].T + pose[:3, 3]).astype(np.float32))

    def radius(self) -> float:
        """Of the sphere around the origin that holds the mesh."""
        return float(np.sqrt((self.vertices.astype(np.float64) ** 2).sum(1).max()))


def _filled(shape: tuple[int, ...], kind: type, value) -> np.ndarray:
    """As np.full, which is slow for small arrays."""
    out = np.empty(shape, kind)
    out[:] = value
    return out


def make(vertices, faces, uv, look: Look) -> Mesh:
    """A mesh with one look for all its faces."""
    faces = np.asarray(faces, np.int32)
    count = len(faces)
    return Mesh(
        np.asarray(vertices, np.float32),
        faces,
        np.asarray(uv, np.float32),
        _filled((count,), np.uint8, look.material),
        _filled((count,), np.uint8, CLASS[look.label]),
        _filled((count, 3), np.float32, look.colour),
        _filled((count,), np.int32, look.style),
    )


def merge(meshes: Iterable[Mesh]) -> Mesh:
    meshes = list(meshes)
    starts = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
    join = {
        name: np.concatenate([getattr(m, name) for m in meshes])
        for name in ("vertices", "uv", "material", "label", "colour", "style")
    }
    faces = np.concatenate([m.faces + np.int32(start) for m, start in zip(meshes, starts, strict=True)])
    return Mesh(faces=faces.astype(np.int32), **join)


def pose(x=0.0, y=0.0, z=0.0, yaw=0.0, pitch=0.0, roll=0.0, scale=1.0) -> np.ndarray:
    """(..., 4, 4): first roll about x, then pitch about y, then yaw about z (radians), then the translation.
    Arguments are scalars or arrays that broadcast."""
    x, y, z, yaw, pitch, roll = np.broadcast_arrays(x, y, z, yaw, pitch, roll)
    (cr, sr), (cp, sp), (cy, sy) = ((np.cos(a), np.sin(a)) for a in (roll, pitch, yaw))
    transform = np.zeros((*x.shape, 4, 4))
    transform[..., 0, 0], transform[..., 0, 1], transform[..., 0, 2] = (
        cy * cp,
        cy * sp * sr - sy * cr,
        cy * sp * cr + sy * sr,
    )
    transform[..., 1, 0], transform[..., 1, 1], transform[..., 1, 2] = (
        sy * cp,
        sy * sp * sr + cy * cr,
        sy * sp * cr - cy * sr,
    )
    transform[..., 2, 0], transform[..., 2, 1], transform[..., 2, 2] = -sp, cp * sr, cp * cr
    transform[..., :3, :3] *= scale
    transform[..., 0, 3], transform[..., 1, 3], transform[..., 2, 3], transform[..., 3, 3] = x, y, z, 1.0
    return transform


_HALVES = np.array([[0, 1, 2], [0, 2, 3]])  # of a quad


def quads(corners, look: Look, uv=None) -> Mesh:
    """corners (N, 4, 3) in order around each quad; uv (N, 4, 2), by default metres along its first and last edge."""
    corners = np.asarray(corners, np.float64).reshape(-1, 4, 3)
    if uv is None:
        edges = corners[:, 1::2] - corners[:, :1]
        length = np.sqrt((edges * edges).sum(-1))  # along, up
        uv = np.zeros((len(corners), 4, 2))
        uv[:, 1:3, 0], uv[:, 2:, 1] = length[:, :1], length[:, 1:]
    uv = np.asarray(uv, np.float32)
    if len(uv) != len(corners):
        uv = np.broadcast_to(uv, (len(corners), 4, 2))
    first = 4 * np.arange(len(corners))[:, None]
    faces = np.concatenate([first + _HALVES[0], first + _HALVES[1]])
    return make(corners.reshape(-1, 3), faces, np.concatenate([uv[:, half] for half in _HALVES]), look)


def box(size, centre, look: Look, top: Look | None = None) -> Mesh:
    """Axis-aligned box of `size` about `centre`; four walls with uv in metres (v upwards), lid, floor."""
    hx, hy, hz = np.asarray(size, np.float64) / 2
    x, y, z = centre
    ring = np.array([[x - hx, y - hy], [x + hx, y - hy], [x + hx, y + hy], [x - hx, y + hy]])
    return prism(ring, z - hz, z + hz, look, top)


def prism(ring, z0: float, z1: float, look: Look, top: Look | None = None) -> Mesh:
    """A convex ring (K, 2) raised from z0 to z1, closed above and below; wall v starts at 0 at the bottom."""
    ring = np.asarray(ring, np.float64)
    floor, lid = np.empty((2, len(ring), 3))
    floor[:, :2], lid[:, :2], floor[:, 2], lid[:, 2] = ring, ring, z0, z1
    following = (np.arange(len(ring)) + 1) % len(ring)
    walls = np.stack([floor, floor[following], lid[following], lid], 1)
    return merge([quads(walls, look), fan(lid, top or look), fan(floor, look)])


def fan(outline, look: Look, uv=None) -> Mesh:
    """A star-shaped outline (K, 3) filled from its centroid; uv (K, 2) by default metres in its two widest axes."""
    outline = np.asarray(outline, np.float64)
    count = len(outline)
    if uv is None:
        axes = np.sort(np.argsort(outline.max(0) - outline.min(0))[1:])
        uv = outline[:, axes]
    vertices, corner_uv = np.empty((count + 1, 3)), np.empty((count + 1, 2))
    vertices[:count], corner_uv[:count] = outline, uv
    vertices[count], corner_uv[count] = vertices[:count].sum(0) / count, corner_uv[:count].sum(0) / count
    faces = np.full((count, 3), count, np.int32)
    faces[:, 0] = np.arange(count)
    faces[:, 1] = (faces[:, 0] + 1) % count
    return make(vertices, faces, corner_uv[faces], look)


def loft(outlines, look: Look) -> Mesh:
    """The skin through cross-sections (M, K, 3), each a closed ring; uv = metres along and around, roughly."""
    outlines = np.asarray(outlines, np.float64)
    a, b = outlines[:-1], outlines[1:]
    following = (np.arange(outlines.shape[1]) + 1) % outlines.shape[1]
    corners = np.stack([a, a[:, following], b[:, following], b], 2)
    return quads(corners.reshape(-1, 4, 3), look)


def cylinder(
    start, end, radius, look: Look, sides: int = 8, end_radius: float | None = None, caps: Look | None = None
) -> Mesh:
    """A (tapered) cylinder; `caps` closes it with discs whose uv run from -1 to 1."""
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    x, y, z = ((end - start) / math.dist(end, start)).tolist()
    side = np.array([0.0, z, -y] if abs(x) < 0.8 else [-z, 0.0, x])  # axis x [1 0 0], or x [0 1 0]
    side /= math.hypot(*side)
    a, b, c = side.tolist()
    angle = 2 * np.pi * np.arange(sides) / sides
    across = np.array([y * c - z * b, z * a - x * c, x * b - y * a])
    circle = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * across
    rings = [start + radius * circle, end + (radius if end_radius is None else end_radius) * circle]
    parts = [loft(rings, look)]
    if caps is not None:
        disc = np.column_stack([np.cos(angle), np.sin(angle)])
        parts += [fan(ring, caps, disc) for ring in rings]
    return merge(parts)


def icosphere(radius, centre, look: Look, level: int = 1, bumps: np.ndarray | None = None) -> Mesh:
    """A sphere (or ellipsoid: radius (3,)) of 20 * 4**level triangles; `bumps` (V,) scales each vertex' radius."""
    vertices, faces = _ICOSPHERES[level]
    scale = vertices if bumps is None else vertices * bumps[:, None]
    points = scale * np.asarray(radius, np.float64) + centre
    uv = 2.0 * np.max(radius) * np.stack([np.arctan2(vertices[:, 1], vertices[:, 0]), vertices[:, 2]], 1)
    return make(points, faces, uv[faces], look)


def icosphere_vertices(level: int) -> int:
    return len(_ICOSPHERES[level][0])


def _subdivided(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    unique, which = np.unique(edges, axis=0, return_inverse=True)
    middle = vertices[unique].mean(1)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    ab, bc, ca = len(vertices) + which.reshape(3, -1)
    a, b, c = faces.T
    parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    return np.vstack([vertices, middle]), np.concatenate([np.column_stack(part) for part in parts])


def _icospheres(levels: int) -> list[tuple[np.ndarray, np.ndarray]]:
    golden = (1 + 5**0.5) / 2
    vertices = np.array(
        [
            [-1, golden, 0],
            [1, golden, 0],
            [-1, -golden, 0],
            [1, -golden, 0],
            [0, -1, golden],
            [0, 1, golden],
            [0, -1, -golden],
            [0, 1, -golden],
            [golden, 0, -1],
            [golden, 0, 1],
            [-golden, 0, -1],
            [-golden, 0, 1],
        ]
    )
    vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    faces = np.array(
        [
            [0, 11, 5],
            [0, 5, 1],
            [0, 1, 7],
            [0, 7, 10],
            [0, 10, 11],
            [1, 5, 9],
            [5, 11, 4],
            [11, 10, 2],
            [10, 7, 6],
            [7, 1, 8],
            [3, 9, 4],
            [3, 4, 2],
            [3, 2, 6],
            [3, 6, 8],
            [3, 8, 9],
            [4, 9, 5],
            [2, 4, 11],
            [6, 2, 10],
            [8, 6, 7],
            [9, 8, 1],
        ]
    )
    result = [(vertices, faces)]
    for _ in range(levels):
        result.append(_subdivided(*result[-1]))
    return result


_ICOSPHERES = _icospheres(2)
