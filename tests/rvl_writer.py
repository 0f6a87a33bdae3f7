"""Wilson's encoder of depth images (RVL), written down from his paper; ours only decodes."""

from __future__ import annotations

import itertools
import struct

import numpy as np


def rvl(values) -> bytes:
    nibbles: list[int] = []

    def number(value: int) -> None:
        while True:
            low, value = value & 7, value >> 3
            nibbles.append(low | (8 if value else 0))
            if not value:
                return

    previous = 0
    rest = [int(value) for value in np.asarray(values).ravel()]
    while rest:
        zeros = len(list(itertools.takewhile(lambda value: value == 0, rest)))
        rest = rest[zeros:]
        others = list(itertools.takewhile(lambda value: value != 0, rest))
        rest = rest[len(others):]
        number(zeros)
        number(len(others))
        for value in others:
            delta = value - previous
            number(2 * delta if delta >= 0 else -2 * delta - 1)
            previous = value
    nibbles += [0] * (-len(nibbles) % 8)
    words = [sum(nibble << (28 - 4 * k) for k, nibble in enumerate(nibbles[at:at + 8]))
             for at in range(0, len(nibbles), 8)]
    return struct.pack(f"<{len(words)}I", *words)
