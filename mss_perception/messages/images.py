"""sensor_msgs/Image and sensor_msgs/CompressedImage <-> pixels.

Encodings are those of sensor_msgs/image_encodings.hpp (ros2/common_interfaces); depth follows REP 118.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import cv2
import numpy as np

from mss_perception.messages.common import MessageError, encode_header, no_data, raw_bytes, with_data
from mss_perception.messages.compressed_images import check_size, decompress


class Format(NamedTuple):
    """kind: numpy type of a channel. channels: of a pixel as it lies in the message. order: of the channels, once
    converted: a key of `Pixels`' orders. conversion: OpenCV's, of what has to become RGB at full size, or None."""

    kind: str
    channels: int
    order: str
    conversion: int | None = None


PIXEL_FORMATS = {
    "rgb8": Format("u1", 3, "rgb"),
    "bgr8": Format("u1", 3, "bgr"),
    "8UC3": Format("u1", 3, "bgr"),     # says nothing of colours; as rviz shows it, and OpenCV orders them
    "rgba8": Format("u1", 4, "rgba"),
    "bgra8": Format("u1", 4, "bgra"),
    "mono8": Format("u1", 1, "grey"),
    "8UC1": Format("u1", 1, "grey"),
    "mono16": Format("u2", 1, "grey"),
    "16UC1": Format("u2", 1, "depth"),
    "32FC1": Format("f4", 1, "depth"),
    # ROS names a mosaic by its first two rows, OpenCV by the second and third pixel of the second row.
    **{f"bayer_{mosaic}{bits}": Format(f"u{bits // 8}", 1, "rgb", conversion) for bits in (8, 16)
       for mosaic, conversion in (("rggb", cv2.COLOR_BayerBG2RGB), ("bggr", cv2.COLOR_BayerRG2RGB),
                                  ("gbrg", cv2.COLOR_BayerGR2RGB), ("grbg", cv2.COLOR_BayerGB2RGB))},
    # YUV is BT.601 in the video range (Y 16..235), as V4L2's cameras send it. Two names each: old and new.
    "yuv422": Format("u1", 2, "rgb", cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": Format("u1", 2, "rgb", cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": Format("u1", 2, "rgb", cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": Format("u1", 2, "rgb", cv2.COLOR_YUV2RGB_YUY2),
    # A plane of Y, then one of half the height with U and V, or V and U, in turn.
    "nv12": Format("u1", 1, "rgb", cv2.COLOR_YUV2RGB_NV12),
    "nv21": Format("u1", 1, "rgb", cv2.COLOR_YUV2RGB_NV21),
}
"""Every encoding of a sensor_msgs/Image that is understood."""

PLANAR = ("nv12", "nv21")
TO_RGB = {"bgr": cv2.COLOR_BGR2RGB, "rgba": cv2.COLOR_RGBA2RGB, "bgra": cv2.COLOR_BGRA2RGB}


class Pixels(NamedTuple):
    """Pixels whose channels may still be in the order that they came in: what permutes channels is cheaper later.

    values: (H, W, 3 or 4) uint8 of order rgb, bgr, rgba or bgra; (H, W) uint8 of order grey; (H, W) uint16 or float32
    of order depth. May be a view of the message's data: do not write to it.
    """

    values: np.ndarray
    order: str

    def rgb(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB of every colour; grey and depth as they are."""
        return cv2.cvtColor(self.values, TO_RGB[self.order]) if self.order in TO_RGB else self.values


def decode_image(msg, size: tuple[int, int] | None = None) -> np.ndarray:
    """Pixels of a sensor_msgs/Image or sensor_msgs/CompressedImage.

    Returns (H, W, 3) uint8 RGB for every colour encoding, Bayer mosaics and YUV; (H, W) uint8 for grey; (H, W) uint16
    for 16UC1 and float32 for 32FC1, in native byte order, compressed or not. A view of the message's data where no
    conversion is needed: do not write to it. Of mono16 and bayer_*16 the upper 8 bits are kept.
    size: the (height, width) that it must have, checked before anything is decoded.
    Raises MessageError for an unknown encoding, a size that is zero, another or too large, a step shorter than a row,
    too little data, and a file that cannot be decoded.
    """
    return read_pixels(msg, size).rgb()


