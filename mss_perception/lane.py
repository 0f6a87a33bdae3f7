"""What every sensor lane returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mss_models.modality import Encoding


class LaneInvalid(ValueError):
    """The data cannot become an image (state INVALID). The text is the reason that the user reads."""


@dataclass
class LaneImage:
    """One modality in the target camera's view.

    image: uint8 (H, W, 3) at the network's size, 0 = nothing here. figures: the modality's own numbers, for the report.
    """

    image: np.ndarray
    figures: dict[str, int | float | bool] = field(default_factory=dict)


def require(encoding: Encoding, *names: str) -> None:
    """Raise ValueError unless the encoding that a checkpoint asks for is one that this lane makes, by name."""
    if encoding.name not in names:
        raise ValueError(f"the checkpoint wants {encoding.modality} encoded as {encoding.name!r}; this lane makes "
                         f"{' or '.join(map(repr, names))}")
