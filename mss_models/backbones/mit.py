"""Mix Transformer (MiT), the encoder of SegFormer (Xie et al., NeurIPS 2021, arXiv 2105.15203, section 3.1).

Also the form of PVTv2 (backbones/pvt_v2.py). Maps are tokens, (B, H, W, C), throughout: layers/tokens.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mss_models.layers.initialisation import initialise, initialise_reading
from mss_models.layers.tokens import DropPath, MixFFN, attend, convolve, drop_path_rates, to_tokens


@dataclass(frozen=True)
class MiTVariant:
    """Per stage: channels, number of blocks, attention heads, spatial reduction of keys and values, MLP ratio."""

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int] = (1, 2, 5, 8)
    reductions: tuple[int, int, int, int] = (8, 4, 2, 1)
    ratios: tuple[int, int, int, int] = (4, 4, 4, 4)


MIT_VARIANTS: dict[str, MiTVariant] = {
    "B0": MiTVariant((32, 64, 160, 256), (2, 2, 2, 2)),
    "B1": MiTVariant((64, 128, 320, 512), (2, 2, 2, 2)),
    "B2": MiTVariant((64, 128, 320, 512), (3, 4, 6, 3)),
    "B3": MiTVariant((64, 128, 320, 512), (3, 4, 18, 3)),
    "B4": MiTVariant((64, 128, 320, 512), (3, 8, 27, 3)),
    "B5": MiTVariant((64, 128, 320, 512), (3, 6, 40, 3)),
}

# Of the norms in the blocks and at each stage's output; those of patch embedding and reduction have torch's 1e-5.
NVLABS_EPS = 1e-6  # SegFormer's own code, PVTv2's too
DELIVER_EPS = 1e-5  # the code of CMNeXt and of its descendants


class PatchEmbedding(nn.Module):
    """Overlapping patches: a strided convolution and a norm."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(convolve(self.proj, x))  # (B, H, W, C) -> (B, H/stride, W/stride, C')


def patch_convolution(channels: Sequence[int], stage: int) -> tuple[int, int, int, int]:
    """(in channels, channels, kernel, stride) of the patch embedding of stage 0..3 that yields `channels[stage]`."""
    return (channels[stage - 1], channels[stage], 3, 2) if stage else (3, channels[0], 7, 4)


class Attention(nn.Module):
    """Attention whose keys and values come from a spatially reduced copy of the context (section 3.1)."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.reduction = reduction
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.between = nn.Identity()  # where a system may put a layer of its own (GeminiFusion)
        self.proj = nn.Linear(channels, channels)
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, stride=reduction)
            self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Tokens x (B, H, W, C) ask; the context of the same shape, x itself by default, answers."""
        B, H, W, C = x.shape
        context = x if context is None else context
        q = self.q(x).view(B, H * W, self.heads, C // self.heads).transpose(1, 2)  # (B, heads, HW, C/heads)
        if self.reduction > 1:
            context = self.norm(convolve(self.sr, context))  # (B, H/R, W/R, C)
        kv = self.kv(context).view(B, -1, 2, self.heads, C // self.heads)
        k, v = kv.permute(2, 0, 3, 1, 4)  # each (B, heads, HW/R^2, C/heads)
        x = attend(q, k, v)
        return self.proj(self.between(x.transpose(1, 2).reshape(B, H, W, C)))


class Block(nn.Module):
    def __init__(self, channels: int, heads: int, reduction: int, ratio: int, drop_path: float, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=eps)
        self.attention = Attention(channels, heads, reduction)
        self.norm2 = nn.LayerNorm(channels, eps=eps)
        self.mlp = MixFFN(channels, ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Tokens (B, H, W, C) -> (B, H/stride, W/stride, C')."""

    def __init__(self, embed: PatchEmbedding, blocks: list[Block], channels: int, eps: float) -> None:
        super().__init__()
        self.embed = embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class MiT(nn.Module):
    """(B, 3, H, W) -> four maps (B, channels[i], H / strides[i], W / strides[i]), channels-last in memory.

    H and W must be multiples of 32. `drop_path` rises linearly over depth from 0 to the given value. `stages` may also
    be run one by one on tokens: a stage's output is both the map and the next stage's input.
    """

    strides = (4, 8, 16, 32)

    def __init__(self, variant: MiTVariant, drop_path: float = 0.1, eps: float = NVLABS_EPS) -> None:
        super().__init__()
        self.channels, self.depths, self.heads = variant.channels, variant.depths, variant.heads
        self.stages = nn.ModuleList()
        for i, rates in enumerate(drop_path_rates(variant.depths, drop_path)):
            blocks = [Block(variant.channels[i], variant.heads[i], variant.reductions[i], variant.ratios[i], rate, eps)
                      for rate in rates]
            embed = PatchEmbedding(*patch_convolution(variant.channels, i))
            self.stages.append(Stage(embed, blocks, variant.channels[i], eps))
        self.apply(initialise)
        initialise_reading(self.stages[0].embed.proj)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = to_tokens(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x.permute(0, 3, 1, 2))  # (B, C, H, W)
        return features
