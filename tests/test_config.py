"""config.py and yaml_file.py: which sections of a ROS 2 parameter file count, and what is refused."""

from __future__ import annotations

import string
import time
from pathlib import Path

import pytest
import yaml

from mss_models import runtime
from mss_perception import yaml_file
from mss_perception.config import BACKENDS, Config, ConfigError

SECTIONS = """
/camera_driver:
  ros__parameters: {exposure: 3, exposure: 4, device: /dev/video0, gains: {1: 2, on: 3, ~: 4}}
/**:
  ros__parameters:
    use_sim_time: true
    tick_rate_hz: 20.0
    min_modalities: 2
    lidar: {offset_sec: 0.5, tolerance_sec: 0.04}
    qos_overrides: {/image: {subscription: {depth: 3}}}
robot:
  mss_perception:
    ros__parameters:
      tick_rate_hz: 5.0
      lidar: {offset_sec: 0.05}
      publish_points: n
"""


def read(tmp_path: Path, text: str) -> Config:
    (tmp_path / "parameters.yaml").write_text(text)
    return Config.from_yaml(tmp_path / "parameters.yaml")


def test_the_parameter_offers_the_backends_that_there_are():
    assert BACKENDS == runtime.BACKENDS


def test_wildcard_and_own_section_are_merged_and_other_nodes_left_out(tmp_path):
    config = read(tmp_path, SECTIONS)
    assert config.collector.tick_rate_hz == 5.0 and config.collector.min_modalities == 2 and config.device == "auto"
    assert config.inputs["lidar"].offset_sec == 0.05 and config.inputs["lidar"].tolerance_sec == 0.04
    assert config.publish_points is False


@pytest.mark.parametrize("own, general, rate", [(0, 1, 20.0), (1, 0, 5.0)])
def test_of_sections_that_give_one_parameter_the_later_counts(tmp_path, own, general, rate):
    """As rcl: seen with rclpy of Jazzy."""
    sections = {own: "mss_perception: {ros__parameters: {tick_rate_hz: 5.0}}",
                general: "/**: {ros__parameters: {tick_rate_hz: 20.0}}"}
    assert read(tmp_path, f"{sections[0]}\n{sections[1]}").collector.tick_rate_hz == rate


# Of nav2 and of Autoware's vehicle_info.param.yaml, and others that several nodes have.
FOREIGN = ["base_frame_id", "map_frame", "robot_base_frame", "wheel_width", "vehicle_height", "front_overhang",
           "frame_id", "odom_frame", "odom_topic", "publish_rate", "lidar_topic", "robot_name",
           "diagnostic_updater.period", "lidar_driver.rpm"]


def test_what_any_node_is_given_may_be_other_nodes_parameters(tmp_path, caplog):
    """All told in one line; refused where the section is the node's own."""
    values = "".join(f"    {name}: 1.0\n" for name in FOREIGN)
    config = read(tmp_path, f"/**:\n  ros__parameters:\n    min_modalities: 2\n{values}")
    assert config.collector.min_modalities == 2
    record, = caplog.records
    assert record.levelname == "WARNING" and all(name in record.message for name in FOREIGN)
    assert "base_frame_id (meant base_frame?), map_frame, " in record.message
    assert "lidar_driver.rpm (lidar_driver is none of inputs)" in record.message
    with pytest.raises(ConfigError) as error:
        read(tmp_path, f"mss_perception:\n  ros__parameters:\n{values}")
    assert all(name in str(error.value) for name in FOREIGN)
    with pytest.raises(ConfigError, match="robot_name"):    # given to any node, and then to this one
        read(tmp_path, "/**: {ros__parameters: {robot_name: a}}\nmss_perception: {ros__parameters: {robot_name: b}}")


@pytest.mark.parametrize("name", ["lidar.ofset_sec", "lidar.x", "radar.topic", "chekpoint", "deadline_secs",
                                  "target_camera", "publish_point", "tick_sources", "lidr.topic"])
def test_what_was_surely_meant_for_this_node_is_refused_wherever_it_stands(tmp_path, name):
    with pytest.raises(ConfigError, match=name):
        read(tmp_path, f"/**: {{ros__parameters: {{{name}: 1.0}}}}")


