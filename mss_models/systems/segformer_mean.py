"""SegFormer-mean: one encoder shared by all modalities, the mean of what is there, one head.

The baseline of RobustSeg and of CHARM. The modalities of all samples go through the encoder as one batch, and at each
of the four stages a sample's features are averaged over the modalities that it has. Absent modalities are left out, so
their content cannot matter and the time falls with their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from mss_models.backbones import create_backbone
from mss_models.heads.segformer import SegFormerHead, resize
from mss_models.layers.present import encode_present, mean_over_present
from mss_models.system import System


class Encoded(NamedTuple):
    """`features`: 4 x (M, B, C, h, w), of the modalities `names`; zero where `mask`, (M, B) bool, is false."""

    names: tuple[str, ...]
    features: list[Tensor]
    mask: Tensor


class SegFormerMean(System):
    """See the module's docstring. `head_width` is the head's E; `drop_path` and `dropout` act in training only."""

    source = "SegFormer (arXiv 2105.15203); mean fusion as RobustSeg's baseline"
    ours = ""

    def __init__(self, modalities: Sequence[str], num_classes: int, backbone: str = "B0", head_width: int = 256,
                 drop_path: float = 0.1, dropout: float = 0.1) -> None:
        super().__init__(system="segformer_mean", modalities=tuple(modalities), num_classes=num_classes,
                         backbone=backbone, head_width=head_width, drop_path=drop_path, dropout=dropout)
        self.backbone = create_backbone(backbone, drop_path)
        self.head = SegFormerHead(self.backbone.channels, head_width, num_classes, dropout)

    def segment(self, images: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        return self.decode(self.encode(images, present), next(iter(images.values())).shape[-2:])

    def encode(self, images: dict[str, Tensor], present: dict[str, Tensor]) -> Encoded:
        return Encoded(tuple(images), *encode_present(self.backbone, images, present, self.dense))

    def decode(self, encoded: Encoded, size: Sequence[int]) -> Tensor:
        """Logits (B, K, *size)."""
        logits = self.head([mean_over_present(one, encoded.mask) for one in encoded.features])  # (B, K, H/4, W/4)
        return resize(logits.float(), size)  # in bf16, close classes would tie

    def encode_and_decode(self, images: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> tuple[Encoded, Tensor]:
        """The maps, of the padded images, and the logits (B, K, H, W); both take part in distillation."""
        images, present, (height, width) = self.prepare(images, present)
        encoded = self.encode(images, present)
        return encoded, self.decode(encoded, next(iter(images.values())).shape[-2:])[..., :height, :width]
