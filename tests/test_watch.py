"""What is said to be a process's own memory."""

from __future__ import annotations

import subprocess
import sys

from mss_perception.watch import Watch, checks, own_memory

MB = 1 << 20
CHILD = """
import mmap, sys
def tell():
    print(flush=True)
    sys.stdin.readline()
tell()
kept = bytearray(b"x" * (40 << 20))
tell()
with open(sys.argv[1], "rb") as file:
    file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
pages = sum(file[::4096])
tell()
del kept
tell()
"""


def test_what_is_allocated_counts_and_what_is_read_of_a_file_does_not(tmp_path):
    library = tmp_path / "library"
    library.write_bytes(b"y" * 40 * MB)
    child = subprocess.Popen([sys.executable, "-c", CHILD, library], text=True, stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    found = []
    with child:
        for _ in range(4):
            child.stdout.readline()
            found.append(own_memory(child.pid))
            child.stdin.write("\n")
            child.stdin.flush()
    before, allocated, read, freed = found
    assert abs(allocated - before - 40 * MB) < 2 * MB
    assert abs(read - allocated) < 2 * MB and abs(freed - before) < 2 * MB


def test_growth_is_from_after_the_warm_up_to_the_end():
    watched = Watch()
    for t in range(100):
        watched.samples.append({"own": 100 * MB if t < 10 else 200 * MB + t * MB // 10, "threads": 5 + (t > 95)})
    summary = watched.summary()
    assert summary["memory_mb"] == {"before": 202, "after": 209} and 0.03 < summary["memory_growth"] < 0.05
    assert checks(summary)[f"memory is flat within {0.05:.0%}"] == ""
    watched.samples[-10:] = [{"own": 220 * MB, "threads": 6}] * 10
    assert all(checks(watched.summary()).values())
