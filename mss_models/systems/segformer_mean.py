"""SegFormer-mean: one encoder shared by all modalities, the mean of what is there, one head.

The baseline of RobustSeg and of CHARM. The modalities of all samples go through the encoder as one batch, and at each
of the four stages a sample's features are averaged over the modalities that it has. Absent modalities are left out, so
their content cannot matter and the time falls with their number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mss_models.backbones import create_backbone
from mss_models.heads.segformer import SegFormerHead, resize
from mss_models.system import System


class SegFormerMean(System):
    """See the module's docstring. `head_width` is the head's E; `drop_path` and `dropout` act in training only."""

    source = "SegFormer (arXiv 2105.15203); mean fusion as RobustSeg's baseline"

    def __init__(self, modalities: Sequence[str], num_classes: int, backbone: str = "B0", head_width: int = 256,
                 drop_path: float = 0.1, dropout: float = 0.1) -> None:
        super().__init__(system="segformer_mean", modalities=tuple(modalities), num_classes=num_classes,
                         backbone=backbone, head_width=head_width, drop_path=drop_path, dropout=dropout)
        self.backbone = create_backbone(backbone, drop_path)
        self.head = SegFormerHead(self.backbone.channels, head_width, num_classes, dropout)

    def segment(self, images: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        first = next(iter(images.values()))  # (B, 3, H, W)
        rows = {name: mask.nonzero().flatten().to(first.device) for name, mask in present.items()}
        pairs = torch.cat([image if len(rows[name]) == len(image) else image[rows[name]]
                           for name, image in images.items()])  # (P, 3, H, W): the present (modality, sample) pairs
        features = [mean_over_samples(one, list(rows.values()), len(first)) for one in self.backbone(pairs)]
        return resize(self.head(features).float(), first.shape[-2:])  # in bf16, close classes would tie


def mean_over_samples(x: Tensor, rows: list[Tensor], batch: int) -> Tensor:
    """Average pairs (P, C, H, W) over each sample's modalities -> (B, C, H, W).

    `rows[m]` lists the samples, in order, that modality m's share of the pairs belongs to; every sample has at least
    one pair.
    """
    if len(x) == len(rows) * batch:  # everything is present
        return x.view(len(rows), batch, *x.shape[1:]).mean(dim=0) if len(rows) > 1 else x
    count = torch.zeros(batch, dtype=x.dtype, device=x.device).index_add_(0, torch.cat(rows), x.new_ones(len(x)))
    total = x.new_zeros(batch, *x.shape[1:]).contiguous(memory_format=torch.channels_last)
    # One modality at a time: each sample is then added to at most once per call, so the order of sums is fixed.
    for part, samples in zip(x.split([len(one) for one in rows]), rows, strict=True):
        total = total.index_add(0, samples, part)
    return total / count.view(-1, 1, 1, 1)
