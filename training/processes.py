"""Work shared out to processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import cv2
import torch


class ProcessKilled(RuntimeError):
    """One of the processes was killed."""


def run(work: Callable, items: Sequence, jobs: int, threads: int = 0) -> Iterator:
    """`work` over `items` in `jobs` processes, results as they come. Leaves no process behind.

    threads: of torch and OpenCV in each process, this one if it is the only one (for the while); 0: their own choice.
    Raises ProcessKilled, and what `work` raises.
    """
    if jobs == 1 or len(items) < 2:
        before = torch.get_num_threads(), cv2.getNumThreads()
        set_threads(threads)
        try:
            yield from map(work, items)
        finally:
            torch.set_num_threads(before[0])
            cv2.setNumThreads(before[1])
        return
    others = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads may hang
    pool = ProcessPoolExecutor(min(jobs, len(items)), spawn, _prepare_worker, (threads,))
    finished = False
    try:
        for future in as_completed([pool.submit(work, item) for item in items]):
            yield future.result()
        finished = True
    except BrokenProcessPool as error:
        raise ProcessKilled("one of the processes was killed, perhaps because memory ran out; try fewer --jobs"
                            ) from error
    finally:
        if not finished:  # Ctrl-C, an error: nobody waits for what the others are at
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
        pool.shutdown(cancel_futures=True)


def set_threads(threads: int) -> None:
    """Of torch and OpenCV in this process; 0 leaves them."""
    if threads:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)


def _prepare_worker(threads: int) -> None:
    set_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the workers
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()


def _leave_with_the_parent() -> None:
    """A parent that is killed cannot end its workers, and they would wait for work forever."""
    multiprocessing.parent_process().join()
    os._exit(1)
