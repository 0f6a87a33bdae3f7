"""The launch files, with ROS's launch; it is not on PyPI, so these tests need a ROS installation (or its sources)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from conftest import ROOT

from mss_perception.live import LARGE_MESSAGES, TRANSPORTS

try:
    # Not `import launch`: in the repository root that finds our own launch/ folder.
    from launch.actions import (
        DeclareLaunchArgument,
        ExecuteProcess,
        IncludeLaunchDescription,
        RegisterEventHandler,
        SetEnvironmentVariable,
        Shutdown,
    )
    from launch.events.process import ProcessExited
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    from launch.utilities import perform_substitutions
    from launch_ros.actions import Node

    from launch import LaunchContext, LaunchDescription, LaunchService
except ImportError as error:
    pytest.skip(f"ROS's launch is not installed ({error}): the launch files cannot be run", allow_module_level=True)



def load(name: str) -> LaunchDescription:
    source = PythonLaunchDescriptionSource(str(ROOT / "launch" / name))
    return source.get_launch_description(LaunchContext())


def unfold(description: LaunchDescription, **given: str) -> tuple[LaunchContext, list]:
    """Execute the description as `ros2 launch` does, short of starting processes; the actions that are left."""
    context, found = LaunchContext(), []
    context.launch_configurations.update(given)
    waiting = list(description.entities)
    while waiting:
        entity = waiting.pop(0)
        if isinstance(entity, Node | RegisterEventHandler):
            found.append(entity)
        else:
            waiting = list(entity.visit(context) or ()) + waiting
    return context, found


@pytest.mark.parametrize("name", ["delivery.launch.py", "replay.launch.py"])
def test_every_argument_is_described(name):
    arguments = [one for one in load(name).entities if isinstance(one, DeclareLaunchArgument)]
    assert arguments and all(one.description and one.description != "no description given" for one in arguments)


def executables(nodes: list) -> list[str]:
    return [node.node_executable for node in nodes if isinstance(node, Node)]


def test_delivery_starts_the_node_alone_by_default():
    _, nodes = unfold(load("delivery.launch.py"))
    assert executables(nodes) == ["segmentation_node"]


def test_delivery_plays_a_bag_and_opens_a_viewer_when_asked():
    _, nodes = unfold(load("delivery.launch.py"), bag="/data/drive", viewer="rviz")
    assert executables(nodes) == ["segmentation_node", "player", "rviz2"]


@pytest.mark.parametrize("before", [None, "UDPv4"])
def test_transports_are_set_unless_they_are_already(monkeypatch, before):
    monkeypatch.delenv(TRANSPORTS, raising=False)
    if before:
        monkeypatch.setenv(TRANSPORTS, before)
    description = load("delivery.launch.py")
    assert any(isinstance(one, SetEnvironmentVariable) for one in description.entities)
    context, _ = unfold(description)
    assert context.environment[TRANSPORTS] == (before or LARGE_MESSAGES)


def command(node: Node, context: LaunchContext) -> list[str]:
    """The command line that a node would be started with; parameters in files are replaced by their text."""
    node._perform_substitutions(context)
    context.extend_locals({"ros_specific_arguments": defaultdict(str)})     # name and namespace, known when it starts
    words = [perform_substitutions(context, word) for word in node.cmd]
    return [Path(word).read_text() if "launch_params" in word else word for word in words]


@pytest.mark.parametrize("given", ["", "true", "false"])
def test_use_sim_time_hides_the_parameter_files_only_when_it_is_given(given, monkeypatch):
    monkeypatch.setattr("launch_ros.substitutions.ExecutableInPackage.perform", lambda *_: "/bin/true")
    context, (node, player) = unfold(load("delivery.launch.py"), bag="/data/drive",
                                     **({"use_sim_time": given} if given else {}))
    words = command(node, context)
    assert any(f"use_sim_time: {given}" in word for word in words) == bool(given)
    words = command(player, context)
    # Without either the player does as the parameter file says, which it reads.
    assert [word for word in words if "clock" in word] == {"true": ["--clock"], "false": ["--no-clock"], "": []}[given]
    assert "--config" in words


@pytest.mark.parametrize(("given", "at_end"), [
    ({}, "nothing"), ({"bag": "/data/drive"}, "shutdown"), ({"on_exit": "shutdown"}, "shutdown"),
    ({"bag": "/data/drive", "on_exit": "nothing"}, "nothing"), ({"on_exit": "respawn"}, "respawn")])
def test_a_node_that_ends_takes_what_includes_it_along_only_when_asked(monkeypatch, tmp_path, given, at_end):
    """Really launched, but for the programs: the node ends at once, and what was started beside it goes on, or not."""
    starts, survived = tmp_path / "starts", tmp_path / "survived"
    starts.touch()
    program = tmp_path / "node"
    program.write_text(f"#!/bin/sh\necho >> {starts}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr("launch_ros.substitutions.ExecutableInPackage.perform", lambda *_: str(program))
    source = PythonLaunchDescriptionSource(str(ROOT / "launch/delivery.launch.py"))
    service = LaunchService()
    wait, patience = (2 if at_end == "respawn" else 1), (60 if at_end == "shutdown" else 1)
    until = f"while [ $(wc -l < {starts}) -lt {wait} ]; do sleep 0.1; done"
    beside = ExecuteProcess(cmd=["sh", "-c", f"{until}; sleep {patience}; touch {survived}"], on_exit=[Shutdown()])
    service.include_launch_description(LaunchDescription([
        beside, IncludeLaunchDescription(source, launch_arguments=given.items())]))
    service.run()
    assert survived.exists() == (at_end != "shutdown")
    if "bag" not in given:      # whose player is the same program
        assert (len(starts.read_text().splitlines()) > 1) == (at_end == "respawn")


@pytest.mark.parametrize(("returncode", "started"), [(0, [IncludeLaunchDescription, Node]), (2, [Shutdown])])
def test_replay_writes_the_calibration_first_and_goes_on_only_with_it(monkeypatch, returncode, started):
    monkeypatch.setattr("launch_ros.substitutions.ExecutableInPackage.perform", lambda *_: "/bin/true")
    context, (first, handler) = unfold(load("replay.launch.py"), bag="/data/drive", config="/data/node.yaml",
                                       faults="rgb:drop@1-2 lidar:drop@3-4")
    words = command(first, context)
    assert words[words.index("--config") + 1] == "/data/node.yaml" and "--write-calibration" in words
    event = ProcessExited(action=first, name="player", cmd=words, cwd=None, env=None, pid=1, returncode=returncode)
    follow_up = handler.event_handler.handle(event, context)
    assert [type(one) for one in follow_up] == started
    if not returncode:
        assert command(follow_up[1], context).count("--fault") == 2


@pytest.mark.parametrize("stay", ["true", "false"])
def test_a_replay_that_has_ended_ends_without_an_error(monkeypatch, stay):
    """Really launched, but for the programs: each of them ends at once."""
    monkeypatch.setattr("launch_ros.substitutions.ExecutableInPackage.perform", lambda *_: "/bin/true")
    source = PythonLaunchDescriptionSource(str(ROOT / "launch/replay.launch.py"))
    service = LaunchService()
    service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
        source, launch_arguments={"bag": "/data/drive", "stay": stay}.items())]))
    assert service.run() == 0