def decode_depth(msg, size: tuple[int, int] | None = None) -> np.ndarray:
    """As `decode_image`, of a depth image, where mono16 is taken for 16UC1: some drivers name millimetres so."""
    return read_pixels(msg, size, is_depth=True).rgb()


def read_pixels(msg, size: tuple[int, int] | None = None, is_depth: bool = False) -> Pixels:
    """As `decode_image`, with the channels in the order that they came in. is_depth: as `decode_depth`."""
    stored, encoding = decompress(msg, size, is_depth) if hasattr(msg, "format") else (None, msg.encoding)
    if is_depth and encoding == "mono16":
        encoding = "16UC1"
    if encoding not in PIXEL_FORMATS:
        raise MessageError(f"image encoding {encoding!r} is not supported; supported: {', '.join(PIXEL_FORMATS)}")
    form = PIXEL_FORMATS[encoding]
    if stored is None:
        check_size(int(msg.height), int(msg.width), size)
        if encoding in PLANAR:
            return Pixels(cv2.cvtColorTwoPlane(*_planes(msg), form.conversion), form.order)
        stored = _view(msg, form)
    if form.conversion is None:
        return Pixels(stored, form.order)
    if stored.ndim == 2 and min(stored.shape) < 3:
        raise MessageError(f"{encoding} image of {stored.shape[1]} x {stored.shape[0]} is too small for a mosaic; at "
                           "least 3 x 3")
    return Pixels(cv2.cvtColor(stored, form.conversion), form.order)


def _view(msg, form: Format) -> np.ndarray:
    """The message's data as (H, W) or (H, W, C); of 16 bits that are not depth the upper 8."""
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    if form.channels == 2 and width % 2:
        raise MessageError(f"{msg.encoding} image is {width} pixels wide; pairs of pixels share their colour, so the "
                           "width must be even")
    dtype = np.dtype(form.kind).newbyteorder(">" if msg.is_bigendian else "<")
    pixel = form.channels * dtype.itemsize
    _check_step(msg, width * pixel, height)
    data = raw_bytes(msg.data)
    if dtype.itemsize == 2 and form.order != "depth":
        upper = np.ndarray((height, width), np.uint8, data, 0 if msg.is_bigendian else 1, (step, pixel))
        return np.ascontiguousarray(upper)
    image = np.ndarray((height, width, form.channels), dtype, data, 0, (step, pixel, dtype.itemsize))
    if form.channels == 1:
        image = image[..., 0]
    return image if dtype.isnative else image.astype(dtype.newbyteorder("="))


def _planes(msg) -> tuple[np.ndarray, np.ndarray]:
    """Views of the (H, W) plane of Y and the (H / 2, W / 2, 2) plane of colours, which has the same step."""
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    if height % 2 or width % 2:
        raise MessageError(f"{msg.encoding} image is {width} x {height}; squares of 2 x 2 share their colour, so "
                           "both must be even")
    _check_step(msg, width, height + height // 2)
    data = raw_bytes(msg.data)
    return (np.ndarray((height, width), np.uint8, data, 0, (step, 1)),
            np.ndarray((height // 2, width // 2, 2), np.uint8, data, step * height, (step, 2, 1)))


def _check_step(msg, row: int, rows: int) -> None:
    step = int(msg.step)
    if step < row:
        raise MessageError(f"image step = {step} is less than a row of {msg.width} {msg.encoding} pixels = {row} bytes")
    if len(msg.data) < step * rows:
        raise MessageError(f"image data has {len(msg.data)} bytes; step {step} x {rows} rows = {step * rows}")


def encode_image(types, array: np.ndarray, encoding: str, stamp_ns: int, frame_id: str):
    """sensor_msgs/Image from (H, W) or (H, W, C) pixels already in the layout that `encoding` names; not planar."""
    kind, channels, *_ = PIXEL_FORMATS[encoding]
    expected = array.shape[:2] + ((channels,) if channels > 1 else ())
    if array.shape != expected or array.dtype != np.dtype(kind):
        raise ValueError(f"{encoding} needs {np.dtype(kind)} of shape {expected}, got {array.dtype} {array.shape}")
    height, width = array.shape[:2]
    message = types.Image(
        header=encode_header(types, stamp_ns, frame_id), height=height, width=width, encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"), step=width * channels * array.itemsize, data=no_data(types))
    return with_data(types, message, array)
