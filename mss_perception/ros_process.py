"""How a process that takes part in ROS runs and ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import rclpy
from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.task import Future

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def at_first_signal(act: Callable[[], None]) -> None:
    """Have `act` called at the first SIGINT or SIGTERM; those after it are ignored until the process is gone.

    They come in pairs, a terminal's Ctrl-C and launch's own, and the second must not break the orderly end.
    """
    def handler(*_) -> None:
        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        act()

    for one in SIGNALS:
        signal.signal(one, handler)


def interrupt() -> None:
    """Raises KeyboardInterrupt."""
    raise KeyboardInterrupt


def spin(executor: Executor) -> None:
    """Run callbacks on a thread of their own until the first SIGINT or SIGTERM, then return; the next are ignored.

    rclpy's own handling of signals invalidates the context under a running executor, which then ends in an exception
    now and then (seen in 1 of 25 ends of the node and in 5 of 240 of a small subscriber).
    """
    stop, done = threading.Event(), Future()
    at_first_signal(stop.set)
    with ThreadPoolExecutor(1, "executor") as thread:
        work = thread.submit(executor.spin_until_future_complete, done)
        work.add_done_callback(lambda _: stop.set())
        stop.wait()
        done.set_result(None)
    work.result()       # raises what a callback raised


def leave(node: Node) -> None:
    """Destroy the node and leave DDS, so that peers know at once and no shared memory stays behind."""
    node.destroy_node()
    rclpy.try_shutdown(context=node.context)
