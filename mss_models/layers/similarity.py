"""How alike the modalities' maps are to a common one, and the modalities in that order (MAGIC, MAGIC++, Any2Seg)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_to(reference: Tensor, maps: Tensor) -> Tensor:
    """Cosine of each flattened map (M, B, C, h, w) and its sample's reference (B, C, h, w): (M, B) float32.

    0 where a map is all zero, as those of absent modalities are.
    """
    # float32: sums over a whole map overflow fp16, and bf16 holds too few digits to rank by.
    return F.cosine_similarity(maps.flatten(2).float(), reference.flatten(1).float(), dim=-1)


def robust_and_fragile(similarity: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The most similar present modality, the least similar one, each (B,) int64, and which remain, (M, B) bool.

    similarity (M, B), mask (M, B) bool. A sample's only modality is both. Of equally similar ones the first counts as
    more similar.
    """
    order = similarity.masked_fill(~mask, -torch.inf).sort(dim=0, descending=True, stable=True).indices  # absent last
    robust, fragile = order[0], pick(order, mask.sum(dim=0) - 1)
    index = torch.arange(len(mask), device=mask.device)[:, None]
    return robust, fragile, mask & (index != robust) & (index != fragile)


def pick(maps: Tensor, index: Tensor) -> Tensor:
    """Of (M, B, ...), the map of modality index[b] for each sample b: (B, ...). index: (B,) int64."""
    return maps[index, torch.arange(len(index), device=index.device)]
