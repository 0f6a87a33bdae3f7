"""Work shared out to processes of this machine. cluster.py does the same on several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from functools import partial


class ProcessKilled(RuntimeError):
    """One of the processes was killed."""


def run(work: Callable, items: Sequence, jobs: int, *, ordered: bool = False,
        within: Callable[[], AbstractContextManager] = nullcontext) -> Iterator:
    """`work` over `items` in `jobs` processes, results as they come, or in order. Leaves no process behind.

    within: makes the context that each call of `work` runs in, such as a number of threads; in this process too, if it
    is the only one. With several, it and `work` are pickled: functions of a module that imports no more than they need.
    Raises ProcessKilled, and what `work` raises.
    """
    call = partial(call_within, within, work)
    if jobs == 1 or len(items) < 2:
        yield from map(call, items)
        return
    others = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads may hang
    pool = ProcessPoolExecutor(min(jobs, len(items)), spawn, _prepare_worker)
    finished = False
    try:
        futures = deque(pool.submit(call, item) for item in items)
        if ordered:
            while futures:
                yield futures.popleft().result()  # a result may be large; no reference to it stays
        else:
            for future in as_completed(futures):
                yield future.result()
        pool.shutdown()
        finished = True
    except BrokenProcessPool as error:
        raise ProcessKilled("one of the processes was killed, perhaps because memory ran out; try fewer --jobs"
                            ) from error
    finally:
        if not finished:  # Ctrl-C, an error: nobody waits for what the others are at
            workers = set(multiprocessing.active_children()) - others
            for process in workers:
                process.terminate()
            pool.shutdown(cancel_futures=True)
            for process in workers:  # a shutdown that was interrupted before does not wait a second time
                while process.is_alive():  # the pool's thread waits for it, too: whoever comes second learns nothing
                    process.join(0.1)


def call_within(within: Callable[[], AbstractContextManager], work: Callable, item):
    """work(item) in the context that `within` makes."""
    with within():
        return work(item)


def default_jobs(device_type: str = "cpu") -> int:
    """One process for a GPU ('cuda'), else one per core that this process may use."""
    if device_type != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the workers
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()


def _leave_with_the_parent() -> None:
    """A parent that is killed cannot end its workers, and they would wait for work forever."""
    multiprocessing.parent_process().join()
    os._exit(1)
