"""The node's parameters as ROS gives them: what is misspelt, and what rcl cannot read."""

from __future__ import annotations

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: there is nothing to run")
from rclpy.node import Node  # noqa: E402

from mss_perception import check, node, ros_params  # noqa: E402
from mss_perception.config import ConfigError  # noqa: E402
from mss_perception.ros_process import leave  # noqa: E402


@pytest.fixture
def declared():
    """Declares the parameters of a node that was given these ROS arguments."""
    started = []

    def declare(*arguments: str):
        context = rclpy.Context()
        rclpy.init(args=["--ros-args", *arguments], context=context)
        started.append(Node("mss_perception", context=context, enable_rosout=False))
        return ros_params.declare(started[-1])

    yield declare
    for one in started:
        leave(one)


def test_a_misspelt_parameter_is_refused_as_replay_refuses_it(declared, tmp_path):
    file = tmp_path / "parameters.yaml"
    file.write_text("/**:\n  ros__parameters: {deadlin_sec: 0.3, rgb: {topc: x}, width: 1.5}\n")
    with pytest.raises(ConfigError) as error:
        declared("--params-file", str(file))
    text = str(error.value)
    assert all(words in text for words in ("unknown parameter 'deadlin_sec'; meant deadline_sec?", "width",
                                           "unknown parameter 'rgb.topc'; meant rgb.topic"))
    assert text.count("width = ") <= 1 and "NoneType" not in text


def test_parameters_for_other_nodes_in_a_common_file_are_no_mistakes(declared, tmp_path):
    file = tmp_path / "robot.yaml"
    file.write_text("/**:\n  ros__parameters: {robot_name: anna, wheel: {radius: 0.3}, tick_rate_hz: 4.0}\n")
    _, config = declared("--params-file", str(file))
    assert config.collector.tick_rate_hz == 4.0


def test_parameters_of_ros_itself_are_no_mistakes(declared):
    autostart, config = declared("-p", "use_sim_time:=true", "-p", "qos_overrides./image.subscription.depth:=7",
                                 "-p", "autostart:=false", "-p", "start_type_description_service:=true",
                                 "-p", "rgb.topic:=front", "-p", "fixed_frame:=/map")
    assert not autostart and config.inputs["rgb"].topic == "front" and config.fixed_frame == "map"


@pytest.mark.parametrize(("content", "words"), [
    (None, "parameters.yaml"), (b"a: \xe4", "parameters.yaml"), (b"/**: &a {ros__parameters: *a}", "alias"),
    (b"rgb: {topic: x}", "ros__parameters"), (b"[", "parameters.yaml")])
def test_a_parameter_file_that_rcl_cannot_read_is_one_line_and_status_2(tmp_path, capsys, content, words):
    file = tmp_path / "parameters.yaml"
    if content is not None:
        file.write_bytes(content)
    assert node.main(["--ros-args", "--params-file", str(file)]) == 2
    line, = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("mss_perception: ROS does not start: ") and words in line and "Traceback" not in line


def test_a_domain_that_is_no_number_is_bad_input_of_check_too(monkeypatch, capsys):
    monkeypatch.setenv("ROS_DOMAIN_ID", "front")
    assert check.main(["--live", "--seconds", "1", "--quiet"]) == 2
    assert capsys.readouterr().err.startswith("check: ROS does not start: ")
    assert node.main([]) == 2
    assert "mss_perception: ROS does not start: " in capsys.readouterr().err


def test_an_argument_that_ros_does_not_know_is_named(capsys):
    assert node.main(["--ros-args", "--bogus"]) == 2
    assert "mss_perception: ROS does not start: ['--bogus']" in capsys.readouterr().err
