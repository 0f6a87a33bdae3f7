"""Event lane: ON and OFF counts over a time window, in the target camera's view.

`messages.decode_events` reads the formats that need no memory. A decoder that keeps state between packets (evt3 and
libcaer_cmp of event_camera_msgs) belongs in this file: it turns every packet, needed or not, into Events.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mss_models.modality import Encoding
from mss_perception import kernels
from mss_perception.camera import Camera
from mss_perception.lane import LaneImage, require
from mss_perception.messages import Events


class EventLane:
    """Events of a time window, counted in the target camera's image of (height, width). Stateless between calls.

    encoding 'on_off_counts': see mss_models.modality.DEFAULT_ENCODINGS. camera: the event camera, T_target_event (4, 4)
    its place. plane_depth_m: depth in front of the target at which events are taken to lie; 0 or inf is infinitely far,
    where only the rotation between the cameras counts. Raises ValueError for another encoding.
    """

    def __init__(self, encoding: Encoding, target: Camera, height: int, width: int, camera: Camera,
                 T_target_event: np.ndarray, plane_depth_m: float = 0.0):
        require(encoding, "event", "on_off_counts")
        self.camera, self.height, self.width = camera, height, width
        self.window_ns = round(float(encoding.params.get("window_sec", 0.05)) * 1e9)
        self.gain = float(encoding.params.get("gain", 40.0))
        self._starts, self._sources = pixel_sources(target, height, width, camera, T_target_event, plane_depth_m)
        # Compile now, not while the first window waits.
        self([Events(*(np.zeros(1, kind) for kind in (np.uint16, np.uint16, np.int64, np.bool_)), 0, 0)], 0)

    def __call__(self, packets: Iterable[Events], t_ref_ns: int, until_ns: int | None = None,
                 coverage: float = 1.0) -> LaneImage:
        """Counts of the packets' events with t in [t_ref_ns - window_sec, t_ref_ns], in the event camera's clock.

        packets: those that overlap the window, in any order; others do no harm. until_ns: leave out events after this
        too, so that a set that was decided when the stream was known up to there looks the same however late it is
        computed. coverage: fraction of the window that was received, passed on.
        figures: events, on, off (in the event camera's own pixels), coverage. A window without events is valid: nothing
        moved. Counts are clipped, never wrapped.
        """
        begin_ns = t_ref_ns - self.window_ns
        end_ns = t_ref_ns if until_ns is None else min(t_ref_ns, until_ns)
        # counts (He, We, 2) int32: ON, OFF; a window of 2**31 events does not fit into memory.
        counts = np.zeros((self.camera.height, self.camera.width, 2), np.int32)
        on = off = 0
        for one in packets:
            low, high = np.searchsorted(one.t, (begin_ns, end_ns + 1))
            more_on, more_off = kernels.count_events(one.x[low:high], one.y[low:high], one.p[low:high], counts)
            on, off = on + more_on, off + more_off
        image = kernels.gather_counts(counts.reshape(-1, 2), self._starts, self._sources, self.gain, self.height,
                                      self.width)
        return LaneImage(image, {"events": on + off, "on": on, "off": off, "coverage": float(coverage)})


def pixel_sources(target: Camera, height: int, width: int, camera: Camera, T_target_event: np.ndarray,
                  plane_depth_m: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The event pixels whose counts each grid pixel sums: `sources[starts[i]:starts[i + 1]]` for flat pixel i.

    Every event pixel goes to the grid pixel that its ray meets; where the grid is finer, the pixels that no ray meets
    take the event pixel they look through, so that no comb of empty pixels appears. Computed once per calibration.
    Returns starts (height * width + 1,) int64, sources int32, flat indices into the event camera's image.
    """
    grid = target.scaled(width, height)
    R, t = T_target_event[:3, :3], T_target_event[:3, 3]
    near = 0.0 < plane_depth_m < np.inf
    # Event pixel -> ray -> point on the plane z = plane_depth_m of the target (or at infinity) -> grid pixel.
    rays = camera.pixel_rays() @ R.T
    if near:
        with np.errstate(divide="ignore", invalid="ignore"):
            along = (plane_depth_m - t[2]) / rays[:, 2:]
            rays = np.where(along > 0, rays * along + t, np.nan)
    met = _pixel_of(grid, rays)
    event_pixels = np.flatnonzero(met >= 0)
    grid_pixels = met[event_pixels]
    # The other way round for grid pixels without any.
    empty = np.flatnonzero(np.bincount(grid_pixels, minlength=height * width) == 0)
    rays = grid.pixel_rays()[empty]
    points = (rays * plane_depth_m - t) @ R if near else rays @ R
    seen = _pixel_of(camera, points)
    event_pixels = np.concatenate([event_pixels, seen[seen >= 0]])
    grid_pixels = np.concatenate([grid_pixels, empty[seen >= 0]])
    order = np.argsort(grid_pixels, kind="stable")
    starts = np.searchsorted(grid_pixels[order], np.arange(height * width + 1))
    return starts, event_pixels[order].astype(np.int32)


def _pixel_of(camera: Camera, points: np.ndarray) -> np.ndarray:
    """(N, 3) points -> (N,) int64 flat pixel, -1 outside the image."""
    uv, valid = camera.project(points)
    u, v = np.floor(np.where(valid, uv.T, -1.0) + 0.5).astype(np.int64)
    inside = valid & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    return np.where(inside, v * camera.width + u, -1)
