"""The batches of a training: a function of recipe, data and iteration alone, made ahead by threads."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from mss_models.systems import SYSTEMS
from mss_models.systems.anyseg import Student
from training.datasets.dataset import Dataset
from training.recipe import Recipe, RecipeError
from training.transforms import INTENSITY, augment, collate, draw_present


def prefetch(dataset: Dataset, recipe: Recipe, start: int, end: int, workers: int = 2,
             part: tuple[int, int] = (0, 1)) -> Iterator[tuple[int, list[str], dict]]:
    """(iteration, frame names, batch) of iterations start..end-1, made ahead by threads. part: make_batch's."""
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(make_batch, dataset, recipe, i, part) for i in range(start, min(end, start + workers))]
        for iteration in range(start, end):
            names, batch = waiting.pop(0).result()
            if iteration + workers < end:
                waiting.append(pool.submit(make_batch, dataset, recipe, iteration + workers, part))
            yield iteration, names, batch


def make_batch(dataset: Dataset, recipe: Recipe, iteration: int,
               part: tuple[int, int] = (0, 1)) -> tuple[list[str], dict]:
    """The frame names and the batch of an iteration: images uint8 (B, H, W, 3), labels (B, H, W), and two masks (B,).

    A student's draws are others than its teacher's of the same seed: together they see as many different views as a
    system that learns alone.

    `available`: what the frames have, for a teacher; `present`: what modality dropout leaves of it, or all of it where
    dropout would leave nothing. A function of the recipe and the iteration alone. Frames come in epochs, each a
    permutation of the data set.

    part: (i, n), the i-th of n equal parts of the batch, made without the others; n must divide its size.
    """
    phase = recipe.phase_at(iteration)
    size = phase.batch // part[1]
    mine = range(part[0] * size, (part[0] + 1) * size)
    seen = recipe.samples_before(iteration)
    pads = {name: one.nothing for name, one in dataset.encodings.items()}
    samples = []
    stage = 3 if issubclass(SYSTEMS[recipe.system], Student) else 0  # random keys 0 to 2; a student's 3 to 5
    for number in mine:
        at = seen + number
        frame = _shuffled(len(dataset), recipe.seed, stage, at // len(dataset))[at % len(dataset)]
        rng = np.random.default_rng([recipe.seed, stage + 1, iteration, number])  # of this sample alone
        samples.append(augment(dataset[frame], phase.crop, phase.scale, recipe.augment, rng, pads))
    images, labels = collate(samples)
    available = {name: torch.tensor([name not in one.missing for one in samples]) for name in dataset.modalities}
    present = draw_present(recipe.modality_dropout, phase.batch, dataset.modalities,
                           np.random.default_rng([recipe.seed, stage + 2, iteration]))  # the same draw for all parts
    present = restricted({name: mask[mine.start : mine.stop] for name, mask in present.items()}, available)
    return ([one.name for one in samples],
            {"images": images, "present": present, "available": available, "labels": labels})


def restricted(present: dict[str, torch.Tensor], available: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`present` (modality -> (B,) bool) without what is not available; all that is where nothing would be left."""
    both = {name: present[name] & available[name] for name in present}
    empty = ~torch.stack(list(both.values())).any(0)
    return {name: both[name] | (empty & available[name]) for name in both}


def class_weights(dataset: Dataset, balance: float) -> torch.Tensor:
    """(K,) float32: frequency^-balance of each class's labelled pixels, scaled to mean 1 over them; absent: 0."""
    counts = sum(np.bincount(dataset.read_labels(i).ravel(), minlength=256) for i in range(len(dataset)))
    frequency = counts[: len(dataset.labels)] / counts[: len(dataset.labels)].sum()
    weights = np.where(frequency > 0, np.maximum(frequency, 1e-12) ** -balance, 0)
    return torch.from_numpy(weights / (frequency * weights).sum()).float()


def check_augmentation(recipe: Recipe, dataset: Dataset) -> None:
    """Raises RecipeError where an augmentation takes the images for something that they are not."""
    if recipe.augment.drop_intensity:
        for name, one in dataset.encodings.items():
            if name in INTENSITY and one.name != INTENSITY[name]:
                raise RecipeError(f"augment.drop_intensity={recipe.augment.drop_intensity}, but {name} is encoded as "
                                  f"{one.name!r}, which has no intensity of its own; set it to 0")


@functools.lru_cache(maxsize=4)
def _shuffled(count: int, seed: int, key: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, key, epoch]).permutation(count)
