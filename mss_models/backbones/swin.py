"""Swin Transformer (Liu et al., ICCV 2021, arXiv 2103.14030) as used for dense prediction: any H and W that are
multiples of 32, and a norm on each of the four maps [SwinTransformer/Swin-Transformer-Semantic-Segmentation].

Maps are tokens, (B, H, W, C), throughout: layers/tokens.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss_models.layers.initialisation import initialise, initialise_reading
from mss_models.layers.tokens import DropPath, attend, convolve, drop_path_rates, to_tokens
from mss_models.layers.windows import merge, partition, relative_positions, round_up, shift_mask

WINDOW = 7


@dataclass(frozen=True)
class SwinVariant:
    """Channels of the first stage (each further one has twice as many), and per stage: blocks, attention heads."""

    width: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]


SWIN_VARIANTS: dict[str, SwinVariant] = {
    "Swin-T": SwinVariant(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "Swin-S": SwinVariant(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "Swin-B": SwinVariant(128, (2, 2, 18, 2), (4, 8, 16, 32)),
}


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias for every relative position (equation 4)."""

    def __init__(self, channels: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads = heads
        self.size = size
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.bias = nn.Parameter(nn.init.trunc_normal_(torch.empty((2 * size - 1) ** 2, heads), std=0.02))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B nW, N, C), mask (nW, N, N) bool or None -> (B nW, N, C)."""
        count, N, C = x.shape
        q, k, v = self.qkv(x).view(count, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.bias[relative_positions(self.size, self.bias.device)].permute(2, 0, 1).to(q.dtype)  # (heads, N, N)
        if mask is None:
            bias = bias.unsqueeze(0)
        else:
            bias = torch.where(mask.unsqueeze(1), bias, -torch.inf).repeat(count // mask.shape[0], 1, 1, 1)
        x = attend(q, k, v, bias)  # (B nW, heads, N, C/heads)
        return self.proj(x.transpose(1, 2).reshape(count, N, C))


class Block(nn.Module):
    def __init__(self, channels: int, heads: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.shift = shift
        self.norm1 = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, WINDOW)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, H, W, C); mask: of the stage's shifted windows."""
        H, W = x.shape[1:3]
        padded = round_up(H, WINDOW), round_up(W, WINDOW)
        y = F.pad(self.norm1(x), (0, 0, 0, padded[1] - W, 0, padded[0] - H))  # (B, H', W', C), whole windows
        if self.shift:
            y = y.roll((-self.shift, -self.shift), dims=(1, 2))
        y = merge(self.attention(partition(y, WINDOW), mask if self.shift else None), WINDOW, *padded)
        if self.shift:
            y = y.roll((self.shift, self.shift), dims=(1, 2))
        x = x + self.drop_path(y[:, :H, :W])
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
    """4x4 patches: (B, H, W, 3) -> (B, H/4, W/4, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 4, stride=4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(convolve(self.proj, x))


class PatchMerging(nn.Module):
    """2x2 neighbours into one: (B, H, W, C) -> (B, H/2, W/2, 2C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        x = x.view(B, H // 2, 2, W // 2, 2, C).permute(0, 1, 3, 4, 2, 5)  # (..., column, row, C): the published order
        return self.reduction(self.norm(x.reshape(B, H // 2, W // 2, 4 * C)))


class Stage(nn.Module):
    def __init__(self, embed: nn.Module, channels: int, heads: int, rates: list[float]) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(Block(channels, heads, WINDOW // 2 if i % 2 else 0, rate)
                                    for i, rate in enumerate(rates))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)  # (B, H, W, C)
        height, width = (round_up(length, WINDOW) for length in x.shape[1:3])
        mask = shift_mask(height, width, WINDOW, WINDOW // 2, x.device)
        for block in self.blocks:
            x = block(x, mask)
        return x


class Swin(nn.Module):
    """(B, 3, H, W) -> four maps (B, channels[i], H / strides[i], W / strides[i]), channels-last in memory.

    H and W must be multiples of 32. `drop_path` rises linearly over depth from 0 to the given value.
    """

    strides = (4, 8, 16, 32)

    def __init__(self, variant: SwinVariant, drop_path: float = 0.1) -> None:
        super().__init__()
        self.channels = tuple(variant.width << i for i in range(4))
        self.depths, self.heads = variant.depths, variant.heads
        self.stages = nn.ModuleList(
            Stage(PatchMerging(self.channels[i - 1]) if i else PatchEmbedding(variant.width), self.channels[i],
                  variant.heads[i], rates)
            for i, rates in enumerate(drop_path_rates(variant.depths, drop_path)))
        self.norms = nn.ModuleList(nn.LayerNorm(one) for one in self.channels)
        self.apply(initialise)
        initialise_reading(self.stages[0].embed.proj)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = to_tokens(x)  # (B, H, W, 3)
        features = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = stage(x)
            features.append(norm(x).permute(0, 3, 1, 2))  # (B, C, H, W)
        return features
