"""Light and air of each weather."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class WeatherError(ValueError):
    """A weather is not known; the message lists those that are."""


@dataclass(frozen=True)
class Light:
    """The light of one drive, in radiance units where a white wall in full sun is about 1.

    direction: unit vector towards the sun (cloud: towards the brightest part of the sky, which still gives the dim
    contact shadows under cars). sun, sky: irradiance from it and from the sky dome, r g b. zenith, horizon: colours
    of the sky. clouds: 0 none .. 1 closed. lamps: brightness of street lamps and head-lights; by day 0, or a little
    where drivers switch theirs on. gain_limit: the most the camera's automatic exposure amplifies, so that nights stay
    dark. extinction: share of light that the air takes per metre, 1/m; what it scatters instead is `horizon`.
    rain: 0 none .. 1 heavy; whatever lies open to it is wet."""

    direction: np.ndarray
    sun: np.ndarray
    sky: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    clouds: float
    seed: int
    lamps: float
    gain_limit: float
    extinction: float = 0.0
    rain: float = 0.0

    @property
    def shadows(self) -> bool:
        return bool(self.sun.max() > 0)

    @property
    def night(self) -> bool:
        return self.lamps > 0.5


def _towards(azimuth: float, elevation: float) -> np.ndarray:
    return np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])


def _sun(rng: np.random.Generator) -> Light:
    low = rng.uniform() < 0.25  # low and ahead: it dazzles the camera
    elevation = np.radians(rng.uniform(7, 18) if low else rng.uniform(18, 62))
    azimuth = rng.normal(0, 0.35) if low else rng.uniform(0, 2 * np.pi)
    warm = np.array([1.0, 0.93, 0.82]) if elevation > 0.5 else np.array([1.0, 0.82, 0.6])
    return Light(
        direction=_towards(azimuth, elevation), sun=0.95 * warm,
        sky=np.array([0.2, 0.25, 0.33]) * rng.uniform(0.8, 1.2),
        zenith=np.array([0.16, 0.33, 0.75]), horizon=np.array([0.62, 0.73, 0.85]),
        clouds=rng.uniform(0.15, 0.5), seed=int(rng.integers(1000)), lamps=0.0, gain_limit=3.0)


def _cloud(rng: np.random.Generator) -> Light:
    grey = rng.uniform(0.26, 0.42)
    return Light(
        direction=_towards(rng.uniform(0, 2 * np.pi), np.radians(75)), sun=grey * np.array([0.36, 0.37, 0.38]),
        sky=grey * np.array([0.7, 0.72, 0.76]), zenith=grey * np.array([1.45, 1.5, 1.6]),
        horizon=grey * np.array([1.9, 1.93, 1.98]),
        clouds=1.0, seed=int(rng.integers(1000)), lamps=0.0, gain_limit=3.0)


def _night(rng: np.random.Generator) -> Light:
    dim = rng.uniform(0.5, 1.0)
    return Light(
        direction=np.array([0.0, 0.0, 1.0]), sun=np.zeros(3), sky=dim * np.array([0.0016, 0.0019, 0.003]),
        zenith=dim * np.array([0.0012, 0.0016, 0.0035]), horizon=dim * np.array([0.006, 0.006, 0.0075]),
        clouds=rng.uniform(0.2, 1.0), seed=int(rng.integers(1000)), lamps=rng.uniform(0.7, 1.1), gain_limit=6.0)


def _fog(rng: np.random.Generator) -> Light:
    """Visibility V of 30 to 90 m; the extinction is 3.912 / V (Koschmieder: a contrast of 2 % is left at V)."""
    grey = rng.uniform(0.3, 0.45)
    white = grey * np.array([1.62, 1.66, 1.7])
    return Light(
        direction=_towards(rng.uniform(0, 2 * np.pi), np.radians(75)), sun=grey * np.array([0.22, 0.22, 0.23]),
        sky=grey * np.array([0.86, 0.88, 0.92]), zenith=white, horizon=white, clouds=1.0,
        seed=int(rng.integers(1000)), lamps=rng.uniform(0.1, 0.3), gain_limit=3.0,
        extinction=3.912 / rng.uniform(30.0, 90.0))


def _rain(rng: np.random.Generator) -> Light:
    """A dark sky, a thin veil (visibility of some 300 m and more), water on the ground and on the way to it."""
    grey = rng.uniform(0.14, 0.24)
    return Light(
        direction=_towards(rng.uniform(0, 2 * np.pi), np.radians(75)), sun=grey * np.array([0.22, 0.23, 0.25]),
        sky=grey * np.array([0.76, 0.8, 0.88]), zenith=grey * np.array([1.1, 1.17, 1.3]),
        horizon=grey * np.array([1.55, 1.62, 1.74]), clouds=1.0, seed=int(rng.integers(1000)),
        lamps=rng.uniform(0.15, 0.35), gain_limit=3.0, extinction=rng.uniform(0.005, 0.012),
        rain=rng.uniform(0.55, 1.0))


_LIGHTS = {"cloud": _cloud, "fog": _fog, "night": _night, "rain": _rain, "sun": _sun}
WEATHERS = tuple(_LIGHTS)


def light(weather: str, rng: np.random.Generator) -> Light:
    """The light of a drive in `weather`. Raises WeatherError when it is not one of WEATHERS."""
    if weather not in _LIGHTS:
        raise WeatherError(f"weather {weather!r} is not known; known: {', '.join(WEATHERS)}")
    return _LIGHTS[weather](rng)
