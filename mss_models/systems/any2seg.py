"""Any2Seg (Zheng, Lyu, Wang, "Learning Modality-agnostic Representation for Semantic Segmentation from Any
Modalities", ECCV 2024, arXiv 2407.11351).

A SegFormer encoder shared by all modalities; modality-agnostic feature fusion (MFF, section 3.3) makes one map of those
that are there; the head reads it. In training alone, language-guided semantic correlation distillation (LSCD, section
3.2) makes the correlations of the features follow those of a vision-language teacher (mss_models/teachers.py). There is
no complete public code; what the paper leaves open is in `Any2Seg.ours`, with the reasons at the lines.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mss_models.backbones import create_backbone
from mss_models.heads.segformer import SegFormerHead, resize
from mss_models.layers.present import encode_present, mean_over_present
from mss_models.layers.similarity import cosine_to
from mss_models.losses import cross_entropy
from mss_models.system import System
from mss_models.teachers import Teacher

LOG = logging.getLogger(__name__)
FUSIONS = ("both", "balance", "selection")
TIE = 1e-3  # cosines closer than this count as equal


class Any2Seg(System):
    """See the module's docstring. An absent modality is left out.

    steps: how often the MFF refines f_ma, T. The paper feeds f_ma^t back as the input of iteration t+1; here all
    iterations are within one forward, so that the output depends on the input alone.
    fusion: what f_ma is, FUSIONS, rows of the paper's table 6: f_mb + f_ms, f_mb alone ("re-weight") or f_ms alone
    ("selection", which still compares with f_mb).

    The teacher is no part of the network: `learn_from` names it before training. Without one there is only L_sup.
    """

    source = "arXiv 2407.11351 (no complete public code)"
    ours = ("MFF at each of the four stages, LSCD at the deepest; steps = 1; near-equal similarities (1e-3) go to the "
            "first modality; soft-max before every KL, teacher to student, mean over its rows or samples; the scene's "
            "description, from the class names in the labels")

    def __init__(self, modalities: Sequence[str], num_classes: int, backbone: str = "B0", head_width: int = 256,
                 drop_path: float = 0.1, dropout: float = 0.1, steps: int = 1, fusion: str = "both") -> None:
        super().__init__(system="any2seg", modalities=tuple(modalities), num_classes=num_classes, backbone=backbone,
                         head_width=head_width, drop_path=drop_path, dropout=dropout, steps=steps, fusion=fusion)
        if not 1 <= steps <= 64:  # a file may ask for any number
            raise ValueError(f"steps = {steps}; 1 to 64 are possible")
        if fusion not in FUSIONS:
            raise ValueError(f"fusion = {fusion!r} is unknown; known: {', '.join(FUSIONS)}")
        self.steps, self.fusion = steps, fusion
        self.backbone = create_backbone(backbone, drop_path)
        self.head = SegFormerHead(self.backbone.channels, head_width, num_classes, dropout)
        self.teacher: Teacher | None = None

    def segment(self, images: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        _, fused, _ = self.fuse(images, present)
        return resize(self.head(fused).float(), next(iter(images.values())).shape[-2:])

    def fuse(self, images: dict[str, Tensor], present: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """The features f_m, 4 x (M, B, C, h, w), zero where absent; f_ma, 4 x (B, C, h, w); the mask (M, B).

        The paper fuses "the high-level feature maps"; its head reads four (ours: so each of the four is fused).
        """
        features, mask = encode_present(self.backbone, images, present, self.dense)
        return features, [fuse_features(one, mask, self.steps, self.fusion) for one in features], mask

    def learn_from(self, teacher: Teacher) -> None:
        """Set the teacher of LSCD. Raises ValueError if its classes are not as many as the network's."""
        if teacher.classes is not None and len(teacher.classes) != self.num_classes:
            raise ValueError(f"the teacher has embeddings of {len(teacher.classes)} classes; the network has "
                             f"{self.num_classes}")
        self.teacher = teacher
        if teacher.classes is None:
            LOG.warning("Any2Seg trains without L_se: no text embeddings of the class names are given")
        if teacher.scene is None:
            LOG.warning("Any2Seg trains without L_cr: no LanguageBind folder is given")

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        if self.teacher is None:
            self.learn_from(Teacher())  # says once what is off
        images, present, (height, width) = self.prepare(batch["images"], batch["present"])
        features, fused, mask = self.fuse(images, present)
        padded = next(iter(images.values())).shape[-2:]
        logits = resize(self.head(fused).float(), padded)[..., :height, :width]
        terms = {"L_sup": cross_entropy(logits, batch["labels"])}  # eq. 7
        labels = F.pad(batch["labels"], (0, padded[1] - width, 0, padded[0] - height), value=-1)  # no class
        with torch.autocast(labels.device.type, enabled=False):  # cosines of means need float32
            # Ours: LSCD at the deepest stage, the paper's "high-level space".
            if self.teacher.classes is not None:
                terms["L_se"] = semantic_loss(fused[-1], labels, self.teacher.classes.to(labels.device))
            if self.teacher.scene is not None:
                scene = self.teacher.scene({name: batch["images"][name] for name in images}, batch["labels"])
                corr_e = torch.stack([scene[name] for name in images])  # eq. 1, (M, B)
                terms["L_cr"] = correlation_loss(cosine_to(fused[-1], features[-1]), corr_e, mask)  # eq. 2
        value = torch.stack(list(terms.values())).sum()  # eq. 8
        return value, {"loss": value.detach()} | {name: term.detach() for name, term in terms.items()}


