"""EQUISeg ("Robust Multimodal Semantic Segmentation with Balanced Modality Contributions").

Every modality has an encoder of its own, and in each of its four stages a cross-modal transformer block (CMTB) brings
in what the others know: self-query hub and parallel pooling mixer (both of CMNeXt, arXiv 2303.01480) make one map of
them, cross-attention reads it. In training alone, the self-guided module (SGM) lets a random half of the modalities
teach the other half their class prototypes, so that none is left behind.

Numbers of equations and sections are the paper's. There is no public code; what the paper leaves open is in
`EQUISeg.ours`, with the reasons at the lines.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss_models.backbones import MIT_FORMS, create_mit
from mss_models.backbones.mit import Attention
from mss_models.distillation import kl_mean, labels_at, prototypes
from mss_models.heads.segformer import SegFormerHead, resize
from mss_models.layers.initialisation import initialise
from mss_models.layers.ppx import PPX, PPX_RATIOS
from mss_models.layers.present import mean_over_present, zero_filled
from mss_models.layers.sq_hub import SQHub
from mss_models.layers.tokens import drop_path_rates, to_tokens
from mss_models.losses import IGNORE_ID, check_weights, cross_entropy
from mss_models.system import System

HUBS = ("self_query", "mean")
GUIDANCES = ("prototypes", "features", "none")
PAIRINGS = ("random", "cosine")
Pairs = list[tuple[int, int]]
"""(teacher, student), as indices of modalities."""


class EQUISeg(System):
    """See the module's docstring. An absent modality is left out of the hubs, of the fusion and of the SGM.

    Tables 2 and 3, the ablations: hub 'mean' instead of 'self_query'; cross_attention False, f = f_1' + f_aux; addition
    False, f = f_c; guidance 'none' (without SGM) or 'features' (without the prototype operation) instead of
    'prototypes'; pairing 'cosine' instead of 'random'. `guidance_weight` is the paper's lambda.
    """

    source = "EQUISeg: Robust Multimodal Semantic Segmentation with Balanced Modality Contributions (no public code)"
    ours = ("one CMTB at the end of each stage, not shared by the modalities; residual around its self-attention; "
            "cross-attention reads spatially reduced keys and values, as SegFormer's self-attention; the mean of the "
            "modalities goes to the head; prototypes over the batch, soft-max over its classes, mean over the "
            "elements, gradients to the student alone; cosine pairing joins the most similar, roles at random")

    def __init__(self, modalities: Sequence[str], num_classes: int, backbone: str = "B0", head_width: int = 256,
                 drop_path: float = 0.1, dropout: float = 0.1, hub: str = "self_query", cross_attention: bool = True,
                 addition: bool = True, guidance: str = "prototypes", pairing: str = "random",
                 guidance_weight: float = 60.0) -> None:
        super().__init__(system="equiseg", modalities=tuple(modalities), num_classes=num_classes, backbone=backbone,
                         head_width=head_width, drop_path=drop_path, dropout=dropout, hub=hub,
                         cross_attention=cross_attention, addition=addition, guidance=guidance, pairing=pairing,
                         guidance_weight=guidance_weight)
        for name, value, known in (("hub", hub, HUBS), ("guidance", guidance, GUIDANCES),
                                   ("pairing", pairing, PAIRINGS)):
            if value not in known:
                raise ValueError(f"{name} = {value!r} is unknown; known: {', '.join(known)}")
        if not cross_attention and not addition:
            raise ValueError("cross_attention and addition are both off; nothing of a modality itself would remain")
        check_weights(guidance_weight=guidance_weight)
        self.guidance, self.pairing, self.guidance_weight = guidance, pairing, guidance_weight
        self.backbones = nn.ModuleDict({name: create_mit(backbone, drop_path) for name in self.modalities})
        form = MIT_FORMS[backbone]
        rates = [stage[-1] for stage in drop_path_rates(form.depths, drop_path)]
        self.blocks = nn.ModuleDict({
            name: nn.ModuleList(
                CMTB(*sizes, [one for one in self.modalities if one != name], hub, cross_attention, addition)
                for sizes in zip(form.channels, form.heads, form.reductions, PPX_RATIOS, rates, strict=True))
            for name in self.modalities})
        self.head = SegFormerHead(form.channels, head_width, num_classes, dropout)

    def segment(self, images: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        features, mask = self.encode(images, present)
        return self.decode(features, mask, next(iter(images.values())).shape[-2:])

    def encode(self, images: dict[str, Tensor], present: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        """f of every modality and stage (eq. 5), 4 x (M, B, C, h, w), arbitrary where absent; mask (M, B)."""
        device = next(iter(images.values())).device
        there = {name: one.to(device) for name, one in present.items()}
        # The branches of a modality that only some samples have see zeros in the others; nothing reads the result.
        x = {name: to_tokens(one) for name, one in zip(images, zero_filled(images, present, images), strict=True)}
        features = []
        for i in range(4):
            x = {name: self.backbones[name].stages[i](one) for name, one in x.items()}  # each (B, h, w, C)
            x = {name: self.blocks[name][i](one, {other: x[other] for other in x if other != name}, there)
                 for name, one in x.items()}
            features.append(torch.stack(list(x.values())).permute(0, 1, 4, 2, 3))
        return features, torch.stack(list(there.values()))

    def decode(self, features: list[Tensor], mask: Tensor, size: Sequence[int]) -> Tensor:
        """Logits (B, K, *size). Ours: the paper's SegHead takes all maps; SegFormer's takes one per stage, their mean.

        A mean treats the modalities equally, which is the paper's aim, and takes any number of them.
        """
        return resize(self.head([mean_over_present(one, mask) for one in features]).float(), size)

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """L = L_CE + lambda L_s (eq. 8). The roles in L_s are drawn from torch's generator."""
        images, present, (height, width) = self.prepare(batch["images"], batch["present"])
        padded = next(iter(images.values())).shape[-2:]
        features, mask = self.encode(images, present)
        logits = self.decode(features, mask, padded)[..., :height, :width]
        value = cross_entropy(logits, batch["labels"])  # eq. 7
        logs = {"L_CE": value.detach()}
        if self.guidance != "none":
            labels = F.pad(batch["labels"], (0, padded[1] - width, 0, padded[0] - height), value=IGNORE_ID)
            guidance = self.guide(features, mask, labels)
            value = value + self.guidance_weight * guidance
            logs["L_s"] = guidance.detach()
        return value, {"loss": value.detach()} | logs

    def guide(self, features: list[Tensor], mask: Tensor, labels: Tensor) -> Tensor:
        """SGM: L_s of eq. 4, a scalar float32; 0 with fewer than two modalities.

        features 4 x (M, B, C, h, w), mask (M, B) bool, labels (B, H, W) int64 of the padded images.
        """
        with torch.autocast(labels.device.type, enabled=False):  # sums over whole maps need float32
            if self.guidance == "prototypes":
                stages = [class_prototypes(one, mask, labels, self.num_classes) for one in features]
            else:
                stages = [(one.float(), mask) for one in features]
            # Which modality teaches which, the same in all stages.
            pairs = random_pairs(len(mask)) if self.pairing == "random" else most_similar_pairs(similarities(stages))
            total = torch.zeros((), device=labels.device)
            for rows, there in stages:
                for t, s in pairs:
                    both = there[t] & there[s]
                    if bool(both.any()):
                        total = total + self.divergence(rows[t][both].detach(), rows[s][both])
        return total

    def divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        """L_KL (section 2.2) = KL(teacher || student), the mean over all elements.

        Prototypes (K, C) are soft-maxed over their classes c, over which the paper sums. Features (N, C, h, w) have
        none: over their channels (ours).
        """
        if self.guidance == "prototypes":
            return kl_mean(student[None], teacher[None], dim=1).squeeze(0)
        return kl_mean(student, teacher, dim=1).mean()


