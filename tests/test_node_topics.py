"""What the node knows of its topics without a network or publishers: lost messages, stand-ins for ROS packages."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: the node cannot be tested")
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402

from mss_perception import ros_compat  # noqa: E402
from mss_perception.camera import Camera  # noqa: E402
from mss_perception.config import Config, ConfigError  # noqa: E402
from mss_perception.live import LARGE_MESSAGES  # noqa: E402
from mss_perception.messages import (  # noqa: E402
    decode_cloud,
    decode_image,
    encode_camera_info,
    encode_cloud,
    encode_image,
)
from mss_perception.ros_process import leave  # noqa: E402
from mss_perception.ros_topics import WARNED_CALLS, LossEstimate, Topic, loss_cure, subscribe  # noqa: E402

MS = 1_000_000


@pytest.fixture
def node():
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    one = rclpy.create_node("topics_test", context=context)
    yield one
    leave(one)


def test_sequence_numbers_count_exactly_and_per_publisher():
    loss = LossEstimate()
    for publisher, number in [(b"a", 7), (b"a", 8), (b"b", 100), (b"a", 11), (b"b", 101), (b"b", 105)]:
        loss.add(None, number, publisher)
    assert (loss.received, loss.lost) == (6, 2 + 3)


def test_a_restarted_publisher_is_no_loss():
    loss = LossEstimate()
    for number in (50, 51, 1, 2, 4):
        loss.add(None, number, b"a")
    assert loss.lost == 1


def test_gaps_are_held_against_the_topics_own_rate():
    random = np.random.default_rng(0)
    stamps = np.arange(200) * 100 * MS + random.integers(-10 * MS, 10 * MS, 200)     # 10 Hz, jittered
    missing = {40, 41, 90, 150}
    loss = LossEstimate()
    for k in sorted(set(range(200)) - missing):
        loss.add(int(stamps[k]))
    assert loss.lost == len(missing)
    assert loss.rate_hz == pytest.approx(10, rel=0.1)


def test_a_sensor_that_pauses_loses_nothing():
    loss = LossEstimate()
    for k in [*range(50), *range(80, 130)]:
        loss.add(k * 100 * MS)
    assert loss.lost == 0


def test_the_warning_of_a_loss_goes_when_nothing_is_lost_any_more(node):
    topic = Topic(node, "rgb", Image, "image", 5, lambda topic, message, info: None)
    for number in (1, 2, 5):
        topic.loss.add(None, number, b"a")
    assert "/image loses messages, lately 2 of 5" in topic.loss_warning()
    topic.loss.add(None, 6, b"a")
    assert "2 of 6" in topic.loss_warning()
    assert [bool(topic.loss_warning()) for _ in range(WARNED_CALLS)][-1] is False
    assert topic.loss.lost == 2         # the total stays


def test_the_cure_names_what_is_set(monkeypatch):
    for name in ("FASTDDS_BUILTIN_TRANSPORTS", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY"):
        monkeypatch.delenv(name, raising=False)
    setting = f"publisher with FASTDDS_BUILTIN_TRANSPORTS='{LARGE_MESSAGES}'"
    assert loss_cure().startswith("start the " + setting)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    assert "ROS_AUTOMATIC_DISCOVERY_RANGE" in loss_cure() and setting in loss_cure()


@pytest.mark.parametrize(("parameter", "name"), [
    ("rgb.topic", "/1a"), ("rgb.info_topic", "camera-info"), ("odometry_topic", "a/~b")])
def test_a_name_that_ros_does_not_take_is_refused_by_its_parameter(node, parameter, name):
    """In a bag it may be a topic's name all the same."""
    with pytest.raises(ConfigError, match=f"{parameter} = '{name}' is no name of a topic in ROS: topic name"):
        subscribe(node, Config.from_mapping({parameter: name}), print)


def test_what_was_sent_once_before_the_start_comes_when_it_is_asked_for(node):
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    info, got = encode_camera_info(ros_compat.TYPES, Camera(4, 4, np.eye(3)), 7), []
    node.create_publisher(CameraInfo, "camera_info", latched).publish(info)
    wanted = {"durability": "transient_local", "reliability": "reliable"}
    late = rclpy.create_node("late", context=node.context, parameter_overrides=[
        Parameter(f"qos_overrides./camera_info.subscription.{name}", value=value) for name, value in wanted.items()])
    Topic(late, "rgb/info", CameraInfo, "camera_info", 5, lambda topic, message, info: got.append(message))
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(late)
    for _ in range(100):
        executor.spin_once(0.1)
        if got:
            break
    late.destroy_node()
    assert got == [info]


