"""How the node's process runs its callbacks and ends."""

from __future__ import annotations

import os
import signal

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: there is nothing to run")
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.signals import SignalHandlerOptions  # noqa: E402

from mss_perception.ros_process import SIGNALS, leave, spin  # noqa: E402


@pytest.fixture
def node():
    context = rclpy.Context()
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    one = rclpy.create_node("process_test", context=context)
    yield one
    leave(one)
    assert not context.ok()


def executor(node):
    one = SingleThreadedExecutor(context=node.context)
    one.add_node(node)
    return one


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_spinning_with_the_context_whole_and_python_gets_its_handlers_back(node, number):
    before = [signal.getsignal(one) for one in SIGNALS]
    calls = []

    def work():
        calls.append(node.context.ok())
        if len(calls) == 3:
            os.kill(os.getpid(), number)

    node.create_timer(0.01, work)
    spin(executor(node))
    assert len(calls) >= 3 and all(calls) and node.context.ok()
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_what_a_callback_raises_ends_spinning_and_is_raised(node):
    def fail():
        raise ZeroDivisionError("of the callback")

    node.create_timer(0.01, fail)
    with pytest.raises(ZeroDivisionError, match="of the callback"):
        spin(executor(node))
