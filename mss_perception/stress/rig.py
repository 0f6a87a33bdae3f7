"""A rig, drawn from a seed: its sensors, what the node is told of them, and what each sends when all is well.

Times are ns. Pictures are small and made of noise that was drawn once: a storm is about time, not about streets.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import numpy as np

from mss_perception import messages
from mss_perception.camera import Camera
from mss_perception.config import CAMERAS, Config, modality_of
from mss_perception.units import SECOND

MS = 1_000_000
START_NS = 1_700_000_000 * SECOND
SIZE = 32                   # of the network's pictures
POINTS, EVENTS = 60, 20     # in a message
EVENT_PERIOD_SEC = 0.01
FRAMES = {"rgb": "camera", "rgb_left": "left", "depth": "depth", "event": "event", "lidar": "lidar",
          "lidar_rear": "rear"}
RATES_HZ = {"rgb": (10, 20, 30), "depth": (10, 15, 30), "lidar": (5, 10, 20), "event": (1 / EVENT_PERIOD_SEC,)}
INFO_HZ, ODOMETRY_HZ = 30, 50       # at most, and always
NOISE = np.random.default_rng(0).integers(0, 256, 1 << 15, np.uint8)
CAMERA = Camera(48, 32, np.array([[40.0, 0, 23.5], [0, 40, 15.5], [0, 0, 1]]), "plumb_bob", (0.0,) * 5)
# What a camera may be reconfigured to: the first is what it begins with.
CAMERAS_OF_A_DRIVER = (
    CAMERA, replace(CAMERA, K=CAMERA.K * [[1.1], [1.1], [1]]), CAMERA.scaled(36, 24),
    replace(CAMERA, D=(-0.1, 0.01, 0.0, 0.0, 0.0)))
NOWHERE = "nowhere"         # a frame that no transform knows


@dataclass(frozen=True)
class Sensor:
    """A sensor that works: samples at phase + k period, stamped with that time plus its offset, up to `jitter` off;
    each arrives `latency` to `latency + shake` later. covers: of a stream, what a packet covers from its stamp on."""

    name: str
    period_ns: int
    phase_ns: int
    jitter_ns: int
    latency_ns: int
    shake_ns: int
    offset_ns: int
    covers_ns: int

    @property
    def lag_ns(self) -> tuple[int, int]:
        """From the newest that a message knows of, by its stamp, to its arrival: at least, at most."""
        lag = self.latency_ns - self.covers_ns
        return lag - self.jitter_ns, lag + self.jitter_ns + self.shake_ns


class Rig:
    """sensors: name -> Sensor, of the inputs that are enabled. config: as the node has it. factor: of the rates."""

    def __init__(self, dice: random.Random, fastest: float):
        """fastest: the most that the sensors' rates may be multiplied by."""
        names = dice.choice([["rgb", "depth", "event", "lidar"]] * 4 + [
            ["rgb", "lidar"], ["rgb", "depth"], ["rgb", "event"], ["rgb"], ["rgb", "depth", "lidar", "lidar_rear"],
            ["rgb", "rgb_left", "lidar", "event"]])
        self.factor = dice.choice([1.0, 1.0, dice.uniform(1, fastest), fastest])
        together = dice.random() < 0.6
        self.sensors = {name: self._sensor(dice, name, together) for name in names}
        self.metres = dice.random() < 0.5               # of depth: 32FC1, else 16UC1
        self.timed_points = dice.random() < 0.5
        self.parameters = self._parameters(dice, names)
        for name, sensor in list(self.sensors.items()):
            self.parameters[f"{name}.offset_sec"] = sensor.offset_ns / SECOND
            if self.parameters.get(f"{name}.enabled") is False:
                del self.sensors[name]
        self.config = Config.from_mapping(self.parameters)

    def _sensor(self, dice: random.Random, name: str, together: bool) -> Sensor:
        period = round(SECOND / dice.choice(RATES_HZ[modality_of(name)]) / self.factor)
        return Sensor(name, period, 0 if together else dice.randrange(period), dice.choice([0, period // 50]),
                      dice.choice([2, 10, 30, 60]) * MS, dice.choice([0, min(3 * MS, period // 8)]),
                      dice.choice([0, 0, 4, -7]) * MS,
                      round(EVENT_PERIOD_SEC * SECOND) if modality_of(name) == "event" else 0)

    def _parameters(self, dice: random.Random, names: list[str]) -> dict:
        targets = [name for name in names if modality_of(name) == "rgb"]
        result = {
            "inputs": names, "target_cameras": targets, "width": SIZE, "height": SIZE,
            "event_period_sec": EVENT_PERIOD_SEC, "publish_points": dice.random() < 0.5,
            "tick_rate_hz": dice.choice([5.0, 10.0, 10.0, 20.0]),
            "deadline_sec": dice.choice([0.03, 0.1, 0.1, 0.25, 0.5]), "max_pending": dice.choice([2, 4, 8, 16]),
            "jump_back_sec": dice.choice([0.3, 1.0]), "late_policy": dice.choice(["drop"] * 5 + ["publish"]),
            "min_modalities": dice.choice([1, 1, 1, 2]) if len(set(map(modality_of, names))) > 1 else 1}
        sources = names
        if len(names) > 1 and dice.random() < 0.1 and len(targets) == 1:
            result["rgb.enabled"], result["min_modalities"] = False, 1
            sources = [name for name in names if name != "rgb"]
        result["tick_source"] = dice.sample(sources, dice.choice([len(sources), dice.randint(1, len(sources))]))
        for name in names:
            result |= {
                f"{name}.tolerance_sec": dice.choice([0.01, 0.03, 0.05, 0.08]),
                f"{name}.hold_sec": dice.choice([0.0] * 5 + [0.15, 0.5]),
                f"{name}.queue": 1000 if modality_of(name) == "event" else dice.choice([2, 10, 50, 100]),
                f"{name}.max_bytes": dice.choice([1 << 16, 1 << 20, 1 << 20]),
                f"{name}.missing_after": dice.choice([1, 2, 3, 3, 5]),
                f"{name}.recover_after": dice.choice([1, 2, 2, 3])}
            if name not in ("rgb", "depth", "event", "lidar"):
                result[f"{name}.topic"] = f"{name}/data"
            if name == "rgb_left":
                result[f"{name}.info_topic"] = f"{name}/camera_info"
        return result

    def is_camera(self, name: str) -> bool:
        return modality_of(name) in CAMERAS

    def cameras(self) -> list[str]:
        """The sensors with a camera_info; a target camera has one also when its images are not wanted."""
        return [name for name in self.config.inputs if self.is_camera(name)]

    def camera(self, name: str, version: int) -> Camera:
        """What the driver of this name says of its camera; the last version is one in a frame that nobody knows."""
        known = version < len(CAMERAS_OF_A_DRIVER)
        return replace(CAMERAS_OF_A_DRIVER[version if known else 0], frame_id=FRAMES[name] if known else NOWHERE)

    @property
    def versions(self) -> int:
        return len(CAMERAS_OF_A_DRIVER) + 1

    # messages --------------------------------------------------------------------------------------------------------

    def message(self, types, role: str, number: int, stamp_ns: int, version: int = 0):
        """The message of a sensor by its name, of `<name>/info`, 'odom' or 'tf_static'. number: two have another
        content when they have another number. types: as of mss_perception.messages."""
        name, _, part = role.partition("/")
        if role == "odom":
            return messages.encode_odometry(types, moved((stamp_ns - START_NS) / SECOND, 0, 0), stamp_ns)
        if role == "tf_static":
            return messages.encode_transforms(types, PLACES, stamp_ns)
        camera = self.camera(name, version) if self.is_camera(name) else None
        if part == "info":
            return messages.encode_camera_info(types, camera, stamp_ns)
        return getattr(self, f"_{modality_of(name)}")(types, number, stamp_ns, FRAMES[name], camera)

    def _rgb(self, types, number: int, stamp_ns: int, frame: str, camera: Camera):
        pixels = noise(number, camera.height * camera.width * 3).reshape(camera.height, camera.width, 3)
        return messages.encode_image(types, pixels, "rgb8", stamp_ns, frame)

    def _depth(self, types, number: int, stamp_ns: int, frame: str, camera: Camera):
        metres = 2 + noise(number, camera.height * camera.width).reshape(camera.height, camera.width) / np.float32(64)
        if self.metres:
            return messages.encode_image(types, metres.astype(np.float32), "32FC1", stamp_ns, frame)
        return messages.encode_image(types, (1000 * metres).astype(np.uint16), "16UC1", stamp_ns, frame)

    def _lidar(self, types, number: int, stamp_ns: int, frame: str, camera: None):
        x, y, z = noise(number, 3 * POINTS).reshape(3, POINTS).astype(np.float32) / 128
        fields = {"x": x - 1, "y": y / 2 - 0.5, "z": 3 + z, "intensity": z / 2}
        if self.timed_points:
            fields["time"] = np.linspace(-0.05, 0, POINTS, dtype=np.float32)
        return messages.encode_cloud(types, fields, stamp_ns, frame)

    def _event(self, types, number: int, stamp_ns: int, frame: str, camera: Camera):
        x, y, t = noise(number, 3 * EVENTS).reshape(3, EVENTS).astype(np.int64)
        t = stamp_ns + np.sort(t) * round(EVENT_PERIOD_SEC * SECOND) // 256
        return messages.encode_events(types, x % camera.width, y % camera.height, t, x & 1, stamp_ns, frame)


def noise(number: int, length: int) -> np.ndarray:
    """(length,) uint8 from a place of its own for each of many numbers in a row."""
    begin = number * 131 % (len(NOISE) - length)
    return NOISE[begin:begin + length]


def moved(x: float, y: float, yaw: float) -> np.ndarray:
    """(4, 4) pose."""
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, -s, 0, x], [s, c, 0, y], [0, 0, 1, 0], [0, 0, 0, 1.0]])


PLACES = [("base_link", frame, moved(0, 0.05 * k, 0)) for k, frame in enumerate(FRAMES.values())]
"""(parent, child, pose) of the sensors."""
