"""What the cameras record: colour frames with their labels, depth frames, and the grey frames behind the events."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from mss_perception.camera import Camera
from training.synthetic.drive import Drive
from training.synthetic.raycast import Hits
from training.synthetic.rig import Rig

_CORNERS = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25))  # extra samples of a pixel that holds an edge, in pixels
REACH_M = 55.0  # of the depth camera
SMEAR_SAMPLES = 11  # of a smeared frame; odd, so that one is in the middle
_LUMINANCE = np.float32([0.2126, 0.7152, 0.0722])


@dataclass(frozen=True)
class View:
    """The rays of one camera: directions (N, 3) f32 in its optical frame, unit; how they change per pixel to the right
    and down (N, 3); the mean angle of a pixel, radians."""

    camera: Camera
    T_base_camera: np.ndarray
    directions: np.ndarray
    right: np.ndarray
    down: np.ndarray
    pixel_angle: float

    def rays(self, drive: Drive, t: float, shift=(0.0, 0.0), which=slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Origins and unit directions (n, 3) f32 in the world at time t, shifted by a part of a pixel."""
        pose = drive.ego.pose(t) @ self.T_base_camera
        local = self.directions[which]
        if any(shift):
            local = local + np.float32(shift[0]) * self.right[which] + np.float32(shift[1]) * self.down[which]
            local = local / np.linalg.norm(local, axis=1, keepdims=True)
        directions = local @ pose[:3, :3].T.astype(np.float32)
        return np.tile(pose[:3, 3].astype(np.float32), (len(directions), 1)), directions


@lru_cache(maxsize=8)
def _views(size: int, events_coarse: bool) -> dict[str, View]:
    rig = Rig.of_size(size, events_coarse)
    return {name: _view(rig.camera(name), rig) for name in ("rgb", "depth", "event")}


def view(rig: Rig, name: str) -> View:
    """The view of camera `name` ('rgb', 'depth' or 'event'); computed once per size."""
    return _views(rig.rgb.width, rig.event.width < rig.depth.width)[name]


def _view(camera: Camera, rig: Rig) -> View:
    rays = camera.pixel_rays()
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    grid = rays.reshape(camera.height, camera.width, 3)
    down, right = (slope.reshape(-1, 3) for slope in np.gradient(grid, axis=(0, 1)))
    angle = float(np.linalg.norm(right, axis=1).mean())
    return View(camera, rig.mount(camera.frame_id), *(part.astype(np.float32) for part in (rays, right, down)), angle)


def colour_frame(drive: Drive, view: View, t: float) -> tuple[np.ndarray, np.ndarray, Hits]:
    """Radiance (H, W, 3) f32, labels (H, W) u8 and the hits of the pixel centres. Pixels on edges get four samples."""
    shape = view.camera.height, view.camera.width
    light, seen, hits = _look(drive, view, t)
    labels = seen.label.reshape(shape)
    edge = np.flatnonzero(_edges(labels, hits.t.reshape(shape), hits.face.reshape(shape)))
    if len(edge):
        total = light[edge]
        for shift in _CORNERS:
            total = total + _look(drive, view, t, shift, edge)[0]
        light[edge] = total / (1 + len(_CORNERS))
    return light.reshape(*shape, 3), labels, hits


