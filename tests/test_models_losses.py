"""OHEM cross-entropy against a loop over pixels, and the weights of losses."""

from __future__ import annotations

import math

import pytest
import torch

from mss_models.losses import ohem_cross_entropy
from mss_models.system import create


def brute_force(logits, labels):
    losses = []
    for b in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                if labels[b, y, x] != 255:
                    scores = [math.exp(value) for value in logits[b, :, y, x].tolist()]
                    losses.append(-math.log(scores[labels[b, y, x]] / sum(scores)))
    losses.sort(reverse=True)
    hard = [one for one in losses if one > -math.log(0.7)]
    minimum = len(losses) // 16
    return sum(hard) / len(hard) if len(hard) >= minimum else sum(losses[:minimum]) / minimum


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 8.0, 30.0])  # from all pixels hard to fewer than a sixteenth
def test_equals_a_loop(sharpness):
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 5, (2, 9, 7), generator=generator)
    logits = torch.randn(2, 5, 9, 7, generator=generator)
    logits.scatter_add_(1, labels.unsqueeze(1), torch.full((2, 1, 9, 7), sharpness))
    labels[torch.rand(2, 9, 7, generator=generator) < 0.2] = 255
    assert ohem_cross_entropy(logits, labels).item() == pytest.approx(brute_force(logits, labels), rel=1e-5, abs=1e-6)


def test_gradient_reaches_only_the_hard_pixels():
    logits = torch.zeros(1, 2, 4, 8)
    logits[:, 0, :2] = 10.0  # the upper half is easy
    logits.requires_grad_()
    ohem_cross_entropy(logits, torch.zeros(1, 4, 8, dtype=torch.long)).backward()
    assert bool((logits.grad[:, :, :2] == 0).all()) and bool((logits.grad[:, :, 2:] != 0).all())


def test_few_pixels_take_the_hardest_one():
    logits = torch.tensor([20.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3).clone()
    logits[0, 0, 0, 1] = 3.0
    labels = torch.zeros(1, 1, 3, dtype=torch.long)
    assert ohem_cross_entropy(logits, labels).item() == pytest.approx(math.log(1 + math.exp(-3.0)), rel=1e-5)


def test_everything_ignored_is_zero_with_zero_gradient():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = ohem_cross_entropy(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0 and bool((logits.grad == 0).all())


@pytest.mark.parametrize(("system", "weight"), [
    ("magic", "lam"), ("magic", "beta"), ("magic_plus", "beta"), ("anyseg", "kl_weight"), ("anyseg", "cmd_weight"),
    ("robustseg", "prototype_weight"), ("equiseg", "guidance_weight"), ("charm", "col_weight"),
    ("charm", "ine_weight")])
def test_weights_that_are_negative_or_not_finite_are_named(system, weight):
    for value in (-1.0, float("nan"), float("inf")):
        with torch.device("meta"), pytest.raises(ValueError, match=f"{weight} = {value}; it must be at least 0"):
            create(system=system, modalities=("rgb", "depth"), num_classes=5, **{weight: value})


def test_foreign_label_ids_are_named():
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    labels[0, 0, 0] = 7
    with pytest.raises(ValueError, match=r"\[7\].*0\.\.2"):
        ohem_cross_entropy(torch.zeros(1, 3, 2, 2), labels)
