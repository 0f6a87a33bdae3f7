"""A reconstruction of MAGIC++ (Zheng et al., "MAGIC++: Efficient and Resilient Modality-Agnostic Semantic Segmentation
via Hierarchical Modality Selection", arXiv 2412.16876).

No code is public, and we have only these facts of the paper: a multi-modal interaction module (MIM) works on the
modalities' features with channel-wise and spatial-wise guidance; their mean is the common feature; a multi-scale
arbitrary-modal selection module (MASM) ranks the modalities by the cosine of their features and the common one at each
of the four stages, without parameters of its own, and keeps the most and the least alike; the rest is as in MAGIC
(arXiv 2407.11344). Everything else is ours, listed in `MAGICPlusPlus.ours`. Results of this network are not MAGIC++'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mss_models.backbones import create_backbone
from mss_models.heads.segformer import SegFormerHead, resize
from mss_models.layers.initialisation import initialise
from mss_models.layers.present import encode_present, mean_over_present
from mss_models.layers.similarity import cosine_to, pick, robust_and_fragile
from mss_models.losses import agreed, check_weights, cross_entropy, inconsistency
from mss_models.system import System


class MAGICPlusPlus(System):
    """See the module's docstring: a reconstruction. An absent modality is left out.

    lam, beta: weights of L_S and L_C in L = L_M + lam L_S + beta L_C.
    """

    source = "reconstruction of arXiv 2412.16876 (no public code)"
    ours = ("a reconstruction: the form of the MIM's guidance, the salient feature (mean of the robust and the fragile "
            "one), the losses (MAGIC's, L_C averaged over the stages), lam = beta = 1")

    def __init__(self, modalities: Sequence[str], num_classes: int, backbone: str = "B0", head_width: int = 256,
                 drop_path: float = 0.1, dropout: float = 0.1, lam: float = 1.0, beta: float = 1.0) -> None:
        super().__init__(system="magic_plus", modalities=tuple(modalities), num_classes=num_classes,
                         backbone=backbone, head_width=head_width, drop_path=drop_path, dropout=dropout, lam=lam,
                         beta=beta)
        check_weights(lam=lam, beta=beta)
        self.lam, self.beta = lam, beta
        self.backbone = create_backbone(backbone, drop_path)
        self.interactions = nn.ModuleList(Interaction(channels) for channels in self.backbone.channels)
        self.head = SegFormerHead(self.backbone.channels, head_width, num_classes, dropout)

    def segment(self, images: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        features, mask = self.interact(images, present)
        logits = self.head([mean_over_present(one, mask) for one in features])  # (B, K, H/4, W/4)
        return resize(logits.float(), next(iter(images.values())).shape[-2:])

    def interact(self, images: dict[str, Tensor], present: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        """The modalities' features after the MIM, 4 x (M, B, C, h, w), and the mask (M, B)."""
        features, mask = encode_present(self.backbone, images, present, self.dense)
        return [mim(one, mask) for mim, one in zip(self.interactions, features, strict=True)], mask

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        images, present, size = self.prepare(batch["images"], batch["present"])
        features, mask = self.interact(images, present)
        semantic = [mean_over_present(one, mask) for one in features]  # f_se = Mean(f_m), per stage
        selected = [self.select(one, common, mask) for one, common in zip(features, semantic, strict=True)]
        salient = [one for one, _ in selected]
        padded = next(iter(images.values())).shape[-2:]
        p_m, p_s = (resize(self.head(one).float(), padded)[..., : size[0], : size[1]] for one in (semantic, salient))
        loss_m = cross_entropy(p_m, batch["labels"])
        loss_s = cross_entropy(p_s, agreed(p_m, batch["labels"]))
        loss_c = torch.stack([inconsistency(one, f_sa, rest)
                              for one, (f_sa, rest) in zip(features, selected, strict=True)]).mean()
        value = loss_m + self.lam * loss_s + self.beta * loss_c
        return value, {"loss": value.detach(), "L_M": loss_m.detach(), "L_S": loss_s.detach(), "L_C": loss_c.detach()}

    @staticmethod
    def select(maps: Tensor, semantic: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """MASM at one stage: the salient feature f_sa (B, C, h, w), and which modalities remain, (M, B) bool.

        f_sa is the mean of the modalities most and least like f_se (ours), so that the head which reads means of
        features can read it.
        """
        robust, fragile, rest = robust_and_fragile(cosine_to(semantic, maps), mask)
        return (pick(maps, robust) + pick(maps, fragile)) / 2, rest


class Interaction(nn.Module):
    """MIM at one stage: every modality takes from the mean of all what channel and spatial weights let through.

    f_m <- f_m + (w_c + w_s) f / 2, f the mean of the present modalities; w_c (C,) from the means over the pixels of
    f_m and f, w_s (h, w) from the means and maxima over the channels of f_m and f. The form is ours: the feature
    rectification of CMX (arXiv 2203.04838), which also guides by channel and by place, with the mean of all in the
    place of the one other stream, and with the same weights for every modality, so that any number can come.
    """

    def __init__(self, channels: int, reduction: int = 4, kernel: int = 7) -> None:
        super().__init__()
        self.channel_weights = nn.Sequential(nn.Linear(2 * channels, channels // reduction), nn.ReLU(),
                                             nn.Linear(channels // reduction, channels), nn.Sigmoid())
        self.spatial_weights = nn.Sequential(nn.Conv2d(4, 1, kernel, padding=kernel // 2), nn.Sigmoid())
        self.apply(initialise)

    def forward(self, maps: Tensor, mask: Tensor) -> Tensor:
        """(M, B, C, h, w), mask (M, B) bool -> the same shape; arbitrary where absent."""
        common = mean_over_present(maps, mask).expand_as(maps)
        extent = torch.cat((maps.mean(dim=(3, 4)), common.mean(dim=(3, 4))), dim=2)  # (M, B, 2C)
        w_c = self.channel_weights(extent)[..., None, None]  # (M, B, C, 1, 1)
        places = torch.stack((maps.mean(dim=2), maps.amax(dim=2), common.mean(dim=2), common.amax(dim=2)), dim=2)
        w_s = self.spatial_weights(places.flatten(0, 1)).unflatten(0, mask.shape)  # (M, B, 1, h, w)
        return maps + (w_c + w_s) * common / 2
