"""All sensors on one drive: what each measures at a time.

Every sample's noise has its own seed, from its sensor and its time, so the order in which samples are taken, and the
process that takes them, make no difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mss_perception.messages import Events
from training.datasets.deliver import NORMAL
from training.synthetic import air, cameras, front_radar, spinning_lidar
from training.synthetic.drive import Drive
from training.synthetic.event_camera import EventSensor
from training.synthetic.rig import TIMING, Rig

START_NS = 1_700_000_000 * 10**9  # ROS time at the beginning of every drive
_STREAM = {"rgb": 1, "depth": 2, "lidar": 3, "event": 4, "radar": 5, "drops": 6, "case": 7}
# By which factors the exposure is wrong, at least and at most.
_EXPOSURES = {"overexposure": (4.0, 8.0), "underexposure": (0.03, 0.08)}


@dataclass(frozen=True)
class Recorder:
    """`seed`: the drive's; times are ROS time in integer nanoseconds, START_NS = the drive's begin.

    case: which sensor fails, and how: NORMAL or one of CASES. eventlowres needs a rig for it (Rig.of_size)."""

    drive: Drive
    rig: Rig
    seed: tuple[int, ...]
    case: str = NORMAL

    def _noise(self, sensor: str, t_ns: int) -> np.random.Generator:
        return np.random.default_rng([*self.seed, _STREAM[sensor], (t_ns - START_NS) // 1000 + 10**9])

    def rgb(self, t_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Colour frame rgb8 (H, W, 3) and its labels (H, W) u8, class ids."""
        view, rng, chance = cameras.view(self.rig, "rgb"), self._noise("rgb", t_ns), self._noise("case", t_ns)
        if self.case == "motionblur":
            exposure, angle = chance.uniform(0.05, 0.1), chance.uniform(0, 2 * np.pi)
            length = chance.uniform(0.02, 0.04) * self.rig.rgb.width  # about 3 degrees
            shake = length * np.cos(angle), length * np.sin(angle)
            light, labels = cameras.smeared_frame(self.drive, view, seconds(t_ns), exposure, shake)
        else:
            light, labels, _ = cameras.colour_frame(self.drive, view, seconds(t_ns))
        if self.drive.light.rain:
            light = air.streaks(light, view.camera, self.drive.ego.speed, self.drive.light, self._noise("drops", t_ns))
        wrong = np.exp(chance.uniform(*np.log(_EXPOSURES.get(self.case, (1.0, 1.0)))))
        return cameras.develop(light, self.drive.light.gain_limit, rng, wrong), labels

    def depth(self, t_ns: int) -> np.ndarray:
        """Depth frame (H, W) f32 metres, NaN = no measurement."""
        return cameras.depth_frame(
            self.drive, cameras.view(self.rig, "depth"), seconds(t_ns), self._noise("depth", t_ns)
        )

    def sweep(self, t_ns: int) -> dict[str, np.ndarray]:
        """LiDAR turn that ends at t_ns; fields as in spinning_lidar.sweep."""
        cloud = spinning_lidar.sweep(
            self.drive,
            self.rig.lidar,
            self.rig.mount("lidar"),
            seconds(t_ns),
            TIMING["lidar"].period_ns * 1e-9,
            self._noise("lidar", t_ns),
        )
        return spinning_lidar.jittered(cloud, self._noise("case", t_ns)) if self.case == "lidarjitter" else cloud

    def radar(self, t_ns: int) -> dict[str, np.ndarray]:
        """Radar detections of t_ns; fields as in front_radar.scan."""
        rig = self.rig
        return front_radar.scan(self.drive, rig.radar, rig.mount("radar"), seconds(t_ns), self._noise("radar", t_ns))

    def events(self, begin_ns: int, end_ns: int) -> Iterator[Events]:
        """Packets of one period each over [begin_ns, end_ns], a sub-frame at each border."""
        view, camera = cameras.view(self.rig, "event"), self.rig.event
        grey = cameras.grey_frame(self.drive, view, seconds(begin_ns))
        light = self.drive.light
        sensor = EventSensor(grey, begin_ns, self._noise("event", begin_ns), noise_hz=1.2 if light.night else 0.3)
        period = TIMING["event"].period_ns
        for start in range(begin_ns, end_ns, period):
            grey = cameras.grey_frame(self.drive, view, seconds(start + period))
            x, y, t, p = sensor.advance(grey, start + period)
            if light.rain:
                drops = air.drop_events(
                    camera.width, camera.height, start, start + period, light, self._noise("drops", start)
                )
                x, y, t, p = (np.concatenate(pair) for pair in zip((x, y, t, p), drops, strict=True))
                order = np.argsort(t, kind="stable")
                x, y, t, p = x[order], y[order], t[order], p[order]
            yield Events(x, y, t, p, start, start + period, camera.width, camera.height)


def seconds(t_ns: int) -> float:
    """Seconds since the drive's begin."""
    return (t_ns - START_NS) * 1e-9
