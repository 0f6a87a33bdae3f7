"""processes.py, cluster.py and threads.py: what comes back, and that nothing is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from functools import partial
from multiprocessing.util import Finalize
from pathlib import Path

import cv2
import pytest

from mss_perception import cluster
from mss_perception.cluster import ClusterError
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


@pytest.mark.parametrize("when", ["at work", "at the end"])
def test_an_interruption_ends_the_others_whenever_it_comes(when):
    """Also while the processes, which have no more work, are being ended."""
    with pytest.raises(KeyboardInterrupt):
        list(run(partial(interrupting, when, os.getpid()), [1, 2], 2))
    assert not multiprocessing.active_children()


def interrupting(when: str, parent: int, item: int) -> None:
    """The first item's process interrupts its parent, and then it takes long."""
    if item == 1 and when == "at work":
        interrupt(parent)
    elif item == 1:
        Finalize(None, interrupt, (parent,), exitpriority=1)


def interrupt(parent: int) -> None:
    os.kill(parent, signal.SIGINT)
    time.sleep(60)


# ------------------------------------------------------------------------------------------------------------ a cluster

def test_a_cluster_gives_what_processes_give(ray_cluster, tmp_path):
    with cluster.joined(""):        # the one that runs
        found = list(cluster.run(partial(first_last, tmp_path), range(6), 1, True))    # ends with two processes only
    assert ray_cluster.is_initialized()
    assert sorted(item for item, _ in found) == [0, 1, 2, 3, 4, 5] and found[0][0] != 0
    assert len({process for _, process in found} - {os.getpid()}) == 2
    before = cv2.getNumThreads()
    assert {one for one, _ in cluster.run(seen, range(2), 1, True, within=partial(limited_threads, 1))} == {1}
    assert cv2.getNumThreads() == before
    assert list(cluster.run(here, [0], 1, True)) == [os.getcwd()]


def here(item: int) -> str:
    return os.getcwd()


def test_what_goes_wrong_on_a_cluster(ray_cluster):
    with pytest.raises(LookupError, match="^no 1$"):
        list(cluster.run(failing, [1, 2], 1, True))
    with pytest.raises(ProcessKilled, match="a process of the cluster was lost"):
        list(cluster.run(os._exit, [3], 1, True))
    with pytest.raises(ClusterError, match="no machine of the Ray cluster has a GPU"):
        list(cluster.run(seen, [1], 1, True, gpu=True))


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "nowhere", "a:b"])
def test_a_cluster_that_is_not_there(monkeypatch, address):
    ray = pytest.importorskip("ray", reason="ray is not installed (the extra ray)")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)       # by another test
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = address.format(port=unused.getsockname()[1])
        with pytest.raises(ClusterError, match=f"no Ray cluster at '{address}'"), cluster.joined(address):
            pass


def test_no_cluster_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)       # as where it is not installed
    with pytest.raises(ClusterError, match=r"pip install 'mss_perception\[ray\]'"), cluster.joined(""):
        pass
    with cluster.joined(None):
        assert list(cluster.run(here, [0], 1)) == [os.getcwd()]