@pytest.mark.parametrize("name", ["mss_perception", "/mss_perception", "/**/mss_perception", "/**", "/*"])
def test_the_nodes_section_is_found_by_each_of_its_names(tmp_path, name):
    assert read(tmp_path, f"{name}: {{ros__parameters: {{tick_rate_hz: 7}}}}").collector.tick_rate_hz == 7.0


def test_a_plain_mapping_serves_as_well(tmp_path):
    assert read(tmp_path, "tick_rate_hz: 7\nlidar: {enabled: false}").inputs["lidar"].enabled is False


@pytest.mark.parametrize("text, complaint", [
    ("/other: {ros__parameters: {tick_rate_hz: 7}}", "has parameters of /other, none of mss_perception"),
    ("/left/mss_perception: {ros__parameters: {}}\n/right/mss_perception: {ros__parameters: {}}",
     "parameters of several nodes, /left/mss_perception, /right/mss_perception; give a file of one"),
    ("mss_perception: {ros__parameters: {model_log: 7}}", "unknown parameter 'model_log'"),
    ("/**: {ros__parameters: {width: 8}}\n/**: {}\na: {ros__parameters: {}}\nmss_perception: {ros__parameters: {}}",
     r"'/\*\*' is given twice \(line 2"),
    ("a: {ros__parameters: {}}\nmss_perception: {ros__parameters: {lidar: {queue: 1, queue: 2}}}",
     r"parameters\.yaml: 'queue' is given twice \(line 2, column 54\)"),
    ("robot: {ros__parameters: {}}\nother: {robot: {ros__parameters: {}}}",
     "has parameters of robot, other/robot, none of mss_perception"),
    ("/**: {ros__parameters: {tick_rat_hz: 7}}", "meant tick_rate_hz"),
    ("/**: {ros__parameters: [tick_rate_hz]}", r"/\*\*'s ros__parameters must be a mapping"),
    ("/**: {ros__parameters: }", r"/\*\*'s ros__parameters must be a mapping of parameters, {} for none"),
    ("[1, 2]", "holds list, not a mapping"),
    ("", "holds nothing, not a mapping"),
    ("tick_rate_hz: 5\ntick_rate_hz: 6", r"'tick_rate_hz' is given twice \(line 2"),
    ("lidar.offset_sec: 0.1\nlidar: {offset_sec: 0.2}", r"lidar\.offset_sec is given twice"),
    ("deadline_sec: 1" + "0" * 400, "deadline_sec has an integer of more than 64 bits"),
    ("deadline_sec: 1" + "0" * 5000, "holds a value that cannot be read|more than 64 bits"),    # as Python limits it
    ("deadline_sec: 0x1" + "0" * 5000, "deadline_sec has an integer of more than 64 bits"),
    ("tick_source: [0x1" + "0" * 5000 + "]", "tick_source has the item a number of thousands of digits"),
    ("rgb: {max_bytes: 9223372036854775808}", r"rgb\.max_bytes has an integer of more than 64 bits"),
    ("jump_back_sec: 1e308", r"jump_back_sec = 1e\+308 is out of range"),
    ("max_future_sec: 1e308", r"max_future_sec = 1e\+308 is out of range"),
    ("deadline_sec: .nan", "deadline_sec = nan is not finite"),
    ("deadline_sec: 2001-99-99", "deadline_sec = '2001-99-99' is str, must be float"),
    ("deadline_sec: 1:30", "deadline_sec = '1:30' is str"),
    ("tick_source: [rgb, 3]", "tick_source has the item 3, which is int"),
    ("checkpoint: " + "x" * 5000 + "\nlate_policy: " + "y" * 5000, r"late_policy = 'y+\.\.\. must be one of"),
    ("width:", r"width is empty, must be int"),
    ("inputs:", r"inputs is empty, must be list"),
    ("rgb: {topic: a b}", r"rgb\.topic = 'a b' is no topic"),
    ("rgb: {topic: /}", r"rgb\.topic = '/' is no topic"),
    ("&a {rgb: *a}", r"aliases \(\*\) are not supported.* \(line 1, column 10\)"),
    ("{[1]: 2}", "a sequence stands where a name should"),
    ("on: 2", "unknown parameter 'on'"),
    ("lidar: {1: 2}", r"unknown parameter 'lidar\.1'"),
    ("rgb: {frame_id: y}", r"rgb\.frame_id = True is bool, must be str"),
    ("[" * 3000, "nested more than 32 deep"),
    ("a: !!python/object:os.system {}", "could not determine a constructor"),
    ("a: !!int x", "holds a value that cannot be read"),
    ('a: "\\ud800"', "holds a value that cannot be read"),
    ("a: 1\n---\nb: 1", "expected a single document"),
])
def test_what_cannot_be_meant_is_refused(tmp_path, text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        read(tmp_path, text)


@pytest.mark.parametrize("content, place", [(b"checkpoint: \xe4", "0xe4 at position 12"),
                                            (b"a: \0", "0x00 at position 3")])
def test_a_file_that_is_no_text_is_refused_by_its_byte(tmp_path, content, place):
    (tmp_path / "parameters.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=f"parameters.yaml must be text in UTF-8; it has {place}"):
        Config.from_yaml(tmp_path / "parameters.yaml")


def test_a_file_that_is_not_there_or_endless_or_no_file_is_refused(tmp_path):
    for path, words in ((tmp_path, "Is a directory"), (tmp_path / "none.yaml", "No such file"),
                        (Path("/dev/zero"), "is larger than 256 KiB"), ("a\0b", "null byte")):
        with pytest.raises(ConfigError, match=words):
            Config.from_yaml(path)


def test_a_bomb_of_aliases_is_refused_before_it_grows(tmp_path):
    """Eight names of eight names ... ten levels deep: a thousand million parameters when written out."""
    levels = [f"{one}: &{one} {{{', '.join(f'k{i}: *{before}' for i in range(8))}}}"
              for before, one in zip("abcdefghi", "bcdefghij", strict=True)]
    started = time.monotonic()
    with pytest.raises(ConfigError, match="aliases"):
        read(tmp_path, "\n".join(["a: &a {k: 1}", *levels]))
    assert time.monotonic() - started < 5       # and no minutes


def test_values_are_read_as_ros_reads_them(tmp_path):
    """What rcl_yaml_param_parser makes of the same text; PyYAML's own loader differs in those of its own line."""
    text = ("a: 1e-3\nb: 2001-01-02\nc: 1:30\nd: 1_000\n"
            "e: 5\nf: -2.5\ng: true\nh: yes\ni: off\nj: text\nk: '5'\nl: 0x10\nm: 010\nn: .5\no: [1, 2.0]\np:\n"
            "q: -.inf\nr: y\ns: [N, n, Y]\nt: 'y'\n1: 2\n")
    (tmp_path / "values.yaml").write_text(text)
    found = yaml_file.load(tmp_path / "values.yaml", "file", parameters=True)
    assert [found[name] for name in "abcdrst1"] == [0.001, "2001-01-02", "1:30", "1_000", True, [False, False, True],
                                                    "y", 2]
    usual = yaml.safe_load(text)
    assert {name: found[name] for name in string.ascii_lowercase[4:17]} == \
        {name: usual[name] for name in string.ascii_lowercase[4:17]}
    assert all(type(found[name]) is type(usual[name]) for name in string.ascii_lowercase[4:17])


def test_every_wrong_value_is_named_at_once(tmp_path):
    with pytest.raises(ConfigError) as first:
        read(tmp_path, "tick_rat_hz: 5\nlidar: {offset_sec: 7.0, topic: 5}\nlate_policy: never")
    assert all(words in str(first.value) for words in (
        "parameters.yaml", "'tick_rat_hz'; meant tick_rate_hz", "lidar.offset_sec = 7.0 is out of range",
        "lidar.topic = 5 is int, must be str", "late_policy = 'never' must be one of"))
    with pytest.raises(ConfigError) as both:        # of one alone, and of several together
        read(tmp_path, "tick_source: [nope]\nlidar: {ofset_sec: 1.0}\nrgb: {topic: ''}")
    assert all(words in str(both.value) for words in (
        "'lidar.ofset_sec'; meant lidar.offset_sec", "tick_source names 'nope'", "rgb.topic is empty"))
    with pytest.raises(ConfigError) as inputs:      # the rest is not judged by other inputs than are meant
        read(tmp_path, "inputs: [rgb_left, sonar]\ntarget_cameras: [rgb_left]")
    assert "'sonar'" in str(inputs.value) and "target_cameras" not in str(inputs.value)
    with pytest.raises(ConfigError) as second:      # and, where each is right, all that does not go together
        read(tmp_path, "tick_source: [radar]\ntarget_cameras: [lidar]\nrgb.topic: ''\ndepth.topic: points\n"
                       "lidar.view: a")
    assert all(words in str(second.value) for words in (
        "tick_source names 'radar'", "target_cameras names 'lidar'", "rgb.topic is empty",
        "lidar.topic = 'points' is depth's already", "lidar.view = 'a'"))


@pytest.mark.parametrize("values, complaint", [
    ({"lidar.topic": "/odom"}, "odometry_topic = 'odom' is lidar's already"),
    ({"depth.topic": "tf"}, "depth.topic = 'tf' is tf_topic's already"),
    ({"lidar.topic": "camera_info"}, "rgb.info_topic = 'camera_info' is lidar's already"),
    ({"depth.info_topic": "camera_info"}, "depth.info_topic = 'camera_info' is rgb.info_topic's already.* Leave it "
                                          "empty and give camera 'depth' in calibration_file"),
    ({"odometry_topic": "/tf_static"}, "odometry_topic = '/tf_static' is tf_static_topic's already"),
])
def test_a_topic_of_two_roles_is_refused_since_one_would_get_nothing(values, complaint):
    with pytest.raises(ConfigError, match=complaint):
        Config.from_mapping(values)
    off = {f"{name}.enabled": False for name in ("lidar", "depth")}
    assert Config.from_mapping({**values, "odometry_topic": "", **off}).inputs["rgb"].enabled


def test_frames_may_be_written_as_in_ros_1():
    config = Config.from_mapping({"fixed_frame": "/map", "base_frame": "/base", "rgb.frame_id": "/cam",
                                  "rgb.topic": "/a"})
    assert (config.fixed_frame, config.base_frame, config.inputs["rgb"].frame_id, config.inputs["rgb"].topic) == \
        ("map", "base", "cam", "/a")


def test_the_shipped_parameter_files_are_valid():
    for path in (Path(__file__).resolve().parents[1] / "config").glob("*.yaml"):
        Config.from_yaml(path)


# ------------------------------------------------------------------------------------------------ inputs by name, views

def test_inputs_take_the_defaults_of_their_modality_but_no_topic():
    config = Config.from_mapping({"lidar_rear.topic": "rear/points", "inputs": ["rgb", "lidar", "lidar_rear"],
                                  "lidar_rear.intensity_max": 255})
    rear, front = config.inputs["lidar_rear"], config.inputs["lidar"]
    assert (rear.modality, rear.tolerance_sec, rear.topic, rear.intensity_max) == ("lidar", 0.05, "rear/points", 255.0)
    assert (front.topic, front.intensity_max) == ("points", 0.0)
    assert config.collector.tick_source == ["rgb", "lidar", "lidar_rear"] and config.target_cameras == ["rgb"]
    assert config.topic_roles()["/rear/points"] == "lidar_rear" and "/events" not in config.topic_roles()


def test_ticks_and_target_follow_the_inputs_unless_they_are_given():
    assert Config().collector.tick_source == ["rgb", "depth", "lidar", "event"]
    events = Config.from_mapping({"inputs": ["radar", "event", "lidar"]})
    assert (events.collector.tick_source, events.target_cameras) == (["lidar", "event", "radar"], ["event"])
    given = Config.from_mapping({"tick_source": ["lidar"], "inputs": ["rgb", "lidar"]})
    assert given.collector.tick_source == ["lidar"]


def test_the_parameters_begin_with_inputs_and_hold_every_one_of_them():
    names = [name for name, *_ in Config.of_inputs(["rgb", "depth_left"]).parameters()]
    assert names[0] == "inputs" and "depth_left.message_type" in names and "lidar.topic" not in names


TWO = {"inputs": ["rgb", "rgb_left"], "rgb_left.topic": "left", "rgb_left.info_topic": "left_info"}
VIEWS = {**TWO, "target_cameras": ["rgb", "rgb_left"]}


@pytest.mark.parametrize("values, complaint", [
    ({"radar.topic": "a"}, r"radar\.topic is given, but radar is none of inputs = \[rgb, depth, event, lidar\]"),
    ({"inputs": ["rgb"], "lidar.topic": "a"}, r"lidar\.topic is given, but lidar is none of inputs = \[rgb\]"),
    ({"inputs": ["rgb", "lidar_rear"]}, r"lidar_rear\.topic is empty; the input lidar_rear needs a topic"),
    ({"inputs": ["rgb", "sonar_left"]}, r"inputs names 'sonar_left', .* modalities: rgb, depth, event, lidar, radar"),
    ({"inputs": ["rgb", "lidar/rear"]}, r"inputs names 'lidar/rear'"),
    ({"inputs": ["rgb", "rgb"]}, r"inputs = \[rgb, rgb\] must name at least one input, and each once"),
    ({"inputs": []}, r"inputs = \[\] must name at least one"),
    ({"inputs": "rgb"}, r"inputs = 'rgb' is str, must be list"),
    ({"inputs": ["rgb", "lidar", "lidar_rear"], "lidar_rear.topic": "/points"},
     r"lidar_rear\.topic = '/points' is lidar's already"),
    ({"inputs": ["lidar"]}, r"target_cameras names 'rgb', which is no input with a camera; one of: none"),
    (TWO, r"inputs rgb and rgb_left are all rgb, of which the view of rgb can have one"),
    ({"inputs": ["rgb", "depth", "depth_left"], "depth_left.topic": "a"},
     r"inputs depth and depth_left are all depth, .* depth_left\.view"),
    ({"inputs": ["rgb", "event", "event_left"], "event_left.topic": "a"}, r"inputs event and event_left are all event"),
    ({"target_cameras": ["lidar"]}, r"target_cameras names 'lidar', which is no input with a camera; one of: rgb"),
    ({"target_cameras": []}, r"target_cameras = \[\] must name at least one input"),
    ({"rgb.info_topic": ""}, r"target camera rgb has no intrinsics: give rgb\.info_topic, or its camera in calib"),
    ({"lidar.view": "left"}, r"lidar\.view = 'left' must be empty or one of target_cameras: rgb"),
    ({**VIEWS, "rgb.view": "rgb_left"}, r"rgb\.view = 'rgb_left', but rgb is a target camera, whose view is its own"),
    ({**VIEWS, "min_modalities": 2}, r"min_modalities = 2 exceeds the 1 modalities of the enabled inputs in the view "
                                     r"of rgb: rgb"),
    ({"fixed_frame": "/"}, "fixed_frame is empty"),
    ({"lidar.message_type": "sensor_msgs/msg/LaserScan"}, r"'sensor_msgs/msg/LaserScan' must be one of "
                                                          r"sensor_msgs/msg/PointCloud2"),
])
def test_a_rig_that_cannot_be_is_refused_by_name(values, complaint):
    with pytest.raises(ConfigError, match=complaint):
        Config.from_mapping(values)


def test_a_topic_is_the_enabled_inputs_though_a_disabled_one_names_it():
    config = Config.from_mapping({"depth.topic": "points", "lidar.enabled": False})
    assert config.topic_roles()["/points"] == config.used_topics()["/points"] == "depth"


def test_views_hold_their_own_inputs_and_those_of_all():
    config = Config.from_mapping({**VIEWS, "inputs": [*VIEWS["inputs"], "depth", "depth_left", "lidar"],
                                  "depth.view": "rgb", "depth_left": {"view": "rgb_left", "topic": "d"}})
    assert config.views() == {"rgb": ["rgb", "depth", "lidar"], "rgb_left": ["rgb_left", "depth_left", "lidar"]}
    assert Config().views() == {"rgb": ["rgb", "depth", "event", "lidar"]}
    assert Config.from_mapping({**TWO, "rgb_left.enabled": False}).views()["rgb"] == ["rgb", "rgb_left"]
