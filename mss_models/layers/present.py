"""What is there and what is not: the two ways in which the systems treat an absent modality.

Left out (`encode_present`, `mean_over_present`) or zeros in its place (`zero_filled`). In both, the content of an
absent image is never read: it is chosen by mask, not multiplied (NaN * 0 is NaN).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

_encoded: dict[int, tuple[Tensor, Sequence[Tensor]]] | None = None  # by id: the image and its maps


@contextmanager
def encoding_once() -> Iterator[None]:
    """While entered, `encode_present` encodes an image tensor once and takes the maps again when the same object comes.

    For evaluation, which hands the same images over in many combinations. They must not be modified meanwhile, and
    they come again as the same object only if they have the network's type and sides that are multiples of 32. It
    concerns every network of the process (a plain global, because torch.compile does not read context variables).
    """
    global _encoded
    before, _encoded = _encoded, {}
    try:
        yield
    finally:
        _encoded = before


def encode_present(encoder: Callable[[Tensor], Sequence[Tensor]], images: Mapping[str, Tensor],
                   present: Mapping[str, Tensor], dense: bool = False) -> tuple[list[Tensor], Tensor]:
    """Run a shared encoder on the (modality, sample) pairs that are present, all as one batch.

    dense: on all pairs, blank images for the absent ones, without a branch on the mask's values (`System.dense`).

    images: (B, 3, H, W) per modality, present: (B,) bool per modality, in the same order. `encoder` maps (P, 3, H, W)
    to maps (P, C, h, w). Returns the maps, each (M, B, C, h, w), zero where absent, and the mask (M, B) bool.
    """
    first = next(iter(images.values()))
    mask = torch.stack(list(present.values()))  # (M, B)
    if dense:
        maps = encoder(torch.cat(zero_filled(images, present, images)))
        there = mask.flatten().view(-1, 1, 1, 1)
        return [torch.where(there, one, 0).unflatten(0, mask.shape) for one in maps], mask
    everything = bool(mask.all())
    mask = mask.to(first.device)
    if everything and _encoded is not None:
        for image in images.values():
            if id(image) not in _encoded:
                _encoded[id(image)] = image, encoder(image)  # the image too, so that no other takes its id
        features = [torch.cat(maps) for maps in zip(*(_encoded[id(one)][1] for one in images.values()), strict=True)]
    elif everything:
        features = encoder(torch.cat(list(images.values())))
    else:
        rows = [one.nonzero().flatten() for one in mask]
        pairs = torch.cat([image[samples] for image, samples in zip(images.values(), rows, strict=True)])
        features = [_scatter(one, mask.flatten()) for one in encoder(pairs)]
    return [one.unflatten(0, mask.shape) for one in features], mask


def _scatter(pairs: Tensor, mask: Tensor) -> Tensor:
    """(P, C, h, w) -> (len(mask), C, h, w), channels-last: the pairs where the mask is true, zeros elsewhere."""
    count, channels, height, width = pairs.shape
    whole = pairs.new_zeros(len(mask), height, width, channels).permute(0, 3, 1, 2)
    whole[mask] = pairs
    return whole


def mean_over_present(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of (M, B, C, H, W) over each sample's present modalities, mask (M, B) -> (B, C, H, W)."""
    chosen = torch.where(mask[:, :, None, None, None], x, 0)
    return chosen.sum(dim=0) / mask.sum(dim=0).view(-1, 1, 1, 1)


def zero_filled(images: Mapping[str, Tensor], present: Mapping[str, Tensor],
                modalities: Iterable[str]) -> list[Tensor]:
    """One image (B, 3, H, W) per modality: zeros (after normalisation) where a sample lacks it."""
    first = next(iter(images.values()))
    return [torch.where(present[name].to(first.device).view(-1, 1, 1, 1), images[name], 0) if name in images
            else torch.zeros_like(first) for name in modalities]
