"""StitchFusion (Li et al., "Weaving Any Visual Modalities ...", arXiv 2408.01343).

One MiT shared by all modalities. Inside its blocks, after the attention and again after the MLP, small adapters carry
each modality's tokens over to every other one. At each of the four stages the modalities' maps are summed (or fused by
the FFM), and the SegFormer head sees the result.

An absent modality is zeros in its place, as in the published evaluations. Where the paper is silent this follows the
released code [LiBingyu01/StitchFusion-..., models/backbones/stitchfusion.py]; docs/systems.md lists the departures.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss_models.backbones import create_mit
from mss_models.backbones.mit import DELIVER_EPS, Block
from mss_models.heads.segformer import SegFormerHead, resize
from mss_models.layers.initialisation import initialise
from mss_models.layers.present import zero_filled
from mss_models.layers.tokens import convolve, to_tokens
from mss_models.system import System

ADAPTERS = ("undirected", "directed", "shared", "none")
FUSIONS = ("sum", "ffm")
ADAPTER_WIDTH = 8


class StitchFusion(System):
    """See the module's docstring.

    adapters: for each of the four stages 'undirected' (an adapter per pair of modalities), 'directed' (one per ordered
    pair), 'shared' (one for all) or 'none'. The paper's 68.18 on DELIVER has them in the last two stages only.
    fusion: 'sum' or 'ffm'.
    published_aliasing: the released code forgets to copy a list, and so an adapter reads its source modality after the
    block's attention (or MLP) and after the adapters before it, instead of before. True does the same: for the public
    weights, and to train what the published numbers were trained with.
    dropout: of the head and of the adapters.
    """

    source = "arXiv 2408.01343, github.com/LiBingyu01/StitchFusion-..."
    ours = "an adapter starts with zeros in its last layer only"

    def __init__(self, modalities: Sequence[str], num_classes: int, backbone: str = "B0", head_width: int = 256,
                 drop_path: float = 0.1, dropout: float = 0.1, adapters: Sequence[str] = ("undirected",) * 4,
                 fusion: str = "sum", published_aliasing: bool = False) -> None:
        super().__init__(system="stitchfusion", modalities=tuple(modalities), num_classes=num_classes,
                         backbone=backbone, head_width=head_width, drop_path=drop_path, dropout=dropout,
                         adapters=list(adapters), fusion=fusion, published_aliasing=published_aliasing)
        if isinstance(adapters, str) or len(adapters) != 4 or not set(adapters) <= set(ADAPTERS):
            raise ValueError(f"adapters = {adapters!r}; four of {', '.join(ADAPTERS)} are needed, one per stage")
        if fusion not in FUSIONS:
            raise ValueError(f"fusion = {fusion!r}; choose from {', '.join(FUSIONS)}")
        count = len(self.modalities)
        self.backbone = create_mit(backbone, drop_path, DELIVER_EPS)
        channels, depths = self.backbone.channels, self.backbone.depths
        self.stitches = nn.ModuleList(
            nn.ModuleList(Stitch(channels[i], count, adapters[i], dropout, published_aliasing)
                          for _ in range(depths[i] if count > 1 and adapters[i] != "none" else 0))
            for i in range(4))
        self.fuse = nn.ModuleList(FeatureFusion(one, count) for one in channels if fusion == "ffm")
        self.head = SegFormerHead(channels, head_width, num_classes, dropout)
        self.fuse.apply(initialise)

    def segment(self, images: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        x = torch.stack([to_tokens(one) for one in zero_filled(images, present, self.modalities)])  # (M, B, H, W, 3)
        size = x.shape[2:4]
        features = []
        for i, stage in enumerate(self.backbone.stages):
            x = _each(stage.embed, x)  # (M, B, H/2^(i+2), W/2^(i+2), C)
            for block, stitch in itertools.zip_longest(stage.blocks, self.stitches[i]):
                x = stitch(block, x) if stitch else _each(block, x)
            x = _each(stage.norm, x)
            fused = self.fuse[i](x) if self.fuse else x.sum(dim=0)  # (B, H/2^(i+2), W/2^(i+2), C)
            features.append(fused.permute(0, 3, 1, 2))
        return resize(self.head(features).float(), size)


def _each(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module to every modality, all as one batch: (M, B, H, W, C) -> (M, B, H', W', C')."""
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class Stitch(nn.Module):
    """Runs a MiT block on all modalities with adapters between them: (M, B, H, W, C) -> the same shape.

    x_j' = x_j + attention(norm1 x_j) + sum over i != j of A_ij(norm1 x_i);  after it the same with MLP and norm2.
    """

    def __init__(self, channels: int, count: int, kind: str, dropout: float, published_aliasing: bool) -> None:
        super().__init__()
        self.published_aliasing = published_aliasing
        self.attention = Adapters(channels, count, kind, dropout)
        self.mlp = Adapters(channels, count, kind, dropout)

    def forward(self, block: Block, x: Tensor) -> Tensor:
        x = self._half(block, block.norm1, block.attention, self.attention, x)
        return self._half(block, block.norm2, block.mlp, self.mlp, x)

    def _half(self, block: Block, norm: nn.Module, layer: nn.Module, adapters: Adapters, x: Tensor) -> Tensor:
        normed = norm(x)
        outputs = list(x + block.drop_path(layer(normed.flatten(0, 1))).unflatten(0, x.shape[:2]))
        for i in range(len(outputs)):
            source = norm(outputs[i]) if self.published_aliasing else normed[i]
            for j in range(len(outputs)):
                if i != j:
                    outputs[j] = outputs[j] + block.drop_path(adapters.between(i, j)(source))
        return torch.stack(outputs)


