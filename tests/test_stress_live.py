"""The short form of `python -m mss_perception.stress --live`: one storm through the node, all processes real."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed: the node cannot be tested")
import ros_peer  # noqa: E402

from mss_perception.stress import __main__ as stress  # noqa: E402


def test_a_live_storm_breaks_nothing(tmp_path):
    """Two sensors are absent at first; then a tempest in which all stamps go back and one's process is killed."""
    network = ros_peer.random_network(tmp_path)
    status = stress.main(["--live", "--storms", "1", "--storm-seconds", "9", "--rate", "2", "--seed", "2457",
                          "--checkpoint", str(network), "--out", str(tmp_path)])
    result = json.loads((tmp_path / "stress.json").read_text())
    assert (status, result["violations"]) == (0, [])
    sent = result["messages"]
    assert {"rgb", "rgb/info", "depth", "lidar", "event", "clock", "odom"} <= sent.keys()
    assert result["faults"]["publisher killed"] == 1 and result["epochs"] == 2 and result["outputs"] > 100
    assert {"what is dead is in no set", "nothing waits for what is dead", "each output has its labels",
            "SIGINT ends the node in time"} <= result["judged"].keys()
