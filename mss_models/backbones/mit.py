"""Mix Transformer (MiT), the encoder of SegFormer (Xie et al., NeurIPS 2021, arXiv 2105.15203, section 3.1).

Tokens stay in (B, H, W, C) order throughout: linear layers and norms work on the last axis, and the same memory seen
as (B, C, H, W) is what convolutions call channels-last, so nothing is ever copied to change the layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss_models.layers.initialisation import initialise


@dataclass(frozen=True)
class MiTVariant:
    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int] = (1, 2, 5, 8)
    reductions: tuple[int, int, int, int] = (8, 4, 2, 1)


MIT_VARIANTS: dict[str, MiTVariant] = {
    "B0": MiTVariant((32, 64, 160, 256), (2, 2, 2, 2)),
    "B1": MiTVariant((64, 128, 320, 512), (2, 2, 2, 2)),
    "B2": MiTVariant((64, 128, 320, 512), (3, 4, 6, 3)),
    "B3": MiTVariant((64, 128, 320, 512), (3, 4, 18, 3)),
    "B4": MiTVariant((64, 128, 320, 512), (3, 8, 27, 3)),
    "B5": MiTVariant((64, 128, 320, 512), (3, 6, 40, 3)),
}

# NVlabs' values: 1e-6 in the blocks and at each stage's output, torch's 1e-5 in patch embedding and reduction.
BLOCK_EPS = 1e-6


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution to tokens: (B, H, W, C) -> (B, H', W', C')."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class PatchEmbedding(nn.Module):
    """Overlapping patches: a strided convolution and a norm."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(convolve(self.proj, x))  # (B, H, W, C) -> (B, H/stride, W/stride, C')


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention: q (B, heads, N, D), k and v (B, heads, M, D) -> (B, heads, N, D)."""
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and torch.is_grad_enabled():
        # The backward pass of torch's fused CPU kernel is about ten times slower in bf16 than in fp32.
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Self-attention whose keys and values come from a spatially reduced copy of the tokens (section 3.1)."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.reduction = reduction
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, stride=reduction)
            self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        q = self.q(x).view(B, H * W, self.heads, C // self.heads).transpose(1, 2)  # (B, heads, HW, C/heads)
        context = self.norm(convolve(self.sr, x)) if self.reduction > 1 else x  # (B, H/R, W/R, C)
        kv = self.kv(context).view(B, -1, 2, self.heads, C // self.heads)
        k, v = kv.permute(2, 0, 3, 1, 4)  # each (B, heads, HW/R^2, C/heads)
        x = attend(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(B, H, W, C))


class MixFFN(nn.Module):
    """MLP with a 3x3 depth-wise convolution inside, which also tells the tokens their position (equation 3)."""

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        hidden = ratio * channels
        self.fc1 = nn.Linear(channels, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(convolve(self.dwconv, self.fc1(x))))


class DropPath(nn.Module):
    """In training, drop a sample's residual branch with the given probability and scale up the kept ones."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep).div_(keep)


class Block(nn.Module):
    def __init__(self, channels: int, heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=BLOCK_EPS)
        self.attention = Attention(channels, heads, reduction)
        self.norm2 = nn.LayerNorm(channels, eps=BLOCK_EPS)
        self.mlp = MixFFN(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    def __init__(self, embed: PatchEmbedding, blocks: list[Block], channels: int) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(channels, eps=BLOCK_EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class MiT(nn.Module):
    """(B, 3, H, W) -> four maps (B, channels[i], H / strides[i], W / strides[i]), channels-last in memory.

    H and W must be multiples of 32. `drop_path` rises linearly over depth from 0 to the given value.
    """

    strides = (4, 8, 16, 32)

    def __init__(self, variant: MiTVariant, drop_path: float = 0.1) -> None:
        super().__init__()
        self.channels = variant.channels
        rates = iter(torch.linspace(0, drop_path, sum(variant.depths), device="cpu").tolist())
        self.stages = nn.ModuleList()
        for i, channels in enumerate(variant.channels):
            embed = PatchEmbedding(variant.channels[i - 1], channels, 3, 2) if i else PatchEmbedding(3, channels, 7, 4)
            blocks = [Block(channels, variant.heads[i], variant.reductions[i], next(rates))
                      for _ in range(variant.depths[i])]
            self.stages.append(Stage(embed, blocks, channels))
        self.apply(initialise)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)  # (B, H, W, 3)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x.permute(0, 3, 1, 2))  # (B, C, H, W)
        return features
