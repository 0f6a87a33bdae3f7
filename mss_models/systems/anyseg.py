"""AnySeg (Zheng et al., "Learning Robust Anymodal Segmentor with Unimodal and Cross-modal Distillation", arXiv
2411.17141): a SegFormer-mean that has learned with modalities missing from one that has them all.

The result is SegFormer-mean; all else is training. A teacher, the same network, learns with every modality and is then
frozen. The student sees a random subset, and its logits and each of its modalities' maps are drawn towards the
teacher's. The released code holds the evaluation alone; the losses' code is that in RobustSeg/RobustSeg, which compares
with AnySeg.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mss_models.distillation import cross_modal, cross_modal_published, draw_pairs, kl_mean
from mss_models.losses import IGNORE_ID, check_weights, ohem_cross_entropy
from mss_models.system import SIZE_MULTIPLE, InputError
from mss_models.systems.segformer_mean import Encoded, SegFormerMean
from mss_models.teachers import TeacherError


class Student(SegFormerMean):
    """SegFormer-mean that learns from a frozen SegFormer-mean: what AnySeg and RobustSeg share.

    `learn_from` names the teacher before training; without one, `loss` raises TeacherError, and all else works. The
    teacher is no part of the network: not of its parameters, state_dict, checkpoint, mode or deep copies.

    Which modalities the student misses is the training's choice (recipe: `modality_dropout: batch`, n ~ U{1..M} of
    them, one subset for the batch). The batch's `present` says what the student sees, and its optional `available`, in
    the same form, what the frames have; the teacher sees that, or else what the student sees. Images that are not
    available may hold anything.
    """

    def __init__(self, system: str, weights: Mapping[str, float], modalities: Sequence[str], num_classes: int,
                 backbone: str, head_width: int, drop_path: float, dropout: float, **options: Any) -> None:
        """weights: of the loss terms, by name. With the rest of the options they are part of the architecture."""
        super().__init__(modalities, num_classes, backbone, head_width, drop_path, dropout)
        named = {f"{name}_weight": one for name, one in weights.items()}
        check_weights(**named)
        self.weights = {"ohem": 1.0, **weights}
        self.architecture.update(system=system, **named, **options)
        self._aside = _Aside()

    @property
    def teacher(self) -> SegFormerMean:
        """The teacher, in eval mode. Raises TeacherError where there is none."""
        if self._aside.teacher is None:
            raise TeacherError(f"{self.architecture['system']} learns from a teacher: give learn_from() a "
                               "SegFormer-mean that was trained with all modalities")
        return self._aside.teacher

    def learn_from(self, teacher: SegFormerMean) -> None:
        """Set the teacher, and freeze it: eval mode, no gradients. Raises TeacherError if it does not fit."""
        if not isinstance(teacher, SegFormerMean):
            raise TeacherError(f"the teacher is a {type(teacher).__name__}; a SegFormer-mean is needed")
        for what, theirs, ours in (("modalities", teacher.modalities, self.modalities),
                                   ("number of classes", teacher.num_classes, self.num_classes),
                                   ("channels", tuple(teacher.backbone.channels), tuple(self.backbone.channels))):
            if theirs != ours:
                raise TeacherError(f"the teacher's {what}: {theirs}; the student's: {ours}")
        self._aside.teacher = teacher.eval().requires_grad_(False)

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """OHEM + the weighted distillation terms, see `distil`. The log holds each term without its weight."""
        present, available = batch["present"], batch.get("available", batch["present"])
        if wrong := [name for name, mask in present.items()
                     if bool(mask.any()) and (name not in available or bool((mask & ~available[name]).any()))]:
            raise InputError(f"{wrong} are present in samples that do not have them available; `present` must be a "
                             "subset of `available`")
        teacher = self.teacher.to(next(self.parameters()).device)
        encoded, logits = self.encode_and_decode(batch["images"], present)
        with torch.no_grad():
            known, targets = teacher.encode_and_decode(batch["images"], available)
        height, width = batch["labels"].shape[-2:]
        labels = F.pad(batch["labels"], (0, -width % SIZE_MULTIPLE, 0, -height % SIZE_MULTIPLE), value=IGNORE_ID)
        with torch.autocast(logits.device.type, enabled=False):
            terms = {"ohem": ohem_cross_entropy(logits, batch["labels"]),
                     "kl": kl_mean(logits, targets, dim=1).mean(), **self.distil(encoded, known, labels)}
        value = torch.stack([self.weights[name] * one for name, one in terms.items()]).sum()
        return value, {"loss": value.detach(), **{name: one.detach() for name, one in terms.items()}}

    def distil(self, student: Encoded, teacher: Encoded, labels: Tensor) -> dict[str, Tensor]:
        """The terms that compare maps, scalars by name. labels (B, H, W) int64, padded as the images."""
        raise NotImplementedError


class _Aside:
    """Holds the teacher where torch does not take it for a part of the network."""

    teacher: SegFormerMean | None = None

    def __deepcopy__(self, memo: dict) -> _Aside:
        return self


class AnySeg(Student):
    """See the module's docstring. An absent modality is left out.

    kl_weight, umd_weight, cmd_weight: of L = OHEM + 50 KL + 5 UMD + 10 CMD. `published_losses`: UMD and CMD as in the
    released code, which takes the soft-max over the rows of a map and compares the modalities of different samples too.
    """

    source = "arXiv 2411.17141; losses as in github.com/RobustSeg/RobustSeg, which compares with it"
    ours = ("UMD: soft-max over the channels, as a pixel's features are what is taught; CMD: cosines of the maps "
            "themselves on both sides, so that equal maps cost nothing, within each sample, mean over the samples")

    def __init__(self, modalities: Sequence[str], num_classes: int, backbone: str = "B0", head_width: int = 256,
                 drop_path: float = 0.1, dropout: float = 0.1, kl_weight: float = 50.0, umd_weight: float = 5.0,
                 cmd_weight: float = 10.0, published_losses: bool = False) -> None:
        super().__init__("anyseg", {"kl": kl_weight, "umd": umd_weight, "cmd": cmd_weight}, modalities, num_classes,
                         backbone, head_width, drop_path, dropout, published_losses=published_losses)
        self.published_losses = published_losses

    def distil(self, student: Encoded, teacher: Encoded, labels: Tensor) -> dict[str, Tensor]:
        """UMD = sum over stages and present modalities of KL-mean(f_s, f_t), CMD = sum over stages of
        MSE(cos f_s, cos f_t); both the mean over the samples."""
        k, t, b = draw_pairs("matched", (student.names, student.mask), (teacher.names, teacher.mask), self.modalities)
        batch = student.mask.shape[1]
        common = [name for name in student.names if name in teacher.names]
        here, there = ([names.index(name) for name in common] for names in (student.names, teacher.names))
        mask = student.mask[here] & teacher.mask[there]
        umd, cmd = [], []
        for f_s, f_t in zip(student.features, teacher.features, strict=True):  # (M, B, C, h, w)
            pair_s, pair_t = f_s[k, b], f_t[t, b]  # (P, C, h, w)
            umd.append(kl_mean(pair_s, pair_t, dim=2 if self.published_losses else 1).sum() / batch)
            cmd.append(cross_modal_published(pair_s, pair_t) / batch if self.published_losses
                       else cross_modal(f_s[here], f_t[there], mask).mean())
        return {"umd": torch.stack(umd).sum(), "cmd": torch.stack(cmd).sum()}
