"""How many threads a process computes with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import cv2


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """For the while, OpenCV and torch use so many threads in this process; 0: their own choice.

    torch only where it is imported already: who has no need of it need not wait for it.
    """
    known = [(cv2.getNumThreads, cv2.setNumThreads)]
    if (torch := sys.modules.get("torch")) is not None:
        known.append((torch.get_num_threads, torch.set_num_threads))
    before = [count() for count, _ in known]
    try:
        for _, limit in known if threads else ():
            limit(threads)
        yield
    finally:
        for (_, limit), count in zip(known, before, strict=True):
            limit(count)
