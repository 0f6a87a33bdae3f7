"""What a surface is: its material (how it is textured and reflects), its class and its colour."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from mss_models.labels import LABEL_SETS

LABELS = LABEL_SETS["deliver"]
CLASS = {name: index for index, name in enumerate(LABELS.names)}
STYLE_SIZE = 10  # parameters of a style row


class Material(IntEnum):
    """Materials; textures.py and shading.py give each its pattern, gloss and near-infrared reflectance."""

    PLAIN = 0
    ROAD = 1  # asphalt with lane markings; uv = (s, d) of the street
    PAVING = 2
    GRASS = 3
    FACADE = 4  # plaster with windows; style = window grid
    BRICK = 5
    BARK = 6
    LEAVES = 7
    PAINT = 8  # car paint
    CAR_GLASS = 9  # uv = 0..1 over one side window
    RUBBER = 10
    METAL = 11
    SIGN = 12  # uv = -1..1 over the plate; style[0] = which sign
    LAMP = 13  # shines at night
    SIGNAL = 14  # traffic light lens, shines always
    CLOTH = 15
    WATER = 16
    CONCRETE = 17
    GRAVEL = 18
    BUS_SIDE = 19  # uv in metres along and above the floor
    HEADLIGHT = 20
    TAILLIGHT = 21
    TILES = 22
    WOOD = 23
    WHEEL = 24  # uv = -1..1 over the disc
    SOIL = 25


class Look(NamedTuple):
    """Material, class name, albedo (linear r, g, b in 0..1) and row in the street's style table."""

    material: Material
    label: str
    colour: tuple[float, float, float] = (0.5, 0.5, 0.5)
    style: int = 0


class Styles:
    """The table (n, STYLE_SIZE) of per-object texture parameters that `Look.style` points into; row 0 is zero."""

    def __init__(self) -> None:
        self.rows = [np.zeros(STYLE_SIZE, np.float32)]

    def add(self, *values: float) -> int:
        row = np.zeros(STYLE_SIZE, np.float32)
        row[: len(values)] = values
        self.rows.append(row)
        return len(self.rows) - 1

    def table(self) -> np.ndarray:
        return np.stack(self.rows)
