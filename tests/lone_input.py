"""One input alone through Sensors, as the pipeline takes it: seen in the first view, then drawn."""

from __future__ import annotations

from mss_perception.inputs import InputState
from mss_perception.lane import LaneImage
from mss_perception.sensors import Sensors, joined


def lone_image(sensors: Sensors, name: str, state: InputState, t_ref_ns: int) -> LaneImage:
    """Raises one of INVALID_DATA with the reason."""
    return joined([sensors.see(name, state, t_ref_ns, sensors.cameras, sensors.config.target_cameras[0])])
