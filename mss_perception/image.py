"""Image lane: a colour or grey image on the target camera's grid."""

from __future__ import annotations

import cv2
import numpy as np

from mss_models.modality import Encoding
from mss_perception.camera import Camera
from mss_perception.lane import LaneImage, LaneInvalid, require


class ImageLane:
    """The target camera's own pictures, resized to the network's size (height, width).

    No undistortion: every other modality is projected into the distorted image instead, and labels go back without a
    second resampling. Raises ValueError when the encoding is not 'rgb'.
    """

    def __init__(self, encoding: Encoding, target: Camera, height: int, width: int):
        require(encoding, "rgb", "rgb")
        self.target, self.height, self.width = target, height, width

    def __call__(self, pixels: np.ndarray) -> LaneImage:
        """(Hc, Wc, 3) uint8 RGB, or (Hc, Wc) uint8 grey, of the camera's size -> LaneImage.

        Raises LaneInvalid for another size or type than the camera's.
        """
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
            raise LaneInvalid(f"image is {pixels.dtype} with {pixels.ndim} dimensions; must be 8 bit colour or grey")
        if pixels.shape[:2] != (self.target.height, self.target.width):
            raise LaneInvalid(f"image is {pixels.shape[1]} x {pixels.shape[0]}, camera_info says {self.target.width} x "
                              f"{self.target.height}")
        return LaneImage(to_image(pixels, self.height, self.width))


def to_image(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """(Hc, Wc, 3) or (Hc, Wc) uint8 -> (height, width, 3) uint8; areas are averaged when shrinking."""
    if pixels.shape[:2] != (height, width):
        shrinks = height <= pixels.shape[0] and width <= pixels.shape[1]
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else pixels
