"""How the node's process runs its callbacks and ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: there is nothing to run")
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.signals import SignalHandlerOptions  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from mss_perception import live  # noqa: E402
from mss_perception.ros_compat import image_message  # noqa: E402
from mss_perception.ros_process import (  # noqa: E402
    SIGNALS,
    Interrupted,
    Interruptible,
    ignore_signals,
    leave,
    spin,
)


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


def test_before_spinning_each_signal_ends_what_is_at_work_until_the_end_begins(node):
    loading = Interruptible()
    loading.check()
    for number in SIGNALS:
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), number)
    ignore_signals()
    for number in SIGNALS:
        os.kill(os.getpid(), number)
    with pytest.raises(Interrupted):
        loading.check()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_a_callback_from_c_swallows_is_raised_again(node):
    """As of llvmlite, which the kernels are compiled with."""
    loading = Interruptible()
    ctypes.CFUNCTYPE(None)(lambda: os.kill(os.getpid(), signal.SIGINT))()
    with pytest.raises(Interrupted):
        loading.check()


def test_a_process_that_was_interrupted_in_an_import_ends_with_its_own_status(tmp_path):
    (tmp_path / "ends.py").write_text(
        "import sys\n"
        "from mss_perception.ros_process import Interrupted, Interruptible\n"
        "Interruptible()\n"
        "try:\n"
        "    exec('import os; os.kill(os.getpid(), 2); [None for _ in range(1000)]')\n"
        "except Interrupted:\n"
        "    print('ended')\n"
        "sys.exit(3)\n")
    done = subprocess.run([sys.executable, "-m", "ends"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "ended\n"), done.stderr


def test_what_a_callback_raises_ends_spinning_and_is_raised(node):
    def fail():
        raise ZeroDivisionError("of the callback")

    node.create_timer(0.01, fail)
    with pytest.raises(ZeroDivisionError, match="of the callback"):
        spin(executor(node))


@pytest.mark.parametrize(("arguments", "words"), [
    (["--out", __file__], f"recorder: cannot write {__file__}/labels: Not a directory; name another --out"),
    (["--out", "{folder}", "--node", "a b"], "recorder: --node a b: Invalid topic name")])
def test_a_recorder_that_cannot_begin_ends_with_2_and_one_line(tmp_path, arguments, words):
    command = [sys.executable, "-m", "mss_perception.ros_recorder", *(one.format(folder=tmp_path) for one in arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    told, = ended.stderr.splitlines()
    assert ended.returncode == 2 and told.startswith(words)


def test_labels_that_cannot_be_written_end_a_recorder_with_2_and_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(live.free_domain()))
    context = rclpy.Context()
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("mss_perception", context=context)
    try:
        labels = node.create_publisher(Image, "mss_perception/segmentation", 5)
        with live.Process("mss_perception.ros_recorder", ["--out", str(tmp_path)], tmp_path / "log",
                          dict(os.environ)) as recorder:
            until = time.monotonic() + 60
            while not labels.get_subscription_count() and time.monotonic() < until:
                time.sleep(0.05)
            (tmp_path / "labels").rmdir()
            while recorder.popen.poll() is None and time.monotonic() < until:
                labels.publish(image_message(np.zeros((4, 6), np.uint8), "mono8", 7, "cam"))
                time.sleep(0.2)
            assert recorder.popen.poll() == 2
    finally:
        leave(node)
    told, = recorder.last_words().splitlines()
    assert told == (f"recorder: cannot write {tmp_path}/labels/7.png: No such file or directory; name another --out")
