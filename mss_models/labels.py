"""Label sets: class names, colours and the ignore id of the data sets that a network can be trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


class LabelError(ValueError):
    """A label set is malformed, or an image holds ids that it does not have."""


@dataclass(frozen=True)
class LabelSet:
    """Classes 0..K-1 in order. `palette` is (K, 3), R, G, B in 0..255. `ignore_id` marks unlabelled pixels."""

    name: str
    names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_id: int = 255

    def __post_init__(self) -> None:
        if not all(isinstance(one, str) for one in (self.name, *self.names)):
            raise LabelError(f"label set {self.name!r}: its name and the names of its classes must be texts")
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "palette", tuple(tuple(colour) for colour in self.palette))
        if not self.names or len(self.names) != len(self.palette):
            raise LabelError(f"label set {self.name!r} has {len(self.names)} names and {len(self.palette)} colours; "
                             "it needs one colour for each of at least one name")
        if len(set(self.names)) != len(self.names):
            raise LabelError(f"label set {self.name!r} repeats a class name")
        if any(len(colour) != 3 or not all(isinstance(c, int) and 0 <= c <= 255 for c in colour)
               for colour in self.palette):
            raise LabelError(f"label set {self.name!r}: every colour must be three integers in 0..255")
        if not isinstance(self.ignore_id, int) or not len(self.names) <= self.ignore_id <= 255:
            raise LabelError(f"label set {self.name!r}: ignore_id {self.ignore_id!r} must be an integer in "
                             f"{len(self.names)}..255, outside the class ids")

    def __len__(self) -> int:
        return len(self.names)

    def difference(self, other: LabelSet) -> str:
        """In words, the first thing in which the two differ, `other` second; empty if they are equal."""
        if len(self) != len(other):
            return f"{len(self)} classes ({self.name!r}) and {len(other)} ({other.name!r})"
        for number, (mine, theirs) in enumerate(zip(self.names, other.names, strict=True)):
            if mine != theirs:
                return f"class {number} is {mine!r} ({self.name!r}) and {theirs!r} ({other.name!r})"
        for what in ("palette", "ignore_id", "name"):
            if (mine := getattr(self, what)) != (theirs := getattr(other, what)):
                return f"{what} {mine} and {theirs}"
        return ""

    def colorize(self, labels: np.ndarray) -> np.ndarray:
        """Class ids (H, W) uint8 -> colours (H, W, 3) uint8. The ignore id, and any other non-class id, is black."""
        if labels.dtype != np.uint8:
            raise LabelError(f"labels are {labels.dtype}; uint8 is needed")
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = self.palette
        return table[labels]

    def to_dict(self) -> dict:
        """A JSON-ready dict from which `from_dict` makes an equal LabelSet."""
        return {"name": self.name, "names": list(self.names), "palette": [list(c) for c in self.palette],
                "ignore_id": self.ignore_id}

    @classmethod
    def from_dict(cls, values: Mapping) -> LabelSet:
        """The inverse of `to_dict`. Raises LabelError for unknown or missing keys."""
        known = {"name", "names", "palette", "ignore_id"}
        if set(values) != known:
            raise LabelError(f"a label set needs exactly the keys {sorted(known)}, not {sorted(values)}")
        return cls(**values)


def _label_set(name: str, colours: dict[str, tuple[int, int, int]]) -> LabelSet:
    return LabelSet(name, tuple(colours), tuple(colours.values()))


DELIVER = _label_set("deliver", {
    "Building": (70, 70, 70), "Fence": (100, 40, 40), "Other": (55, 90, 80), "Pedestrian": (220, 20, 60),
    "Pole": (153, 153, 153), "RoadLine": (157, 234, 50), "Road": (128, 64, 128), "SideWalk": (244, 35, 232),
    "Vegetation": (107, 142, 35), "Cars": (0, 0, 142), "Wall": (102, 102, 156), "TrafficSign": (220, 220, 0),
    "Sky": (70, 130, 180), "Ground": (81, 0, 81), "Bridge": (150, 100, 100), "RailTrack": (230, 150, 140),
    "GroundRail": (180, 165, 180), "TrafficLight": (250, 170, 30), "Static": (110, 190, 160),
    "Dynamic": (170, 120, 50), "Water": (45, 60, 150), "Terrain": (145, 170, 100), "TwoWheeler": (0, 0, 230),
    "Bus": (0, 60, 100), "Truck": (0, 0, 70),
})

MUSES = _label_set("muses", {  # the Cityscapes train ids
    "road": (128, 64, 128), "sidewalk": (244, 35, 232), "building": (70, 70, 70), "wall": (102, 102, 156),
    "fence": (190, 153, 153), "pole": (153, 153, 153), "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0), "vegetation": (107, 142, 35), "terrain": (152, 251, 152), "sky": (70, 130, 180),
    "person": (220, 20, 60), "rider": (255, 0, 0), "car": (0, 0, 142), "truck": (0, 0, 70), "bus": (0, 60, 100),
    "train": (0, 80, 100), "motorcycle": (0, 0, 230), "bicycle": (119, 11, 32),
})

MCUBES = _label_set("mcubes", {  # materials
    "asphalt": (44, 160, 44), "concrete": (31, 119, 180), "metal": (255, 127, 14), "road_marking": (214, 39, 40),
    "fabric": (140, 86, 75), "glass": (127, 127, 127), "plaster": (188, 189, 34), "plastic": (255, 152, 150),
    "rubber": (23, 190, 207), "sand": (174, 199, 232), "gravel": (196, 156, 148), "ceramic": (197, 176, 213),
    "cobblestone": (247, 182, 210), "brick": (199, 199, 199), "grass": (219, 219, 141), "wood": (158, 218, 229),
    "leaf": (57, 59, 121), "water": (107, 110, 207), "human": (156, 158, 222), "sky": (99, 121, 57),
})

LABEL_SETS: dict[str, LabelSet] = {one.name: one for one in (DELIVER, MUSES, MCUBES)}
