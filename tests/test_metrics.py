"""Confusion matrix and its metrics against a loop over pixels."""

from __future__ import annotations

import numpy as np
import pytest

from mss_models.metrics import Confusion


@pytest.fixture
def pair():
    random = np.random.default_rng(1)
    target = random.choice([0, 1, 2, 4, 255], (3, 11, 13)).astype(np.uint8)  # class 3 and 5 never occur in the target
    pred = np.where(random.random(target.shape) < 0.6, np.minimum(target, 4), random.choice([0, 1, 2, 3], target.shape))
    return target, pred.astype(np.uint8)


def test_equals_a_loop(pair):
    target, pred = pair
    confusion = Confusion(6)
    confusion.update(target, pred)
    hist = np.zeros((6, 6), np.int64)
    for t, p in zip(target.ravel(), pred.ravel(), strict=True):
        if t != 255:
            hist[t, p] += 1
    assert confusion.hist.dtype == np.int64
    np.testing.assert_array_equal(confusion.hist, hist)
    iou, f1, acc = [], [], []
    for c in range(6):
        hit = np.sum((target == c) & (pred == c))
        in_target = np.sum(target == c)
        in_pred = np.sum((pred == c) & (target != 255))
        iou.append(hit / (in_target + in_pred - hit) if in_target + in_pred else np.nan)
        f1.append(2 * hit / (in_target + in_pred) if in_target + in_pred else np.nan)
        acc.append(hit / in_target if in_target else np.nan)
    np.testing.assert_allclose(confusion.iou(), iou)
    np.testing.assert_allclose(confusion.f1(), f1)
    np.testing.assert_allclose(confusion.acc(), acc)
    assert np.isnan(iou[5]) and iou[3] == 0  # 3 is predicted but never true
    assert confusion.miou_published == pytest.approx(np.nansum(iou) / 6)
    assert confusion.miou_present == pytest.approx(np.mean([iou[c] for c in (0, 1, 2, 4)]))
    assert confusion.pixels == np.sum(target != 255)


def test_merging_equals_counting_at_once(pair):
    target, pred = pair
    whole, parts = Confusion(6), Confusion(6)
    whole.update(target, pred)
    for t, p in zip(target, pred, strict=True):
        one = Confusion(6)
        one.update(t, p)
        parts += one
    np.testing.assert_array_equal(whole.hist, parts.hist)
    with pytest.raises(ValueError, match="5"):
        parts += Confusion(5)


def test_a_stray_pixel_of_an_absent_class_costs_a_pixel():
    target = np.arange(1000) % 4
    pred = target.copy()
    confusion, before = Confusion(25), Confusion(25)
    before.update(target, pred)
    pred[0] = 24
    confusion.update(target, pred)
    assert before.miou_present == 1 and confusion.miou_present == pytest.approx(1 - 1 / 250 / 4)
    assert confusion.miou_published == pytest.approx((4 - 1 / 250) / 25)


def test_counts_stay_exact_beyond_float32():
    confusion = Confusion(2)
    confusion.hist[0, 0] = 2**24
    confusion.update(np.zeros(1, np.uint8), np.zeros(1, np.uint8))
    assert confusion.hist[0, 0] == 2**24 + 1


def test_ids_that_are_no_class_are_errors():
    confusion = Confusion(3)
    with pytest.raises(ValueError, match="prediction holds ids 3..3"):
        confusion.update(np.array([0], np.uint8), np.array([3], np.uint8))
    with pytest.raises(ValueError, match="target holds ids 9"):
        confusion.update(np.array([9], np.uint8), np.array([0], np.uint8))
    with pytest.raises(ValueError, match="shape"):
        confusion.update(np.zeros((2, 3)), np.zeros((3, 2)))
    confusion.update(np.array([255], np.uint8), np.array([255], np.uint8))  # ignored pixels may hold anything
    assert confusion.pixels == 0 and np.isnan(confusion.miou_present) and confusion.miou_published == 0
