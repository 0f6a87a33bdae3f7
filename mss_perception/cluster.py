"""Work shared out to the machines of a Ray cluster, or to processes of this one: --ray and --jobs of the commands.

The machines of a cluster run this package in the same version and see the files under the same paths, on a shared disk.
Ray is not among what the package needs: the extra `ray` installs it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from mss_perception import processes
from mss_perception.processes import ProcessKilled, call_within


class ClusterError(RuntimeError):
    """There is no such cluster, or Ray is not installed. The message says what to do."""


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """While entered, this process belongs to a Ray cluster: '' for the one of this machine, or else a new one with all
    its cores; None for no cluster. Raises ClusterError."""
    if address is None:
        yield
        return
    try:
        import ray
    except ImportError as error:
        raise ClusterError("--ray needs Ray, which is not installed: pip install 'mss_perception[ray]'") from error
    if ray.is_initialized():    # by the caller, who leaves it as well
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")   # nothing is told to Ray's makers
    try:
        host, colon, port = address.rpartition(":")
        if colon and "://" not in address:      # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address or None, logging_level="WARNING")
    except (OSError, ValueError, RuntimeError) as error:
        raise ClusterError(f"no Ray cluster at {address!r}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def run(work: Callable, items: Sequence, jobs: int, on_cluster: bool = False, *, gpu: bool = False,
        within: Callable[[], AbstractContextManager] = nullcontext) -> Iterator:
    """`work` over `items` in `jobs` processes, or on the cluster that is joined, results as they come; see
    processes.run. gpu: whether on a cluster each takes a GPU. Raises ProcessKilled, ClusterError where no machine has
    one, and what `work` raises.
    """
    if not on_cluster:
        yield from processes.run(work, items, jobs, within=within)
        return
    import ray
    if gpu and not ray.cluster_resources().get("GPU"):
        raise ClusterError("no machine of the Ray cluster has a GPU, but this one has: use --device cpu")
    task = ray.remote(num_cpus=1, num_gpus=int(gpu))(_call_in)
    waiting = [task.remote(os.getcwd(), within, work, item) for item in items]
    try:
        while waiting:
            (done,), waiting = ray.wait(waiting)
            yield ray.get(done)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", error)
        if isinstance(cause, ray.exceptions.RayError):
            raise ProcessKilled(f"a process of the cluster was lost, or lacks this package: {cause}") from error
        raise cause from error
    finally:
        for one in waiting:     # Ctrl-C, an error: nobody waits for what the others are at
            ray.cancel(one, force=True)


def _call_in(folder: str, within: Callable[[], AbstractContextManager], work: Callable, item):
    """call_within where the caller's relative paths lead to the same files."""
    os.chdir(folder)
    return call_within(within, work, item)
