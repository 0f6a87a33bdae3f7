"""Self-query hub (SQ-Hub) of CMNeXt (arXiv 2303.01480, section 3.2): every modality finds its own informative pixels,
and the best at each pixel and channel is kept."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mss_models.layers.tokens import convolve


class SQHub(nn.Module):
    """Tokens of `count` modalities, each (B, H, W, C) -> the re-weighted tokens of each, and their maximum.

    x_i <- s_i x_i + x_i, with the score s_i (B, H, W, 1) = sigmoid(1x1 convolution of a 3x3 depth-wise one of x_i).
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.scores = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, groups=channels), nn.Conv2d(channels, 1, 1),
                          nn.Sigmoid())
            for _ in range(count))

    def forward(self, tokens: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        weighted = [self.weigh(i, x) for i, x in zip(range(len(self.scores)), tokens, strict=True)]
        return weighted, functools.reduce(torch.maximum, weighted)

    def weigh(self, i: int, x: Tensor) -> Tensor:
        """The re-weighted tokens of modality i alone."""
        return convolve(self.scores[i], x) * x + x
