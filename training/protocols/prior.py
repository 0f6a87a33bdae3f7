"""What knowing nothing scores: at each pixel the class that is most frequent there."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mss_models.metrics import Confusion
from training.datasets.dataset import Dataset
from training.protocols.grid import Grid, resized
from training.protocols.scoring import Condition


def class_prior(labels: Iterable[np.ndarray], num_classes: int) -> np.ndarray:
    """The most frequent class at every pixel, uint8 (H, W), of label images (H, W) with 255 = ignore.

    The lower id wins a tie; a pixel that is never labelled gets the most frequent class of all. Images of another
    size than the first are nearest-resized to it. Raises ValueError if there is no labelled pixel.
    """
    counts = None
    for one in labels:
        if counts is None:
            counts = np.zeros((num_classes, *one.shape), np.int32)
            pixel = np.arange(one.size)
        one = resized(one, counts.shape[1:]).ravel()
        valid = one < num_classes
        counts.reshape(num_classes, -1)[one[valid], pixel[valid]] += 1  # no index occurs twice: += counts each
    if counts is None or not counts.any():
        raise ValueError("a class prior needs at least one labelled pixel")
    prior = counts.argmax(0).astype(np.uint8)
    prior[counts.sum(0) == 0] = counts.sum((1, 2)).argmax()
    return prior


def score_prior(prior: np.ndarray, dataset: Dataset, grid: Grid | None = None) -> dict[Condition, Confusion]:
    """What predicting `prior` (H, W) for every frame scores in each condition, at the size that `grid` scores at."""
    grid = grid or Grid()
    scores: dict[Condition, Confusion] = {}
    for index, frame in enumerate(dataset.frames):
        target = grid.target(dataset.read_labels(index))
        if (condition := (frame.weather, frame.case)) not in scores:
            scores[condition] = Confusion(len(dataset.labels), dataset.labels.ignore_id)
        scores[condition].update(target, resized(prior, target.shape))
    return scores
