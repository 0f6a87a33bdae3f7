"""Pictures to another size, with their channels put in order on the way."""

from __future__ import annotations

import cv2
import numpy as np

from mss_perception.compiled import compiled
from mss_perception.messages.images import Pixels

# Which channel of a pixel is red, green and blue.
CHANNELS = {"rgb": (0, 1, 2), "bgr": (2, 1, 0), "rgba": (0, 1, 2), "bgra": (2, 1, 0), "grey": (0, 0, 0)}


def to_image(pixels: Pixels, height: int, width: int) -> np.ndarray:
    """uint8 Pixels of any colour or grey -> (height, width, 3) uint8 RGB.

    Areas are averaged when shrinking, which is a sum per channel: exact before they are put in order as after. What
    grows, in one direction at least, is interpolated linearly. A view of the pixels when nothing has to change.
    """
    values = pixels.values
    rows, columns = values.shape[:2]
    if (rows, columns) == (height, width):
        return cv2.cvtColor(values, cv2.COLOR_GRAY2RGB) if pixels.order == "grey" else pixels.rgb()
    if height <= rows and width <= columns:
        channels = values.shape[2] if values.ndim == 3 else 1
        if values.strides[0] < columns * channels or values.strides[1] != channels or values.strides[-1] != 1:
            values = np.ascontiguousarray(values)
        step = values.strides[0]
        # One dimension of bytes from the first pixel to the last: rows may be padded, and loops over it are vectorised.
        flat = np.lib.stride_tricks.as_strided(values, (step * (rows - 1) + columns * channels,), (1,))
        return _average(flat, step, rows, columns, channels, np.array(CHANNELS[pixels.order]), height, width)
    image = cv2.resize(pixels.rgb(), (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if pixels.order == "grey" else image


@compiled
def _average(data, step, rows, columns, channels, chosen, height, width):
    """Mean of the part of the picture under each pixel of the result: (height, width, 3) uint8.

    data: its bytes, `step` from row to row. chosen (3,): the channels that the result has. Rows are summed first, as
    whole rows; then each pixel's columns, whose number is the same for all, with weights of 0 where there are fewer.
    """
    image = np.empty((height, width, 3), np.uint8)
    row_bytes, scale_y, scale_x = columns * channels, rows / height, columns / width
    taps = int(np.ceil(scale_x)) + 1
    first = np.empty(width, np.uint64)
    weights = np.zeros((width, taps), np.float32)
    for x in range(width):
        left, right = x * scale_x, (x + 1) * scale_x
        first[x] = np.uint64(left) * np.uint64(channels)
        for k in range(taps):
            column = int(left) + k
            weights[x, k] = max(0.0, min(column + 1.0, right) - max(float(column), left)) / (scale_x * scale_y)
    # Unsigned indices, which cannot count from the end, keep tests out of the innermost loops.
    red, green, blue = np.uint64(chosen[0]), np.uint64(chosen[1]), np.uint64(chosen[2])
    total = np.zeros(row_bytes + taps * channels, np.float32)
    for y in range(height):
        top, bottom = y * scale_y, (y + 1) * scale_y
        total[:row_bytes] = 0.0
        for row in range(int(top), min(int(np.ceil(bottom)), rows)):
            share = np.float32(min(row + 1.0, bottom) - max(float(row), top))
            line = data[row * step:row * step + row_bytes]
            for i in range(row_bytes):
                total[i] += share * np.float32(line[i])
        result = image[y]
        for x in range(width):
            at = first[x]
            r = g = b = np.float32(0.5)     # rounds
            for k in range(taps):
                r += weights[x, k] * total[at + red]
                g += weights[x, k] * total[at + green]
                b += weights[x, k] * total[at + blue]
                at += np.uint64(channels)
            result[x, 0], result[x, 1], result[x, 2] = np.uint8(r), np.uint8(g), np.uint8(b)
    return image
