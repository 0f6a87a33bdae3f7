"""Losses that several systems share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_ID = 255


def ohem_cross_entropy(logits: Tensor, labels: Tensor, ignore_id: int = IGNORE_ID, confidence: float = 0.7,
                       min_share: int = 16) -> Tensor:
    """Cross-entropy over the hard pixels only (online hard example mining, as the DELIVER line of code).

    A pixel is hard if its true class has a probability below `confidence`. With fewer than
    floor(valid / min_share) hard pixels (at least one), that many of the hardest are taken.

    logits (B, K, H, W), labels (B, H, W) int64 in 0..K-1 or `ignore_id`. Returns the mean, a scalar float32; 0 (with
    zero gradients) when every pixel is ignored. Raises ValueError for label ids outside the classes.
    """
    losses = _pixel_losses(logits, labels, ignore_id)
    if losses.numel() == 0:
        return logits.float().sum() * 0.0
    hard = losses[losses > -math.log(confidence)]
    minimum = max(1, losses.numel() // min_share)
    if hard.numel() < minimum:
        hard = torch.topk(losses, minimum).values
    return hard.mean()


def cross_entropy(logits: Tensor, labels: Tensor, ignore_id: int = IGNORE_ID) -> Tensor:
    """Mean cross-entropy of the labelled pixels: as `ohem_cross_entropy`, but over all of them."""
    losses = _pixel_losses(logits, labels, ignore_id)
    return losses.mean() if losses.numel() else logits.float().sum() * 0.0


def agreed(logits: Tensor, labels: Tensor) -> Tensor:
    """The labels where the prediction is right, elsewhere the ignore id: MAGIC's M, y where argmax P = y.

    logits (B, K, H, W), labels (B, H, W) int64.
    """
    return torch.where(logits.argmax(dim=1) == labels, labels, IGNORE_ID)


def inconsistency(maps: Tensor, reference: Tensor, rest: Tensor) -> Tensor:
    """MAGIC's L_C: how differently the remaining modalities relate to a reference. A scalar float32, in nats.

    c_m (C,) = Cos(f_m, reference) of each channel over the pixels, soft-max over the channels (ours: the paper puts
    the cosines into the logarithm as they are, but they can be negative). L_C = mean over the r remaining modalities
    of KL(c_m || c), c their mean; mean over the samples. With r = 2, the paper's case of four modalities, that is its
    (KL(c_1 || c) + KL(c_2 || c)) / 2; with r < 2 there is nothing to compare, and it is 0.

    maps (M, B, C, h, w), reference (B, C, h, w), rest (M, B) bool: which modalities remain.
    """
    cosines = F.cosine_similarity(maps.flatten(3).float(), reference.flatten(2).float(), dim=-1)  # (M, B, C)
    log_c = torch.log_softmax(cosines, dim=-1)
    chosen = rest[:, :, None].float()
    count = chosen.sum(dim=0).clamp(min=1)  # (B, 1)
    middle = (chosen * log_c.exp()).sum(dim=0) / count  # (B, C)
    # Where nothing remains the middle is 0, and its logarithm must stay finite to be multiplied by 0.
    divergence = (log_c.exp() * (log_c - middle.clamp(min=1e-30).log())).sum(dim=-1, keepdim=True)  # (M, B, 1)
    return ((chosen * divergence).sum(dim=0) / count).mean()


def check_weights(**weights: float) -> None:
    """Raises ValueError for a weight of a loss term that is negative or not finite."""
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"{name} = {weight}; it must be at least 0 and finite")


def _pixel_losses(logits: Tensor, labels: Tensor, ignore_id: int) -> Tensor:
    """Cross-entropy of each labelled pixel, (N,) float32."""
    classes = logits.shape[1]
    valid = labels != ignore_id
    if bool((valid & ((labels < 0) | (labels >= classes))).any()):
        wrong = labels[valid & ((labels < 0) | (labels >= classes))].unique().tolist()
        raise ValueError(f"labels hold the ids {wrong[:8]}; with {classes} classes only 0..{classes - 1} and the "
                         f"ignore id {ignore_id} are right")
    pixels = logits.float().permute(0, 2, 3, 1).reshape(-1, classes)  # on a CPU twice as fast as over axis 1
    return F.cross_entropy(pixels, labels.flatten(), ignore_index=ignore_id, reduction="none")[valid.flatten()]
