"""A bag through the node in real time, with faults: `ros2 launch mss_perception replay.launch.py bag:=DIR`.

The bag gives the time (/clock), the intrinsics and the extrinsics. For a run without ROS, which is deterministic and
scores itself, see `python -m mss_perception.replay --help`.
"""

from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.logging import launch_config
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "config"

ARGUMENTS = [
    DeclareLaunchArgument("bag", description="rosbag2 folder to play (MCAP or sqlite3)"),
    DeclareLaunchArgument("faults", default_value="",
                          description="Faults to put in, separated by blanks, e.g. 'rgb:drop@3-5 lidar:delay=0.3@6-8'"),
    DeclareLaunchArgument("rate", default_value="1.0", description="Speed of the replay"),
    DeclareLaunchArgument("loops", default_value="1", description="Times to play the bag"),
    DeclareLaunchArgument("stay", default_value="false", choices=["true", "false"],
                          description="Keep the node running when the bag has ended"),
    DeclareLaunchArgument("config", default_value=str(CONFIG / "delivery.yaml"),
                          description="Parameter file of the node"),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and its topics"),
]


def actions(context) -> list:
    given = {name: LaunchConfiguration(name).perform(context)
             for name in ("bag", "faults", "rate", "loops", "stay", "config", "namespace")}
    calibration = Path(launch_config.log_dir) / "calibration.yaml"     # this launch's own log folder
    player = {"package": "mss_perception", "executable": "player", "namespace": given["namespace"], "output": "screen"}
    write_calibration = Node(**player, arguments=[given["bag"], "--config", given["config"],
                                                  "--write-calibration", str(calibration)])
    # Nothing rather than an empty list, which launch does not take.
    at_end = {} if given["stay"] == "true" else {"on_exit": [Shutdown(reason="the bag has ended")]}
    play = Node(**player, **at_end, arguments=[given["bag"], "--clock", "--config", given["config"],
                                               "--rate", given["rate"], "--loops", given["loops"], "--wait", "120"]
                + [word for fault in given["faults"].split() for word in ("--fault", fault)])
    delivery = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / "delivery.launch.py")),
        launch_arguments={"use_sim_time": "true", "bag": "", "on_exit": "shutdown",
                          "calibration_file": str(calibration)}.items())

    def start(event, context) -> list:
        """What follows the calibration. Without it the LiDAR would have no place, and the cause would scroll away."""
        return [Shutdown(reason="the bag's calibration cannot be written")] if event.returncode else [delivery, play]

    return [write_calibration, RegisterEventHandler(OnProcessExit(target_action=write_calibration, on_exit=start))]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=actions)])