def smeared_frame(
    drive: Drive, view: View, t: float, exposure: float, shake: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Radiance (H, W, 3) f32 averaged over an exposure of so many seconds around t, in which the camera also turns by
    `shake` pixels to the right and down; labels (H, W) u8 of its middle."""
    shape = view.camera.height, view.camera.width
    total = np.zeros((*shape, 3), np.float32)
    for part in (np.arange(SMEAR_SAMPLES) - SMEAR_SAMPLES // 2) / SMEAR_SAMPLES:
        light, seen, _ = _look(drive, view, t + part * exposure, (part * shake[0], part * shake[1]))
        total += light.reshape(total.shape) / SMEAR_SAMPLES
        if part == 0:
            labels = seen.label.reshape(shape)
    return total, labels


def _look(drive: Drive, view: View, t: float, shift=(0.0, 0.0), which=slice(None), mirrors=True):
    origins, directions = view.rays(drive, t, shift, which)
    hits = drive.world.cast(origins, directions, drive.world.bodies(t))
    seen = drive.surface(hits, directions, view.pixel_angle)
    return drive.radiance(hits, seen, origins, directions, t, mirrors), seen, hits


def _edges(labels: np.ndarray, t: np.ndarray, face: np.ndarray) -> np.ndarray:
    """(H, W) bool: a neighbour has another label, or another face at a clearly different range."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        a, b = (slice(None, -1), slice(None)), (slice(1, None), slice(None))
        if axis == 1:
            a, b = a[::-1], b[::-1]
        differs = (labels[a] != labels[b]) | (
            (face[a] != face[b]) & (np.abs(t[a] - t[b]) > 0.04 * np.minimum(t[a], t[b]))
        )
        edge[a] |= differs
        edge[b] |= differs
    return edge


def develop(light: np.ndarray, gain_limit: float, rng: np.random.Generator, exposure: float = 1.0) -> np.ndarray:
    """Radiance (H, W, 3) -> rgb8 (H, W, 3): lens glare, vignetting, automatic exposure, shot and read noise, sRGB.

    exposure: by which factor the automatic exposure is wrong."""
    height, width = light.shape[:2]
    excess = np.minimum(np.maximum(light - 1.0, 0.0), 60.0)
    glare = 0.025 * cv2.GaussianBlur(excess, (0, 0), width / 90) + 0.05 * cv2.GaussianBlur(excess, (0, 0), width / 16)
    light = light + glare
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = light * (1 - 0.22 * (x * x + y * y) / 2)[..., None].astype(np.float32)
    grey = light @ _LUMINANCE
    key = float(np.exp(np.log(np.minimum(grey, 2.0) + 1e-4).mean()))
    gain = min(0.19 / key, gain_limit)
    exposed = light * np.float32(gain * exposure)
    # a full well of 4000 photons at white; the read noise counts most when the gain is high
    sigma = np.sqrt(np.clip(exposed, 0, 1.2) * gain / 4000 + (0.0015 + 0.0016 * gain) ** 2)
    exposed = np.clip(exposed + sigma * rng.standard_normal(exposed.shape, np.float32), 0, 1)
    return (255 * _srgb(exposed) + 0.5).astype(np.uint8)


def _srgb(linear: np.ndarray) -> np.ndarray:
    return np.where(linear < 0.0031308, 12.92 * linear, 1.055 * np.power(np.maximum(linear, 1e-6), 1 / 2.4) - 0.055)


def grey_frame(drive: Drive, view: View, t: float) -> np.ndarray:
    """(H, W) f32 luminance of one sample per pixel: a sub-frame of the event camera. Wet ground mirrors the sky only,
    for the sake of speed."""
    light, _, _ = _look(drive, view, t, mirrors=False)
    return (light @ _LUMINANCE).reshape(view.camera.height, view.camera.width)


def depth_frame(drive: Drive, view: View, t: float, rng: np.random.Generator) -> np.ndarray:
    """(H, W) f32 metres along the optical axis, NaN where there is no measurement.

    An active stereo camera: noise grows with z squared, holes beyond REACH_M (fewer and fewer returns from 60 % of it),
    at grazing and at mirroring surfaces, and beside depth edges, where one of its eyes sees something else. The air
    takes contrast: its matches get noisier and fewer, and with less than 15 % there are none. Drops hide some, too."""
    shape = view.camera.height, view.camera.width
    origins, directions = view.rays(drive, t)
    hits = drive.world.cast(origins, directions, drive.world.bodies(t))
    seen = drive.surface(hits, directions, view.pixel_angle)
    z = hits.t * view.directions[:, 2]
    facing = -np.einsum("ij,ij->i", hits.normal, directions)
    chance = np.clip((REACH_M - z) / (0.4 * REACH_M), 0, 1) ** 0.5 * np.clip(facing / 0.06, 0, 1)
    chance *= 1 - 0.75 * np.clip(seen.gloss, 0, 1)
    noise = 0.004 + 0.0009 * z * z
    if drive.light.extinction:
        contrast = np.exp(-drive.light.extinction * hits.t)
        chance *= np.clip((contrast - 0.15) / 0.5, 0, 1) * (1 - 0.15 * drive.light.rain)
        noise = noise / np.maximum(contrast, 0.1)
    z = z + rng.standard_normal(z.shape, np.float32) * noise
    depth = np.where((hits.face >= 0) & (rng.random(z.shape, np.float32) < chance) & (z > 0.2), z, np.nan).reshape(
        shape
    )
    shadow = np.zeros(shape, bool)
    nearest = np.where(hits.face >= 0, hits.t, np.inf).reshape(shape)
    with np.errstate(invalid="ignore"):
        shadow[:, 1:] = nearest[:, 1:] - nearest[:, :-1] > 0.08 * nearest[:, :-1]
    depth[shadow & (rng.random(shape) < 0.8)] = np.nan
    return depth.astype(np.float32)
