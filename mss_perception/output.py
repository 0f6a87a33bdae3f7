"""What became of one set in one view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mss_perception.camera import Camera
from mss_perception.collector import SensorSet
from mss_perception.inputs import InputState


@dataclass
class Output:
    """What became of one set in one view. Times are ns; images, points and labels are None or empty when `dropped`.

    mask: input -> used by the network. inputs: input -> state (str), stamp, stamp_delta and age (ns), coverage,
    reason, frozen, and the lane's own figures; what is not known is left out. labels, confidence: uint8 (Hc, Wc) on the
    target camera's grid. extrapolated_ns: how far the vehicle's pose was guessed beyond the newest odometry or tf.
    images: modality -> uint8 (H, W, 3) as the network saw it, of the inputs in the mask. make_points: what `points` are
    when somebody asks for them; None where there are none. latency_ms: stage -> milliseconds. dropped: the reason why
    there is no output, or None. view: the target camera's input.
    """

    t_ref_ns: int
    epoch: int
    seq: int
    deadline_hit: bool
    mask: dict[str, bool]
    inputs: dict[str, dict]
    latency_ms: dict[str, float]
    frame_id: str = ""
    camera: Camera | None = None
    images: dict[str, np.ndarray] = field(default_factory=dict)
    labels: np.ndarray | None = None
    confidence: np.ndarray | None = None
    make_points: Callable[[], dict[str, np.ndarray]] | None = None
    dropped: str | None = None
    extrapolated_ns: int = 0
    view: str = ""

    @cached_property
    def points(self) -> dict[str, np.ndarray] | None:
        """Columns x y z (float32 metres in frame_id), label, confidence (uint8) of the points that the camera sees."""
        return self.make_points() if self.make_points else None

    @classmethod
    def empty(cls, sensor_set: SensorSet, view: str, names: Sequence[str]) -> Output:
        """Nothing used yet: the state of every input of a view as the collector gave it."""
        return cls(
            sensor_set.t_ref_ns, sensor_set.epoch, sensor_set.seq, sensor_set.deadline_hit,
            mask=dict.fromkeys(names, False),
            inputs={name: summary(sensor_set.inputs[name]) for name in names},
            latency_ms={"wait": (sensor_set.emitted_ns - sensor_set.opened_ns) / 1e6}, view=view)

    @property
    def grid_size(self) -> tuple[int, int]:
        """(height, width) of `images`."""
        return next(iter(self.images.values())).shape[:2]

    def record(self) -> dict:
        """What is known of the set in plain values: a line of frames.jsonl without its figures of the labels."""
        return {"t_ref": self.t_ref_ns, "epoch": self.epoch, "mask": self.mask, "dropped": self.dropped,
                "deadline_hit": self.deadline_hit, "frame_id": self.frame_id, "inputs": self.inputs,
                "extrapolated_ns": self.extrapolated_ns, "latency_ms": self.latency_ms}


def summary(state: InputState) -> dict:
    """An input's state in plain values; None is left out."""
    values = {"state": state.state.value, "stamp": state.stamp_ns, "stamp_delta": state.delta_ns, "age": state.age_ns,
              "coverage": state.coverage, "reason": state.reason or None}
    return {key: value for key, value in values.items() if value is not None}
