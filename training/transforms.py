"""Augmentation of samples on uint8 arrays, collation into batches, and modality dropout.

Geometry (flip, scale, crop) is drawn once per sample and done to every modality and the labels alike; appearance
(colour, blur, darkness) concerns rgb, and MCubeS's blur nir, too; a missing intensity lidar and radar. All randomness
comes from the generator that is passed in.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from mss_models.losses import IGNORE_ID
from mss_models.modality import NO_INTENSITY, Encoding
from training.datasets.sample import Sample

INTENSITY = {"lidar": "range_intensity_height", "radar": "range_intensity_doppler"}
"""The encodings whose second channel is the intensity."""


@dataclass(frozen=True)
class Augment:
    """Which augmentations, with their probabilities. The first four defaults are CMNeXt's (DELIVER recipe).

    `drop_intensity`: the intensities of lidar and of radar look as if the sensor sent none. Drivers disagree on the
    scale (0..1, 0..255, ...) and some send nothing; a network that has always seen them relies on them.
    `nearest`: modalities resampled by nearest neighbour, because a mixture of two measurements, or of one with
    "nothing here", is no measurement. The published recipes resample all images bilinearly: nearest = ().
    `blur_sigma`: above 0 the blur is MCubeS's, of rgb and nir in the finished view, with a sigma U(0, blur_sigma);
    0: CMNeXt's, of rgb alone before it is resized, with a kernel of 3 x 3 pixels.
    The published recipe of MCubeS: Augment(colour_jitter=0, blur=0.5, blur_sigma=1, nearest=()), crop 512, scale
    (0.25, 1), which makes its short side of 1024 pixels one of 256 to 1024.
    """

    colour_jitter: float = 0.2
    flip: float = 0.5
    blur: float = 0.2
    jitter_strength: float = 0.5
    darken: float = 0.0  # gamma and gain of a dark scene, with the noise that then shows
    drop_intensity: float = 0.0
    blur_sigma: float = 0.0
    nearest: tuple[str, ...] = ("depth", "event", "lidar", "radar")


def augment(sample: Sample, crop: int, scale: tuple[float, float], options: Augment, rng: np.random.Generator,
            pads: Mapping[str, int] = types.MappingProxyType({})) -> Sample:
    """A random view of the sample, `crop` x `crop` pixels, of the scene enlarged by a factor U(scale).

    pads: modality -> value of what lies beyond the image (Encoding.nothing), 0 where it is not given.
    """
    images, labels = dict(sample.images), sample.labels
    if "rgb" in images:
        images["rgb"] = augment_colour(images["rgb"], options, rng)
    for name in INTENSITY:
        if name in images and options.drop_intensity and rng.random() < options.drop_intensity:
            images[name] = without_intensity(images[name])
    flip = rng.random() < options.flip
    factor = rng.uniform(*scale)
    height, width = labels.shape
    # Cutting the window out before resizing gives the same view as enlarging the whole image first, for less work.
    window_h, window_w = (min(size, max(1, round(crop / factor))) for size in (height, width))
    top, left = rng.integers(0, height - window_h + 1), rng.integers(0, width - window_w + 1)
    window = np.s_[top : top + window_h, left : left + window_w]
    out_h, out_w = (crop if part < size else min(crop, max(1, round(size * factor)))
                    for part, size in ((window_h, height), (window_w, width)))

    def view(array: np.ndarray, interpolation: int, pad: int) -> np.ndarray:
        array = array[window]
        if flip:
            array = cv2.flip(array, 1)
        if array.shape[:2] != (out_h, out_w):
            array = cv2.resize(np.ascontiguousarray(array), (out_w, out_h), interpolation=interpolation)
        out = np.full((crop, crop, *array.shape[2:]), pad, np.uint8)  # pad right and bottom
        out[:out_h, :out_w] = array
        return out

    images = {name: view(image, cv2.INTER_NEAREST_EXACT if name in options.nearest else cv2.INTER_LINEAR,
                         pads.get(name, 0)) for name, image in images.items()}
    if options.blur_sigma and rng.random() < options.blur:
        sigma = rng.uniform(0, options.blur_sigma) + 1e-6
        images |= {name: cv2.GaussianBlur(images[name], (0, 0), sigma) for name in ("rgb", "nir") if name in images}
    return Sample(sample.name, images, view(labels, cv2.INTER_NEAREST_EXACT, IGNORE_ID), sample.missing)


def augment_colour(image: np.ndarray, options: Augment, rng: np.random.Generator) -> np.ndarray:
    """Colour jitter, darkening and blur of an rgb image, each with its probability. uint8 (H, W, 3) in and out.

    Jittered values are clipped and rounded once, at the end; the published code (torchvision) does so after each step.
    """
    if rng.random() < options.colour_jitter:
        brightness, contrast, saturation = rng.uniform(1 - options.jitter_strength, 1 + options.jitter_strength, 3)
        image = image.astype(np.float32) * np.float32(brightness)
        grey = image @ np.float32([0.299, 0.587, 0.114])
        image = image * contrast + grey.mean() * (1 - contrast)
        image = image * saturation + (grey * contrast + grey.mean() * (1 - contrast))[:, :, None] * (1 - saturation)
        image = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < options.darken:
        gamma, gain, noise = rng.uniform(1.0, 2.5), rng.uniform(0.1, 1.0), rng.uniform(0.0, 12.0)
        dark = (255 * gain * (np.arange(256, dtype=np.float32) / 255) ** gamma)[image]
        image = np.clip(dark + noise * rng.standard_normal(dark.shape, np.float32), 0, 255).astype(np.uint8)
    if not options.blur_sigma and rng.random() < options.blur:
        image = cv2.GaussianBlur(image, (3, 3), 0)
    return image


def without_intensity(image: np.ndarray) -> np.ndarray:
    """An image of one of INTENSITY's encodings, uint8 (H, W, 3), as the lane makes it of a cloud without that field."""
    image = image.copy()
    image[:, :, 1] = np.where(image[:, :, 0] > 0, NO_INTENSITY, 0)  # the range is at least 1 where something is
    return image


