"""CMNeXt (Zhang et al., "Delivering Arbitrary-Modal Semantic Segmentation", CVPR 2023, arXiv 2303.01480).

Two branches: the first modality (RGB) in a MiT, all the others together in a light one. At each of the four stages the
others go through a shared strided convolution with their own norms, the self-query hub fuses them, PPX blocks refine
the fused map, and the two branches correct each other (FRM) and are fused (FFM; both from CMX, arXiv 2203.04838) into
the map that the SegFormer head sees.

An absent modality is zeros in its place, as in the published evaluations. Where the paper is silent this follows the
released code [jamycheung/DELIVER, models/backbones/cmnext.py, modules/ffm.py]; docs/systems.md lists the departures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss_models.backbones import create_mit
from mss_models.backbones.mit import DELIVER_EPS, patch_convolution
from mss_models.heads.segformer import SegFormerHead, resize
from mss_models.layers.initialisation import initialise, initialise_reading
from mss_models.layers.ppx import PPX, PPX_RATIOS
from mss_models.layers.present import zero_filled
from mss_models.layers.sq_hub import SQHub
from mss_models.layers.tokens import convolve, drop_path_rates, to_tokens
from mss_models.system import System


class CMNeXt(System):
    """See the module's docstring. The first of `modalities` is the primary one; with it alone this is SegFormer.

    published_carry: with two or more others, the released code hands each one's map to the next stage scrambled (it
    reads channels-first memory as channels-last) before the fused map is added. True does the same: for the public
    weights, and to train what the published numbers were trained with.
    """

    source = "arXiv 2303.01480, github.com/jamycheung/DELIVER"
    ours = "initial weights of the depth-wise convolutions (normal by fan-out / groups)"

    def __init__(self, modalities: Sequence[str], num_classes: int, backbone: str = "B0", head_width: int = 256,
                 drop_path: float = 0.1, dropout: float = 0.1, published_carry: bool = False) -> None:
        super().__init__(system="cmnext", modalities=tuple(modalities), num_classes=num_classes, backbone=backbone,
                         head_width=head_width, drop_path=drop_path, dropout=dropout, published_carry=published_carry)
        self.backbone = create_mit(backbone, drop_path, DELIVER_EPS)
        others = len(self.modalities) - 1
        rates = drop_path_rates(self.backbone.depths, drop_path)
        self.branches = nn.ModuleList(
            AuxiliaryStage(self.backbone.channels, i, others, rates[i], published_carry) for i in range(4) if others)
        self.rectify = nn.ModuleList(FeatureRectify(one) for one in self.backbone.channels if others)
        self.fuse = nn.ModuleList(
            FeatureFusion(channels, heads)
            for channels, heads in zip(self.backbone.channels, self.backbone.heads, strict=True) if others)
        self.head = SegFormerHead(self.backbone.channels, head_width, num_classes, dropout)
        for part in (self.branches, self.rectify, self.fuse):
            part.apply(initialise)
        if others:
            initialise_reading(self.branches[0].proj)

    def segment(self, images: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        primary, *others = map(to_tokens, zero_filled(images, present, self.modalities))  # each (B, H, W, 3)
        size = primary.shape[1:3]
        features = []
        for i, stage in enumerate(self.backbone.stages):
            primary = fused = stage(primary)  # (B, H/2^(i+2), W/2^(i+2), C)
            if others:
                others, auxiliary = self.branches[i](others)
                primary, auxiliary = self.rectify[i](primary, auxiliary)
                fused = self.fuse[i](primary, auxiliary)
                others = self.branches[i].carry(others, auxiliary)
            features.append(fused.permute(0, 3, 1, 2))  # (B, C, H/2^(i+2), W/2^(i+2))
        return resize(self.head(features).float(), size)


class AuxiliaryStage(nn.Module):
    """A stage of the other branch: the tokens of each modality, and their fused and refined map."""

    def __init__(self, channels: Sequence[int], stage: int, others: int, drop_path: list[float],
                 published_carry: bool) -> None:
        super().__init__()
        in_channels, out, kernel, stride = patch_convolution(channels, stage)
        self.published_carry = published_carry
        self.proj = nn.Conv2d(in_channels, out, kernel, stride, padding=kernel // 2)
        self.norms = nn.ModuleList(nn.LayerNorm(out, eps=1e-6) for _ in range(others))
        self.hub = SQHub(out, others) if others > 1 else None
        self.blocks = nn.Sequential(*(PPX(out, PPX_RATIOS[stage], rate) for rate in drop_path))
        self.norm = nn.LayerNorm(out, eps=1e-6)

    def forward(self, others: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        others = [norm(convolve(self.proj, x)) for norm, x in zip(self.norms, others, strict=True)]  # (B, H, W, C)
        if self.hub is None:
            fused = others[0]
        else:
            others, fused = self.hub(others)
        return others, self.norm(self.blocks(fused))

    def carry(self, others: list[Tensor], fused: Tensor) -> list[Tensor]:
        """What each modality hands to the next stage: its own map plus the fused one; a single one: the fused one."""
        if self.hub is None:
            return [fused]
        if self.published_carry:
            others = [x.permute(0, 3, 1, 2).reshape(x.shape) for x in others]
        return [x + fused for x in others]


class FeatureRectify(nn.Module):
    """FRM: each stream takes from the other what channel and spatial weights let through.

    out_1 = x_1 + (w_c1 + w_s1) x_2 / 2 and symmetrically. w_c (B, C) comes from means and maxima of both streams over
    the image, w_s (B, H, W) from both streams' pixels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel_weights = nn.Sequential(nn.Linear(4 * channels, 4 * channels), nn.ReLU(),
                                             nn.Linear(4 * channels, 2 * channels), nn.Sigmoid())
        self.spatial_weights = nn.Sequential(nn.Linear(2 * channels, channels), nn.ReLU(), nn.Linear(channels, 2),
                                             nn.Sigmoid())

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat((x1, x2), dim=-1)  # (B, H, W, 2C)
        extent = torch.cat((both.mean(dim=(1, 2)), both.amax(dim=(1, 2))), dim=-1)  # (B, 4C)
        to_2, to_1 = self.channel_weights(extent)[:, None, None].chunk(2, dim=-1)  # each (B, 1, 1, C)
        at_2, at_1 = self.spatial_weights(both).chunk(2, dim=-1)  # each (B, H, W, 1)
        return x1 + 0.5 * (to_1 + at_1) * x2, x2 + 0.5 * (to_2 + at_2) * x1


