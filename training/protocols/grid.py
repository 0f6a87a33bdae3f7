"""The pixels that a network sees and those that are scored; whole images and sliding windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ALIGN = 32  # of the published validation size


CACHED = 1 << 17  # logits that stay in a CPU's second-level cache
SCORE_AT = ("labels", "network")


class EvaluationError(ValueError):
    """An evaluation cannot start or go on. The message says why and what would help."""


@dataclass(frozen=True)
class Grid:
    """Raises EvaluationError for values that do not fit together.

    short_side: images are resized (bilinear) to this, and both sides aligned up to 32; None: as they are.

    score_at: 'labels', logits are resized to the labels' size; 'network', labels are resized to the network's, see
    target (as the published code does, with short_side 1024: worth about 1.8 points on DELIVER).
    window: side of the sliding windows, None: the whole image at once; stride: from one to the next.
    """

    short_side: int | None = None
    score_at: str = "labels"
    window: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.score_at not in SCORE_AT:
            raise EvaluationError(f"score_at {self.score_at!r} is unknown; choose from {', '.join(SCORE_AT)}")
        if self.window is None and self.stride is not None:
            raise EvaluationError("a stride belongs to sliding windows; give --window too")
        if self.window is not None and not 0 < (self.stride or self.window) <= self.window:
            raise EvaluationError(f"--stride {self.stride} must lie in 1..{self.window}, the side of the windows")

    def network_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the network's images, for images of this (height, width)."""
        if self.short_side is None:
            return size
        scale = self.short_side / min(size)
        return tuple(-(-round(side * scale) // ALIGN) * ALIGN for side in size)  # type: ignore[return-value]

    def images(self, image: np.ndarray) -> np.ndarray:
        """An image (H, W, 3) uint8 at the network's size."""
        height, width = self.network_size(image.shape[:2])
        if image.shape[:2] == (height, width):
            return image
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)

    def target(self, labels: np.ndarray) -> np.ndarray:
        """Labels (H, W) uint8 at the size at which they are scored.

        At the network's, output pixel i is input pixel floor(i * in / out), torch's 'nearest', as published. (The
        centre's pixel, which `resized` takes, is another one in half of the rows of 1042 pixels resized to 1024.)
        """
        size = self.network_size(labels.shape)
        if self.score_at == "labels" or labels.shape == size:
            return labels
        return F.interpolate(torch.tensor(labels)[None, None], size, mode="nearest")[0, 0].numpy()


class Window(NamedTuple):
    """A part of an image, in pixels; `bottom` and `right` are the first ones outside."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def windows(size: tuple[int, int], side: int | None, stride: int | None) -> list[Window]:
    """The windows that cover an image of this (height, width); the last of a row or column ends at its edge.

    stride None: the side. side None: one window, the whole image.
    """
    height, width = size
    if side is None:
        return [Window(0, 0, height, width)]
    tops, lefts = ([*range(0, max(length - side, 0), stride or side), max(length - side, 0)] for length in size)
    return [Window(top, left, min(top + side, height), min(left + side, width)) for top in tops for left in lefts]


def mean_logits(logits: Callable[[Window], Tensor], parts: Sequence[Window]) -> Tensor:
    """The mean, at each pixel, of the windows' logits (B, K, h, w) that cover it: (B, K, H, W)."""
    if len(parts) == 1:
        return logits(parts[0])
    size = max(one.bottom for one in parts), max(one.right for one in parts)
    total = count = torch.zeros(1)
    for part in parts:
        one = logits(part)
        if total.ndim == 1:
            total, count = one.new_zeros((*one.shape[:2], *size)), one.new_zeros(size)
        total[..., part.slices[0], part.slices[1]] += one
        count[part.slices] += 1
    return total / count


def arg_max(logits: Tensor) -> np.ndarray:
    """Class ids uint8 (B, H, W) of logits (B, K, H, W); of equal ones the first. Raises EvaluationError for NaN.

    In whole-array operations on a few rows at a time, which stay in a CPU's cache: ten times as fast as torch's arg-max
    over a strided axis.
    """
    batch, count, height, width = logits.shape
    classes = torch.arange(count, dtype=logits.dtype, device=logits.device).view(-1, 1, 1)
    rows = height if logits.is_cuda else max(1, CACHED // (count * width))
    result = logits.new_empty(batch, height, width)
    for one, labels in zip(logits, result, strict=True):
        for top in range(0, height, rows):
            strip = one[:, top : top + rows].contiguous()  # they may come channels-last
            behind = strip - strip.amax(dim=0)  # 0 for the largest
            labels[top : top + rows] = -torch.add(-classes, behind, alpha=1e38).amax(dim=0)
    if bool(result.isnan().any()):
        raise EvaluationError("the network's logits are not finite; nothing can be scored")
    return result.byte().cpu().numpy()


def resized(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Labels (H, W), resized: the nearest pixel's, from centre to centre."""
    if labels.shape == tuple(shape):
        return labels
    return cv2.resize(labels, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST_EXACT)
