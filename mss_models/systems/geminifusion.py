"""GeminiFusion (Jia et al., "GeminiFusion: Efficient Pixel-wise Multimodal Fusion for Vision Transformer", ICML 2024,
arXiv 2406.01210).

Two streams, the first modality (RGB) and all the others, run through one MiT with norms of their own. At each of the
four stages the self-query hub of CMNeXt (arXiv 2303.01480) makes one map of the others. In every block, between the
attention and its projection, each pixel of a stream attends to two tokens: itself and the same pixel of the other
stream. One head reads both streams, and the logits are weighed by a learned soft-max.

An absent modality is zeros in its place, as in the published evaluations. The form is the released code's
[JiaDingCN/GeminiFusion, branch DeLiVER, semseg/models]; docs/systems.md lists the departures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss_models.backbones import create_mit
from mss_models.backbones.mit import MiT
from mss_models.heads.segformer import SegFormerHead, resize
from mss_models.layers.initialisation import initialise
from mss_models.layers.present import zero_filled
from mss_models.layers.sq_hub import SQHub
from mss_models.layers.tokens import to_tokens
from mss_models.losses import ohem_cross_entropy
from mss_models.system import System

STREAMS = 2
HEADS = 8  # of the attention to two tokens, in all stages
EPS = 1e-6  # of all norms


class GeminiFusion(System):
    """See the module's docstring. The first of `modalities`, of which there are at least two, is the first stream."""

    source = "arXiv 2406.01210, github.com/JiaDingCN/GeminiFusion (branch DeLiVER)"
    ours = "initial weights of the depth-wise convolutions (normal by fan-out / groups)"

    def __init__(self, modalities: Sequence[str], num_classes: int, backbone: str = "B0", head_width: int = 256,
                 drop_path: float = 0.1, dropout: float = 0.1) -> None:
        super().__init__(system="geminifusion", modalities=tuple(modalities), num_classes=num_classes,
                         backbone=backbone, head_width=head_width, drop_path=drop_path, dropout=dropout)
        if len(self.modalities) < STREAMS:
            raise ValueError(f"modalities = {list(self.modalities)}; two streams need at least two (segformer_mean "
                             "takes one)")
        others = len(self.modalities) - 1
        self.backbone = create_mit(backbone, drop_path)
        make_parallel(self.backbone, len(self.modalities))
        self.hubs = nn.ModuleList(SQHub(one, others) for one in self.backbone.channels if others > 1)
        self.head = SegFormerHead(self.backbone.channels, head_width, num_classes, dropout)
        self.alpha = nn.Parameter(torch.ones(STREAMS))  # how the streams' logits are weighed
        self.hubs.apply(initialise)

    def segment(self, images: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        logits = self.ensemble(self.decode(self.encode(images, present)))
        return resize(logits.float(), next(iter(images.values())).shape[-2:])

    def encode(self, images: dict[str, Tensor], present: dict[str, Tensor]) -> list[Tensor]:
        """The maps of both streams, 4 x (2, B, C, h, w)."""
        x = torch.cat([to_tokens(one) for one in zero_filled(images, present, self.modalities)])  # (M B, H, W, 3)
        features = []
        for i, stage in enumerate(self.backbone.stages):
            x = stage.embed(x)  # (M B, h, w, C)
            if self.hubs:
                first, *others = x.unflatten(0, (len(self.modalities), -1))  # M x (B, h, w, C)
                others, fused = self.hubs[i](others)
                x = torch.cat((first, fused))
            for block in stage.blocks:  # (2B, h, w, C)
                x = block(x)
            x = stage.norm(x)
            streams = x.unflatten(0, (STREAMS, -1))  # (2, B, h, w, C)
            features.append(streams.permute(0, 1, 4, 2, 3))
            if self.hubs:  # what a modality hands to the next stage: its own map plus the fused one
                x = torch.cat((streams[0], *(one + streams[1] for one in others)))
        return features

    def decode(self, features: list[Tensor]) -> list[Tensor]:
        """Logits of each stream, 2 x (B, K, H/4, W/4). One after another: batch norm looks at one stream at a time."""
        return [self.head([maps[i] for maps in features]) for i in range(STREAMS)]

    def ensemble(self, logits: Sequence[Tensor]) -> Tensor:
        """sum of softmax(alpha)_i logits_i."""
        return sum(weight * one for weight, one in zip(self.alpha.softmax(dim=0), logits, strict=True))

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """OHEM of both streams and of their ensemble, from which alpha alone learns (tools/train_mm.py there)."""
        images, present, (height, width) = self.prepare(batch["images"], batch["present"])
        padded = next(iter(images.values())).shape[-2:]
        streams = self.decode(self.encode(images, present))
        outputs = [*streams, self.ensemble([one.detach() for one in streams])]
        terms = [ohem_cross_entropy(resize(one.float(), padded)[..., :height, :width], batch["labels"])
                 for one in outputs]
        value = torch.stack(terms).sum()
        names = ("loss", "L_first", "L_others", "L_ensemble")
        return value, {name: one.detach() for name, one in zip(names, (value, *terms), strict=True)}


def make_parallel(backbone: MiT, modalities: int) -> None:
    """Norms per modality in the patch embeddings and per stream elsewhere, and PixelFusion in every block."""
    for stage, channels in zip(backbone.stages, backbone.channels, strict=True):
        stage.embed.norm = StreamNorms(channels, modalities)
        for block in stage.blocks:
            block.norm1, block.norm2 = StreamNorms(channels), StreamNorms(channels)
            if block.attention.reduction > 1:
                block.attention.norm = StreamNorms(channels)
            block.attention.between = PixelFusion(channels)
        stage.norm = StreamNorms(channels)


class StreamNorms(nn.ModuleList):
    """A layer norm per stream: tokens (S B, h, w, C), one stream after another -> the same shape."""

    def __init__(self, channels: int, streams: int = STREAMS) -> None:
        super().__init__(nn.LayerNorm(channels, eps=EPS) for _ in range(streams))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([norm(one) for norm, one in zip(self, x.unflatten(0, (len(self), -1)), strict=True)])


class PixelFusion(nn.Module):
    """Each pixel asks itself and the other stream's: tokens of both streams (2B, h, w, C) -> the same shape.

    x + MHA(q = x, k = [x + noise_k, r x], v = [x + noise_v, other]), with the relation r = softmax(MLP[x, other]) over
    the channels, whose MLP serves both streams.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.relation = nn.Sequential(nn.Linear(2 * channels, channels), nn.GELU(), nn.Linear(channels, channels),
                                      nn.Softmax(dim=-1))
        self.relation.apply(initialise)
        self.attentions = nn.ModuleList(PairAttention(channels) for _ in range(STREAMS))
        # The layer-adaptive noise: learned, the same for all pixels.
        self.noise_k = nn.Parameter(torch.randn(STREAMS, channels))
        self.noise_v = nn.Parameter(torch.randn(STREAMS, channels))

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.unflatten(0, (STREAMS, -1))  # each (B, h, w, C)
        fused = []
        for i, (x, other) in enumerate(((first, second), (second, first))):
            r = self.relation(torch.cat((x, other), dim=-1))
            keys, values = (x + self.noise_k[i], r * x), (x + self.noise_v[i], other)
            fused.append(x + self.attentions[i](x, keys, values))
        return torch.cat(fused)


class PairAttention(nn.Module):
    """Multi-head attention of every pixel to two tokens of its own: q, and each of k and v, (B, h, w, C) -> the same.

    The soft-max over two scores s_0, s_1 is sigmoid(s_1 - s_0), for which only the difference of the keys is needed
    (W_K's bias cancels). `published_order` takes the keys one by one instead; the published GFLOPs count that.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.published_order = False
        self.qkv = nn.Linear(channels, 3 * channels)  # W_Q, W_K, W_V
        self.out = nn.Linear(channels, channels)
        self.out.apply(initialise)
        nn.init.xavier_uniform_(self.qkv.weight)  # torch's own for such an attention, which the code uses
        nn.init.zeros_(self.qkv.bias)

    def forward(self, q: Tensor, k: tuple[Tensor, Tensor], v: tuple[Tensor, Tensor]) -> Tensor:
        (w_q, w_k, w_v), (b_q, _, b_v) = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        q = self._split(F.linear(q, w_q, b_q))
        difference = F.linear(k[1], w_k) - F.linear(k[0], w_k) if self.published_order else F.linear(k[1] - k[0], w_k)
        v_0, v_1 = (self._split(F.linear(one, w_v, b_v)) for one in v)
        scores = (q * self._split(difference)).sum(dim=-1, keepdim=True) * q.shape[-1] ** -0.5
        return self.out(torch.lerp(v_0, v_1, scores.sigmoid()).flatten(-2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, -1))  # (B, h, w, heads, D)
