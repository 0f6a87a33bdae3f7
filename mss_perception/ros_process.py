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


def on_signals(handler: Callable | signal.Handlers) -> None:
    """What SIGINT and SIGTERM do from now on. handler: as of signal.signal."""
    for one in SIGNALS:
        signal.signal(one, handler)


def ignore_signals() -> None:
    """Until the process is gone: they come in pairs, a terminal's Ctrl-C and launch's own, and the second must not
    break the orderly end."""
    on_signals(signal.SIG_IGN)


class Interrupted(BaseException):
    """Ends what is at work. Not KeyboardInterrupt: when one has passed through an `exec` of text, as dataclasses do it,
    `python -m` ends by SIGINT after all, though it was caught (seen in 6 of 24 ends of a node that was loading)."""


class Interruptible:
    """From now on SIGINT and SIGTERM raise Interrupted in what the main thread is doing, each of them.

    A callback from C, of the compiler for instance, swallows what is raised in it: `check` raises it again.
    """

    def __init__(self) -> None:
        self.interrupted = False
        on_signals(self._handle)

    def _handle(self, *_) -> None:
        self.interrupted = True
        raise Interrupted

    def check(self) -> None:
        """Raise Interrupted if there has been a signal."""
        if self.interrupted:
            raise Interrupted


def spin(executor: Executor) -> None:
    """Run callbacks on a thread of their own until the first SIGINT or SIGTERM, then return; the next are ignored.

    rclpy's own handling of signals invalidates the context under a running executor, which then ends in an exception
    now and then (seen in 1 of 25 ends of the node and in 5 of 240 of a small subscriber).
    """
    stop, done = threading.Event(), Future()

    def end(*_) -> None:
        ignore_signals()
        stop.set()

    on_signals(end)
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
