"""The training's row: PNG files on disk -> a normalised batch, beside the work of the public DELIVER loader."""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.rows import Row
from mss_models.modality import DELIVER_MODALITIES
from training.batches import make_batch
from training.datasets.deliver import SUFFIXES, Deliver
from training.datasets.sample import read_png
from training.recipe import Phase
from training.recipes import find_recipe
from training.transforms import normalise

SIZE, CROP, FRAMES = 1042, 1024, 4
FOLDERS = {"rgb": "img", "depth": "hha", "event": "event", "lidar": "lidar"}
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
GREY = torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)


def rows(tiny: bool = False) -> dict[str, Callable[[], Row]]:
    """The rows by name; tiny: small pictures, for tests."""
    return {"training": functools.partial(training_input, *((66, 64) if tiny else (SIZE, CROP)))}


def training_input(size: int = SIZE, crop: int = CROP) -> Row:
    """Frames of DELIVER's size and layout, with CMNeXt's augmentation: crops of a scene enlarged by U(0.5, 2)."""
    folder = tempfile.TemporaryDirectory()      # goes with the functions that use it
    write_frames(Path(folder.name), size)
    data = Deliver(folder.name, "train")
    recipe = replace(find_recipe("cmnext-deliver-b2"), phases=(Phase(crop=crop, batch=FRAMES, scale=(0.5, 2.0)),))
    iterations, rng = itertools.count(), np.random.default_rng(0)

    def ours(keep: object = folder) -> dict[str, Tensor]:
        _, batch = make_batch(data, recipe, next(iterations))
        return normalise(batch["images"], data.encodings)

    def peer(keep: object = folder) -> list[Tensor]:
        samples = [published_sample(frame.images, frame.labels, crop, rng) for frame in data.frames]
        return [torch.stack(one) for one in zip(*samples, strict=True)]

    return Row(f"training: batches of {FRAMES} frames of {size} x {size}, four PNG files and labels -> {crop} x {crop}",
               "the public DELIVER loader's operations", ours, peer, None, 7, "images/s", FRAMES, rate=True)


def write_frames(root: Path, size: int) -> None:
    """A DELIVER tree of blurred noise, whose PNG files are as hard to read as those of pictures."""
    rng = np.random.default_rng(0)
    for number in range(FRAMES):
        for folder in (*FOLDERS.values(), "semantic"):
            noise = rng.integers(0, 256, (size, size, 3), np.uint8)
            picture = cv2.GaussianBlur(noise, (0, 0), 2.5) // 4 * 4 if folder != "semantic" else np.full(
                (size, size, 3), 1 + number, np.uint8)
            path = root / folder / "sun" / "train" / "MAP_1_point1"
            path.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path / f"{number:06d}_{SUFFIXES[folder]}_front.png"), picture)


def published_sample(images: dict[str, Path], labels: Path, crop: int, rng: np.random.Generator) -> list[Tensor]:
    """What the published loader does for one frame, in its order and on tensors as it does (jamycheung/DELIVER,
    semseg/datasets/deliver.py and augmentations_mm.py): all images are enlarged whole, cropped, then made float32."""
    sample = {name: torch.from_numpy(read_png(images[name]).transpose(2, 0, 1).copy()) for name in DELIVER_MODALITIES}
    sample["labels"] = torch.from_numpy(read_png(labels)[..., :1].transpose(2, 0, 1).copy()) - 1
    if rng.random() < 0.2:
        brightness, contrast, saturation = rng.uniform(0.5, 1.5, 3)
        image = blend(sample["rgb"], torch.zeros(()), brightness)
        image = blend(image, (image.float() * GREY).sum(0).mean(), contrast)
        sample["rgb"] = blend(image, (image.float() * GREY).sum(0, keepdim=True), saturation)
    if rng.random() < 0.5:
        sample = {name: one.flip(-1) for name, one in sample.items()}
    if rng.random() < 0.2:
        weight = torch.tensor([0.2398, 0.5203, 0.2398])     # of sigma 0.8, which 3 pixels stand for
        padded = F.pad(sample["rgb"].float()[None], (1, 1, 1, 1), mode="reflect")
        kernel = (weight[:, None] * weight).expand(3, 1, 3, 3)
        sample["rgb"] = F.conv2d(padded, kernel, groups=3)[0].round().to(torch.uint8)
    height, width = sample["labels"].shape[1:]
    factor = rng.uniform(0.5, 2.0) * crop / min(height, width)
    size = int(height * factor + 0.5), int(width * factor + 0.5)
    sample = {name: resized(one, size, name == "labels") for name, one in sample.items()}
    top, left = (rng.integers(0, max(0, one - crop) + 1) for one in size)
    below, right = (max(0, crop - one) for one in size)
    sample = {name: F.pad(one[:, top:top + crop, left:left + crop], (0, right, 0, below),
                          value=255 if name == "labels" else 0) for name, one in sample.items()}
    tensors = [sample[name].float().div_(255) for name in DELIVER_MODALITIES]
    tensors[0] = (tensors[0] - MEAN) / STD
    return [*tensors, sample["labels"][0].long()]


def blend(image: Tensor, other: Tensor, share: float) -> Tensor:
    return (share * image + (1 - share) * other).clamp(0, 255).to(torch.uint8)


def resized(image: Tensor, size: tuple[int, int], is_labels: bool) -> Tensor:
    if is_labels:
        return F.interpolate(image[None], size, mode="nearest")[0]
    larger = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False, antialias=True)
    return larger[0].round_().to(torch.uint8)
