"""Reading labels and confidence out of logits at another size: against the formulas, for any size of the steps."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from mss_models.runtime import readout
from mss_models.runtime.readout import read_out

SIZES = [((16, 24), (16, 24)), ((16, 24), (64, 96)), ((17, 23), (101, 59)), ((33, 40), (20, 7)), ((9, 31), (9, 77)),
         ((31, 9), (77, 9)), ((1, 1), (5, 3)), ((12, 1), (1, 8)), ((64, 64), (65, 63))]


def some_logits(size, classes=7, batch=2):
    torch.manual_seed(0)
    return 3 * torch.randn(batch, classes, *size)


def written_out(logits, size):
    """Probabilities (B, K, H, W), float64: half-pixel centres, clamped at the border, one axis after the other."""
    for axis, target in ((2, size[0]), (3, size[1])):
        source = logits.shape[axis]
        at = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, source - 1)
        share = (at - low).reshape([-1 if i == axis else 1 for i in range(4)])
        logits = np.take(logits, low, axis) * (1 - share) + np.take(logits, high, axis) * share
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_equals_the_formulas(source, target):
    logits = some_logits(source)
    labels, confidence = (one.numpy() for one in read_out(logits, target))
    probabilities = written_out(logits.double().numpy(), target)
    assert labels.shape == confidence.shape == (2, *target) and labels.dtype == confidence.dtype == np.uint8
    best = np.sort(probabilities, axis=1)
    clear = best[:, -1] - best[:, -2] > 1e-4
    np.testing.assert_array_equal(labels[clear], probabilities.argmax(1)[clear])
    assert clear.mean() > 0.99 and np.abs(confidence - 255 * best[:, -1]).max() < 0.5 + 0.02


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_any_size_of_the_steps_gives_the_same_bits(source, target):
    logits = some_logits(source)
    whole = read_out(logits, target, step=1 << 40)
    for step in (1, 7 * target[1] * 3, 5000):
        assert all(torch.equal(one, other) for one, other in zip(read_out(logits, target, step), whole, strict=True))


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_the_way_of_a_gpu_gives_the_same_bits(source, target, monkeypatch):
    logits = some_logits(source)
    expected = read_out(logits, target)
    monkeypatch.setattr(readout, "_mix_runs", readout._mix_gathered)
    for step in (None, 5000):
        assert all(torch.equal(one, other) for one, other in zip(read_out(logits, target, step), expected, strict=True))


def test_a_camera_image_is_the_same_in_steps_as_at_once_and_whatever_the_layout_in_memory():
    logits = some_logits((72, 128), classes=25, batch=1)
    whole = read_out(logits, (541, 959), step=1 << 40)
    for one in (logits, logits.contiguous(memory_format=torch.channels_last)):
        assert all(torch.equal(a, b) for a, b in zip(read_out(one, (541, 959)), whole, strict=True))


def test_of_equal_logits_the_first_class_wins():
    logits = torch.zeros(1, 25, 3, 5)
    logits[:, [4, 9, 24], 1] = 1.0
    logits[:, 24, 2] = 1e-6
    labels, confidence = read_out(logits, (3, 5))
    assert labels[0].tolist() == [[0] * 5, [4] * 5, [24] * 5]
    assert confidence[0, 0].tolist() == [round(255 / 25)] * 5


def test_confidence_reaches_both_ends():
    logits = torch.zeros(1, 200, 1, 2)
    logits[0, 150, 0, 0] = 1000.0
    labels, confidence = read_out(logits, (1, 2))
    assert labels[0, 0].tolist() == [150, 0] and confidence[0, 0].tolist() == [255, round(255 / 200)]


def test_a_4k_image_takes_little_memory():
    """The resized logits alone would be 830 MB."""
    program = ("import resource, torch; from mss_models.runtime.readout import read_out; torch.set_num_threads(1);"
               "logits = torch.randn(1, 25, 64, 64); read_out(logits, (64, 64));"
               "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
               "before = peak(); read_out(logits, (2160, 3840)); print(peak() - before)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 150_000  # kB
