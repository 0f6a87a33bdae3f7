"""The LiDAR's points over the camera image of one moment: the picture that shows whether a calibration is right.

    python -m mss_perception.show_projection BAG --out projection.png [--config FILE] [--at SECONDS]

Points go the way that they go in the node: deskewed where the bag has odometry, through the same transforms and
distortion. --crop looks closer; --turn adds a rotation of the LiDAR, to see what an error of that size looks like.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mss_perception import draw
from mss_perception.bags import BagError, bag_summary, read_bag
from mss_perception.calibration import CalibrationError
from mss_perception.config import Config, ConfigError, modality_of
from mss_perception.lidar import point_times_ns
from mss_perception.messages import decode_cloud, decode_image, stamp_ns
from mss_perception.options import number
from mss_perception.projection import Motion, project_points
from mss_perception.sensors import INVALID_DATA, Sensors
from mss_perception.units import SECOND

AROUND_SEC = 0.5        # messages this far from the moment are looked at
LEAST_WIDTH = 960       # a smaller picture is enlarged, so that single points can be told apart


class ProjectionError(ValueError):
    """There is no picture to make. The message names what is missing and what the bag has."""


def show(bag: str | Path, config: Config, at_sec: float | None = None, turn_deg: Sequence[float] = (0, 0, 0),
         crop: Sequence[int] | None = None, camera: str = "", lidar: str = "") -> tuple[np.ndarray, int]:
    """(picture (H, W, 3) uint8 RGB, points in the image) of the image nearest to `at_sec` after the bag's start (its
    middle when None) and the cloud nearest to that image.

    turn_deg: roll, pitch, yaw by which the LiDAR is turned about its own x, y, z (degrees), in this order. crop: left,
    top, width, height in pixels of the image; the whole image when None. camera, lidar: inputs; '' is the first rgb or
    lidar of the configuration.
    Raises ProjectionError, BagError, or one of sensors.INVALID_DATA.
    """
    camera, lidar = _input(config, "rgb", camera), _input(config, "lidar", lidar)
    summary = bag_summary(bag)
    needed = (camera, f"{camera}/info", lidar, "odom", "tf", "tf_static")
    roles = {topic: role for topic, role in config.topic_roles().items() if topic in summary.topics and role in needed}
    missing = [f"{config.inputs[name].topic} ({name})" for name in (camera, lidar) if name not in roles.values()]
    if missing:
        raise ProjectionError(f"bag {bag} has no {' and no '.join(missing)}; it has "
                              f"{', '.join(summary.topics) or 'nothing'}. Name the topics in --config")
    at_sec = (summary.end_ns - summary.start_ns) / SECOND / 2 if at_sec is None else at_sec
    moment = summary.start_ns + round(at_sec * SECOND)

    # Everything up to a little after the moment is learnt; images and clouds are kept from around it.
    sensors, images, clouds = Sensors(config, {}, (1, 1)), [], []
    near = {camera: images, lidar: clouds}
    for topic, receive_ns, message in read_bag(bag, list(roles)):
        if receive_ns > moment + round(AROUND_SEC * SECOND):
            break
        role = roles[topic]
        if role in near and abs(receive_ns - moment) <= AROUND_SEC * SECOND:
            near[role].append(message)
        elif role not in near:
            sensors.learn(role, message)
    if not images or not clouds:
        raise ProjectionError(f"bag {bag} has {len(images)} images and {len(clouds)} clouds within {AROUND_SEC:g} s of "
                              f"{at_sec:g} s; it lasts {(summary.end_ns - summary.start_ns) / SECOND:.1f} s")
    if camera not in sensors.cameras:
        raise ProjectionError(f"no camera_info on {config.inputs[camera].info_topic!r} before {at_sec:g} s and no "
                              f"camera {camera!r} in calibration_file")

    image, settings, target = (min(images, key=lambda one: abs(stamp_ns(one.header) - moment)), config.inputs[lidar],
                               sensors.cameras[camera])
    t_ref = config.inputs[camera].true_ns(stamp_ns(image.header))
    due = t_ref + round(settings.offset_sec * SECOND)
    message = min(clouds, key=lambda one: abs(settings.true_ns(stamp_ns(one.header)) - due))
    cloud = decode_cloud(message)
    frame = (settings.frame_id or cloud.frame_id).lstrip("/")
    motion, _ = sensors.moved(lidar, target.frame_id, frame, message, point_times_ns(cloud, settings.time_unit), t_ref)
    motion = Motion(motion.T @ turned(turn_deg), motion.knot)

    pixels = decode_image(image)
    if pixels.ndim != 3:
        pixels = cv2.cvtColor(pixels.astype(np.uint8), cv2.COLOR_GRAY2RGB)
    height, width = pixels.shape[:2]
    left, top, across, down = crop or (0, 0, width, height)
    if left < 0 or top < 0 or across < 1 or down < 1 or left + across > width or top + down > height:
        raise ProjectionError(f"--crop {left} {top} {across} {down} does not lie in the image of {width} x {height}")
    points = project_points(cloud.xyz(), motion, target.scaled(width, height))
    enlarge = max(1, -(-LEAST_WIDTH // across))
    under = cv2.resize(draw.greyed(np.ascontiguousarray(pixels[top:top + down, left:left + across])), None,
                       fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)
    # Pixel corners, not centres, stay where they are.
    uv = (points.uv - (left, top) + 0.5) * enlarge - 0.5
    distance = np.linalg.norm(points.xyz, axis=1)
    return draw.points_over(under, uv, distance), len(points.index)


def _input(config: Config, modality: str, name: str) -> str:
    """An input of that modality by its name, the first when none is given. Raises ProjectionError."""
    there = [one for one in config.inputs if modality_of(one) == modality]
    if not there or name and name not in there:
        raise ProjectionError((f"{name!r} is no {modality} of" if name else f"there is no {modality} in")
                              + f" inputs = [{', '.join(config.inputs)}]; a lidar's points are drawn over an rgb")
    return name or there[0]


def turned(turn_deg: Sequence[float]) -> np.ndarray:
    """(4, 4) rotation by roll, pitch and yaw in degrees about the fixed axes x, y, z, in this order."""
    T = np.eye(4)
    for axis, angle in zip(np.eye(3), np.radians(turn_deg), strict=True):
        T[:3, :3] = cv2.Rodrigues(axis * angle)[0] @ T[:3, :3]
    return T


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mss_perception.show_projection",
                                     description=__doc__.splitlines()[0])
    parser.add_argument("bag", type=Path, help="rosbag2 folder, or an .mcap or .db3 file")
    parser.add_argument("--out", type=Path, required=True, help="PNG file to write")
    parser.add_argument("--config", type=Path, help="the node's parameter file: topics, calibration_file, offsets")
    parser.add_argument("--at", type=number, metavar="SECONDS", help="after the bag's start (default its middle)")
    parser.add_argument("--camera", default="", metavar="INPUT", help="of several, the one whose image is shown")
    parser.add_argument("--lidar", default="", metavar="INPUT", help="of several, the one whose points are drawn")
    parser.add_argument("--crop", type=int, nargs=4, metavar=("LEFT", "TOP", "WIDTH", "HEIGHT"),
                        help="show this part of the image, in its pixels")
    parser.add_argument("--turn", type=number, nargs=3, default=(0, 0, 0), metavar=("ROLL", "PITCH", "YAW"),
                        help="turn the LiDAR by these degrees about its own x, y and z")
    options = parser.parse_args(argv)
    try:
        config = Config.from_yaml(options.config) if options.config else Config()
        picture, count = show(options.bag, config, options.at, options.turn, options.crop, options.camera,
                              options.lidar)
        # 256 colours are enough for grey with coloured dots, and a third of the size.
        Image.fromarray(picture).quantize(256).save(options.out, "PNG", optimize=True)
    except (ProjectionError, BagError, CalibrationError, ConfigError, *INVALID_DATA) as error:
        print(f"show_projection: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"show_projection: cannot write {options.out}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"{options.out}: {count} points in the image")
    return 0


if __name__ == "__main__":
    sys.exit(main())