def collate(samples: Sequence[Sample]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Samples of one size -> images {modality: uint8 (B, H, W, 3)}, labels int64 (B, H, W)."""
    images = {name: torch.from_numpy(np.stack([one.images[name] for one in samples])) for name in samples[0].images}
    return images, torch.from_numpy(np.stack([one.labels for one in samples])).long()


def normalise(images: Mapping[str, torch.Tensor], encodings: Mapping[str, Encoding]) -> dict[str, torch.Tensor]:
    """uint8 (B, H, W, 3) -> the network's float32 (B, 3, H, W): (value / 255 - mean) / std per channel."""
    normalised = {}
    for name, image in images.items():
        mean, std = (torch.tensor(value, device=image.device) for value in (encodings[name].mean, encodings[name].std))
        values = image.float().mul_(1 / (255 * std)).sub_(mean / std)
        # (B, H, W, 3) -> (B, 3, H, W) as a view: the memory stays channels-last, which convolutions prefer on CPUs
        normalised[name] = values.permute(0, 3, 1, 2)
    return normalised


DROPOUT_KINDS = ("none", "sample", "batch")


def draw_present(kind: str, batch_size: int, modalities: Sequence[str],
                 rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Modality dropout: {modality: (B,) bool}, which modalities each sample keeps; never none of them.

    'none': all. 'sample': every sample draws n ~ U{1..M} and then a uniform subset of n modalities (steps see many
    subsets at once and converge faster). 'batch': one such draw for the whole batch, as RobustSeg's code does.
    """
    if kind not in DROPOUT_KINDS:
        raise ValueError(f"modality dropout {kind!r} is unknown; choose from {', '.join(DROPOUT_KINDS)}")
    rows = {"none": 0, "sample": batch_size, "batch": 1}[kind]
    keep = np.ones((batch_size, len(modalities)), bool)
    for row in range(rows):
        chosen = rng.permutation(len(modalities))[: rng.integers(1, len(modalities) + 1)]
        keep[row] = np.isin(np.arange(len(modalities)), chosen)
    if kind == "batch":
        keep[:] = keep[0]
    return {name: torch.from_numpy(keep[:, column].copy()) for column, name in enumerate(modalities)}
