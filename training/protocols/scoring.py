"""Scoring: every frame is read once and handed over in the way of every trial; what agrees is computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from mss_models.layers.present import encoding_once
from mss_models.metrics import Confusion
from mss_models.runtime import PRECISIONS, TorchRuntime
from training.datasets.dataset import Dataset
from training.datasets.sample import Sample
from training.protocols.grid import Grid, arg_max, mean_logits, windows
from training.protocols.subsets import Subset
from training.protocols.trials import Trial
from training.protocols.versions import Versions

CPU_PIXELS, GPU_PIXELS = 1 << 18, 1 << 22  # of a batch's images of one modality; more at once is no faster

Condition = tuple[str, str]  # weather, case
Scores = dict[Trial, dict[Condition, Confusion]]


def score(runtime: TorchRuntime, dataset: Dataset, trials: Sequence[Trial], *, frames: Iterable[int] | None = None,
          grid: Grid | None = None, seed: int = 0, progress: Callable[[int], object] = lambda frames: None,
          keep: Callable[[str, Trial, np.ndarray], object] | None = None) -> Scores:
    """The confusion of every trial with the labels, by condition.

    What a frame's sensors did not give (`Sample.missing`) is left out, or zeros, see Trial.inputs; a frame with nothing
    left is not counted (see `skipped`): where there is no other of its condition, the confusion is empty.

    frames: indices into the data set; None: all. `progress` is told how many frames have been scored since its last
    call. `keep` is given (frame name, trial, predicted ids uint8 (H, W)) of every prediction.
    """
    grid = grid or Grid()
    dtype = PRECISIONS[runtime.precision]
    scores: Scores = {trial: {} for trial in trials}
    for conditions, samples in _batches(dataset, range(len(dataset)) if frames is None else frames, grid,
                                        CPU_PIXELS if runtime.device.type == "cpu" else GPU_PIXELS):
        alike: dict[tuple, list[Trial]] = {}  # trials that hand over the same: only once
        for trial in trials:
            alike.setdefault(trial.inputs(runtime.modalities, samples[0].missing), []).append(trial)
            for condition in conditions:
                if condition not in scores[trial]:
                    scores[trial][condition] = Confusion(len(dataset.labels), dataset.labels.ignore_id)
        alike.pop((), None)
        targets = [grid.target(one.labels) for one in samples]
        images = {name: np.stack([grid.images(one.images[name]) for one in samples]) for name in runtime.modalities}
        versions = Versions(images, [one.name for one in samples], runtime.encodings, seed, runtime.device, dtype)
        with torch.inference_mode(), encoding_once():
            for inputs, sharing in alike.items():
                predicted = _predict(runtime, versions, inputs, next(iter(images.values())).shape[1:3], grid,
                                     targets[0].shape)
                for condition, sample, target, labels in zip(conditions, samples, targets, predicted, strict=True):
                    for trial in sharing:
                        scores[trial][condition].update(target, labels)
                        if keep:
                            keep(sample.name, trial, labels)
        progress(len(samples))
    return scores


def _predict(runtime: TorchRuntime, versions: Versions, inputs: Sequence[tuple[str, str]], size: tuple[int, int],
             grid: Grid, target: tuple[int, int]) -> np.ndarray:
    """Class ids uint8 (B, *target) of the versions' frames, whose images have `size` (height, width)."""
    def logits(part):
        images = {name: versions.get(name, version, part) for name, version in inputs}
        present = {name: torch.ones(len(image), dtype=torch.bool) for name, image in images.items()}
        return runtime.logits(images, present)[..., : part.bottom - part.top, : part.right - part.left]

    whole = mean_logits(logits, windows(size, grid.window, grid.stride))
    if whole.shape[-2:] != target:
        whole = F.interpolate(whole, target, mode="bilinear", align_corners=False)
    return arg_max(whole)


def _batches(dataset: Dataset, frames: Iterable[int], grid: Grid,
             pixels: int) -> Iterator[tuple[list[Condition], list[Sample]]]:
    """Runs of frames of one size and with the same sensors missing, as many as make so many pixels at most, with their
    conditions. (So every image of a batch is wholly there or wholly absent, and is encoded once, see encoding_once.)
    """
    conditions: list[Condition] = []
    samples: list[Sample] = []
    for index in frames:
        sample = dataset[index]
        height, width = grid.network_size(sample.labels.shape)
        if samples and ((sample.labels.shape, sample.missing) != (samples[0].labels.shape, samples[0].missing)
                        or (len(samples) + 1) * height * width > pixels):
            yield conditions, samples
            conditions, samples = [], []
        conditions.append((dataset.frames[index].weather, dataset.frames[index].case))
        samples.append(sample)
    if samples:
        yield conditions, samples


def skipped(dataset: Dataset, subsets: Iterable[Subset]) -> dict[Subset, int]:
    """Of every subset that it happens to: the number of frames in which all its sensors gave nothing."""
    missing = [dataset.missing_in(frame) for frame in dataset.frames]
    counts = {subset: sum(one.issuperset(subset) for one in missing) for subset in subsets}
    return {subset: count for subset, count in counts.items() if count}


def merge(by_condition: Mapping[Condition, Confusion],
          keep: Callable[[str, str], bool] = lambda weather, case: True) -> Confusion | None:
    """The sum over the conditions that `keep(weather, case)` accepts; None if there are none."""
    total = None
    for condition, confusion in by_condition.items():
        if keep(*condition):
            total = total or Confusion(confusion.num_classes, confusion.ignore_id)
            total += confusion
    return total
