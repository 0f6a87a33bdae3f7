"""What a surface is: its material (how it is textured and reflects), its class and its colour."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mss_models.labels import LABEL_SETS
from training.synthetic.kernels import Material

LABELS = LABEL_SETS["deliver"]
CLASS = {name: index for index, name in enumerate(LABELS.names)}
STYLE_SIZE = 10  # parameters of a style row


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
