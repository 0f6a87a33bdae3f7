"""Image lane: a colour or grey image on the target camera's grid."""

from __future__ import annotations

import math

import cv2
import numpy as np

from mss_models.modality import Encoding
from mss_perception.camera import Camera
from mss_perception.depth import same_view
from mss_perception.lane import LaneImage, LaneInvalid, require
from mss_perception.messages import jpeg
from mss_perception.messages.images import Pixels
from mss_perception.resize import to_image


class ImageLane:
    """Pictures of the target camera, or of another at the same place, at the network's size (height, width).

    The target camera's own pictures are resized and nothing else: every other modality is projected into the distorted
    image instead, and labels go back without a second resampling. Those of a camera with other intrinsics or another
    distortion (a rectified and a raw image of one device) are mapped, with 0 where it does not see.
    camera: whose pictures these are, None for the target's own; it must be where the target camera is.
    Raises ValueError when the encoding is not 'rgb'.
    """

    def __init__(self, encoding: Encoding, target: Camera, height: int, width: int, camera: Camera | None = None):
        require(encoding, "rgb", "rgb")
        self.camera, self.height, self.width = camera or target, height, width
        self._map: tuple[np.ndarray, np.ndarray] | None = None
        if camera is not None and not same_view(camera, target):
            grid = target.scaled(width, height)
            # Shrunk by area to the grid's resolution first: taking single pixels of a larger picture would flicker.
            shrink_x, shrink_y = (min(1.0, grid.K[i, i] / camera.K[i, i]) for i in (0, 1))
            self._shrunk = math.ceil(camera.height * shrink_y), math.ceil(camera.width * shrink_x)
            uv, valid = camera.scaled(*self._shrunk[::-1]).project(grid.pixel_rays())
            uv[~valid] = -2         # outside
            self._map = cv2.convertMaps(uv.reshape(height, width, 2).astype(np.float32), None, cv2.CV_16SC2)
        # Compile now, not while the first image waits; what comes out of a bag cannot be written to.
        tiny = np.zeros((2, 2), np.uint8)
        to_image(Pixels(tiny, "grey"), 1, 1)
        tiny.setflags(write=False)
        to_image(Pixels(tiny, "grey"), 1, 1)
        file = cv2.imencode(".jpg", tiny)[1].tobytes()
        jpeg.check_data(file, *jpeg.read_frame(file))

    def __call__(self, pixels: Pixels | np.ndarray) -> LaneImage:
        """Pixels of the camera's size; an array is (H, W, 3) uint8 RGB or (H, W) uint8 grey -> LaneImage.

        Raises LaneInvalid for another size or type than the camera's.
        """
        if isinstance(pixels, np.ndarray):
            pixels = Pixels(pixels, "grey" if pixels.ndim == 2 else "rgb")
        values = pixels.values
        if values.dtype != np.uint8 or values.ndim not in (2, 3):
            raise LaneInvalid(f"image is {values.dtype} with {values.ndim} dimensions; must be 8 bit colour or grey")
        if values.shape[:2] != (self.camera.height, self.camera.width):
            raise LaneInvalid(f"image is {values.shape[1]} x {values.shape[0]}, camera_info says {self.camera.width} x "
                              f"{self.camera.height}")
        if self._map is None:
            return LaneImage(to_image(pixels, self.height, self.width))
        return LaneImage(cv2.remap(to_image(pixels, *self._shrunk), *self._map, cv2.INTER_LINEAR))
