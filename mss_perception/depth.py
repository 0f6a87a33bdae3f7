"""Depth lane: an image of a depth camera in the target camera's view, as metric depth or HHA."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mss_models.modality import Encoding
from mss_perception import kernels
from mss_perception.camera import Camera
from mss_perception.hha import HHA, Level
from mss_perception.lane import LaneImage, LaneInvalid, require
from mss_perception.messages.rvl import decode_rvl
from mss_perception.projection import Motion, ProjectedPoints, project_points

# 32FC1 is metres, 16UC1 millimetres (REP 118)
UNIT_METRES = {np.dtype(np.float32): 1.0, np.dtype(np.uint16): 0.001}
# Side of the square that a depth pixel becomes in another camera's view, relative to the distance of its neighbours
# there: a little more than 1, since that distance varies from pixel to pixel.
FOOTPRINT = 1.2
# Half a square is at most this many pixels: a wrong focal length must not stop the node for minutes.
LARGEST_HALF = 16.0


class DepthLane:
    """Depth images to the encoding 'metric_depth' or 'hha' (mss_models.modality.SCHEMES), size (height, width).

    An image of the target camera itself is resampled by nearest pixel, so that no distance is made up between a near
    and a far surface. One of another camera is unprojected, moved and projected; the nearest surface wins.
    Raises ValueError for another encoding.
    """

    def __init__(self, encoding: Encoding, target: Camera, height: int, width: int):
        require(encoding, "depth", "hha" if encoding.name == "hha" else "metric_depth")
        self.target, self.height, self.width = target, height, width
        self._encoder = HHA(encoding) if encoding.name == "hha" else MetricDepth(encoding)
        self._source: Camera | None = None
        self._rays = np.empty((0, 0, 3), np.float32)
        # Compile now, not while the first image waits; what comes out of a bag cannot be written to. Two pixels, as a
        # column of a single row would be contiguous, which is another type to the compiler.
        tiny = Camera(2, 1, np.eye(3))
        for kind in UNIT_METRES:
            for writeable in (True, False):
                depth = np.ones((1, 2), kind)
                depth.setflags(write=writeable)
                self._encoder.view(depth, 1.0, tiny, 1, 2, Level())
                self._register(depth, tiny, np.eye(4), Level())
        decode_rvl(np.empty(0, np.uint8), 0, 0)

    def __call__(self, depth: np.ndarray, camera: Camera | None = None, T_target_depth: np.ndarray | None = None,
                 level: Level | None = None) -> LaneImage:
        """(Hd, Wd) float32 metres or uint16 millimetres along the optical axis -> LaneImage.

        No measurement: 0, negative, NaN, and REP 118's -Inf (too close) and +Inf (too far), which give no distance.
        camera: the depth camera, None for the target camera itself. T_target_depth: (4, 4), None for the same place.
        level: how the target camera stands, which only HHA asks for; None when nothing is known of it.
        figures: valid_fraction of the resulting image, and what HHA adds. Raises LaneInvalid for another type or size
        and for an image without any measurement.
        """
        if depth.ndim != 2 or depth.dtype not in UNIT_METRES:
            raise LaneInvalid(f"depth image is {depth.dtype} with {depth.ndim} dimensions; must be 32FC1 or 16UC1")
        size = camera or self.target
        if camera is not None and depth.shape != (camera.height, camera.width):
            raise LaneInvalid(f"depth image is {depth.shape[1]} x {depth.shape[0]}, its camera_info says "
                              f"{camera.width} x {camera.height}")
        T = np.eye(4) if T_target_depth is None else T_target_depth
        depth, level = np.ascontiguousarray(depth), level or Level()
        if np.abs(T - np.eye(4)).max() < 1e-6 and same_view(size, self.target):
            image, valid, figures = self._encoder.view(depth, UNIT_METRES[depth.dtype], size, self.height, self.width,
                                                       level)
        else:
            image, valid, figures = self._register(depth, size, T, level)
        if not valid:
            raise LaneInvalid("depth image has no valid pixel in the target camera's view (all NaN, infinite or 0)")
        return LaneImage(image, {"valid_fraction": valid / (self.height * self.width), **figures})

    def _register(self, depth: np.ndarray, camera: Camera, T_target_depth: np.ndarray,
                  level: Level) -> tuple[np.ndarray, int, dict]:
        """(Hd, Wd) of another camera -> image (height, width, 3) uint8, its number of valid pixels, figures."""
        if camera != self._source:
            self._source, self._rays = camera, camera.pixel_rays().astype(np.float32)
        xyz = kernels.unproject_depth(depth.ravel(), UNIT_METRES[depth.dtype], self._rays)
        points = project_points(xyz.T, Motion.fixed(T_target_depth), self.target)
        codes, figures = self._encoder.points(xyz.reshape(3, *depth.shape), points, level.moved(T_target_depth))
        scale_x, scale_y = self.width / self.target.width, self.height / self.target.height
        alone = min(0.5 * scale_x * self.target.K[0, 0] / camera.K[0, 0], LARGEST_HALF)
        half = kernels.depth_footprint(points.index, points.z, points.uv, camera.width, scale_x, scale_y, alone,
                                       FOOTPRINT, LARGEST_HALF)
        image, drawn = kernels.draw_squares(points.uv, points.z, codes, half, self.height, self.width,
                                            self.target.height, self.target.width)
        return image, drawn, figures


class MetricDepth:
    """The codes of 'metric_depth'."""

    def __init__(self, encoding: Encoding):
        self.near, self.far = float(encoding.params["near_m"]), float(encoding.params["max_m"])
        self.log_span = float(np.log(self.far / self.near))

    def view(self, depth: np.ndarray, unit_m: float, camera: Camera, height: int, width: int,
             level: Level) -> tuple[np.ndarray, int, dict]:
        """(Hd, Wd) in units of unit_m -> (height, width, 3) uint8 by nearest pixel, number of valid pixels, figures."""
        return *kernels.resample_depth(depth, unit_m, height, width, self.near, self.far, self.log_span), {}

    def points(self, xyz: np.ndarray, points: ProjectedPoints, level: Level) -> tuple[np.ndarray, dict]:
        """Codes (M,) uint32 of the pixels of a depth image that the target camera sees, and figures."""
        return kernels.encode_depth(points.z, self.near, self.far, self.log_span), {}


@lru_cache(maxsize=64)
def same_view(a: Camera, b: Camera) -> bool:
    """Whether two cameras at one place see the same through equal shares of their images, to 0.01 pixel of b."""
    return (a.model, a.D) == (b.model, b.D) and np.abs(a.scaled(b.width, b.height).K - b.K).max() < 0.01
