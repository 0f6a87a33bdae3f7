"""How the node's process runs its callbacks and ends."""

from __future__ import annotations

import os
import signal

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: there is nothing to run")
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.signals import SignalHandlerOptions  # noqa: E402

from mss_perception.ros_process import SIGNALS, at_first_signal, interrupt, leave, spin  # noqa: E402


@pytest.fixture
def node():
    before = [(one, signal.getsignal(one)) for one in SIGNALS]
    context = rclpy.Context()
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    one = rclpy.create_node("process_test", context=context)
    yield one
    leave(one)
    assert not context.ok()
    for number, handler in before:
        signal.signal(number, handler)


def executor(node):
    one = SingleThreadedExecutor(context=node.context)
    one.add_node(node)
    return one


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_ends_spinning_with_the_context_whole_and_the_next_do_nothing(node, number):
    calls = []

    def work():
        calls.append(node.context.ok())
        if len(calls) == 3:
            os.kill(os.getpid(), number)

    node.create_timer(0.01, work)
    spin(executor(node))
    for one in SIGNALS:     # while the caller ends
        os.kill(os.getpid(), one)
    assert len(calls) >= 3 and all(calls) and node.context.ok()


def test_before_spinning_the_first_signal_is_a_keyboard_interrupt_and_the_next_do_nothing(node):
    at_first_signal(interrupt)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    for one in SIGNALS:
        os.kill(os.getpid(), one)


def test_what_a_callback_raises_ends_spinning_and_is_raised(node):
    def fail():
        raise ZeroDivisionError("of the callback")

    node.create_timer(0.01, fail)
    with pytest.raises(ZeroDivisionError, match="of the callback"):
        spin(executor(node))
