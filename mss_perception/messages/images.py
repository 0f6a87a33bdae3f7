"""sensor_msgs/Image <-> pixels."""

from __future__ import annotations

import sys

import cv2
import numpy as np

from mss_perception.messages.common import MessageError, encode_header, no_data, raw_bytes, with_data

# encoding -> (bytes per channel element, channels, OpenCV conversion to RGB or None)
PIXEL_FORMATS = {
    "rgb8": ("u1", 3, None),
    "bgr8": ("u1", 3, cv2.COLOR_BGR2RGB),
    "rgba8": ("u1", 4, cv2.COLOR_RGBA2RGB),
    "bgra8": ("u1", 4, cv2.COLOR_BGRA2RGB),
    "mono8": ("u1", 1, None),
    "16UC1": ("u2", 1, None),
    "32FC1": ("f4", 1, None),
}


def decode_image(msg) -> np.ndarray:
    """Pixels of a sensor_msgs/Image.

    Returns (H, W, 3) uint8 RGB for every colour encoding; (H, W) uint8 for mono8, uint16 for 16UC1, float32 for 32FC1,
    in native byte order. A view of the message's data where no conversion is needed: do not write to it.
    Raises MessageError for an unknown encoding, a zero size, a step shorter than a row, or too little data.
    """
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    if msg.encoding not in PIXEL_FORMATS:
        raise MessageError(f"image encoding {msg.encoding!r} is not supported; supported: {', '.join(PIXEL_FORMATS)}")
    kind, channels, conversion = PIXEL_FORMATS[msg.encoding]
    dtype = np.dtype(kind).newbyteorder(">" if msg.is_bigendian else "<")
    row = width * channels * dtype.itemsize
    if height <= 0 or width <= 0:
        raise MessageError(f"image of {width} x {height} pixels is empty")
    if step < row:
        raise MessageError(f"image step = {step} is less than a row of {width} {msg.encoding} pixels = {row} bytes")
    if len(msg.data) < step * height:
        raise MessageError(f"image data has {len(msg.data)} bytes; step {step} x height {height} = {step * height}")
    image = np.ndarray((height, width, channels), dtype, raw_bytes(msg.data),
                       strides=(step, channels * dtype.itemsize, dtype.itemsize))
    if conversion is not None:
        return cv2.cvtColor(image, conversion)
    if channels == 1:
        image = image[..., 0]
    return image if dtype.isnative else image.astype(dtype.newbyteorder("="))


def encode_image(types, array: np.ndarray, encoding: str, stamp_ns: int, frame_id: str):
    """sensor_msgs/Image from (H, W) or (H, W, C) pixels already in the layout that `encoding` names."""
    kind, channels, _ = PIXEL_FORMATS[encoding]
    expected = array.shape[:2] + ((channels,) if channels > 1 else ())
    if array.shape != expected or array.dtype != np.dtype(kind):
        raise ValueError(f"{encoding} needs {np.dtype(kind)} of shape {expected}, got {array.dtype} {array.shape}")
    height, width = array.shape[:2]
    message = types.Image(
        header=encode_header(types, stamp_ns, frame_id), height=height, width=width, encoding=encoding,
        is_bigendian=int(sys.byteorder == "big"), step=width * channels * array.itemsize, data=no_data(types))
    return with_data(types, message, array)
