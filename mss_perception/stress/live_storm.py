"""A storm for the node: one and the same configuration in all of them, and what only publishers can do.

ROS time is /clock's, which the storm publishes too: it jumps with the sensors' stamps. The node itself notices it.
"""

from __future__ import annotations

import random

from mss_perception.config import Config, modality_of
from mss_perception.stress.rig import EVENT_PERIOD_SEC, MS, SIZE, Rig, Sensor
from mss_perception.stress.storm import SILENT, Storm, Weather
from mss_perception.units import SECOND

CLOCK = "clock"                     # the process beside the sensors' that publishes /clock and the odometry
OFFSETS_NS = {"rgb": 0, "depth": 4 * MS, "event": 0, "lidar": -6 * MS}
RATES_HZ = {"rgb": (10, 20, 30), "depth": (10, 15), "lidar": (10, 20), "event": (1 / EVENT_PERIOD_SEC,)}
RELIABLE = ("depth", "lidar")       # subscribed so, and therefore deaf to publishers that are not
# Room for a deadline's samples of sensors ten times as fast; every set is processed, so that each is told of.
PARAMETERS = {
    "width": SIZE, "height": SIZE, "threads": 1, "event_period_sec": EVENT_PERIOD_SEC, "tick_rate_hz": 10.0,
    "deadline_sec": 0.25, "compute_policy": "every", "max_pending": 40,
    **{f"{name}.offset_sec": offset / SECOND for name, offset in OFFSETS_NS.items()},
    **{f"{name}.tolerance_sec": 0.055 for name in ("rgb", "depth", "lidar")},
    **{f"{name}.{what}": 200 for name in ("rgb", "depth", "lidar") for what in ("queue", "qos_depth")},
    "event.qos_depth": 500}


class LiveRig(Rig):
    """The default inputs under their default topics."""

    def __init__(self, dice: random.Random, fastest: float):
        self.factor, self.metres, self.timed_points = 1.0, dice.random() < 0.5, dice.random() < 0.5
        self.sensors = {name: self._of(dice, name) for name in OFFSETS_NS}
        self.parameters = PARAMETERS
        self.config = Config.from_mapping(PARAMETERS)

    def _of(self, dice: random.Random, name: str) -> Sensor:
        period = round(SECOND / dice.choice(RATES_HZ[modality_of(name)]))
        return Sensor(name, period, 0, dice.choice([0, period // 50]), dice.choice([2, 10, 30, 60]) * MS, 0,
                      OFFSETS_NS[name], round(EVENT_PERIOD_SEC * SECOND) if name == "event" else 0)


class LiveStorm(Storm):
    rig_class = LiveRig
    walls, loops_in_calm = 0.0, False           # /clock goes with the stamps, and its jumps are noticed
    deadlines_sec = ()
    tempest_sec, spare_sec = (3, 6), (4, 7)     # a publisher takes seconds to start

    def _settle_ns(self) -> int:
        return super()._settle_ns() + 2 * SECOND        # for a busy machine

    def _jump(self, dice: random.Random) -> tuple[str, int]:
        back = self.config.collector.jump_back_sec
        return dice.choice([("", 0), ("", 0), ("pause", 0), ("forward", round(dice.choice([0.3, 2, 3600]) * SECOND)),
                            ("step", -round(dice.uniform(0.05, 0.8 * back) * SECOND)),
                            ("loop called", -round(dice.uniform(back + 1, 60) * SECOND))])

    def _outage(self, dice: random.Random, deadline_sec: float, name: str) -> Weather:
        others = [Weather(SILENT, publisher="killed"), Weather(SILENT, publisher="type")]
        if name in RELIABLE:
            others.append(Weather(SILENT, publisher="qos"))
        return dice.choice([super()._outage(dice, deadline_sec, name), *others])

    def _disasters(self, dice: random.Random) -> list[dict]:
        return [*super()._disasters(dice), {"publisher": "killed"}]