class FeatureFusion(nn.Module):
    """FFM: the streams look at each other's context, then are merged into one map (B, H, W, C)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.cross1 = CrossStream(channels, heads)
        self.cross2 = CrossStream(channels, heads)
        self.residual = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.embed = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1), nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        y1, u1 = self.cross1.split(x1)
        y2, u2 = self.cross2.split(x2)
        context1, context2 = self.cross1.context(u1), self.cross2.context(u2)
        both = torch.cat((self.cross1.merge(x1, y1, u1, context2), self.cross2.merge(x2, y2, u2, context1)), dim=-1)
        both = both.permute(0, 3, 1, 2)  # (B, 2C, H, W)
        return self.norm(self.residual(both) + self.embed(both)).permute(0, 2, 3, 1)


class CrossStream(nn.Module):
    """One stream's side of the cross-attention: half of it stays, half reads the other stream's context."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.proj = nn.Linear(channels, 2 * channels)
        self.kv = nn.Linear(channels, 2 * channels, bias=False)
        self.end = nn.Linear(2 * channels, channels)
        self.norm = nn.LayerNorm(channels)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, u = F.relu(self.proj(x)).chunk(2, dim=-1)
        return y, u  # each (B, H, W, C)

    def context(self, u: Tensor) -> Tensor:
        """softmax(K^T V / sqrt(D)) over K's channels: (B, heads, D, D), D = C / heads."""
        B, H, W, C = u.shape
        k, v = self.kv(u).view(B, H * W, 2, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)  # (B, heads, HW, D)
        return torch.softmax(k.transpose(-2, -1) @ v * (C // self.heads) ** -0.5, dim=-2)

    def merge(self, x: Tensor, y: Tensor, u: Tensor, context: Tensor) -> Tensor:
        B, H, W, C = u.shape
        q = u.view(B, H * W, self.heads, C // self.heads).transpose(1, 2)  # (B, heads, HW, D)
        read = (q @ context).transpose(1, 2).reshape(B, H, W, C)
        return self.norm(x + self.end(torch.cat((y, read), dim=-1)))
