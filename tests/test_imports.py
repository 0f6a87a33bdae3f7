"""Imports point downwards only: training -> mss_perception -> mss_models; ROS is imported in the ROS files alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from conftest import ROOT

OURS = {"mss_models", "mss_perception", "training", "benchmarks", "fuzz"}
MAY_IMPORT = {
    "mss_models": {"mss_models"},
    "mss_perception": {"mss_perception", "mss_models"},
    "training": {"training", "mss_perception", "mss_models"},
    "benchmarks": OURS,
    "fuzz": OURS,
}
ROS = {"rclpy", "sensor_msgs", "std_msgs", "nav_msgs", "geometry_msgs", "diagnostic_msgs", "rosgraph_msgs",
       "message_filters", "cv_bridge", "sensor_msgs_py", "tf2_ros", "tf2_msgs", "vision_msgs", "event_camera_msgs",
       "launch", "launch_ros", "rcl_interfaces", "lifecycle_msgs", "builtin_interfaces"}
FILES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file, by its dotted name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            names.add(node.module)
    return names


def is_ros_file(path: Path) -> bool:
    return path.name.startswith("ros_") or path.parent.name == "mss_perception" and path.name == "node.py"


def test_every_package_has_files():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} >= {"mss_models", "mss_perception", "training"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    package = path.relative_to(ROOT).parts[0]
    roots = {name.partition(".")[0] for name in imported(path)}
    upwards = roots & OURS - MAY_IMPORT[package]
    assert not upwards, f"{package} must not import {sorted(upwards)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_ros_is_imported_in_the_ros_files_only(path):
    if is_ros_file(path):
        return
    names = imported(path)
    ros = {name.partition(".")[0] for name in names} & ROS
    assert not ros, f"only node.py and ros_*.py import ROS; this imports {sorted(ros)}"
    ours = {name for name in names if name.startswith(("mss_perception.ros_", "mss_perception.node"))}
    assert not ours, f"this imports {sorted(ours)}, which needs ROS"
