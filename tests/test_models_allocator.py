"""Freed memory that stays with the process: counted by the page faults of taking it again."""

from __future__ import annotations

import subprocess
import sys

import pytest

AGAIN = """
import resource, threading
from mss_models.allocator import keep_freed_memory
kept = {keep} and keep_freed_memory()
import numpy as np
def take():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(1 << 26, 1, np.uint8)       # more than glibc ever keeps of its own accord
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
faults = []
def take_twice():       # as the network does in the node: not in the first thread
    take(), take()
thread = threading.Thread(target=take_twice)
thread.start(), thread.join()
print(int(kept), faults[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is told on Linux only")
def test_what_is_freed_is_taken_again_without_page_faults():
    kept, faults = (tuple(map(int, subprocess.run([sys.executable, "-c", AGAIN.format(keep=keep)], capture_output=True,
                                                  text=True, check=True).stdout.split())) for keep in (True, False))
    if not kept[0]:
        pytest.skip("the C library is not glibc")
    assert 32 <= faults[1] > 10 * kept[1]       # a fault for each huge page at the least
