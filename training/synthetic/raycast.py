"""Rays against a street and its traffic. Embree finds the hits; every moving body keeps a scene in its own frame, and
only the rays that pass near it are carried there, so nothing large is ever rebuilt while the world moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore import EmbreeDevice
from embreex.rtcore_scene import EmbreeScene

from mss_perception.compiled import compiled
from training.synthetic.layout import Street
from training.synthetic.mesh import Mesh
from training.synthetic.movers import Ego, Mover, place
from training.synthetic.people import Pedestrian

_FAR = np.float32(1e6)  # range of rays that hit nothing, metres
_BLOCK = 64  # rays
_HALF_STEP = 5e-3  # of the central differences, seconds
_DEVICE = EmbreeDevice()  # shared by all scenes: a process can hold about a thousand devices, then embree crashes
GAIT_PARTS = 64  # poses of a double step: about one per 17 ms


@dataclass
class Hits:
    """Of N rays: face (N,) i32 into the world's surface table, -1 nothing; t (N,) f32 metres (along unit rays);
    uv (N, 2) f32 surface coordinates; normal (N, 3) f32 unit, world axes, towards the ray's origin; body (N,) i32 into
    the bodies that were given, -1 for the street."""

    face: np.ndarray
    t: np.ndarray
    uv: np.ndarray
    normal: np.ndarray
    body: np.ndarray


class Scene:
    """One mesh ready for rays, in its own frame."""

    def __init__(self, mesh: Mesh) -> None:
        self._scene = EmbreeScene(_DEVICE)
        self._mesh = TriangleMesh(self._scene, mesh.vertices, mesh.faces)  # kept alive with the scene

    def hits(self, origins: np.ndarray, directions: np.ndarray) -> dict[str, np.ndarray]:
        return self._scene.run(origins, directions, output=1)

    def occluded(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        return self._scene.run(origins, directions, query="OCCLUDED") >= 0


@compiled
def rays_near_spheres(origins, directions, centres, radii):
    """Which rays (N, 3) f32, unit directions, come within the radii (B,) of the centres (B, 3).

    Returns starts (B + 1,) and rays: those of sphere b are rays[starts[b]:starts[b + 1]]. Neighbouring rays are alike,
    so spheres are first held against the ball and the cone around each block of _BLOCK rays."""
    count, bodies = len(origins), len(centres)
    blocks = (count + _BLOCK - 1) // _BLOCK
    balls, axes, angles = np.empty((blocks, 4)), np.empty((blocks, 3)), np.empty((blocks, 2))
    for k in range(blocks):
        _surround(
            origins[k * _BLOCK : (k + 1) * _BLOCK],
            directions[k * _BLOCK : (k + 1) * _BLOCK],
            balls[k],
            axes[k],
            angles[k],
        )
    starts = np.zeros(bodies + 1, np.int64)
    rays = np.empty(max(count, 1), np.int64)
    found = 0
    for body in range(bodies):
        cx, cy, cz, square = centres[body, 0], centres[body, 1], centres[body, 2], radii[body] ** 2
        for k in range(blocks):
            wx, wy, wz = cx - balls[k, 0], cy - balls[k, 1], cz - balls[k, 2]
            distance, reach = np.sqrt(wx * wx + wy * wy + wz * wz), radii[body] + balls[k, 3]
            if distance > reach:
                sine = reach / distance
                limit = angles[k, 0] * np.sqrt(1 - sine * sine) - angles[k, 1] * sine  # cosine of the two angles' sum
                if wx * axes[k, 0] + wy * axes[k, 1] + wz * axes[k, 2] < limit * distance and angles[k, 0] > -0.5:
                    continue
            if found + _BLOCK > len(rays):
                rays = np.concatenate((rays, np.empty(len(rays) + _BLOCK, np.int64)))
            for i in range(k * _BLOCK, min((k + 1) * _BLOCK, count)):
                x, y, z = cx - origins[i, 0], cy - origins[i, 1], cz - origins[i, 2]
                along = max(x * directions[i, 0] + y * directions[i, 1] + z * directions[i, 2], 0.0)
                if x * x + y * y + z * z - along * along < square:
                    rays[found] = i
                    found += 1
        starts[body + 1] = found
    return starts, rays


@compiled
def _surround(origins, directions, ball, axis, angle):
    """Ball (x y z radius) around the origins; axis and half angle (cosine, sine) of a cone around the directions."""
    count = len(origins)
    ball[:], axis[:] = 0.0, 0.0
    for i in range(count):
        for k in range(3):
            ball[k] += origins[i, k] / count
            axis[k] += directions[i, k]
    axis /= max(np.sqrt((axis * axis).sum()), 1e-12)
    radius, cosine = 0.0, 1.0
    for i in range(count):
        x, y, z = origins[i, 0] - ball[0], origins[i, 1] - ball[1], origins[i, 2] - ball[2]
        radius = max(radius, x * x + y * y + z * z)
        cosine = min(cosine, axis[0] * directions[i, 0] + axis[1] * directions[i, 1] + axis[2] * directions[i, 2])
    ball[3] = np.sqrt(radius)
    angle[0], angle[1] = cosine, np.sqrt(max(1 - cosine * cosine, 0.0)) + 1e-6


@compiled
def _finish(face, u, v, corner_uv, directions, uv, normal):
    """Surface coordinates from the barycentric (u, v) of each hit; unit normals that face the ray's origin."""
    for i in range(len(face)):
        f = face[i]
        if f < 0:
            continue
        for k in range(2):
            uv[i, k] = (
                corner_uv[f, 0, k]
                + u[i] * (corner_uv[f, 1, k] - corner_uv[f, 0, k])
                + v[i] * (corner_uv[f, 2, k] - corner_uv[f, 0, k])
            )
        x, y, z = normal[i, 0], normal[i, 1], normal[i, 2]
        scale = 1.0 / max(np.sqrt(x * x + y * y + z * z), 1e-12)
        if x * directions[i, 0] + y * directions[i, 1] + z * directions[i, 2] > 0:
            scale = -scale
        normal[i, 0], normal[i, 1], normal[i, 2] = x * scale, y * scale, z * scale


