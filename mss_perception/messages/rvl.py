"""RVL, the lossless compression of depth images that compressedDepth offers beside PNG.

Wilson, "Fast Lossless Depth Image Compression", ISS 2017: pixels are runs of zeros and runs of others in turn, each
given by its length and then, for the others, by the difference of each to the one before. Every number is a sequence of
nibbles, the lowest 3 bits first, whose 4th bit says that more follow; a difference d is sent as 2 |d| - (d < 0).
Nibbles fill 32 bit words from the top; words are little endian, as compressed_depth_image_transport writes them.
"""

from __future__ import annotations

import numpy as np

from mss_perception.compiled import compiled
from mss_perception.messages.common import MessageError


def decode_rvl(data: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N,) uint8 -> (height, width) uint16. Raises MessageError for data that does not hold as many pixels."""
    words = data[:len(data) // 4 * 4].view("<u4").astype(np.uint32)
    image = np.zeros(height * width, np.uint16)
    if not _decode(words, image):
        raise MessageError(f"RVL data of {len(data)} bytes does not hold {width} x {height} pixels; it is damaged or "
                           "cut off")
    return image.reshape(height, width)


@compiled
def _decode(words, image):
    """Fill `image`, zeros so far; False when a run leaves it or the data ends before."""
    at, done, previous = 0, 0, 0
    while done < len(image):
        zeros, at = _number(words, at)
        if zeros < 0 or zeros > len(image) - done:
            return False
        done += zeros
        others, at = _number(words, at)
        if others < 0 or others > len(image) - done or zeros + others == 0:
            return False
        for _ in range(others):
            code, at = _number(words, at)
            if code < 0:
                return False
            previous += -((code + 1) >> 1) if code & 1 else code >> 1
            image[done] = np.uint16(previous & 0xFFFF)
            done += 1
    return True


@compiled
def _number(words, at):
    """The number that begins at nibble `at`, -1 when the data ends or it has more than 30 bits; and where it ends."""
    number, shift = 0, 0
    while at >> 3 < len(words) and shift < 30:
        nibble = (np.int64(words[at >> 3]) >> (28 - 4 * (at & 7))) & 15
        number |= (nibble & 7) << shift
        shift += 3
        at += 1
        if nibble < 8:
            return number, at
    return -1, at
