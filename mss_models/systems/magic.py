"""MAGIC (Zheng et al., "Centering the Value of Every Modality: Towards Efficient and Resilient Modality-agnostic
Semantic Segmentation", ECCV 2024, arXiv 2407.11344).

A SegFormer shared by all modalities makes a map of class scores f_m of each. The multi-modal aggregation module (MAM)
turns those that are there into one, f_se, which is the result. In training alone, the arbitrary-modal selection module
(ASM) ranks the modalities by their likeness to f_se, and makes the most and the least alike one predict together. There
is no complete public code; what the paper leaves open is in `MAGIC.ours`, with the reasons at the lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss_models.backbones import create_backbone
from mss_models.heads.segformer import SegFormerHead, resize
from mss_models.layers.initialisation import initialise
from mss_models.layers.ppx import PoolAttention
from mss_models.layers.present import encode_present, mean_over_present
from mss_models.layers.similarity import cosine_to, pick, robust_and_fragile
from mss_models.losses import agreed, check_weights, cross_entropy, inconsistency
from mss_models.system import System


class MAGIC(System):
    """See the module's docstring. An absent modality is left out.

    lam, beta: weights of L_S and L_C in L = L_M + lam L_S + beta L_C. Both 1, as the paper does not give them.
    """

    source = "arXiv 2407.11344 (no complete public code)"
    ours = ("lam = beta = 1; the MAM's convolutions are shared by the modalities and its MLPs start as the identity; "
            "the ASM ranks and selects the maps before the MAM; L_C: soft-max over the classes of the cosines over the "
            "pixels, 0 with fewer than four modalities")
    training_only = ("selection",)

    def __init__(self, modalities: Sequence[str], num_classes: int, backbone: str = "B0", head_width: int = 256,
                 drop_path: float = 0.1, dropout: float = 0.1, lam: float = 1.0, beta: float = 1.0) -> None:
        super().__init__(system="magic", modalities=tuple(modalities), num_classes=num_classes, backbone=backbone,
                         head_width=head_width, drop_path=drop_path, dropout=dropout, lam=lam, beta=beta)
        check_weights(lam=lam, beta=beta)
        self.lam, self.beta = lam, beta
        self.backbone = create_backbone(backbone, drop_path)
        self.head = SegFormerHead(self.backbone.channels, head_width, num_classes, dropout)
        self.aggregation = Aggregation(num_classes, self.modalities)
        self.selection = nn.ModuleDict({"robust": ValueMLP(), "fragile": ValueMLP()})

    def segment(self, images: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        _, semantic, _ = self.aggregate(images, present)
        return resize(semantic.float(), next(iter(images.values())).shape[-2:])

    def aggregate(self, images: dict[str, Tensor], present: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Each modality's map f_m (M, B, K, H/4, W/4), zero where absent; f_se (B, K, H/4, W/4); the mask (M, B)."""
        def scores(pairs: Tensor) -> tuple[Tensor, Tensor]:  # of the present (modality, sample) pairs only
            maps = self.head(self.backbone(pairs))
            return maps, self.aggregation.explore(maps)

        (maps, explored), mask = encode_present(scores, images, present, self.dense)
        return maps, self.aggregation.merge(explored, mask, list(images)), mask

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        images, present, size = self.prepare(batch["images"], batch["present"])
        maps, semantic, mask = self.aggregate(images, present)
        salient, rest = self.select(maps, semantic, mask)
        padded = next(iter(images.values())).shape[-2:]
        p_m, p_s = (resize(one.float(), padded)[..., : size[0], : size[1]] for one in (semantic, salient))
        loss_m = cross_entropy(p_m, batch["labels"])  # L_M = - sum_k Y log P_m
        loss_s = cross_entropy(p_s, agreed(p_m, batch["labels"]))  # L_S = - sum_k M log P_s
        loss_c = inconsistency(maps, salient, rest)
        value = loss_m + self.lam * loss_s + self.beta * loss_c  # L = L_M + lambda L_S + beta L_C
        return value, {"loss": value.detach(), "L_M": loss_m.detach(), "L_S": loss_s.detach(), "L_C": loss_c.detach()}

    def select(self, maps: Tensor, semantic: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """ASM: the salient map f_sa (B, K, h, w), and which modalities remain, (M, B) bool; of the maps before the MAM.

        f_rf, f_rm = Rank(Cos({f_m}, f_se)): f_rf are the modalities most and least like f_se (the robust and the
        fragile one), f_rm the rest. f_sa = MLP(f_robust) + MLP(f_fragile). A single present modality is both.
        """
        robust, fragile, rest = robust_and_fragile(cosine_to(semantic, maps), mask)
        salient = self.selection["robust"](pick(maps, robust)) + self.selection["fragile"](pick(maps, fragile))
        return salient, rest


class Aggregation(nn.Module):
    """MAM, in two parts, since the first works on each map by itself."""

    def __init__(self, channels: int, modalities: Sequence[str]) -> None:
        super().__init__()
        # Shared by the modalities (ours): the paper draws one, and one serves any modality.
        self.attention = PoolAttention(channels).apply(initialise)
        self.mlps = nn.ModuleDict({name: ValueMLP() for name in modalities})

    def explore(self, maps: Tensor) -> Tensor:
        """f + sigmoid(conv1x1(x0 + avg3 x0 + avg7 x0 + avg11 x0)) f, with x0 = dwconv7x7 f. (N, K, h, w) -> same."""
        return self.attention(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def merge(self, explored: Tensor, mask: Tensor, names: Sequence[str]) -> Tensor:
        """f_se (B, K, h, w): the mean of MLP_m(explored_m), (M, B, K, h, w), over the present modalities `names`."""
        values = torch.stack([self.mlps[name](one) for name, one in zip(names, explored, strict=True)])
        return mean_over_present(values, mask)


class ValueMLP(nn.Module):
    """1 -> 8 -> ReLU -> 1 on every value by itself. Any shape -> the same shape.

    It starts as the identity (ours): f_se is then the mean of the modalities' scores. A random function of one number
    mostly forgets its sign, and the backbone would have to learn around that. x = mean over b of
    relu(x + b) - relu(-x - b) - b, for the four thresholds b.
    """

    thresholds = (-3.0, -1.0, 1.0, 3.0)

    def __init__(self) -> None:
        super().__init__()
        count = len(self.thresholds)
        self.widen = nn.Linear(1, 2 * count)
        self.narrow = nn.Linear(2 * count, 1)
        sign = torch.tensor([1.0, -1.0]).repeat(count)
        with torch.no_grad():
            self.widen.weight.copy_(sign[:, None])
            self.widen.bias.copy_(sign * torch.tensor(self.thresholds).repeat_interleave(2))
            self.narrow.weight.copy_(sign[None] / count)
            self.narrow.bias.fill_(-sum(self.thresholds) / count)

    def forward(self, x: Tensor) -> Tensor:
        # (1, N) -> (8, N) -> (1, N): with the values as rows, the products take 2 to 6 times as long.
        hidden = F.relu(torch.addmm(self.widen.bias[:, None], self.widen.weight, x.reshape(1, -1)))
        return torch.addmm(self.narrow.bias[:, None], self.narrow.weight, hidden).reshape(x.shape)