class Adapters(nn.Module):
    """The adapters from every modality to every other one, `kind` as in StitchFusion."""

    def __init__(self, channels: int, count: int, kind: str, dropout: float) -> None:
        super().__init__()
        self.kind = kind
        ordered = itertools.permutations(range(count), 2)
        self.adapters = nn.ModuleDict({name: Adapter(channels, dropout)
                                       for name in sorted({self._name(i, j) for i, j in ordered})})

    def between(self, i: int, j: int) -> Adapter:
        """The one that carries modality i over to modality j."""
        return self.adapters[self._name(i, j)]

    def _name(self, i: int, j: int) -> str:
        if self.kind == "shared":
            return "all"
        return f"{i}_{j}" if self.kind == "directed" else f"{min(i, j)}_{max(i, j)}"


class Adapter(nn.Sequential):
    """Linear C -> 8 -> 8, GELU, dropout, linear 8 -> C, zero at first: training starts from the modalities apart."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__(nn.Linear(channels, ADAPTER_WIDTH), nn.Linear(ADAPTER_WIDTH, ADAPTER_WIDTH), nn.GELU(),
                         nn.Dropout(dropout), nn.Linear(ADAPTER_WIDTH, channels))
        self.apply(initialise)
        nn.init.zeros_(self[-1].weight)


class FeatureFusion(nn.Module):
    """FFM: tokens of all modalities (M, B, H, W, C) -> (B, H, W, C).

    u = linear M C -> C of all modalities' channels; the result is MLP(u) + w u, with w (B, C) from u's means.
    """

    def __init__(self, channels: int, count: int, reduction: int = 16) -> None:
        super().__init__()
        self.merge = nn.Linear(count * channels, channels)
        self.mlp = MultiScaleFFN(channels)
        self.weights = nn.Sequential(nn.Linear(channels, channels // reduction, bias=False), nn.ReLU(),
                                     nn.Linear(channels // reduction, channels, bias=False), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        u = self.merge(torch.cat(list(x), dim=-1))  # (B, H, W, M C) -> (B, H, W, C)
        return self.mlp(u) + self.weights(u.mean(dim=(1, 2), keepdim=True)) * u


class MultiScaleFFN(nn.Module):
    """Linear; 1x1 convolution and norm; plus 3x3, 5x5 and 7x7 depth-wise; 1x1 and norm; GELU; linear. Width C."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels)
        self.before = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))
        self.dwconvs = nn.ModuleList(nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels)
                                     for size in (3, 5, 7))
        self.after = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))
        self.fc2 = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = convolve(self.before, self.fc1(x))
        total = x
        for dwconv in self.dwconvs:
            total = total + convolve(dwconv, x)
        return self.fc2(F.gelu(convolve(self.after, total)))
