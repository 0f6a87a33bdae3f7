"""Sensor data of one frame through the lanes of the robot: what the network is trained on is what it will be given."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mss_models.modality import DELIVER_ENCODINGS, Encoding
from mss_perception import messages
from mss_perception.config import DEFAULTS
from mss_perception.depth import DepthLane
from mss_perception.events import EventLane
from mss_perception.hha import level_of
from mss_perception.image import ImageLane
from mss_perception.lidar import LidarLane, point_times_ns
from mss_perception.radar import RadarLane, cloud_detections
from mss_perception.transforms import Transforms
from training.synthetic import bag
from training.synthetic.recorder import Recorder
from training.synthetic.rig import COARSE, MS, TIMING, Rig

RADAR = DEFAULTS["radar"]
_HISTORY_NS = 120 * MS  # of odometry before a frame: more than a sweep


class Lanes:
    """The lanes for a rig, at its rgb camera's size: `image`, `depth`, `hha`, `lidar`, `radar`, `event`.

    encodings: of rgb, depth, lidar, radar and event. Events of a coarse camera become an image as coarse as it."""

    def __init__(self, rig: Rig, encodings: Mapping[str, Encoding]) -> None:
        self.rig = rig
        target, size = rig.rgb, (rig.rgb.height, rig.rgb.width)
        self.image = ImageLane(encodings["rgb"], target, *size)
        self.depth = DepthLane(encodings["depth"], target, *size)
        self.hha = DepthLane(DELIVER_ENCODINGS["depth"], target, *size)
        self.lidar = LidarLane(encodings["lidar"], target, *size)
        self.radar = RadarLane(encodings["radar"], target, *size)
        if rig.event.width < rig.depth.width:
            size = size[0] // COARSE, size[1] // COARSE
        self.event = EventLane(
            encodings["event"], target, *size, rig.event, rig.between(target.frame_id, rig.event.frame_id)
        )

    def frame(self, recorder: Recorder, t_ns: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Record every sensor around the rgb frame of t_ns: lane -> image u8 (H, W, 3), and labels (H, W) u8.

        The sensors measure at their own times; the lanes bring them to t_ns by the odometry, as on the robot."""
        rig, target, types = self.rig, self.rig.rgb.frame_id, messages.bag_types()
        where = Transforms()
        where.add_message(bag.static_transforms(types, rig, t_ns))
        for at in range(t_ns - _HISTORY_NS, t_ns + _HISTORY_NS // 4, TIMING["odom"].period_ns):
            where.add_odometry(bag.odometry(types, recorder.drive, at))
        pixels, labels = recorder.rgb(t_ns)
        depth_ns, sweep_ns = t_ns + TIMING["depth"].offset_ns, t_ns + TIMING["lidar"].offset_ns
        distances = recorder.depth(depth_ns)
        T_target_depth = where.motion(target, rig.depth.frame_id, depth_ns, t_ns).T[0]
        cloud = messages.decode_cloud(messages.encode_cloud(types, recorder.sweep(sweep_ns), sweep_ns, "lidar"))
        motion = where.motion(target, "lidar", point_times_ns(cloud), t_ns)
        scan_ns = t_ns + TIMING["radar"].offset_ns
        scan = messages.decode_cloud(messages.encode_cloud(types, recorder.radar(scan_ns), scan_ns, "radar"))
        found = cloud_detections(scan, RADAR.intensity_min, RADAR.intensity_max)
        T_target_radar = where.motion(target, "radar", scan_ns, t_ns)
        packets = list(recorder.events(t_ns - self.event.window_ns, t_ns))
        return {
            "rgb": self.image(pixels).image,
            "depth": self.depth(distances, rig.depth, T_target_depth).image,
            "hha": self.hha(distances, rig.depth, T_target_depth, level_of(where, target, "base_link", t_ns)).image,
            "event": self.event(packets, t_ns).image,
            "lidar": self.lidar(cloud, motion, True).image,
            "radar": self.radar.draw([self.radar.locate(found, T_target_radar)]).image,
        }, labels
