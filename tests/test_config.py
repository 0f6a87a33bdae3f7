"""config.py: which sections of a ROS 2 parameter file count, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mss_perception.config import Config, ConfigError

SECTIONS = """
/camera_driver:
  ros__parameters: {exposure: 3, device: /dev/video0}
/robot/mss_perception:
  ros__parameters:
    tick_rate_hz: 5.0
    lidar: {offset_sec: 0.05}
/**:
  ros__parameters:
    use_sim_time: true
    tick_rate_hz: 20.0
    min_modalities: 2
    lidar: {offset_sec: 0.5, tolerance_sec: 0.04}
    qos_overrides: {/image: {subscription: {depth: 3}}}
"""


def read(tmp_path: Path, text: str) -> Config:
    (tmp_path / "parameters.yaml").write_text(text)
    return Config.from_yaml(tmp_path / "parameters.yaml")


def test_wildcard_and_own_section_are_merged_and_other_nodes_left_out(tmp_path):
    config = read(tmp_path, SECTIONS)
    assert config.collector.tick_rate_hz == 5.0 and config.collector.min_modalities == 2 and config.device == "auto"
    assert config.inputs["lidar"].offset_sec == 0.05 and config.inputs["lidar"].tolerance_sec == 0.04


@pytest.mark.parametrize("name", ["mss_perception", "/mss_perception", "/**/mss_perception", "/**", "/*"])
def test_the_nodes_section_is_found_by_each_of_its_names(tmp_path, name):
    assert read(tmp_path, f"{name}: {{ros__parameters: {{tick_rate_hz: 7}}}}").collector.tick_rate_hz == 7.0


def test_a_plain_mapping_serves_as_well(tmp_path):
    assert read(tmp_path, "tick_rate_hz: 7\nlidar: {enabled: false}").inputs["lidar"].enabled is False


@pytest.mark.parametrize("text, complaint", [
    ("/other: {ros__parameters: {tick_rate_hz: 7}}", "has parameters of /other, none of mss_perception"),
    ("/**: {ros__parameters: {model_log: 7}}", "unknown parameter 'model_log'"),
    ("/**: {ros__parameters: {tick_rat_hz: 7}}", "meant tick_rate_hz"),
    ("/**: {ros__parameters: [tick_rate_hz]}", "unknown parameter"),
    ("[1, 2]", "holds list, not a mapping"),
])
def test_what_cannot_be_meant_is_refused(tmp_path, text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        read(tmp_path, text)


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