def fuse_features(features: Tensor, mask: Tensor, steps: int = 1, fusion: str = "both") -> Tensor:
    """MFF: (M, B, C, h, w), mask (M, B) bool -> f_ma (B, C, h, w). fusion: one of FUSIONS."""
    f_ma = mean_over_present(features, mask)  # f_ma^0
    for _ in range(steps):
        corr = cosine_to(f_ma, features).to(features.dtype)  # M_corr, one number per modality and sample: (M, B)
        f_mb = mean_over_present(corr[:, :, None, None, None] * features, mask)  # modality-balanced
        if fusion == "balance":
            f_ma = f_mb
        else:
            f_ms = select_elements(features, f_mb, mask)
            f_ma = f_ms if fusion == "selection" else f_mb + f_ms
    return f_ma


def select_elements(features: Tensor, f_mb: Tensor, mask: Tensor) -> Tensor:
    """f_ms (B, C, h, w): at each pixel the feature of the modality most like f_mb, C_S its cosine over the channels.

    Of modalities within TIE of the best, the first is taken (ours). Two features of equal norm are equally like their
    mean; without this, rounding errors would choose, and the output would depend on batch, device and precision.
    """
    c_s = F.cosine_similarity(features.float(), f_mb.float(), dim=2)  # (M, B, h, w)
    c_s = c_s.masked_fill(~mask[:, :, None, None], -torch.inf)
    best = (c_s >= c_s.amax(dim=0) - TIE).unsqueeze(2)  # (M, B, 1, h, w)
    f_ms = torch.zeros_like(f_mb)
    for one, chosen in zip(features.flip(0), best.flip(0), strict=True):  # the first has the last word
        f_ms = torch.where(chosen, one, f_ms)
    return f_ms


def semantic_loss(f_ma: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """L_se = KL(Cos(e, e^T), Cos(E_C, E_C^T)), eq. 5, over the classes that the batch holds. A scalar float32.

    f_ma (B, C, h, w), labels (B, H, W) int64 (anything outside 0..K-1 is no class), classes E_C (K, D).
    """
    e, there = class_means(f_ma.float(), labels, len(classes))
    return relation_kl(cosine_matrix(classes[there].float()), cosine_matrix(e[there]))


def correlation_loss(corr_f: Tensor, corr_e: Tensor, mask: Tensor) -> Tensor:
    """L_cr = KL(M_corr^f, M_corr^e), eq. 3, over each sample's present modalities. A scalar float32.

    corr_f: the network's correlations, corr_e: the teacher's, mask: bool, all (M, B).
    """
    student, teacher = (one.masked_fill(~mask, -1e4).T for one in (corr_f, corr_e))  # soft-max: exactly 0
    return relation_kl(teacher, student)


def class_means(f_ma: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """MAP, eq. 4: the mean e (K, C) over the pixels of each class of f_ma, brought to the labels' size; 0 for a class
    that the batch lacks; and which it holds, (K,) bool. f_ma (B, C, h, w) float32, labels (B, H, W) int64.
    """
    one_hot = torch.stack([(labels == k).float() for k in range(num_classes)], dim=1)  # (B, K, H, W)
    # Resizing is linear: the sum of the resized features over a class is a weighted sum of the features as they are,
    # with the transposed resizing of the class's mask as weights. That spares the features at the labels' size.
    probe = torch.zeros(len(labels), num_classes, *f_ma.shape[-2:], device=f_ma.device, requires_grad=True)
    with torch.enable_grad():
        (weights,) = torch.autograd.grad(resize(probe, labels.shape[-2:]), probe, one_hot)  # (B, K, h, w)
    pixels = one_hot.sum(dim=(0, 2, 3))
    return torch.einsum("bkhw,bchw->kc", weights, f_ma) / pixels.clamp(min=1)[:, None], pixels > 0


def cosine_matrix(rows: Tensor) -> Tensor:
    """(N, D) -> cosines of all pairs of rows, (N, N)."""
    rows = F.normalize(rows, dim=-1)
    return rows @ rows.T


def relation_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Mean over the rows of (N, D) of KL(softmax(teacher) || softmax(student)), in nats; 0 without rows.

    Ours: the paper names no soft-max, direction or mean. Rows of cosines are no distributions without the first;
    teacher to student, as in distillation, punishes the student for missing what the teacher sees.
    """
    if not len(teacher):
        return student.sum()
    teacher, student = teacher.log_softmax(dim=-1), student.log_softmax(dim=-1)
    return (teacher.exp() * (teacher - student)).sum(dim=-1).mean()
