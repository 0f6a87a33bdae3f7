"""Segmentation metrics from an int64 confusion matrix, with both conventions for absent classes."""

from __future__ import annotations

import numpy as np


class Confusion:
    """Counts of (target, prediction) pairs over all pixels whose target is not `ignore_id`.

    hist: int64 (K, K), rows = target, columns = prediction. Integers, since float32 loses counts above 2^24.
    """

    def __init__(self, num_classes: int, ignore_id: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_id = ignore_id
        self.hist = np.zeros((num_classes, num_classes), np.int64)

    def update(self, target: np.ndarray, pred: np.ndarray) -> None:
        """Count two arrays of ids, of one shape and any integer type. Raises ValueError for ids that are no class."""
        target, pred = np.asarray(target), np.asarray(pred)
        if target.shape != pred.shape:
            raise ValueError(f"target has shape {target.shape} and prediction {pred.shape}; they must be equal")
        valid = target != self.ignore_id
        target, pred = target[valid].astype(np.int64), pred[valid].astype(np.int64)
        K = self.num_classes
        for name, ids in (("target", target), ("prediction", pred)):
            if ids.size and (ids.min() < 0 or ids.max() >= K):
                raise ValueError(f"{name} holds ids {ids.min()}..{ids.max()}; with {K} classes 0..{K - 1} are right")
        self.hist += np.bincount(K * target + pred, minlength=K * K).reshape(K, K)

    def __iadd__(self, other: Confusion) -> Confusion:
        """Merge the counts of another matrix of the same classes."""
        if (self.num_classes, self.ignore_id) != (other.num_classes, other.ignore_id):
            raise ValueError(f"cannot merge confusions of {self.num_classes} and {other.num_classes} classes, ignore "
                             f"ids {self.ignore_id} and {other.ignore_id}")
        self.hist += other.hist
        return self

    @property
    def pixels(self) -> int:
        """Number of pixels counted."""
        return int(self.hist.sum())

    def iou(self) -> np.ndarray:
        """Intersection over union (K,) float64; NaN for a class neither in the targets nor predicted."""
        return _ratio(self.hist.diagonal(), self.hist.sum(0) + self.hist.sum(1) - self.hist.diagonal())

    def f1(self) -> np.ndarray:
        """2 TP / (targets + predictions), (K,) float64; NaN as iou()."""
        return _ratio(2 * self.hist.diagonal(), self.hist.sum(0) + self.hist.sum(1))

    def acc(self) -> np.ndarray:
        """TP / targets, (K,) float64; NaN for a class not in the targets."""
        return _ratio(self.hist.diagonal(), self.hist.sum(1))

    @property
    def miou_published(self) -> float:
        """Mean IoU over all classes, an absent class counting 0: the convention of the published tables. In 0..1."""
        return float(np.nan_to_num(self.iou()).mean())

    @property
    def miou_present(self) -> float:
        """Mean IoU over the classes that occur in the targets; NaN when nothing was counted. In 0..1.

        Whatever is predicted, the classes are the same: a class predicted but absent costs only the pixels it took.
        """
        return float(self.iou()[self.hist.sum(1) > 0].mean()) if self.pixels else float("nan")


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
