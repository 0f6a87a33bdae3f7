"""The SROS 2 policy: what is in the file, and what other configurations change. test_docs.py has it beside a node."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from conftest import ROOT

from mss_perception import policy
from mss_perception.config import Config


def names(text: str) -> dict[str, list[str]]:
    """Permission -> names of a policy of one enclave with one profile."""
    profile, = ElementTree.fromstring(text).iter("profile")
    return {f"{group.tag} {right}": [one.text for one in group]
            for group in profile for right, value in group.attrib.items() if value == "ALLOW"}


def test_the_file_is_that_of_the_default_configuration():
    assert (ROOT / "config/sros2_policy.xml").read_text() == policy.policy(Config()), \
        "out of date: python -m mss_perception.policy > config/sros2_policy.xml"


def test_the_file_allows_three_kinds_of_things_by_name():
    allowed = names((ROOT / "config/sros2_policy.xml").read_text())
    assert set(allowed) == {"topics subscribe", "topics publish", "services reply"}
    assert {"image", "points", "/tf"} <= set(allowed["topics subscribe"])
    assert {"~/segmentation", "/diagnostics", "/rosout"} <= set(allowed["topics publish"])
    assert {"~/change_state", "~/set_parameters"} <= set(allowed["services reply"])
    assert not any("*" in name for group in allowed.values() for name in group)


def test_topics_are_the_configurations_own():
    config = Config.from_mapping({
        "inputs": ["rgb_left", "rgb_right", "depth", "lidar"], "rgb_left.topic": "left/image",
        "rgb_left.info_topic": "left/info", "rgb_right.topic": "/right/image", "rgb_right.info_topic": "/right/info",
        "target_cameras": ["rgb_left", "rgb_right"], "depth.enabled": False, "odometry_topic": ""})
    allowed = names(policy.policy(config, "/robot"))
    assert allowed["topics subscribe"] == ["left/image", "left/info", "/right/image", "/right/info", "points", "/tf",
                                           "/tf_static", "/clock"]
    outputs = allowed["topics publish"]
    assert "~/rgb_left/segmentation/color" in outputs and "~/rgb_right/modality_mask" in outputs
    assert "~/segmentation" not in outputs and outputs.count("/diagnostics") == outputs.count("~/label_info") == 1
    tree = ElementTree.fromstring(policy.policy(config, "/robot"))
    assert next(tree.iter("enclave")).get("path") == "/robot/mss_perception"
    assert next(tree.iter("profile")).get("ns") == "/robot"


def test_the_command(tmp_path, capsys):
    file = tmp_path / "parameters.yaml"
    file.write_text("lidar.topic: /top/points\n")
    assert policy.main(["--config", str(file), "--namespace", "/left"]) == 0
    assert "/top/points" in names(capsys.readouterr().out)["topics subscribe"]
    file.write_text("lidar.topic: 5\n")
    assert policy.main(["--config", str(file)]) == 2
    assert "lidar.topic" in (error := capsys.readouterr().err) and error.count("\n") == 1
    with pytest.raises(SystemExit) as stop:
        policy.main(["--namespace", "left"])
    assert stop.value.code == 2
