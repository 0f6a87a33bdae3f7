"""The torch runtime against the same steps written out, and its errors."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters

from mss_models import checkpoint
from mss_models.backbones import create_backbone
from mss_models.heads.segformer import SegFormerHead
from mss_models.labels import LABEL_SETS
from mss_models.modality import DEFAULT_ENCODINGS, DELIVER_MODALITIES
from mss_models.runtime import OptionError, compiled, open_runtime
from mss_models.runtime.compiled import CompiledRuntime
from mss_models.runtime.graphs import GraphRuntime
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


SUBSETS = [names for count in range(1, 5) for names in itertools.combinations(DELIVER_MODALITIES, count)]


class Replayed(GraphRuntime):
    """On the CPU: what is recorded there is the work, and replaying is doing it again on the recorded tensors."""

    def _prepare_recording(self):
        pass

    def _record(self, work):
        return work, work()


def same(result, expected):
    """But for ties that rounding may decide."""
    return ((result.labels == expected.labels).mean() > 0.999
            and np.abs(result.confidence.astype(int) - expected.confidence).max() <= 1)


@pytest.mark.parametrize("system", ["segformer_mean", "cmnext", "stitchfusion", "magic", "charm"])
def test_what_a_graph_replays_follows_images_masks_and_sizes(file, system):
    torch.manual_seed(0)
    model = create(system=system, modalities=DELIVER_MODALITIES, num_classes=25, backbone="B0", head_width=32).eval()
    loaded = dataclasses.replace(checkpoint.load(file), model=model)
    eager, graphs = open_runtime(loaded, "torch", "cpu", "fp32"), Replayed(loaded, "cpu", "fp32")
    for seed, names in enumerate(SUBSETS[::3] * 2):  # the second time replays
        images, present = frames(1, (50, 64), seed), {name: np.array([name in names]) for name in DELIVER_MODALITIES}
        assert same(graphs(images, present, (70, 80)), eager(images, present, (70, 80)))
    assert len(graphs._recordings) == len(SUBSETS[::3])
    mixed = [{name: np.array([name in one for one in pair]) for name in DELIVER_MODALITIES}
             for pair in ((("rgb",), ("depth", "lidar")), (("depth", "rgb"), ("lidar",)))]
    for seed, present in enumerate(mixed):  # one recording: the masks are inputs
        images = frames(2, (32, 64), seed)
        assert same(graphs(images, present), eager(images, present))
    assert len(graphs._recordings) == len(SUBSETS[::3]) + 1


def test_warming_graphs_up_records_every_subset_once_and_too_many_make_room(file, monkeypatch):
    graphs = Replayed(checkpoint.load(file), "cpu", "fp32")
    graphs.warmup(32, 32)
    first = list(graphs._recordings)
    assert len(first) == 15
    graphs.warmup(32, 32)
    assert list(graphs._recordings) == first
    monkeypatch.setattr("mss_models.runtime.graphs.KEPT", 15)
    graphs(frames(1, (32, 64)), dict.fromkeys(DELIVER_MODALITIES, YES))
    assert len(graphs._recordings) == len(graphs._results) == 1


def test_graphs_name_wrong_inputs_before_and_after_they_are_recorded(file):
    graphs = Replayed(checkpoint.load(file), "cpu", "fp32")
    images, present = frames(2, (32, 32)), {name: np.array([True, False]) for name in DELIVER_MODALITIES}
    for _ in range(2):
        with pytest.raises(InputError, match=r"samples \[1\]"):
            graphs(images, present)
        with pytest.raises(InputError, match=r"'depth' has shape \(2, 3, 32, 64\)"):
            graphs(images | {"depth": np.zeros((2, 32, 64, 3), np.uint8)}, present | {"rgb": np.array([True, True])})
        graphs(images, present | {"rgb": np.array([True, True])})


def test_graphs_need_cuda(file):
    with pytest.raises(OptionError, match="'torch-graphs' needs a CUDA device; this is 'cpu'"):
        open_runtime(file, "torch-graphs", "cpu")


class Traced(CompiledRuntime):
    """Dynamo is the real one; what it has traced then runs as it is, because compiling takes minutes."""

    compiler = "eager"


def test_the_compiled_form_is_the_same_function(file, runtime, monkeypatch):
    monkeypatch.setattr(compiled, "UNITS", (SegFormerHead,))  # tracing the stages takes long too
    torch._dynamo.reset()  # what other tests have compiled
    counters.clear()
    traced = Traced(checkpoint.load(file), "cpu", "fp32")
    for seed, names in enumerate(SUBSETS[::3]):
        images, present = frames(1, seed=seed), {name: np.array([name in names]) for name in DELIVER_MODALITIES}
        assert same(traced(images, present), runtime(images, present))
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]  # to try it out, and the head


@torch.no_grad()
def test_a_stage_is_compiled_whole_and_for_any_number_of_images():
    """Once for one and once for more: so a subset that is new costs nothing."""
    stage = create_backbone("B0").eval().stages[3]
    del stage.blocks[1:]
    x = torch.randn(4, 4, 4, 160)
    expected = stage(x)
    compiled.compile_units(stage, "eager")
    counters.clear()
    for count in range(1, 5):
        torch.testing.assert_close(stage(x[:count]), expected[:count], rtol=1e-4, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"]


def test_compiling_without_a_compiler_says_what_to_install(file, monkeypatch, tmp_path):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/nowhere/g++"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with pytest.raises(OptionError, match=r"needs a C\+\+ compiler \(g\+\+.*or use backend 'torch'.*/nowhere/g\+\+"):
        open_runtime(file, "torch-compile", "cpu")
