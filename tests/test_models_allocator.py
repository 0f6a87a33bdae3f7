"""Freed memory that stays with the process: counted by the page faults of taking it again."""

from __future__ import annotations

import subprocess
import sys

import pytest

AGAIN = """
import ctypes
import resource
import numpy as np
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)     # PR_SET_THP_DISABLE: huge pages, where there are any, are few faults
from mss_models.allocator import keep_freed_memory
kept = {keep} and keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(1 << 26, 1, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(int(kept), faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is told on Linux only")
def test_what_is_freed_is_taken_again_without_page_faults():
    kept, faults = (tuple(map(int, subprocess.run([sys.executable, "-c", AGAIN.format(keep=keep)], capture_output=True,
                                                  text=True, check=True).stdout.split())) for keep in (True, False))
    if not kept[0]:
        pytest.skip("the C library is not glibc")
    assert kept[1] < 100 < faults[1]
