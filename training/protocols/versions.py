"""The versions of a batch's images that trials hand over: normalised, and then zero, partly missing or noisy.

All randomness is a function of the seed, the frame's name and the modality alone: no score depends on the batch, the
order of the frames or the number of processes. Versions of one kind share their draw (a rate's missing values are
missing at every higher rate, in every subset; noise of a level is a part of the next level's), so that differences
between them are not luck.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mss_models.modality import Encoding
from mss_models.system import SIZE_MULTIPLE
from training.protocols.grid import Window
from training.protocols.trials import CLEAN, ZERO
from training.transforms import normalise

BLOCK = 32  # pixels; side of the blocks of rmm-block (ours: the text that speaks of blocks names no size)
DENSITY = {"low": 0.05, "mid": 0.1, "high": 0.2}  # of salt and pepper, as a share of the values
SIGMA = {"low": 0.1, "mid": 0.2, "high": 0.5}  # of the Gaussian noise, on the normalised scale
NO_GAUSSIAN = ("event",)


class Versions:
    """Versions of the images of a batch of frames, each made when it is first asked for, and kept.

    images: per modality uint8 (B, H, W, 3). names: the frames'. dtype: the network's, in which they are handed out.
    """

    def __init__(self, images: Mapping[str, np.ndarray], names: Sequence[str], encodings: Mapping[str, Encoding],
                 seed: int, device: torch.device, dtype: torch.dtype) -> None:
        self._images = normalise({name: torch.from_numpy(np.ascontiguousarray(image)).to(device)
                                  for name, image in images.items()}, encodings)
        self._names, self._seed, self._dtype = names, seed, dtype
        self._whole: dict[tuple[str, str], Tensor] = {}
        self._parts: dict[tuple[str, str, Window], Tensor] = {}

    def get(self, modality: str, version: str, part: Window) -> Tensor:
        """A part of a version of a modality's images (B, 3, h, w); the same object whenever it is asked for.

        Zeros at the right and the bottom make its sides multiples of 32, as the network would (System.prepare).
        """
        key = modality, version, part
        if key not in self._parts:
            if key[:2] not in self._whole:
                self._whole[key[:2]] = self._make(modality, version).to(self._dtype)
            image = self._whole[key[:2]][..., part.slices[0], part.slices[1]]
            pad = (0, -image.shape[-1] % SIZE_MULTIPLE, 0, -image.shape[-2] % SIZE_MULTIPLE)
            self._parts[key] = F.pad(image, pad).contiguous(memory_format=torch.channels_last)
        return self._parts[key]

    def _make(self, modality: str, version: str) -> Tensor:
        images = self._images[modality]
        if version == CLEAN:
            return images
        if version == ZERO:
            return torch.zeros_like(images)
        kind, _, level = version.partition(":")
        rngs = [np.random.default_rng([self._seed, zlib.crc32(f"{kind} {modality} {name}".encode())])
                for name in self._names]
        if kind == "nm":
            changed = [noisy(one, level, modality not in NO_GAUSSIAN, rng)
                       for one, rng in zip(images, rngs, strict=True)]
        else:
            missing = missing_values if kind == "rmm" else missing_blocks
            changed = [one.masked_fill(missing(one.shape, float(level), rng).to(one.device), 0)
                       for one, rng in zip(images, rngs, strict=True)]
        return torch.stack(changed)


def missing_values(shape: Sequence[int], rate: float, rng: np.random.Generator) -> Tensor:
    """bool (3, H, W): every value by itself is missing with probability `rate`."""
    return torch.from_numpy(rng.random(shape, np.float32) < rate)


def missing_blocks(shape: Sequence[int], rate: float, rng: np.random.Generator) -> Tensor:
    """bool (3, H, W): every block of BLOCK x BLOCK pixels, in all channels, is missing with probability `rate`."""
    channels, height, width = shape
    blocks = rng.random((math.ceil(height / BLOCK), math.ceil(width / BLOCK)), np.float32) < rate
    pixels = np.kron(blocks, np.ones((BLOCK, BLOCK), bool))[:height, :width]
    return torch.from_numpy(np.broadcast_to(pixels, (channels, height, width)).copy())


def noisy(image: Tensor, level: str, gaussian: bool, rng: np.random.Generator) -> Tensor:
    """A normalised image (3, H, W) with salt and pepper, and after it Gaussian noise if wanted; not clipped.

    n = ceil(density * values / 2) values, chosen with replacement, take the image's maximum; then n its minimum.
    """
    count = math.ceil(DENSITY[level] * image.numel() / 2)
    most = math.ceil(max(DENSITY.values()) * image.numel() / 2)
    salt, pepper = (torch.from_numpy(rng.integers(0, image.numel(), most)[:count]).to(image.device) for _ in range(2))
    changed = image.flatten().clone()  # (3 H W,), channel by channel
    changed[salt] = image.max()
    changed[pepper] = image.min()
    if gaussian:
        noise = rng.standard_normal(image.numel(), np.float32)
        changed += SIGMA[level] * torch.from_numpy(noise).to(image.device)
    return changed.view(image.shape)
