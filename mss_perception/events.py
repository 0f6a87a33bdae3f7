"""Event lane: ON and OFF counts over a time window, in the target camera's view."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mss_models.modality import Encoding
from mss_perception.camera import Camera
from mss_perception.compiled import compiled
from mss_perception.lane import LaneImage, LaneInvalid, require
from mss_perception.messages import EventPicture, Events

# The look-up table is as large as both images: a hostile camera_info must not fill the memory.
MAX_CAMERA_PIXELS = 1 << 22     # of an event camera: 2048 x 2048, as far as EVT 3.0 can address
MAX_GRID_PIXELS = 1 << 23       # of the network's images: 4K
# More than this share of events outside of the image: it is another sensor's. Events all over a sensor with twice the
# pixels have half outside; a few may be a decoder's or a bus's faults.
TOO_MANY_OUTSIDE = 0.5


class EventLane:
    """Events of a time window, counted in the target camera's image of (height, width). Stateless between calls.

    encoding 'on_off_counts': see mss_models.modality.SCHEMES. A count is that of one event pixel: where a grid pixel
    sees several, their mean. So the same scene gives like values whatever the event camera's resolution, and the ratio
    of the two makes no pattern.
    camera: the event camera, T_target_event (4, 4) its place. plane_depth_m: depth in front of the target at which
    events are taken to lie; 0 or inf is infinitely far, where only the rotation between the cameras counts. Raises
    ValueError for another encoding, LaneInvalid for cameras that are too large.
    """

    def __init__(self, encoding: Encoding, target: Camera, height: int, width: int, camera: Camera,
                 T_target_event: np.ndarray, plane_depth_m: float = 0.0):
        require(encoding, "on_off_counts")
        self.camera, self.height, self.width = camera, height, width
        self.window_ns = round(float(encoding.params["window_sec"]) * 1e9)
        self.gain = float(encoding.params["gain"])
        self._starts, self._sources = pixel_sources(target, height, width, camera, T_target_event, plane_depth_m)
        number = np.diff(self._starts)
        self._several = np.flatnonzero(number > 1)
        self._single = np.full(height * width, camera.height * camera.width, np.uint32)
        self._single[number == 1] = self._sources[self._starts[:-1][number == 1]]
        # Compile now, not while the first window waits.
        for count in (1, 1 << 16):
            self([Events(*(np.zeros(count, kind) for kind in (np.uint16, np.uint16, np.int64, np.bool_)), 0, 0)], 0)

    def __call__(self, packets: Iterable[Events | EventPicture], t_ref_ns: int, until_ns: int | None = None,
                 coverage: float = 1.0) -> LaneImage:
        """Counts of the packets' events with t in [t_ref_ns - window_sec, t_ref_ns], in the event camera's clock.

        packets: those that overlap the window, in any order; others do no harm. Of pictures, which cannot be taken
        apart, it is the one that ends next to t_ref_ns, each pixel for one event. until_ns: leave out events after this
        too, so that a set that was decided when the stream was known up to there looks the same however late it is
        computed. coverage: fraction of the window that was received, as far as that is known without numbers.
        figures: events, on, off (in the event camera's own pixels); coverage; and where there are any, outside: events
        at pixels that the camera does not have, lost_packets: the window is partial, by what coverage says.
        A window without events is valid: nothing moved. Counts are clipped, never wrapped.
        Raises LaneInvalid when the data is not of the camera that camera_info describes.
        """
        packets = list(packets)
        for one in packets:
            self._check_size(one)
        begin_ns = t_ref_ns - self.window_ns
        end_ns = t_ref_ns if until_ns is None else min(t_ref_ns, until_ns)
        pictures = [one for one in packets if isinstance(one, EventPicture)]
        if pictures:
            nearest = min(pictures, key=lambda one: abs(one.end_ns - t_ref_ns))
            counts = self._no_counts(1)
            counts[:-1, 0], counts[:-1, 1] = nearest.off.ravel(), nearest.on.ravel()
            off, on = counts.sum(axis=0, dtype=int)
            figures = {"events": on + off, "on": on, "off": off}
        else:
            counts, figures = self._count(packets, begin_ns, end_ns)
            if packets and all(one.lost is not None for one in packets):
                coverage = covered(packets, begin_ns, end_ns) / self.window_ns
        image = gather_counts(counts, self._single, self._several, self._starts, self._sources, self.gain, self.height,
                              self.width)
        figures = {name: int(value) for name, value in figures.items()}
        return LaneImage(image, {**figures, "coverage": float(coverage)})

    def _no_counts(self, most: int) -> np.ndarray:
        """(He * We + 1, 2) zeros of a type that holds `most`: OFF and ON of each event pixel, and of none."""
        return np.zeros((self.camera.height * self.camera.width + 1, 2), np.uint16 if most < 1 << 16 else np.uint32)

    def _count(self, packets: Sequence[Events], begin_ns: int, end_ns: int) -> tuple[np.ndarray, dict]:
        """Events with t in [begin_ns, end_ns]: counts as of _no_counts, and figures."""
        counts, total, on = self._no_counts(sum(map(len, packets))), 0, 0
        for one in packets:
            low, high = np.searchsorted(one.t, (begin_ns, end_ns + 1))
            on += count_events(one.x[low:high], one.y[low:high], one.p[low:high], counts, self.camera.height,
                               self.camera.width)
            total += int(high - low)
        outside, counts[-1] = int(counts[-1, 0]), 0
        figures = {"events": total - outside, "on": on, "off": total - outside - on}
        if outside:
            figures["outside"] = outside
        if outside > TOO_MANY_OUTSIDE * total:
            raise LaneInvalid(f"{outside} of {total} events lie outside of the {self.camera.width} x "
                              f"{self.camera.height} pixels of camera_info: is it that of this event camera?")
        if lost := sum(one.lost or 0 for one in packets if one.begin_ns > begin_ns):
            figures["lost_packets"] = lost
        return counts, figures

    def _check_size(self, packet: Events | EventPicture) -> None:
        if isinstance(packet, EventPicture):
            height, width = packet.on.shape
        else:
            height, width = packet.height, packet.width
        if (height or width) and (height, width) != (self.camera.height, self.camera.width):
            raise LaneInvalid(f"events are of a camera of {width} x {height} pixels, camera_info says "
                              f"{self.camera.width} x {self.camera.height}")


def covered(packets: Sequence[Events], begin_ns: int, end_ns: int) -> int:
    """How much of [begin_ns, end_ns] the packets cover, in ns."""
    total, reached = 0, begin_ns
    for one in sorted(packets, key=lambda one: one.begin_ns):
        end = min(one.end_ns, end_ns)
        total += max(0, end - max(one.begin_ns, reached))
        reached = max(reached, end)
    return total


def pixel_sources(target: Camera, height: int, width: int, camera: Camera, T_target_event: np.ndarray,
                  plane_depth_m: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The event pixels whose counts each grid pixel averages: `sources[starts[i]:starts[i + 1]]` for flat pixel i.

    Every event pixel goes to the grid pixel that its ray meets; where the grid is finer, the pixels that no ray meets
    take the event pixel they look through, so that no comb of empty pixels appears. Computed once per calibration.
    Returns starts (height * width + 1,) int64, sources int32, flat indices into the event camera's image. Raises
    LaneInvalid when an image is too large for such a table.
    """
    for what, size, most in (("event camera", (camera.width, camera.height), MAX_CAMERA_PIXELS),
                             ("network's image", (width, height), MAX_GRID_PIXELS)):
        if size[0] * size[1] > most:
            raise LaneInvalid(f"{what} of {size[0]} x {size[1]} pixels: events are mapped with at most {most}; is its "
                              "camera_info right?")
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
    rays = grid.unproject(np.stack([empty % width, empty // width], -1))
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


# The compiled loops stand beside what uses them: they call no loop of another file, whose changes numba would not see.


BLOCK = 1024        # events or pixels that take each step together: they stay in the fastest cache


@compiled
def count_events(x, y, p, counts, height, width):
    """Add events to counts, (height * width + 1, 2) OFF, ON, those outside of the image to the last row's first.

    Returns how many ON events are inside.
    """
    flat, index = counts.reshape(-1), np.empty(BLOCK, np.uint32)
    outside, bright = np.uint32(2 * height * width), 0
    for first in range(0, len(x), BLOCK):
        column, row, on = x[first:first + BLOCK], y[first:first + BLOCK], p[first:first + BLOCK]
        for i in range(len(column)):        # without branches, to be vectorised
            inside = (column[i] < width) & (row[i] < height)
            at = (np.uint32(row[i]) * np.uint32(width) + np.uint32(column[i])) * np.uint32(2) + np.uint32(on[i])
            index[i] = at if inside else outside
            bright += inside & on[i]
        for i in range(len(column)):
            flat[np.uintp(index[i])] += 1       # unsigned: an index that may be negative costs a test
    return bright


@compiled
def gather_counts(counts, single, several, starts, sources, gain, height, width):
    """counts (He * We + 1, 2) OFF, ON -> uint8 (height, width, 3): the code of the mean over each pixel's sources.

    single (height * width,): the event pixel of those that have one, for the others the last row, which is 0. several:
    the pixels that have more; their sources are those of pixel_sources.
    """
    image = np.empty((height * width, 3), np.uint8)
    on, off = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for first in range(0, len(single), BLOCK):
        source, drawn = single[first:first + BLOCK], image[first:first + BLOCK]
        for i in range(len(source)):
            at = np.uintp(source[i])
            off[i], on[i] = counts[at, 0], counts[at, 1]
        for i in range(len(source)):
            drawn[i, 0], drawn[i, 1] = code(np.float32(gain) * on[i]), code(np.float32(gain) * off[i])
            drawn[i, 2] = np.uint8(0)
    for i in several:
        all_on = all_off = 0
        for k in range(starts[i], starts[i + 1]):
            all_off += counts[sources[k], 0]
            all_on += counts[sources[k], 1]
        share = gain / (starts[i + 1] - starts[i])
        image[i, 0], image[i, 1] = code(share * all_on), code(share * all_off)
    return image.reshape(height, width, 3)


@compiled
def code(value):
    """Rounded and clipped to 1..255, but 0 is 0. Without branches."""
    value = np.float32(value)
    rounded = value + np.float32(0.5) if value > np.float32(0.5) else np.float32(1.0)
    rounded = rounded if rounded < np.float32(255.0) else np.float32(255.0)
    return np.uint8(np.int32(rounded if value > np.float32(0.0) else np.float32(0.0)))
