"""The C library's allocator, told to keep what it has."""

from __future__ import annotations

import ctypes

# Of mallopt(3): how many heaps threads may have; from how many bytes on a block is mapped on its own; and how many may
# lie free at the heap's end.
M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -8, -3, -1
PLENTY = 1 << 30


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next frame. Returns whether the C library (glibc) can be told so.

    A frame takes and frees hundreds of megabytes of tensors and images. By default glibc hands such blocks back, and
    the system clears and maps every page of the next frame anew: 84,000 page faults for four images of 512 x 512 in the
    shipped network on a CPU, and a sixth of the processor time. The process then stays as large as at its peak.

    To be called before other threads have begun: the heaps that they have then already stay theirs, and those give
    memory back whatever they are told.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):       # another C library
        return False
    return all([mallopt(M_ARENA_MAX, 1), mallopt(M_MMAP_THRESHOLD, PLENTY), mallopt(M_TRIM_THRESHOLD, PLENTY)])
