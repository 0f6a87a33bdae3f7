"""How much memory this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def memory_bytes(root: Path = Path("/")) -> int:
    """The machine's physical memory, or the limit of this process's control group (a container's, say) if lower.

    Of several processes that torchrun started on this machine: an equal share.
    """
    whole = min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_group_limits(root)])
    return whole // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _group_limits(root: Path) -> Iterator[int]:
    """Limits of the process's control groups and of all above them (cgroups(7)), where Linux tells.

    A container may see the host's path of its group in /proc but its own group as the root of /sys: hence `parents`.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        controllers, _, group = line.partition(":")[2].partition(":")
        if controllers == "":
            base, name = root / "sys/fs/cgroup", "memory.max"  # version 2
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"  # version 1
        else:
            continue
        inside = base / group.lstrip("/")
        for folder in (inside, *inside.parents):
            if folder.is_relative_to(base):
                try:
                    yield int((folder / name).read_text())
                except (OSError, ValueError):  # not there; 'max'
                    continue
