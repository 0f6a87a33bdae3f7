"""What the air does between a surface and a sensor: fog, and rain on its way down."""

from __future__ import annotations

import cv2
import numpy as np

from mss_perception.camera import Camera
from training.synthetic.weather import Light

_LAYER = 100.0  # thickness of the veil over the street, metres: how far light from the sky comes through it
_FALL = 7.0  # speed of large drops, m/s
_SHUTTER = 0.03  # exposure in which a drop becomes a streak, seconds


def veil(radiance: np.ndarray, distance: np.ndarray, directions: np.ndarray, light: Light) -> np.ndarray:
    """Radiance (N, 3) f32 as it arrives from `distance` (N,) metres along unit `directions` (N, 3): the air takes a
    share exp(-extinction * distance) away and adds as much of its own colour (Koschmieder)."""
    if not light.extinction:
        return radiance
    up = directions[:, 2]
    kept = np.exp(-light.extinction * np.minimum(distance, _LAYER / np.maximum(up, 0.05)))[:, None]
    own = light.horizon.astype(np.float32) * (0.92 + 0.2 * np.maximum(up, 0.0))[:, None]
    return (radiance * kept + own * (1 - kept)).astype(np.float32)


def there_and_back(distance: np.ndarray, light: Light) -> np.ndarray:
    """Share of a laser's light that the air lets pass to `distance` and back."""
    return np.exp(-2.0 * (light.extinction + 0.006 * light.rain) * distance)


def false_returns(
    distance: np.ndarray, intensity: np.ndarray, light: Light, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A LiDAR's ranges (N,), NaN for none, and intensities, with those that droplets near it send back instead.

    Fog answers where nothing else does, from the first metres, and sometimes before a surface; single drops of rain
    answer now and then."""
    if not light.extinction:
        return distance, intensity
    # Echoes of the air at r are exp(-2 extinction r) / r^2 of its own: most come from the first few metres.
    near = 1.0 + rng.exponential(0.35 / (light.extinction + 0.05 * light.rain), len(distance))
    chance = np.where(np.isfinite(distance), 0.9, 4.0) * light.extinction * (1.0 if not light.rain else 0.8)
    false = (rng.random(len(distance)) < chance) & ~(near > distance) & (near < 25.0)
    return np.where(false, near, distance), np.where(
        false, rng.uniform(0.01, 0.06, len(distance)), intensity
    ).astype(np.float32)


def streaks(
    radiance: np.ndarray, camera: Camera, speed: float, light: Light, rng: np.random.Generator
) -> np.ndarray:
    """Radiance (H, W, 3) with the drops that fell past the lens of a camera that drives forwards at `speed` m/s."""
    height, width = radiance.shape[:2]
    count = int(1100 * light.rain)
    focal, centre = camera.K[0, 0], camera.K[:2, 2]
    z = 0.7 + 13.0 * np.sqrt(rng.random(count))
    at = np.column_stack([(rng.uniform(-0.1, 1.1, (count, 2)) * [width, height] - centre) / focal * z[:, None], z])
    wind = rng.normal(0, 1.2)
    gone = at + _SHUTTER * np.array([wind, _FALL, -speed]) * rng.uniform(0.8, 1.2, (count, 1))
    gone[:, 2] = np.maximum(gone[:, 2], 0.3)
    ends = [16 * (point[:, :2] / point[:, 2:] * focal + centre) for point in (at, gone)]
    strength = 255 * np.clip(1.2 / z, 0.1, 0.6) * rng.uniform(0.6, 1.0, count)
    mask = np.zeros((height, width), np.uint8)
    for index in np.argsort(-z):
        first, last = (tuple(np.clip(end[index], -(2**20), 2**20).astype(int).tolist()) for end in ends)
        cv2.line(mask, first, last, float(strength[index]), max(1, round(width / 320)), cv2.LINE_AA, 4)
    share = (mask / np.float32(255))[..., None]
    return radiance * (1 - share) + 1.1 * light.horizon.astype(np.float32) * share


def drop_events(
    width: int, height: int, begin_ns: int, end_ns: int, light: Light, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Events x, y, t, p, as of EventSensor.advance, of drops that cross an event camera's view in [begin_ns, end_ns):
    a line of brighter, then of darker, along the way of each."""
    span = (end_ns - begin_ns) // 1000
    count = rng.poisson(light.rain * 55 * min(width / 256, 2.0) * span / 10_000)
    start = rng.uniform(0, 1, (count, 1, 2)) * [width, height]
    away = (start - [width / 2, height / 2]) / height
    way = np.concatenate([0.12 + 0.9 * away[..., :1], 1 + 0.6 * away[..., 1:]], -1)
    length = rng.uniform(0.015, 0.09, (count, 1)) * height
    step = np.arange(max(1, int(0.09 * height)))
    places = np.floor(start + step[:, None] * way).astype(np.int64)  # (count, steps, 2)
    times = rng.integers(0, span, (count, 1)) + step * 40
    inside = (step < length) & ((places >= 0) & (places < [width, height])).all(-1)
    x, y = places[inside].T
    first = times[inside]
    later = first + rng.integers(200, 900, len(first))
    t = np.concatenate([first, later])
    p = np.concatenate([np.ones(len(first), bool), np.zeros(len(first), bool)])
    kept = t < span
    x, y = (np.tile(one, 2)[kept].astype(np.uint16) for one in (x, y))
    return x, y, begin_ns + 1000 * t[kept], p[kept]