def test_published_images_and_clouds_decode_to_what_went_in():
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    message = ros_compat.image_message(pixels, "rgb8", 12 * 10**9 + 5, "cam")
    assert np.array_equal(decode_image(message), pixels)
    assert (message.header.stamp.sec, message.header.stamp.nanosec, message.header.frame_id) == (12, 5, "cam")
    columns = {"x": np.arange(4, dtype=np.float32), "label": np.arange(4, dtype=np.uint8)}
    cloud = decode_cloud(ros_compat.cloud_message(columns, 1, "cam"))
    assert all(np.array_equal(cloud.fields[name], column) for name, column in columns.items())


def test_sensor_msgs_py_makes_the_same_cloud_as_the_stand_in():
    if ros_compat.point_cloud2 is None:
        pytest.skip("sensor_msgs_py is not installed: the stand-in has nothing to be compared with")
    columns = {"x": np.arange(9, dtype=np.float32), "label": np.arange(9, dtype=np.uint8)}
    real, own = ros_compat.cloud_message(columns, 5, "cam"), encode_cloud(ros_compat.TYPES, columns, 5, "cam")
    assert np.array_equal(decode_cloud(real).fields, decode_cloud(own).fields)
    assert (real.point_step, real.width, real.height) == (own.point_step, own.width, own.height)


def test_cv_bridge_makes_the_same_image_as_the_stand_in():
    if ros_compat.cv_bridge is None:
        pytest.skip("cv_bridge is not installed: the stand-in has nothing to be compared with")
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    real = ros_compat.image_message(pixels, "mono8", 5, "cam")
    own = encode_image(ros_compat.TYPES, pixels, "mono8", 5, "cam")
    assert (real.encoding, real.step, bytes(real.data)) == (own.encoding, own.step, bytes(own.data))


@pytest.mark.parametrize(("source", "why"), [
    ("raise SystemError('initialization of cv_bridge_boost failed')", "SystemError: initialization"),
    ("import numpy.of_another_release", "ModuleNotFoundError"),
    ("class CvBridge:\n    def cv2_to_imgmsg(self, *arguments):\n        raise AttributeError('_ARRAY_API not found')",
     "AttributeError: _ARRAY_API not found")])
def test_a_cv_bridge_of_another_numpy_is_done_without_and_told(monkeypatch, tmp_path, source, why):
    (tmp_path / "cv_bridge.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    found, failure = ros_compat.working_cv_bridge()
    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    assert found is None and failure.startswith(why)
    monkeypatch.setattr(ros_compat, "cv_bridge_failure", failure)
    assert failure in ros_compat.describe()


def test_message_filters_subscriber_hands_on_the_message_info_too():
    """With the real package as with the stand-in: the override must be what rclpy calls."""
    class Node:
        def create_subscription(self, kind, topic, callback, **options):
            self.callback, self.options = callback, options
            return self

    node, got = Node(), []
    ros_compat.Subscriber(node, object, "image", qos_profile=5).registerCallback(lambda *values: got.append(values))
    node.callback("message", {"publication_sequence_number": 3})
    assert got == [("message", {"publication_sequence_number": 3})] and node.options["qos_profile"] == 5


def test_messages_of_every_severity_reach_the_nodes_log(node, capfd):
    """rclpy refuses another severity at the same line of code, with an exception that would end the thread."""
    from mss_perception.node import RosLog

    log = logging.getLogger("mss_perception.test")
    log.addHandler(handler := RosLog(node.get_logger()))
    log.setLevel(logging.INFO)
    try:
        for level, text in ((logging.INFO, "one"), (logging.WARNING, "two"), (logging.ERROR, "three"),
                            (logging.WARNING, "four")):
            log.log(level, text)
    finally:
        log.removeHandler(handler)
    written = "".join(capfd.readouterr())
    for severity, text in (("INFO", "one"), ("WARN", "two"), ("ERROR", "three"), ("WARN", "four")):
        assert any(severity in line and text in line for line in written.splitlines()), f"{text} is not in: {written}"