@dataclass(frozen=True)
class _Body:
    """A mover at an instant: scene in its own frame, its number, its first row of the surface table, T_world_body, and
    the bounding sphere in the world."""

    scene: Callable[[], Scene]
    mover: int
    first: int
    pose: np.ndarray
    centre: np.ndarray
    radius: float

    def local(self, points: np.ndarray) -> np.ndarray:
        """World points (N, 3) in the body's frame, f32."""
        shifted = points - self.pose[:3, 3].astype(np.float32)
        return np.ascontiguousarray(shifted @ self.pose[:3, :3].astype(np.float32))

    def turned(self, directions: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(directions @ self.pose[:3, :3].astype(np.float32))


_GAITS: dict[tuple, Scene] = {}  # of a build and a part of the step; all streets of a process share them


class _Shape:
    """A mover's form, shared by all movers that have it. People have one scene per part of their step."""

    def __init__(self, form: Mesh | Pedestrian, first: int) -> None:
        self.form, self.first = form, first
        self.mesh = form if isinstance(form, Mesh) else form.mesh(0.0)
        low, high = self.mesh.vertices.min(0).astype(np.float64), self.mesh.vertices.max(0).astype(np.float64)
        self.middle = (low + high) / 2
        self.radius = float(np.linalg.norm(high - low)) / 2 + (0.4 if form is not self.mesh else 0.0)
        self._scene: Scene | None = None

    def scene(self, phase: float) -> Scene:
        """Made when first needed: most movers are never looked at."""
        if self.form is self.mesh:
            self._scene = self._scene or Scene(self.mesh)
            return self._scene
        part = int(np.floor(phase / (2 * np.pi) * GAIT_PARTS)) % GAIT_PARTS
        key = (self.form.build, part)
        if key not in _GAITS:
            _GAITS[key] = Scene(self.form.mesh(2 * np.pi * part / GAIT_PARTS))
        return _GAITS[key]


class World:
    """The still street plus its movers; `surfaces` holds what shading needs for every face of both."""

    REACH = 95.0  # movers further than this from the ego vehicle are left out, metres

    def __init__(self, street: Street, ego: Ego, movers: list[Mover]) -> None:
        self._street = Scene(street.mesh)
        self._curve, self._ego, self._movers = street.curve, ego, movers
        meshes, shapes = [street.mesh], {}
        for mover in movers:
            if id(mover.form) not in shapes:
                shapes[id(mover.form)] = _Shape(mover.form, sum(map(len, meshes)))
                meshes.append(shapes[id(mover.form)].mesh)
        self._shapes = [shapes[id(mover.form)] for mover in movers]
        self.surfaces = {
            name: np.concatenate([getattr(mesh, name) for mesh in meshes])
            for name in ("uv", "material", "label", "colour", "style")
        }
        self._instant, self._bodies = None, []

    def bodies(self, t: float) -> list[_Body]:
        """The movers near the ego vehicle at time t. The latest instant is kept: several sensors share it."""
        if t != self._instant:
            self._instant, self._bodies = t, self._bodies_at(t)
        return self._bodies

    def _bodies_at(self, t: float) -> list[_Body]:
        if not self._movers:
            return []
        poses, phases = place(self._curve, self._movers, t)
        centres = np.einsum("nij,nj->ni", poses[:, :3, :3], [shape.middle for shape in self._shapes]) + poses[:, :3, 3]
        near = np.hypot(*(centres[:, :2] - self._ego.pose(t)[:2, 3]).T) < self.REACH
        return [
            _Body(
                partial(self._shapes[i].scene, phases[i]),
                i,
                self._shapes[i].first,
                poses[i],
                centres[i],
                self._shapes[i].radius,
            )
            for i in np.flatnonzero(near)
        ]

    def velocities(self, t: float) -> np.ndarray:
        """(B, 3) of the bodies at time t, m/s, world axes."""
        near = [self._movers[body.mover] for body in self.bodies(t)]
        if not near:
            return np.zeros((0, 3))
        before, after = (place(self._curve, near, t + shift)[0][:, :3, 3] for shift in (-_HALF_STEP, _HALF_STEP))
        return (after - before) / (2 * _HALF_STEP)

    def cast(self, origins: np.ndarray, directions: np.ndarray, bodies: list[_Body]) -> Hits:
        """First hits of N rays, origins and unit directions (N, 3) f32 in the world frame."""
        found = self._street.hits(origins, directions)
        face = found["primID"].astype(np.int32)
        t = np.where(face >= 0, found["tfar"], _FAR).astype(np.float32)
        u, v, normal = found["u"], found["v"], found["Ng"]
        whose = np.full(len(face), -1, np.int32)
        for index, near in _candidates(bodies, origins, directions):
            body = bodies[index]
            hit = body.scene().hits(body.local(origins[near]), body.turned(directions[near]))
            closer = (hit["primID"] >= 0) & (hit["tfar"] < t[near])
            which = near[closer]
            face[which], whose[which] = hit["primID"][closer] + body.first, index
            t[which] = hit["tfar"][closer]
            u[which], v[which] = hit["u"][closer], hit["v"][closer]
            normal[which] = hit["Ng"][closer] @ body.pose[:3, :3].T.astype(np.float32)
        uv = np.zeros((len(face), 2), np.float32)
        _finish(face, u, v, self.surfaces["uv"], directions, uv, normal)
        return Hits(face, t, uv, normal, whose)

    def shadowed(self, points: np.ndarray, direction: np.ndarray, bodies: list[_Body]) -> np.ndarray:
        """(N,) bool: something stands between points (N, 3) f32 and a light at infinity in `direction` (3,) f32."""
        rays = np.tile(direction, (len(points), 1))
        dark = self._street.occluded(points, rays)
        for index, near in _candidates(bodies, points, rays):
            body = bodies[index]
            near = near[~dark[near]]
            if len(near):
                dark[near] = body.scene().occluded(body.local(points[near]), body.turned(rays[near]))
        return dark


def _candidates(bodies: list[_Body], origins: np.ndarray, directions: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The bodies that rays may meet, by index, each with the indices of those rays."""
    if not bodies or not len(origins):
        return
    starts, rays = rays_near_spheres(
        origins, directions, np.array([body.centre for body in bodies]), np.array([body.radius for body in bodies])
    )
    for index, (first, last) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        if last > first:
            yield index, rays[first:last]
