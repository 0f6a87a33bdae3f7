"""Evaluation protocols: what a network scores with any subset of its modalities, and what knowing nothing scores.

any-modal: all 2^M - 1 non-empty subsets; an absent modality is marked absent. Average / Top-1 / Last-1 are the mean,
maximum and minimum of the subsets' mIoU. conditions: the same per weather and per failure case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

import cv2
import numpy as np

from mss_models.metrics import Confusion
from training.datasets.deliver import Deliver

PROTOCOLS = ("any-modal", "conditions")
Subset = tuple[str, ...]
Groups = dict[tuple[str, str], dict[Subset, Confusion]]  # (weather, case) -> subset -> Confusion


def all_subsets(modalities: Sequence[str]) -> list[Subset]:
    """The 2^M - 1 non-empty subsets, singles first, in the modalities' order."""
    return [one for size in range(1, len(modalities) + 1) for one in combinations(modalities, size)]


def singles_and_all(modalities: Sequence[str]) -> list[Subset]:
    """Each modality alone, and all together: the quick look during training."""
    return [(name,) for name in modalities] + ([tuple(modalities)] if len(modalities) > 1 else [])


def key(subset: Subset) -> str:
    """A subset's name in files: 'rgb+lidar'."""
    return "+".join(subset)


def score_subsets(segment: Callable, dataset: Deliver, subsets: Sequence[Subset], batch_size: int = 8,
                  progress: Callable[[Iterable], Iterable] = iter) -> Groups:
    """Scores every frame with every subset, at the size of its labels.

    segment: a runtime (mss_models.runtime), called as segment(images, present). Frames are read once and in order;
    a batch never mixes sizes or conditions. `progress` may wrap the iteration over batches, as tqdm does.
    """
    groups: Groups = {}
    classes = len(dataset.labels)
    for condition, samples in progress(list(_batches(dataset, batch_size))):
        samples = [dataset[i] for i in samples]
        target = np.stack([one.labels for one in samples])
        images = {name: np.stack([one.images[name] for one in samples]) for name in dataset.modalities}
        scores = groups.setdefault(condition, {one: Confusion(classes, dataset.labels.ignore_id) for one in subsets})
        for subset in subsets:
            present = {name: np.full(len(samples), name in subset) for name in images}
            result = segment({name: images[name] for name in subset}, present)
            scores[subset].update(target, result.labels)
    return groups


def _batches(dataset: Deliver, batch_size: int):
    """(condition, frame indices) of every batch; frames of one condition are of one size (a sequence's camera)."""
    by_condition: dict[tuple[str, str], list[int]] = {}
    for index, frame in enumerate(dataset.frames):
        by_condition.setdefault((frame.weather, frame.case), []).append(index)
    for condition, indices in by_condition.items():
        for start in range(0, len(indices), batch_size):
            yield condition, indices[start : start + batch_size]


def merge(groups: Groups, keep: Callable[[str, str], bool] = lambda weather, case: True) -> dict[Subset, Confusion]:
    """Per subset, the sum over the conditions that `keep(weather, case)` accepts; {} if there are none."""
    total: dict[Subset, Confusion] = {}
    for condition, scores in groups.items():
        if keep(*condition):
            for subset, confusion in scores.items():
                if subset not in total:
                    total[subset] = Confusion(confusion.num_classes, confusion.ignore_id)
                total[subset] += confusion
    return total


def figures(confusion: Confusion, names: Sequence[str]) -> dict:
    """One confusion matrix as JSON: mIoU in both conventions, and per class IoU (None: absent). Percent."""
    return {
        "miou_published": round(100 * confusion.miou_published, 2),
        "miou_present": round(100 * confusion.miou_present, 2),
        "iou": {name: None if np.isnan(iou) else round(100 * float(iou), 2)
                for name, iou in zip(names, confusion.iou(), strict=True)},
    }


def any_modal_summary(scores: dict[Subset, Confusion]) -> dict:
    """Average / Top-1 / Last-1 over the subsets, in percent, in both conventions."""
    summary = {}
    for convention in ("miou_published", "miou_present"):
        mious = {key(subset): 100 * getattr(confusion, convention) for subset, confusion in scores.items()}
        best, worst = max(mious, key=mious.get), min(mious, key=mious.get)
        summary[convention] = {
            "average": round(sum(mious.values()) / len(mious), 2),
            "top1": round(mious[best], 2), "top1_subset": best,
            "last1": round(mious[worst], 2), "last1_subset": worst,
        }
    return summary


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
        one = _resized(one, counts.shape[1:]).ravel()
        valid = one < num_classes
        counts.reshape(num_classes, -1)[one[valid], pixel[valid]] += 1  # no index occurs twice: += counts each
    if counts is None or not counts.any():
        raise ValueError("a class prior needs at least one labelled pixel")
    prior = counts.argmax(0).astype(np.uint8)
    prior[counts.sum(0) == 0] = counts.sum((1, 2)).argmax()
    return prior


def score_prior(prior: np.ndarray, dataset: Deliver) -> Confusion:
    """What predicting `prior` (H, W) for every frame scores."""
    confusion = Confusion(len(dataset.labels), dataset.labels.ignore_id)
    for index in range(len(dataset)):
        target = dataset.read_labels(index)
        confusion.update(target, _resized(prior, target.shape))
    return confusion


def _resized(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    if labels.shape == tuple(shape):
        return labels
    return cv2.resize(labels, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST_EXACT)
