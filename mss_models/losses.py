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
    classes = logits.shape[1]
    valid = labels != ignore_id
    if bool((valid & ((labels < 0) | (labels >= classes))).any()):
        wrong = labels[valid & ((labels < 0) | (labels >= classes))].unique().tolist()
        raise ValueError(f"labels hold the ids {wrong[:8]}; with {classes} classes only 0..{classes - 1} and the "
                         f"ignore id {ignore_id} are right")
    pixels = logits.float().permute(0, 2, 3, 1).reshape(-1, classes)  # on a CPU twice as fast as over axis 1
    losses = F.cross_entropy(pixels, labels.flatten(), ignore_index=ignore_id, reduction="none")[valid.flatten()]
    if losses.numel() == 0:
        return logits.float().sum() * 0.0
    hard = losses[losses > -math.log(confidence)]
    minimum = max(1, losses.numel() // min_share)
    if hard.numel() < minimum:
        hard = torch.topk(losses, minimum).values
    return hard.mean()
