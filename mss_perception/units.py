"""Times are integer nanoseconds, in files and options seconds."""

from __future__ import annotations

SECOND = 1_000_000_000


def nanoseconds(sec: float) -> int:
    return round(sec * SECOND)
