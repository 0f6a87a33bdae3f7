"""RobustSeg (Tan et al., "Robust Multimodal Segmentation with Representation Regularization and Hybrid Prototype
Distillation", arXiv 2505.12861; code: RobustSeg/RobustSeg).

The result is SegFormer-mean; all else is training. In AnySeg's two-stage framework (`anyseg.py:Student`), hybrid
prototype distillation (HPDM, section 3.2) draws the class prototypes of each of the student's modalities towards those
of a random modality of the teacher, and representation regularisation (RRM, section 3.3) maximises a bound of the
functional entropies of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mss_models.distillation import (
    PAIRINGS,
    draw_pairs,
    fisher_penalty,
    kl_mean,
    labels_at,
    perturb,
    prototypes,
)
from mss_models.layers.present import zero_filled
from mss_models.systems.anyseg import Student
from mss_models.systems.segformer_mean import Encoded

DRAWS = 10  # of the perturbation, per map
SCALE = 1e-5  # of the penalty, lambda in the released code
MISSING = ("left_out", "zero")
REGULARISATIONS = ("mean", "point", "published")


class RobustSeg(Student):
    """See the module's docstring.

    missing: 'left_out', or 'zero': an absent modality is zeros after normalisation, in training and after it, and
    counts as present in the mean and in the losses (the published EMM scores come from such a network).
    pairing: which modality's prototypes a modality learns from, one of distillation.PAIRINGS: 'hybrid' (HPDM),
    'matched' (the SPDM ablation and the released main script), 'published' (the released random variant).
    regularisation_pairing: 'matched' (SRM) or 'hybrid' (HRM, an ablation).
    regularisation: the functional whose entropy is bounded. 'mean': the KL-mean over all elements of a perturbed map;
    'published': the same with the soft-max over the rows of the map instead of the channels. The gradient of a mean of
    N elements is 1 / N, which makes both penalties some 1e9 and more, past every other term as far as the encoder is
    concerned. 'point' (ours): the KL of one perturbed pixel, with which the weight 12 means little.
    published_prototypes: prototypes divided by the class's pixel count twice.
    kl_weight, prototype_weight, regularisation_weight: of L = OHEM + 50 L_kl + 100 L_hp + 12 L_reg.
    """

    source = "arXiv 2505.12861; github.com/RobustSeg/RobustSeg"
    ours = ("HPDM: one permutation per sample, the same for its four stages; pairs whose teacher half is not available "
            "are left out; RRM: soft-max over the channels, as a pixel's features are what is compared; the noise's "
            "deviation is each pixel's own, as in the released code")

    def __init__(self, modalities: Sequence[str], num_classes: int, backbone: str = "B0", head_width: int = 256,
                 drop_path: float = 0.1, dropout: float = 0.1, missing: str = "left_out", pairing: str = "hybrid",
                 regularisation_pairing: str = "matched", regularisation: str = "mean",
                 published_prototypes: bool = False, kl_weight: float = 50.0, prototype_weight: float = 100.0,
                 regularisation_weight: float = 12.0) -> None:
        options = {"missing": missing, "pairing": pairing, "regularisation_pairing": regularisation_pairing,
                   "regularisation": regularisation, "published_prototypes": published_prototypes}
        for name, choices in {"missing": MISSING, "pairing": PAIRINGS, "regularisation_pairing": PAIRINGS,
                              "regularisation": REGULARISATIONS}.items():
            if options[name] not in choices:
                raise ValueError(f"{name} = {options[name]!r}; choose from {', '.join(choices)}")
        super().__init__("robustseg", {"kl": kl_weight, "prototype": prototype_weight,
                                       "regularisation": regularisation_weight}, modalities, num_classes, backbone,
                         head_width, drop_path, dropout, **options)
        self.missing = missing
        self.pairings = pairing, regularisation_pairing
        self.regularisation = regularisation
        self.published_prototypes = published_prototypes

    def encode(self, images: dict[str, Tensor], present: dict[str, Tensor]) -> Encoded:
        if self.missing == "zero":
            filled = zero_filled(images, present, self.modalities)
            images = dict(zip(self.modalities, filled, strict=True))
            present = dict.fromkeys(self.modalities, torch.ones_like(next(iter(present.values()))))
        return super().encode(images, present)

    def distil(self, student: Encoded, teacher: Encoded, labels: Tensor) -> dict[str, Tensor]:
        """L_hp and L_reg: the sums over the stages and the pairs of modalities, the mean over the samples."""
        pairs = {kind: draw_pairs(kind, (student.names, student.mask), (teacher.names, teacher.mask), self.modalities)
                 for kind in sorted(set(self.pairings))}  # HPDM and HRM share their permutation
        batch = student.mask.shape[1]
        hybrid, regular = [], []
        for f_s, f_t in zip(student.features, teacher.features, strict=True):  # (M, B, C, h, w)
            k, t, b = pairs[self.pairings[0]]
            at = labels_at(labels, f_s.shape[-2:])[b]  # (P, h, w)
            p_s, p_t = (prototypes(one, at, self.num_classes, self.published_prototypes)  # (P, K, C), eq. 6
                        for one in (f_s[k, b], f_t[t, b]))
            hybrid.append(kl_mean(p_s, p_t, dim=1).sum() / batch)  # eq. 7, soft-max over the classes
            if self.weights["regularisation"]:  # much work and memory for a weight of 0
                k, t, b = pairs[self.pairings[1]]
                regular.append(SCALE * self.penalty(f_s[k, b], f_t[t, b]).sum() / batch)  # eq. 10
        zero = torch.zeros((), device=labels.device)
        return {"prototype": torch.stack(hybrid).sum(), "regularisation": torch.stack(regular or [zero]).sum()}

    def penalty(self, f_s: Tensor, f_t: Tensor) -> Tensor:
        """RRM's penalty of each pair of maps (P, C, h, w), eq. 9: (P,)."""
        return fisher_penalty(perturb(f_s, DRAWS), perturb(f_t, DRAWS),
                              dim=3 if self.regularisation == "published" else 2,
                              of_mean=self.regularisation != "point")
