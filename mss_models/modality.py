"""The vocabulary of modalities, and how each one becomes the network's image.

A network that learned HHA does not understand metric depth. Each modality's encoding therefore travels with the
checkpoint; the sensor lanes are configured from it and refuse what they cannot produce.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MODALITIES: tuple[str, ...] = ("rgb", "depth", "event", "lidar")
"""Every known modality, in the canonical order (the order of the published models)."""


class ModalityError(ValueError):
    """A modality or an encoding is unknown or malformed. The message names it and what is known."""


@dataclass(frozen=True)
class Encoding:
    """How a modality's image, uint8 (H, W, 3) with 0 = "nothing here", is made and normalised.

    The network sees `(image / 255 - mean) / std`, per channel. `params` holds the units and ranges that the lane
    needs; their meaning is given beside DEFAULT_ENCODINGS.
    """

    modality: str
    name: str
    version: int = 1
    params: Mapping[str, float | int | str] = field(default_factory=dict)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise ModalityError(f"modality {self.modality!r} is unknown; known: {', '.join(MODALITIES)}")
        for which in ("mean", "std"):
            value = tuple(float(number) for number in getattr(self, which))
            if len(value) != 3:
                raise ModalityError(f"{which} of the {self.modality} encoding has {len(value)} numbers; 3 are needed")
            object.__setattr__(self, which, value)
        if min(self.std) <= 0:
            raise ModalityError(f"std of the {self.modality} encoding is {self.std}; every number must be positive")
        object.__setattr__(self, "params", dict(self.params))

    def to_dict(self) -> dict:
        """A JSON-ready dict from which `from_dict` makes an equal Encoding."""
        return dataclasses.asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping) -> Encoding:
        """The inverse of `to_dict`. Raises ModalityError for unknown or missing keys."""
        known = {one.name for one in dataclasses.fields(cls)}
        if unknown := set(values) - known:
            raise ModalityError(f"encoding has unknown keys {sorted(unknown)}; known: {sorted(known)}")
        if missing := {"modality", "name"} - set(values):
            raise ModalityError(f"encoding lacks the keys {sorted(missing)}")
        return cls(**values)


def canonical_order(modalities: Iterable[str]) -> tuple[str, ...]:
    """The given modalities without repetition, in canonical order. Raises ModalityError if empty or unknown."""
    chosen = set(modalities)
    if unknown := chosen - set(MODALITIES):
        raise ModalityError(f"modalities {sorted(unknown)} are unknown; known: {', '.join(MODALITIES)}")
    if not chosen:
        raise ModalityError(f"no modality is given; choose from {', '.join(MODALITIES)}")
    return tuple(name for name in MODALITIES if name in chosen)


DEFAULT_ENCODINGS: dict[str, Encoding] = {
    # R, G, B; the ImageNet statistics.
    "rgb": Encoding("rgb", "rgb", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    # z in metres along the optical axis, clipped to [near_m, max_m]; no measurement = (0, 0, 0):
    #   c0 = 1 + 254 log(z / near_m) / log(max_m / near_m),  c1 = 1 + 254 near_m / z,  c2 = 255 where valid.
    "depth": Encoding("depth", "metric_depth", params={"max_m": 80.0, "near_m": 1.0}),
    # Events of the last window_sec: c0 = min(255, gain * ON count), c1 = min(255, gain * OFF count), c2 = 0.
    "event": Encoding("event", "on_off_counts", params={"window_sec": 0.05, "gain": 40.0}),
    # The nearest point of a pixel, each point grown to a square of (2 dilate_px + 1)^2 pixels:
    #   c0 = as depth's c0, of the Euclidean range in the camera's optical frame,
    #   c1 = 1 + 254 intensity / intensity_scale,
    #   c2 = 1 + 254 (h - height_min_m) / (height_max_m - height_min_m), h = -y in the optical frame, metres.
    "lidar": Encoding("lidar", "range_intensity_height",
                      params={"max_m": 80.0, "near_m": 1.0, "height_min_m": -3.0, "height_max_m": 7.0,
                              "dilate_px": 1, "intensity_scale": 1.0}),
}
