"""The all-MLP head of SegFormer (Xie et al., NeurIPS 2021, arXiv 2105.15203, section 3.2)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss_models.layers.initialisation import initialise


class SegFormerHead(nn.Module):
    """Four maps (B, channels[i], H/2^(i+2), W/2^(i+2)) -> logits (B, num_classes, H/4, W/4).

    Published form: a linear layer per stage to `width` channels, bilinear resizing to stride 4, concatenation
    (deepest first), 1x1 convolution, batch norm, ReLU, channel dropout, 1x1 convolution.

    Linear layer, resizing and the first 1x1 convolution are all linear, and the per-pixel maps commute with the
    resizing. So the two small matrices of a stage are multiplied first and the product runs at the stage's own
    resolution: the same function with a fraction of the work. `published_order` runs the layers one by one instead;
    the published GFLOPs count that.
    """

    def __init__(self, channels: Sequence[int], width: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.published_order = False
        self.linears = nn.ModuleList(nn.Linear(one, width) for one in channels)
        self.fuse = nn.Conv2d(len(channels) * width, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(width, num_classes, 1)
        self.apply(initialise)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self._fused_in_published_order(features) if self.published_order else self._fused(features)
        return self.classify(self.dropout(F.relu(self.norm(x))))

    def _fused(self, features: Sequence[Tensor]) -> Tensor:
        size = features[0].shape[-2:]
        parts = self.fuse.weight.flatten(1).chunk(len(features), dim=1)[::-1]  # (E, E) each, shallowest first
        maps = []
        for x, linear, part in zip(features, self.linears, parts, strict=True):
            x = F.linear(x.permute(0, 2, 3, 1), part @ linear.weight, part @ linear.bias)  # (B, h, w, E)
            maps.append(resize(x.permute(0, 3, 1, 2), size))
        return functools.reduce(torch.add, maps)

    def _fused_in_published_order(self, features: Sequence[Tensor]) -> Tensor:
        size = features[0].shape[-2:]
        parts = [resize(linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), size)
                 for x, linear in zip(features, self.linears, strict=True)]
        return self.fuse(torch.cat(parts[::-1], dim=1))


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, H, W) -> (B, C, *size), bilinear with half-pixel centres."""
    return x if x.shape[-2:] == tuple(size) else F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
