"""The contract that every segmentation system keeps, and `create`, which builds one from its architecture dict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mss_models.layers.windows import round_up
from mss_models.losses import ohem_cross_entropy
from mss_models.modality import canonical_order

SIZE_MULTIPLE = 32  # the deepest stride of every backbone


class InputError(ValueError):
    """Images or present masks that break the contract. The message names the modality, the value and what is right."""


def check_names(modalities: Iterable[str], images: Iterable[str], present: Iterable[str]) -> None:
    """Raises InputError where the names of images and masks are not a network's, or an image has no mask."""
    images, present = set(images), set(present)
    if unknown := (images | present) - set(modalities):
        raise InputError(f"modalities {sorted(unknown)} are not this network's; it has {list(modalities)}")
    if unmasked := images - present:
        raise InputError(f"present lacks {sorted(unmasked)}; give a (B,) bool mask for every image")


class System(nn.Module):
    """A network that segments whatever subset of its modalities is there.

    A subclass passes its complete, JSON-ready architecture to `__init__` and implements `segment`. What holds for all:
    any non-empty subset, chosen per sample; any H and W; inputs are never modified; eval mode is deterministic; the
    content of an absent modality, NaN included, never changes the output.

    Attributes: `architecture` (dict; `create(**architecture)` rebuilds the network), `modalities` (canonical order),
    `num_classes`; of the class, `source` (where the method comes from), `ours` (what is not the source's, where it is
    silent or meant otherwise) and `training_only` (names of the submodules that inference does not need).

    `dense`, False at first: set to True, `forward` in eval mode is the same function without a branch on any tensor's
    values, as an exported graph needs it. What is given is computed for every sample, the masks only choose, and wrong
    inputs go unnoticed.
    """

    source: str
    ours: str = ""
    training_only: tuple[str, ...] = ()

    def __init__(self, *, system: str, modalities: tuple[str, ...], num_classes: int, **options: Any) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes = {num_classes}; at least 2 are needed")
        self.modalities = canonical_order(modalities)
        self.num_classes = num_classes
        self.dense = False
        self.architecture: dict[str, Any] = {"system": system, "modalities": list(self.modalities),
                                             "num_classes": num_classes, **options}

    def forward(self, images: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K, H, W) from normalised images, each (B, 3, H, W) float, and masks, each (B,) bool.

        A modality that no sample has may be left out of both dicts. Raises InputError.
        """
        images, present, (height, width) = self.prepare(images, present)
        return self.segment(images, present)[..., :height, :width]

    def prepare(self, images: Mapping[str, Tensor],
                present: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], tuple[int, int]]:
        """What `segment` takes, from what forward takes, and the size (H, W) without the padding. Raises InputError."""
        if self.dense:
            given = [name for name in self.modalities if name in images]
            height, width = images[given[0]].shape[-2:]
        else:
            height, width = self._check(images, present)
            given = [name for name in self.modalities if name in images and bool(present[name].any())]
        pad = (0, round_up(width, SIZE_MULTIPLE) - width, 0, round_up(height, SIZE_MULTIPLE) - height)
        dtype = next(self.parameters()).dtype
        images = {name: images[name].to(dtype) for name in given}
        if any(pad):
            images = {name: F.pad(image, pad) for name, image in images.items()}
        return images, {name: present[name] for name in images}, (height, width)

    def segment(self, images: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """Logits (B, K, H, W), for H and W multiples of 32.

        `images` and `present` hold, in canonical order, only the modalities that some sample has. Where a sample lacks
        a modality, its image is arbitrary: choose by mask, never multiply by it (NaN * 0 is NaN).
        """
        raise NotImplementedError

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Training loss of a batch with `images`, `present` (as in forward) and `labels` (B, H, W) int64.

        Where `present` has been thinned by modality dropout, `available`, of the same form, may say what the frames
        have: for a teacher, see systems/anyseg.py.

        Returns the scalar to minimise and a dict of detached scalars to log.
        """
        value = ohem_cross_entropy(self(batch["images"], batch["present"]), batch["labels"])
        return value, {"loss": value.detach()}

    def _check(self, images: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> tuple[int, int]:
        """The common (H, W), or InputError."""
        check_names(self.modalities, images, present)
        if not images:
            raise InputError(f"no image is given; give at least one of {list(self.modalities)}")
        first = next(iter(images))
        batch, _, height, width = images[first].shape if images[first].ndim == 4 else (0, 0, 0, 0)
        for name, image in images.items():
            if image.ndim != 4 or image.shape[1] != 3 or image.shape != (batch, 3, height, width) or not image.numel():
                raise InputError(f"image {name!r} has shape {tuple(image.shape)}; (B, 3, H, W) is needed, the same for "
                                 f"every modality, and {first!r} has {tuple(images[first].shape)}")
            if not image.is_floating_point():
                raise InputError(f"image {name!r} is {image.dtype}; normalised floating-point values are needed")
        for name, mask in present.items():
            if mask.dtype != torch.bool or mask.shape != (batch,):
                raise InputError(f"present[{name!r}] is {mask.dtype} {tuple(mask.shape)}; bool ({batch},) is needed")
            if name not in images and bool(mask.any()):
                raise InputError(f"present[{name!r}] is true for a sample, but no image {name!r} is given")
        lonely = ~torch.stack([mask.cpu() for mask in present.values()]).any(dim=0)
        if bool(lonely.any()):
            raise InputError(f"samples {lonely.nonzero().flatten().tolist()} have no present modality; one is needed")
        return height, width


def create(**architecture: Any) -> System:
    """Build a system with random weights from its architecture.

    `system` names it, the rest are its options, e.g. `create(system="segformer_mean", modalities=("rgb", "lidar"),
    num_classes=25, backbone="B0")`. Raises ValueError for an unknown system, listing the names, and for unknown or
    impossible options.
    """
    from mss_models.systems import SYSTEMS  # the systems import this file

    options = dict(architecture)
    name = options.pop("system", None)
    if name not in SYSTEMS:
        raise ValueError(f"system {name!r} is unknown; known: {', '.join(SYSTEMS)}")
    try:
        return SYSTEMS[name](**options)
    except (TypeError, RuntimeError, ArithmeticError) as error:  # unknown; no number, or none that a layer can have
        reason, *_ = str(error).split("\n")
        raise ValueError(f"system {name!r} cannot be built from {options}: {reason}") from error
