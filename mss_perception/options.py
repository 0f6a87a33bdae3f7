"""Types of command-line options, for argparse: each refuses what would be misread, in one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def at_least(low: int) -> Callable[[str], int]:
    """An integer of `low` or more."""
    def integer(text: str) -> int:
        value = int(text)
        if value < low:
            raise argparse.ArgumentTypeError(f"{value} must be at least {low}")
        return value

    return integer


def number(text: str) -> float:
    """A number of a size that seconds or degrees can have: as nanoseconds it fits into 64 bits."""
    value = float(text)
    if not abs(value) <= 1e9:       # nor is NaN
        raise argparse.ArgumentTypeError(f"{text} must be from -1e9 to 1e9")
    return value


def positive(text: str) -> float:
    """A number of more than zero: seconds, or a rate."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} must be more than 0")
    return value
