"""The node's parameters as ROS gives them: what is misspelt, and what rcl cannot read."""

from __future__ import annotations

import pytest

rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed: there is nothing to run")
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from mss_perception import check, node, ros_params  # noqa: E402
from mss_perception.config import Config, ConfigError  # noqa: E402
from mss_perception.parameter_file import uses_sim_time  # noqa: E402
from mss_perception.ros_process import leave  # noqa: E402


@pytest.fixture
def declared():
    """Declares the parameters of a node that was given these ROS arguments."""
    started = []

    def declare(*arguments: str):
        context = rclpy.Context()
        rclpy.init(args=["--ros-args", *arguments], context=context)
        started.append(Node("mss_perception", context=context, enable_rosout=False))
        result = ros_params.declare(started[-1])
        declare.node = started[-1]
        return result

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


def test_parameters_for_other_nodes_in_a_common_file_are_no_mistakes(declared, tmp_path, capfd):
    file = tmp_path / "robot.yaml"
    file.write_text("/**:\n  ros__parameters: {robot_name: anna, wheel: {radius: 0.3}, tick_rate_hz: 4.0,\n"
                    "                    vehicle_height: 2.5, base_frame_id: base_link, lidar_driver: {rpm: 600}}\n")
    _, config = declared("--params-file", str(file))
    assert config.collector.tick_rate_hz == 4.0
    line, = (line for line in capfd.readouterr().err.splitlines() if "ignored" in line)
    assert "[WARN]" in line and all(words in line for words in (
        "robot_name", "wheel.radius", "vehicle_height", "base_frame_id (meant base_frame?)",
        "lidar_driver.rpm (lidar_driver is none of inputs)"))


def test_all_that_is_wrong_is_named_at_once(declared):
    with pytest.raises(ConfigError) as error:
        declared("-p", "lidar.ofset_sec:=1.0", "-p", "tick_source:=[nope]", "-p", "rgb.topic:=''", "-p", "width:=-1",
                 "-p", "autostart:=5")
    assert all(words in str(error.value) for words in (
        "'lidar.ofset_sec'; meant lidar.offset_sec", "tick_source names 'nope'", "rgb.topic is empty", "width",
        "autostart"))
    with pytest.raises(ConfigError) as error:
        declared("-p", "inputs:=[]")        # which rcl takes for nothing
    assert str(error.value) == "inputs is empty, must be list"
    with pytest.raises(ConfigError) as error:
        declared("-p", "inputs:=[rgb_left, sonar]", "-p", "target_cameras:=[rgb_left]")
    assert "'sonar'" in str(error.value) and "target_cameras" not in str(error.value)


# The oracle of parameter_file.py: rcl itself, by the values that the node gets.
@pytest.mark.parametrize("text", [
    "/**: {ros__parameters: {publish_points: n, undistort: Y, rgb: {frame_id: 'y'}}}",
    "a: {ros__parameters: {b: {1: x, on: y, ~: z}, c: 1, c: 2}}\n/**: {ros__parameters: {width: 8, 1: 2, on: 3}}",
    "mss_perception: {ros__parameters: {width: 8, height: 010}}\n/**: {ros__parameters: {width: 16}}",
    "/**: {ros__parameters: {width: 16}, mss_perception: {ros__parameters: {width: 0x8}}}",
    "/*: {ros__parameters: {width: 16, deadline_sec: 1e-1}}",
])
def test_replay_reads_a_parameter_file_as_the_node_does(declared, tmp_path, text):
    file = tmp_path / "parameters.yaml"
    file.write_text(text)
    _, config = declared("--params-file", str(file))
    assert config == Config.from_yaml(file) != Config()


@pytest.mark.parametrize("text", [
    "{tick_rate_hz: 4, lidar: {offset_sec: -1}, deadline_sec: 0.5}", "{tick_rate_hz: 0}", "{lidar: {offset_sec: 2}}",
    "{width: 8.0}", "{tick_rate_hz: true}"])
def test_a_double_may_be_written_as_an_integer_in_the_node_as_in_replay(declared, tmp_path, text):
    file = tmp_path / "parameters.yaml"
    file.write_text(f"mss_perception: {{ros__parameters: {text}}}")
    try:
        expected = Config.from_yaml(file)
    except ConfigError:
        with pytest.raises(ConfigError):
            declared("--params-file", str(file))
        return
    assert declared("--params-file", str(file))[1] == expected
    assert type_of(declared.node, "tick_rate_hz") == type_of(declared.node, "lidar.offset_sec") == "DOUBLE"
    assert declared("-p", "tick_rate_hz:=4")[1].collector.tick_rate_hz == 4.0


def type_of(node: Node, name: str) -> str:
    return node.get_parameter(name).type_.name


def test_a_double_may_be_set_as_an_integer_at_run_time(declared):
    _, config = declared()
    ros_params.follow_changes(declared.node, config, lambda config: None)

    def set_to(value) -> bool:
        return declared.node.set_parameters([Parameter("deadline_sec", value=value)])[0].successful

    assert set_to(2) and config.collector.deadline_sec == 2.0
    assert type_of(declared.node, "deadline_sec") == "DOUBLE"
    assert not set_to(-1) and not set_to(11) and not set_to("2") and not set_to(True)
    assert config.collector.deadline_sec == 2.0


def test_a_change_that_the_running_pipeline_cannot_serve_is_refused_with_its_reason(declared):
    def fits(config: Config) -> None:
        raise ConfigError(f"not {config.collector.min_modalities}")

    _, config = declared()
    ros_params.follow_changes(declared.node, config, fits)
    result, = declared.node.set_parameters([Parameter("min_modalities", value=2)])
    assert (result.successful, result.reason, config.collector.min_modalities) == (False, "not 2", 1)


@pytest.mark.parametrize(("text", "simulated"), [
    ("/**: {ros__parameters: {use_sim_time: true}}", True), ("mss_perception: {ros__parameters: {width: 8}}", False),
    ("/**: {ros__parameters: {use_sim_time: true}}\nmss_perception: {ros__parameters: {use_sim_time: false}}", False),
    ("other: {ros__parameters: {use_sim_time: true}}\n/*: {ros__parameters: {use_sim_time: false}}", False)])
def test_a_player_reads_from_the_file_whose_time_the_node_takes(declared, tmp_path, text, simulated):
    file = tmp_path / "parameters.yaml"
    file.write_text(text)
    declared("--params-file", str(file))
    assert uses_sim_time(file) == declared.node.get_parameter("use_sim_time").value == simulated


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
