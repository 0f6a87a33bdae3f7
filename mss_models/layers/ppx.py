"""Parallel pooling mixer (PPX), the block of CMNeXt's auxiliary branch (Zhang et al., CVPR 2023, arXiv 2303.01480).

Section 3.3 there; the details, which the paper leaves open, are those of the released code [jamycheung/DELIVER,
modules/mspa.py].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss_models.layers.tokens import DropPath, MixFFN, convolve

PPX_RATIOS = (8, 8, 4, 4)
"""Of the MLPs in CMNeXt's four stages."""


class PPX(nn.Module):
    """Tokens (B, H, W, C) -> the same shape: mixing over several neighbourhoods, then over channels.

    x = x + g1 A(BN x);  x = w x + g2 MLP(BN x);  w (B, C) = sigmoid(convolution of width 3 over the channels' means).
    `g1`, `g2` (C,) are the layer scales.
    """

    def __init__(self, channels: int, ratio: int, drop_path: float = 0.0, scale: float = 1e-2) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.attention = PoolAttention(channels)
        self.scale1 = nn.Parameter(torch.full((channels,), scale))
        self.channel_mixer = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = MixFFN(channels, ratio)
        self.scale2 = nn.Parameter(torch.full((channels,), scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.scale1 * self.attention(convolve(self.norm1, x)))
        means = x.mean(dim=(1, 2)).unsqueeze(1)  # (B, 1, C)
        weights = self.channel_mixer(means).sigmoid()[:, :, None]  # (B, 1, 1, C)
        return weights * x + self.drop_path(self.scale2 * self.mlp(convolve(self.norm2, x)))


class PoolAttention(nn.Module):
    """A(u) = u + sigmoid(W (c + avg3 c + avg7 c + avg11 c)) u, with c = a 7x7 depth-wise convolution of u."""

    windows = (3, 7, 11)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.mix = nn.Linear(channels, channels)

    def forward(self, u: Tensor) -> Tensor:
        c = self.dwconv(u.permute(0, 3, 1, 2))  # (B, C, H, W)
        total = c
        for window in self.windows:
            total = total + average(c, window)
        return u + self.mix(total.permute(0, 2, 3, 1)).sigmoid() * u


def average(x: Tensor, window: int) -> Tensor:
    """(B, C, H, W) averaged over window x window neighbours, at the border over those that exist.

    Over rows, then over columns: the same mean (every row of a window has equally many pixels) in 2 window additions
    per pixel instead of window^2.
    """
    pad = window // 2
    x = F.avg_pool2d(x, (1, window), stride=1, padding=(0, pad), count_include_pad=False)
    return F.avg_pool2d(x, (window, 1), stride=1, padding=(pad, 0), count_include_pad=False)
