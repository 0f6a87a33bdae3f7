"""The torch runtime against the same steps written out, and its errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mss_models import checkpoint
from mss_models.labels import LABEL_SETS
from mss_models.modality import DEFAULT_ENCODINGS, DELIVER_MODALITIES
from mss_models.runtime import open_runtime
from mss_models.runtime.torch import choose_precision
from mss_models.system import InputError, create


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(0)
    model = create(system="segformer_mean", modalities=DELIVER_MODALITIES, num_classes=25, backbone="B0", head_width=64)
    torch.nn.init.normal_(model.head.classify.weight, std=2.0)  # spread the confidence over its whole range
    path = tmp_path_factory.mktemp("runtime") / "net.safetensors"
    checkpoint.save(path, model, LABEL_SETS["deliver"], DEFAULT_ENCODINGS, {"seed": 0}, image_size=(64, 96))
    return path


@pytest.fixture(scope="module")
def runtime(file):
    return open_runtime(file, device="cpu", precision="fp32")


def frames(batch, size=(64, 96), seed=0):
    random = np.random.default_rng(seed)
    return {name: random.integers(0, 256, (batch, *size, 3), dtype=np.uint8) for name in DELIVER_MODALITIES}


def directly(file, images, present, output_size=None):
    """Probabilities (B, K, H, W), step by step."""
    loaded = checkpoint.load(file)
    tensors = {}
    for name, image in images.items():
        mean, std = np.array(DEFAULT_ENCODINGS[name].mean), np.array(DEFAULT_ENCODINGS[name].std)
        tensors[name] = torch.from_numpy((image / 255 - mean) / std).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = loaded.model(tensors, {name: torch.from_numpy(mask) for name, mask in present.items()})
        if output_size:
            logits = F.interpolate(logits, output_size, mode="bilinear", align_corners=False)
    return logits.softmax(dim=1).numpy()


@pytest.mark.parametrize("output_size", [None, (64, 96), (50, 131)])
def test_equals_the_steps_written_out(file, runtime, output_size):
    images = frames(2)
    present = {"rgb": np.array([True, False]), "depth": np.array([True, True]), "event": np.array([False, True]),
               "lidar": np.array([False, False])}
    result = runtime(images, present, output_size)
    probabilities = directly(file, images, present, output_size)
    shape = (2, *(output_size or (64, 96)))
    assert result.labels.shape == result.confidence.shape == shape
    assert result.labels.dtype == result.confidence.dtype == np.uint8
    best = np.sort(probabilities, axis=1)
    clear = best[:, -1] - best[:, -2] > 1e-4  # a tie may be decided by rounding
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(result.labels[clear], probabilities.argmax(1)[clear])
    assert np.abs(result.confidence / 255 - best[:, -1]).max() < 0.5 / 255 + 1e-4
    assert np.ptp(result.confidence) > 100


def test_absent_content_never_matters_and_may_be_left_out(runtime):
    images = frames(1)
    present = {name: np.array([name == "lidar"]) for name in DELIVER_MODALITIES}
    expected = runtime(images, present)
    for other in (frames(1, seed=5) | {"lidar": images["lidar"]}, {"lidar": images["lidar"]}):
        result = runtime(other, present)
        np.testing.assert_array_equal(result.labels, expected.labels)
        np.testing.assert_array_equal(result.confidence, expected.confidence)
    np.testing.assert_array_equal(runtime({"lidar": images["lidar"]}, {"lidar": np.array([True])}).labels,
                                  expected.labels)


def test_images_stay_as_they_are_and_may_be_read_only_views(runtime):
    images = frames(1, (64, 192))
    views = {name: image[:, :, ::2] for name, image in images.items()}
    before = {name: view.copy() for name, view in views.items()}
    present = {name: np.array([True]) for name in DELIVER_MODALITIES}
    for view in views.values():
        view.flags.writeable = False
    result = runtime(views, present)
    np.testing.assert_array_equal(result.labels, runtime(before, present).labels)
    assert all(np.array_equal(views[name], before[name]) for name in views)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_agrees_with_single(file, runtime, precision):
    images, present = frames(1), {name: np.array([True]) for name in DELIVER_MODALITIES}
    single, half = runtime(images, present), open_runtime(file, "torch", "cpu", precision)(images, present)
    assert (single.labels == half.labels).mean() > 0.9
    assert np.abs(single.confidence.astype(int) - half.confidence).mean() < 12


def test_statistics_beyond_half_precision_do_no_harm(file, tmp_path):
    loaded = checkpoint.load(file)
    loaded.model.head.norm.running_var.fill_(1e6)  # infinite in float16
    loaded.model.head.norm.weight.data.fill_(1e3)
    checkpoint.save(tmp_path / "net.safetensors", loaded.model, loaded.labels, loaded.encodings, {},
                    image_size=(64, 96))
    images, present = frames(1), {name: np.array([True]) for name in DELIVER_MODALITIES}
    single, half = (open_runtime(tmp_path / "net.safetensors", "torch", "cpu", precision)(images, present)
                    for precision in ("fp32", "fp16"))
    assert len(np.unique(single.labels)) > 1 and (single.labels == half.labels).mean() > 0.9


def test_what_the_node_needs_to_know_comes_from_the_checkpoint(file, runtime):
    loaded = checkpoint.load(file)
    assert runtime.modalities == DELIVER_MODALITIES and runtime.labels == LABEL_SETS["deliver"]
    assert runtime.encodings == {name: DEFAULT_ENCODINGS[name] for name in DELIVER_MODALITIES}
    assert runtime.image_size == (64, 96) and runtime.model_id == loaded.model_id and runtime.card == {"seed": 0}


def test_opening_leaves_the_checkpoint_as_it_was(file):
    loaded = checkpoint.load(file)
    open_runtime(loaded, device="cpu", precision="bf16").warmup(64, 64)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in loaded.model.parameters())


def test_automatic_precision():
    assert choose_precision("auto", torch.device("cuda")) == "fp16"
    assert choose_precision("auto", torch.device("cpu")) in ("bf16", "fp32")
    assert choose_precision("fp32", torch.device("cuda")) == "fp32"


@pytest.mark.parametrize(("options", "message"), [
    ({"backend": "caffe"}, "caffe.*torch"), ({"precision": "int4"}, "int4.*bf16"), ({"device": "tpu9000"}, "tpu9000"),
    ({"device": "cuda:99"}, "cuda:99.*not there")])
def test_wrong_options_are_named(file, options, message):
    with pytest.raises(ValueError, match=message):
        open_runtime(file, **options)


YES = np.array([True])


@pytest.mark.parametrize(("images", "present", "message"), [
    ({"radar": np.zeros((1, 64, 64, 3), np.uint8)}, {"radar": YES}, "radar"),
    ({"rgb": np.zeros((1, 64, 64, 3), np.float32)}, {"rgb": YES}, "float32.*uint8"),
    ({"rgb": np.zeros((64, 64, 3), np.uint8)}, {"rgb": YES}, r"\(64, 64, 3\)"),
    ({"rgb": np.zeros((1, 64, 64, 1), np.uint8)}, {"rgb": YES}, r"\(1, 64, 64, 1\)"),
    ({"rgb": np.zeros((1, 64, 64, 3), np.uint8)}, {}, "present lacks"),
    ({"rgb": np.zeros((1, 64, 64, 3), np.uint8)}, {"rgb": ~YES}, "no modality is present"),
    ({"rgb": np.zeros((1, 64, 64, 3), np.uint8)}, {"rgb": np.array([1.0])}, "bool"),
    ({}, {"rgb": YES}, "rgb"),
])
def test_wrong_inputs_are_named(runtime, images, present, message):
    with pytest.raises(InputError, match=message):
        runtime(images, present)
