"""Segmentation on a delivery robot or vehicle: `ros2 launch mss_perception delivery.launch.py`.

Arguments: `ros2 launch mss_perception delivery.launch.py --show-args`.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription

CONFIG = Path(__file__).resolve().parents[1] / "config"
TRANSPORTS = "FASTDDS_BUILTIN_TRANSPORTS"
LARGE_MESSAGES = "DEFAULT?sockets_size=16MB"
RESPAWN_SEC = 2.0
CLOCK_OF_PLAYER = {"true": ["--clock"], "false": ["--no-clock"], "": []}     # without either it reads the file, too

ARGUMENTS = [
    DeclareLaunchArgument("config", default_value=str(CONFIG / "delivery.yaml"),
                          description="Parameter file of the node"),
    DeclareLaunchArgument("checkpoint", default_value="",
                          description="Network (.safetensors); empty: the parameter file's, else the shipped one"),
    DeclareLaunchArgument("calibration_file", default_value="",
                          description="YAML with extrinsics and intrinsics; empty: the parameter file's"),
    DeclareLaunchArgument("use_sim_time", default_value="", choices=["", "true", "false"],
                          description="Take time from /clock; empty: as the parameter file says, else no"),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and its topics"),
    DeclareLaunchArgument("bag", default_value="",
                          description="Bag to play as the sensors; empty: real sensors publish. Without tf2 give "
                                      "calibration_file as well, or use replay.launch.py, which takes it from the bag"),
    DeclareLaunchArgument("on_exit", default_value="", choices=["", "nothing", "shutdown", "respawn"],
                          description="When the node ends: nothing, shutdown of all that was launched, also by a file "
                                      "that includes this one, or respawn after 2 s; empty: shutdown with a bag, else "
                                      "nothing"),
    DeclareLaunchArgument("viewer", default_value="none", choices=["none", "rviz", "foxglove"],
                          description="Start a viewer; foxglove: the bridge, load config/foxglove_layout.json there"),
    DeclareLaunchArgument("transports", default_value=EnvironmentVariable(TRANSPORTS, default_value=LARGE_MESSAGES),
                          description=f"{TRANSPORTS}: this value brings images and clouds whole; a value that is "
                                      "already set stays. Drivers that are started elsewhere need it too"),
    DeclareLaunchArgument("log_level", default_value="info", choices=["debug", "info", "warn", "error"],
                          description="Least severe messages that are logged"),
]


def nodes(context) -> list:
    given = {name: LaunchConfiguration(name).perform(context) for name in (
        "config", "checkpoint", "calibration_file", "use_sim_time", "namespace", "bag", "on_exit", "viewer",
        "log_level")}
    # An argument that is not given must not hide what the parameter file says.
    overrides = {name: given[name] for name in ("checkpoint", "calibration_file") if given[name]}
    clock = {"use_sim_time": given["use_sim_time"] == "true"} if given["use_sim_time"] else {}
    # A vehicle's bringup must not end with its segmentation; a replay is over without it.
    on_exit = given["on_exit"] or ("shutdown" if given["bag"] else "nothing")
    at_end = {"nothing": {}, "shutdown": {"on_exit": Shutdown(reason="the segmentation node ended")},
              "respawn": {"respawn": True, "respawn_delay": RESPAWN_SEC}}[on_exit]
    actions = [Node(package="mss_perception", executable="segmentation_node", name="mss_perception",
                    namespace=given["namespace"], output="screen",
                    parameters=[given["config"], {**clock, **overrides}],
                    arguments=["--ros-args", "--log-level", given["log_level"]], **at_end)]
    if given["bag"]:
        actions.append(Node(package="mss_perception", executable="player", namespace=given["namespace"],
                            output="screen",
                            arguments=[given["bag"], "--config", given["config"], "--wait", "120"]
                            + CLOCK_OF_PLAYER[given["use_sim_time"]]))
    if given["viewer"] == "rviz":
        actions.append(Node(package="rviz2", executable="rviz2", arguments=["-d", str(CONFIG / "mss_perception.rviz")],
                            parameters=[clock]))
    if given["viewer"] == "foxglove":
        actions.append(Node(package="foxglove_bridge", executable="foxglove_bridge",
                            parameters=[clock]))
    return actions


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, SetEnvironmentVariable(TRANSPORTS, LaunchConfiguration("transports")),
                              OpaqueFunction(function=nodes)])
