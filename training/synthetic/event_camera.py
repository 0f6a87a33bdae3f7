"""An event camera: a pixel fires whenever its log intensity has moved by its threshold since it last fired.

As in ESIM (Rebecq et al., CoRL 2018, section 3.1): frames are rendered at a high rate, the log intensity of a pixel
runs linearly between two of them, and every crossing of its next level is an event at the crossing's time.
"""

from __future__ import annotations

import numpy as np

from mss_perception.compiled import compiled


class EventSensor:
    """The pixels' state between sub-frames.

    threshold: mean contrast threshold (natural log); spread: its standard deviation over pixels and polarities;
    dark: intensity at which the photodiode's dark current equals the light; noise_hz: background events per pixel and
    second. `device` seeds the fixed pattern of the thresholds, `rng` everything else."""

    def __init__(
        self,
        first: np.ndarray,
        t_ns: int,
        rng: np.random.Generator,
        threshold: float = 0.2,
        spread: float = 0.03,
        dark: float = 0.004,
        noise_hz: float = 0.3,
        device: int = 7,
    ) -> None:
        """Starts with the intensity image `first` (H, W) at time t_ns (a multiple of 1000); the pixels have last fired
        at some level within a threshold of it."""
        pattern = np.random.default_rng(device)
        self._on, self._off = np.clip(pattern.normal(threshold, spread, (2, *first.shape)), 0.3 * threshold, None)
        self._dark, self._noise_hz, self._rng = dark, noise_hz, rng
        self._log, self._t = self._logarithm(first), t_ns
        self._level = self._log + rng.uniform(-0.5, 0.5, first.shape) * np.minimum(self._on, self._off)

    def _logarithm(self, image: np.ndarray) -> np.ndarray:
        return np.log(image.astype(np.float64) + self._dark)

    def advance(self, image: np.ndarray, t_ns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Events up to the intensity image (H, W) at t_ns: x, y u16; t i64 ns in [previous, t_ns), whole
        microseconds, rising; p bool, True where it became brighter."""
        log, before = self._logarithm(image), self._t
        count = _crossings(self._log, log, self._level, self._on, self._off, self._t, t_ns, None)
        signal = np.empty((count, 4), np.int64)
        _crossings(self._log, log, self._level, self._on, self._off, self._t, t_ns, signal)
        events = np.concatenate([signal, self._background(image.shape, t_ns)])
        # 16 bit keys, where they suffice, are sorted by radix
        after = (events[:, 2] - before) // 1000
        x, y, t, p = events[
            np.argsort(after.astype(np.uint16) if t_ns - before < 65_000_000 else after, kind="stable")
        ].T
        self._log, self._t = log, t_ns
        return x.astype(np.uint16), y.astype(np.uint16), t, p > 0

    def _background(self, shape: tuple[int, int], t_ns: int) -> np.ndarray:
        height, width = shape
        microseconds = (t_ns - self._t) // 1000
        count = self._rng.poisson(self._noise_hz * height * width * microseconds * 1e-6)
        noise = self._rng.integers(0, (width, height, microseconds, 2), (count, 4))
        noise[:, 2] = self._t + 1000 * noise[:, 2]
        return noise


@compiled
def _crossings(before, after, level, on, off, begin, end, out):
    """Count the events between two log images, or, with `out` (count, 4), write x, y, t, p and move the levels."""
    count = 0
    height, width = before.shape
    for y in range(height):
        for x in range(width):
            rise = after[y, x] - before[y, x]
            at = level[y, x]
            while True:
                if after[y, x] >= at + on[y, x]:
                    at += on[y, x]
                elif after[y, x] <= at - off[y, x]:
                    at -= off[y, x]
                else:
                    break
                if out is not None:
                    part = min(max((at - before[y, x]) / rise, 0.0), 1.0) if rise != 0.0 else 1.0
                    microseconds = (end - begin) // 1000
                    step = min(int(part * microseconds), microseconds - 1)
                    out[count, 0], out[count, 1] = x, y
                    out[count, 2] = begin + 1000 * step
                    out[count, 3] = 1 if at > level[y, x] else 0
                    level[y, x] = at
                count += 1
    return count
