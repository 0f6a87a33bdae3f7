"""What is fuzzed: a decoder, valid inputs to start from, the errors that it may raise, and the memory it may take."""

from __future__ import annotations

import ctypes
import mmap
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

from fuzz.changes import changed_bytes

LONGEST = 1 << 16       # bytes of an input
PROTECTED = 0           # PROT_NONE


@dataclass(frozen=True)
class Target:
    """seeds(): inputs that are decoded without an error. decode(data): data is a memoryview behind which no byte can be
    read. errors: what it may raise, as documented. change(random, data): an input that resembles data; it knows the
    format where single bytes do not get far. memory: bytes that one input may take."""

    seeds: Callable[[], list[bytes]]
    decode: Callable[[memoryview], object]
    errors: tuple[type[Exception], ...]
    change: Callable[[Random, bytes], bytes] = changed_bytes
    memory: int = 256 << 20

    def check(self, data: bytes) -> bool:
        """Decode an input; whether it was taken. Whatever is raised but `errors` is a finding: MemoryError means that
        `memory` was not enough, and a read behind the input ends the process."""
        with at_most(self.memory):
            try:
                self.decode(before_wall(data))
            except self.errors:
                return False
        return True


@contextmanager
def at_most(memory: int) -> Iterator[None]:
    """The process can reserve so many more bytes and no others."""
    reserved = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (reserved + memory, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def before_wall(data: bytes) -> memoryview:
    """A copy, cut to LONGEST bytes, that ends where the next page must not be touched; the next call overwrites it."""
    data = data[:LONGEST]
    view = _walled()[LONGEST - len(data):LONGEST]
    view[:] = data
    return view.toreadonly()


@lru_cache(maxsize=1)
def _walled() -> memoryview:
    memory = mmap.mmap(-1, LONGEST + mmap.PAGESIZE)
    wall = ctypes.addressof(ctypes.c_char.from_buffer(memory, LONGEST))
    if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(wall), mmap.PAGESIZE, PROTECTED):
        raise OSError(ctypes.get_errno(), "cannot protect a page")
    return memoryview(memory)
