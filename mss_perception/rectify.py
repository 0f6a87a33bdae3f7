"""A distorted camera seen as a pinhole, and the way back.

Networks have learned pictures of pinhole-like cameras. With the parameter `undistort` they get such a picture of a
wide or fisheye camera, while labels still come out on the camera's own pixels.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from mss_perception.camera import Camera

WIDEST_DEG = 70.0
"""Half the field of view that a pinhole picture may have; beyond it the middle would shrink to nothing."""
STRIP = 64      # rows of a table that are computed at a time


def pinhole(camera: Camera) -> Camera:
    """The undistorted camera of the same size and place whose picture holds what `camera` sees, up to WIDEST_DEG."""
    size, limit = np.array([camera.width, camera.height], np.float64), np.tan(np.deg2rad(WIDEST_DEG))
    left, right, top, bottom = (camera.unproject(side)[:, :2] for side in _sides(camera))
    seen = np.concatenate([left, right, top, bottom, np.zeros((1, 2))])
    # A side that is beyond the model's valid radius altogether looks farther out than the limit.
    low, high = np.nanmin(seen, axis=0), np.nanmax(seen, axis=0)
    low = np.maximum(-limit, np.where([np.isnan(left).all(), np.isnan(top).all()], -limit, low))
    high = np.minimum(limit, np.where([np.isnan(right).all(), np.isnan(bottom).all()], limit, high))
    aspect = np.array([1.0, camera.K[1, 1] / camera.K[0, 0]])
    focal = np.min(size / aspect / (high - low)) * aspect
    # The middle of the view meets the middle of the picture, whose corner is half a pixel before the first centre.
    cx, cy = (size - 1) / 2 - focal * (low + high) / 2
    return replace(camera, K=np.array([[focal[0], 0, cx], [0, focal[1], cy], [0, 0, 1]]), model="none", D=())


def _sides(camera: Camera) -> list[np.ndarray]:
    """(N, 2) corners' and edges' pixel positions along the left, right, upper and lower end of the image."""
    left, top, right, bottom = -0.5, -0.5, camera.width - 0.5, camera.height - 0.5
    u, v = np.linspace(left, right, 65), np.linspace(top, bottom, 65)
    return [np.stack(np.broadcast_arrays(*side), -1) for side in ((left, v), (right, v), (u, top), (u, bottom))]


class Rectification:
    """Between `camera` and its pinhole form `self.pinhole`, for pictures of the camera's size and of one other size."""

    def __init__(self, camera: Camera, height: int, width: int):
        self.pinhole = pinhole(camera)
        self._maps = {}
        for one in (camera, camera.scaled(width, height)):
            found, seen = np.empty((one.height, one.width, 2), np.float32), self.pinhole.scaled(one.width, one.height)
            for top in range(0, one.height, STRIP):     # all rays at once take ten times the table's memory
                uv, valid = seen.project(one.pixel_rays(top, STRIP))
                uv[~valid] = -2     # outside
                found[top:top + STRIP] = uv.reshape(-1, one.width, 2)
            self._maps[one.height, one.width] = found

    def back(self, values: np.ndarray, fill: int) -> np.ndarray:
        """(H, W) or (H, W, C) uint8 of the pinhole form -> the same size on the camera's pixels, nearest pixel.

        What the pinhole form does not hold becomes `fill`. Raises KeyError for a size not given at construction.
        """
        return cv2.remap(values, self._maps[values.shape[:2]], None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT,
                         borderValue=(fill,) * 4)
