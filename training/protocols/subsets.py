"""Subsets of modalities: all of them, their names, and averages over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

Subset = tuple[str, ...]


def all_subsets(modalities: Sequence[str]) -> list[Subset]:
    """The 2^M - 1 non-empty subsets, singles first, in the modalities' order."""
    return [one for size in range(1, len(modalities) + 1) for one in combinations(modalities, size)]


def singles_and_all(modalities: Sequence[str]) -> list[Subset]:
    """Each modality alone, and all together: the quick look during training."""
    return [(name,) for name in modalities] + ([tuple(modalities)] if len(modalities) > 1 else [])


def key(subset: Subset) -> str:
    """A subset's name in files: 'rgb+lidar'."""
    return "+".join(subset)


def expectation_weights(modalities: int, p: float) -> list[float]:
    """Per number k = 0..M-1 of missing modalities, the weight of each subset that misses k; all subsets' add up to 1.

    Every modality is missing with probability p by itself, given that one at least is there:
    w_k = p^k (1 - p)^(M - k) / sum over the subsets.
    """
    raw = {subset: p ** (modalities - len(subset)) * (1 - p) ** len(subset)
           for subset in all_subsets(tuple(map(str, range(modalities))))}
    total = sum(raw.values())
    return [p ** k * (1 - p) ** (modalities - k) / total for k in range(modalities)]


def expectation(values: Mapping[Subset, float], p: float) -> float:
    """E(p): the mean of `values`, one per non-empty subset of the modalities, weighted as above."""
    modalities = max(map(len, values))
    weights = expectation_weights(modalities, p)
    return sum(weights[modalities - len(subset)] * value for subset, value in values.items())
