"""Depth lane: a metric depth image in the target camera's view."""

from __future__ import annotations

import numpy as np

from mss_models.modality import Encoding
from mss_perception import kernels
from mss_perception.camera import Camera
from mss_perception.lane import LaneImage, LaneInvalid, require
from mss_perception.projection import Motion, project_points

# 32FC1 is metres, 16UC1 millimetres (REP 118)
UNIT_METRES = {np.dtype(np.float32): 1.0, np.dtype(np.uint16): 0.001}
# Side of the square that a depth pixel becomes in another camera's view, relative to the distance of its neighbours
# there: a little more than 1, since that distance varies from pixel to pixel.
FOOTPRINT = 1.2
# Half a square is at most this many pixels: a wrong focal length must not stop the node for minutes.
LARGEST_HALF = 16.0


class DepthLane:
    """Depth images to the encoding 'metric_depth' (see mss_models.modality.DEFAULT_ENCODINGS), size (height, width).

    An image of the target camera itself is resampled by nearest pixel, so that no distance is made up between a near
    and a far surface. One of another camera is unprojected, moved and projected; the nearest surface wins.
    Raises ValueError for another encoding.
    """

    def __init__(self, encoding: Encoding, target: Camera, height: int, width: int):
        require(encoding, "depth", "metric_depth")
        self.target, self.height, self.width = target, height, width
        self.near = float(encoding.params.get("near_m", 1.0))
        self.far = float(encoding.params.get("max_m", 80.0))
        self.log_span = float(np.log(self.far / self.near))
        self._source: Camera | None = None
        self._rays = np.empty((0, 3), np.float32)
        # Compile now, not while the first image waits.
        for kind in UNIT_METRES:
            kernels.resample_depth(np.ones((1, 1), kind), 1.0, 1, 1, self.near, self.far, self.log_span)
            self._register(np.ones((1, 1), kind), Camera(1, 1, np.eye(3)), np.eye(4))

    def __call__(self, depth: np.ndarray, camera: Camera | None = None,
                 T_target_depth: np.ndarray | None = None) -> LaneImage:
        """(Hd, Wd) float32 metres or uint16 millimetres along the optical axis -> LaneImage.

        No measurement: 0, negative, NaN, and REP 118's -Inf (too close) and +Inf (too far), which give no distance.
        camera: the depth camera, None for the target camera itself. T_target_depth: (4, 4), None for the same place.
        figures: valid_fraction of the resulting image. Raises LaneInvalid for another type or size and for an image
        without any measurement.
        """
        if depth.ndim != 2 or depth.dtype not in UNIT_METRES:
            raise LaneInvalid(f"depth image is {depth.dtype} with {depth.ndim} dimensions; must be 32FC1 or 16UC1")
        size = camera or self.target
        if camera is not None and depth.shape != (camera.height, camera.width):
            raise LaneInvalid(f"depth image is {depth.shape[1]} x {depth.shape[0]}, its camera_info says "
                              f"{camera.width} x {camera.height}")
        same_place = T_target_depth is None or np.abs(T_target_depth - np.eye(4)).max() < 1e-6
        if same_place and same_view(size, self.target):
            image, valid = kernels.resample_depth(depth, UNIT_METRES[depth.dtype], self.height, self.width, self.near,
                                                  self.far, self.log_span)
        else:
            image, valid = self._register(depth, size, np.eye(4) if T_target_depth is None else T_target_depth)
        if not valid:
            raise LaneInvalid("depth image has no valid pixel in the target camera's view (all NaN, infinite or 0)")
        return LaneImage(image, {"valid_fraction": valid / (self.height * self.width)})

    def _register(self, depth: np.ndarray, camera: Camera, T_target_depth: np.ndarray) -> tuple[np.ndarray, int]:
        """(Hd, Wd) of another camera -> image (height, width, 3) uint8 and its number of valid pixels."""
        if camera != self._source:
            self._source, self._rays = camera, camera.pixel_rays().astype(np.float32)
        xyz = kernels.unproject_depth(depth.ravel(), UNIT_METRES[depth.dtype], self._rays)
        points = project_points(xyz, Motion.fixed(T_target_depth), self.target)
        codes = kernels.encode_depth(points.xyz, points.seen, self.near, self.far, self.log_span)
        scale_x, scale_y = self.width / self.target.width, self.height / self.target.height
        alone = min(0.5 * scale_x * self.target.K[0, 0] / camera.K[0, 0], LARGEST_HALF)
        half = kernels.depth_footprint(points.uv, points.seen, points.xyz[:, 2], camera.width, scale_x, scale_y, alone,
                                       FOOTPRINT, LARGEST_HALF)
        image, nearest = kernels.draw_nearest(points.uv, points.seen, points.xyz[:, 2], codes, half, self.height,
                                              self.width, self.target.height, self.target.width)
        return image, int(np.count_nonzero(nearest < np.inf))


def same_view(a: Camera, b: Camera) -> bool:
    """Whether two cameras at one place see the same through equal shares of their images, to 0.01 pixel of b."""
    return (a.model, a.D) == (b.model, b.D) and np.abs(a.scaled(b.width, b.height).K - b.K).max() < 0.01