class CMTB(nn.Module):
    """Cross-modal transformer block (section 2.1): tokens of one modality (B, h, w, C) -> the same shape.

    others: the names of the other modalities; the rest as in EQUISeg.
    """

    def __init__(self, channels: int, heads: int, reduction: int, ratio: int, drop_path: float, others: Sequence[str],
                 hub: str, cross_attention: bool, addition: bool) -> None:
        super().__init__()
        self.others = list(others)
        self.addition = addition
        self.mhsa = Attention(channels, heads, reduction)
        self.hub = SQHub(channels, len(others)) if others and hub == "self_query" else None
        self.ppx = PPX(channels, ratio, drop_path) if others else None
        # Ours: it reads a spatially reduced context, as SegFormer's self-attention does. At stage 1 all pixels against
        # all would be 4 10^9 products per head for 1024 x 1024 images.
        self.mhca = Attention(channels, heads, reduction) if others and cross_attention else None
        self.apply(initialise)

    def forward(self, f_1: Tensor, others: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> Tensor:
        """others: the tokens of those other modalities that some sample has; there: which samples, (B,) bool each.

        With no other modality there, f = f_1'.
        """
        # f_1' = MHSA(f_1). Ours: with a residual, as everywhere in SegFormer; without, the stage's map would be lost.
        f_1 = f_1 + self.mhsa(f_1)
        if not others:
            return f_1
        helped = torch.stack([there[name] for name in others]).any(dim=0).view(-1, 1, 1, 1)
        f_aux = self.ppx(self.gather(others, there))  # f_aux = PPX(SQ-Hub(f_2, f_3, ...))
        f_c = self.mhca(f_1, f_aux) if self.mhca else f_aux  # eq. 1
        f = f_1 + f_c if self.addition else f_c  # eq. 2
        return torch.where(helped, f, f_1)

    def gather(self, others: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> Tensor:
        """SQ-Hub, or mean, over the other modalities that are there (B, h, w, C); 0 where none is."""
        masks = [there[name].view(-1, 1, 1, 1) for name in others]
        if self.hub is None:
            total = sum(torch.where(one, x, 0) for one, x in zip(masks, others.values(), strict=True))
            return total / sum(masks).clamp(min=1)
        weighted = [torch.where(one, self.hub.weigh(self.others.index(name), x), -torch.inf)
                    for one, (name, x) in zip(masks, others.items(), strict=True)]
        best = functools.reduce(torch.maximum, weighted)
        return torch.where(functools.reduce(torch.logical_or, masks), best, 0)


def class_prototypes(f: Tensor, mask: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Eq. 3: p (M, K, C), each modality's mean over the batch's pixels of a class, and which there are, (M, K) bool.

    f (M, B, C, h, w), mask (M, B) bool, labels (B, H, W) int64.
    """
    labels = labels_at(labels, f.shape[-2:])
    labels = torch.where(mask[:, :, None, None], labels, -1).flatten(1, 2)  # (M, B h, w), -1: no class
    maps = f.transpose(1, 2).flatten(2, 3)  # (M, C, B h, w)
    there = torch.stack([(labels == k).any(dim=2).any(dim=1) for k in range(num_classes)], dim=1)
    return prototypes(maps, labels, num_classes), there


def random_pairs(count: int) -> Pairs:
    """A random half of `count` modalities are teachers, one student each; of an odd count a random one is left out."""
    order, half = torch.randperm(count).tolist(), count // 2
    return list(zip(order[:half], order[half : 2 * half], strict=True))


def most_similar_pairs(similarity: Tensor) -> Pairs:
    """The two most similar modalities, then the two most similar of the rest, ...; who teaches is drawn.

    similarity (M, M). Ours: the paper has "cosine similarity instead randomly paired" and "overly similar pairs".
    """
    similarity = similarity.clone().fill_diagonal_(-torch.inf)
    pairs = []
    for _ in range(len(similarity) // 2):
        pair = divmod(int(similarity.argmax()), len(similarity))
        similarity[list(pair)] = similarity[:, list(pair)] = -torch.inf
        pairs.append(pair if bool(torch.rand(()) < 0.5) else pair[::-1])
    return pairs


@torch.no_grad()
def similarities(stages: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Cosine of every two modalities, of all rows that both have as one vector, the mean over the stages: (M, M).

    stages: rows (M, R, ...) and which there are, (M, R) bool. -1 between modalities without a common row.
    """
    result = torch.full((len(stages), *[len(stages[0][0])] * 2), -1.0)
    for stage, (rows, there) in enumerate(stages):
        for i in range(len(rows)):
            for j in range(i):
                if bool((both := there[i] & there[j]).any()):
                    cosine = F.cosine_similarity(rows[i][both].flatten(), rows[j][both].flatten(), dim=0)
                    result[stage, i, j] = result[stage, j, i] = cosine
    return result.mean(dim=0)
