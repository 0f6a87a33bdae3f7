"""processes.py and threads.py: what the pool hands back, and that it leaves nothing behind."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from functools import partial
from pathlib import Path

import cv2
import pytest

from mss_perception.processes import ProcessKilled, run
from mss_perception.threads import limited_threads


def first_last(folder: Path, item: int) -> tuple[int, int]:
    """Item 0 waits for the last one, which another process does."""
    while item == 0 and not (folder / "5").exists():
        time.sleep(0.01)
    (folder / str(item)).touch()
    return item, os.getpid()


def seen(item: int) -> tuple[int, bool]:
    return cv2.getNumThreads(), "torch" in sys.modules


def failing(item: int) -> int:
    if item == 1:
        raise LookupError("no 1")
    time.sleep(60)


def test_results_come_as_they_are_ready_or_in_order(tmp_path):
    ready = list(run(partial(first_last, tmp_path), range(6), 2))
    assert sorted(item for item, _ in ready) == [0, 1, 2, 3, 4, 5] and ready[0][0] != 0
    assert len({process for _, process in ready} - {os.getpid()}) == 2
    (tmp_path / "5").unlink()
    ordered = run(partial(first_last, tmp_path), range(6), 2, ordered=True)
    assert [item for item, _ in ordered] == [0, 1, 2, 3, 4, 5]
    assert list(run(partial(first_last, tmp_path), [3, 2], 1)) == [(3, os.getpid()), (2, os.getpid())]
    assert not multiprocessing.active_children()


def test_every_process_has_its_context_and_imports_no_more_than_its_work():
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        assert [threads for threads, _ in run(seen, range(2), 1, within=partial(limited_threads, 1))] == [1, 1]
        assert list(run(seen, range(2), 2, within=partial(limited_threads, 1))) == [(1, False), (1, False)]
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


def test_a_killed_process_is_an_error():
    with pytest.raises(ProcessKilled, match="fewer --jobs"):
        list(run(os._exit, [3, 3], 2))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("ordered", [False, True])
def test_an_error_ends_the_others(ordered):
    with pytest.raises(LookupError, match="no 1"):
        list(run(failing, [1, 2], 2, ordered=ordered))
    assert not multiprocessing.active_children()
