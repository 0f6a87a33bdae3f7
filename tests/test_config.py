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
