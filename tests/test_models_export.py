"""mss_models.export, and ONNX Runtime under the runtimes' call, against the torch runtime."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from test_models_systems import CASES, build

from mss_models import checkpoint, export
from mss_models.backbones import MIT_FORMS, swin
from mss_models.labels import LabelSet
from mss_models.modality import DEFAULT_ENCODINGS
from mss_models.runtime import OptionError, open_runtime
from mss_models.runtime.exported import Metadata
from mss_models.system import InputError
from mss_models.systems.charm import MPU

SIZE = (64, 96)
LABELS = LabelSet("five", tuple("abcde"), tuple((i, i, i) for i in range(5)))
NAMES = ("rgb", "depth", "event")


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """B0 with one block per stage: tracing takes long. test_models_systems.py has the whole one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MIT_FORMS, "B0", dataclasses.replace(MIT_FORMS["B0"], depths=(1, 1, 1, 1)))
        yield


@torch.no_grad()
def spread(model):
    """So that every class wins somewhere, and the confidence takes many values."""
    names = {name: torch.rand(4, 3, *SIZE, generator=torch.Generator().manual_seed(i)) for i, name in enumerate(NAMES)}
    logits = model(names, {name: torch.arange(4) != i for i, name in enumerate(NAMES)})
    scale = 2 / logits.std(dim=(0, 2, 3))
    classify = model.head.classify
    classify.weight *= scale.view(-1, 1, 1, 1)
    classify.bias.copy_((classify.bias - logits.mean(dim=(0, 2, 3))) * scale)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "net.safetensors"
    model = build(CASES[0], len(NAMES))
    spread(model)
    checkpoint.save(path, model, LABELS, DEFAULT_ENCODINGS, {"seed": 0}, image_size=SIZE, half=False)
    return path


@pytest.fixture(scope="module")
def file(network):
    """A graph of free size, by the command."""
    out = network.with_name("free.onnx")
    assert export.main([str(network), "--out", str(out), "--size", "dynamic"]) == 0
    return out


@pytest.fixture(scope="module")
def fixed(network):
    """A graph of fixed size that is no multiple of 32, in half precision."""
    content, check = export.to_onnx(checkpoint.load(network), (50, 70), "fp16")
    assert check.cases == 8 and check.agreement > 0.99
    out = network.with_name("fixed.onnx")
    out.write_bytes(content)
    return out


def frames(batch, size=SIZE, seed=0):
    random = np.random.default_rng(seed)
    return {name: random.integers(0, 256, (batch, *size, 3), dtype=np.uint8) for name in NAMES}


def mask(*subsets):
    return {name: np.array([name in subset for subset in subsets]) for name in NAMES}


def assert_alike(result, expected):
    """A tie may be decided by rounding."""
    assert result.labels.dtype == result.confidence.dtype == np.uint8
    assert result.labels.shape == result.confidence.shape == expected.labels.shape
    assert (result.labels == expected.labels).mean() > 0.999
    assert np.abs(result.confidence.astype(int) - expected.confidence).max() <= 1


@pytest.mark.parametrize(("size", "output_size"), [(SIZE, None), (SIZE, SIZE), (SIZE, (131, 77)), ((37, 131), None)])
def test_onnx_runtime_equals_torch_under_the_same_call(network, file, size, output_size):
    images, present = frames(4, size), mask(NAMES, ("event",), ("rgb", "depth"), ("depth",))
    one, other = (open_runtime(path, device="cpu", precision="fp32", threads=1) for path in (file, network))
    expected = other(images, present, output_size)
    assert len(np.unique(expected.labels)) > 2 and np.ptp(expected.confidence) > 20
    assert_alike(one(images, present, output_size), expected)


def test_half_precision_and_a_fixed_size(network, fixed):
    runtime = open_runtime(fixed, device="cpu")
    assert runtime.precision == "fp16" and runtime.size == runtime.image_size == (50, 70)
    images, present = frames(2, (50, 70)), mask(NAMES, ("depth",))
    expected = open_runtime(network, device="cpu", precision="fp32")(images, present)
    result = runtime(images, present)
    assert (result.labels == expected.labels).mean() > 0.98
    assert np.abs(result.confidence.astype(int) - expected.confidence).mean() < 3
    with pytest.raises(InputError, match=r"\(64, 96\).*exported for \(50, 70\)"):
        runtime(frames(1), mask(NAMES))
    with pytest.raises(OptionError, match="'fp32'.*exported as 'fp16'"):
        open_runtime(fixed, precision="fp32")


def test_absent_content_never_matters_and_may_be_left_out(file):
    runtime = open_runtime(file, device="cpu")
    images = frames(1)
    expected = runtime(images, mask(("event",)))
    for other in (frames(1, seed=5) | {"event": images["event"]}, {"event": images["event"]}):
        result = runtime(other, mask(("event",)))
        np.testing.assert_array_equal(result.labels, expected.labels)
        np.testing.assert_array_equal(result.confidence, expected.confidence)
    views = {name: np.repeat(image, 2, axis=2)[:, :, ::2] for name, image in images.items()}
    for view in views.values():
        view.flags.writeable = False
    np.testing.assert_array_equal(runtime(views, mask(("event",))).labels, expected.labels)


def test_what_the_node_needs_to_know_comes_from_the_graph(network, file):
    loaded, runtime = checkpoint.load(network), open_runtime(file)
    runtime.warmup(32, 64)
    assert runtime.modalities == NAMES and runtime.labels == LABELS and runtime.image_size == SIZE
    assert runtime.encodings == {name: DEFAULT_ENCODINGS[name] for name in NAMES}
    assert runtime.model_id == loaded.model_id and runtime.card == {"seed": 0} and runtime.size is None
    assert runtime.device.type == "cpu" and runtime.precision == "fp32"


def test_the_graph_is_an_onnx_file_with_the_documented_interface(file):
    import onnx

    proto = onnx.load(file)
    onnx.checker.check_model(proto, full_check=True)
    shapes = {one.name: [dim.dim_param or dim.dim_value for dim in one.type.tensor_type.shape.dim]
              for one in (*proto.graph.input, *proto.graph.output)}
    assert shapes["images"] == ["batch", 3, "height", "width", 3] and shapes["present"] == ["batch", 3]
    assert shapes["logits"][:2] == ["batch", 5] and list(shapes) == ["images", "present", "logits", "labels",
                                                                    "confidence"]
    text, = [one.value for one in proto.metadata_props if one.key == "mss_models"]
    assert json.loads(text)["labels"]["names"] == list("abcde")
    assert json.loads(text)["encodings"]["rgb"]["mean"] == [0.485, 0.456, 0.406]


def test_a_graph_that_computes_something_else_is_refused_with_figures_and_nothing_is_written(network, tmp_path, capsys,
                                                                                            monkeypatch):
    def wrong(self, images, present):
        logits, labels, confidence = right(self, images, present | True)  # the mask is ignored
        return logits, labels, confidence

    right = export.Graph.forward
    traced = torch.onnx.export

    def traced_wrongly(graph, *args, **options):
        monkeypatch.setattr(export.Graph, "forward", wrong)
        program = traced(graph, *args, **options)
        monkeypatch.setattr(export.Graph, "forward", right)
        return program

    monkeypatch.setattr(torch.onnx, "export", traced_wrongly)
    out = tmp_path / "net.onnx"
    assert export.main([str(network), "--out", str(out)]) == 2
    assert list(tmp_path.iterdir()) == []
    error = capsys.readouterr().err
    assert "does not compute what the network does" in error and "rgb" in error and "differ by up to" in error


def test_a_graph_that_is_no_number_is_refused(network, file):
    class Broken:
        precision = "fp32"

        def run(self, images, present, outputs):
            logits = torch.full((len(images), 5, *images.shape[2:4]), torch.nan)
            return [logits, logits[:, 0].byte(), logits[:, 0].byte()]

    with pytest.raises(export.ExportError, match="nan"):
        export.verify(checkpoint.load(network), Broken(), [SIZE])


@pytest.mark.parametrize("arguments", [
    ["missing.safetensors", "--out", "a.onnx"], ["NET", "--out", "a.pt"], ["NET", "--out", "a.onnx", "--size", "64"],
    ["NET", "--out", "a.onnx", "--size", "0", "64"], ["NET", "--out", "a.onnx", "--size", "wide", "64"],
    ["NET", "--out", "a.engine", "--format", "tensorrt", "--size", "dynamic"]])
def test_wrong_options_end_with_one_line_and_2(network, arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = export.main([str(network) if one == "NET" else one for one in arguments])
    except SystemExit as end:
        code = end.code
    assert code == 2 and list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.strip()


class Windows(torch.nn.Module):
    """All there is of attention windows: MPU's and Swin's, plain and shifted, on maps of any size."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.units = torch.nn.ModuleList(MPU(8, 2, NAMES[:2], window=4, shift=shift) for shift in (0, 2))
        self.stage = swin.Stage(torch.nn.Identity(), 8, 2, [0.0, 0.0])

    def forward(self, maps, present):
        x = maps.sum(dim=0)
        for unit in self.units:
            x = unit(x, maps, NAMES[:2], mask=present)
        return self.stage(x)


@torch.no_grad()
def test_attention_windows_in_a_graph_of_free_size():
    """Whole networks with them: test_models_onnx.py, its long form."""
    windows = Windows().eval()
    free = {"maps": {1: "batch", 2: "height", 3: "width"}, "present": {1: "batch"}}
    with export._quiet():
        program = torch.onnx.export(windows, (torch.zeros(2, 3, 17, 19, 8), torch.ones(2, 3, dtype=torch.bool)),
                                    dynamo=True, opset_version=export.OPSET, verbose=False, dynamic_shapes=free)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    present = torch.tensor([[True, False], [True, True]])
    for size in ((4, 8), (5, 9), (28, 56), (1, 1)):  # multiples of 4, of none, of both windows, less than either
        maps = torch.randn(2, 2, *size, 8)
        (found,) = session.run(None, {"maps": maps.numpy(), "present": present.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), windows(maps, present), rtol=1e-4, atol=1e-4)


YES = np.array([True])


@pytest.mark.parametrize(("images", "present", "message"), [
    ({"lidar": np.zeros((1, 64, 64, 3), np.uint8)}, {"lidar": YES}, "lidar"),
    ({"rgb": np.zeros((1, 64, 64, 3), np.float32)}, {"rgb": YES}, "float32.*uint8"),
    ({"rgb": np.zeros((64, 64, 3), np.uint8)}, {"rgb": YES}, r"\(64, 64, 3\)"),
    ({"rgb": np.zeros((1, 64, 64, 3), np.uint8)}, {}, "present lacks"),
    ({"rgb": np.zeros((1, 64, 64, 3), np.uint8), "depth": np.zeros((1, 64, 32, 3), np.uint8)},
     {"rgb": YES, "depth": YES}, r"'depth' has shape \(1, 64, 32, 3\)"),
    ({"rgb": np.zeros((1, 64, 64, 3), np.uint8)}, {"rgb": ~YES}, "no present modality"),
    ({"rgb": np.zeros((1, 64, 64, 3), np.uint8)}, {"rgb": np.array([1.0])}, "bool"),
    ({"rgb": np.zeros((1, 64, 64, 3), np.uint8)}, {"rgb": YES, "depth": YES}, "no image 'depth'"),
    ({}, {"rgb": YES}, "no image"),
])
def test_wrong_inputs_are_named(file, images, present, message):
    with pytest.raises(InputError, match=message):
        open_runtime(file, device="cpu")(images, present)


def test_files_and_backends_that_do_not_fit_are_named(network, file, tmp_path):
    (tmp_path / "broken.onnx").write_bytes(file.read_bytes()[:1000])
    for path, backend, message in (
            (tmp_path / "none.onnx", "auto", "none.onnx.*no such file"), (tmp_path / "broken.onnx", "auto", "broken"),
            (network, "onnxruntime", "net.safetensors.*mss_models.export"), (file, "torch", "free.onnx.*'auto'"),
            (file, "caffe", "caffe.*onnxruntime")):
        with pytest.raises(OptionError, match=message):
            open_runtime(path, backend)
    for device, message in (("cuda", "onnxruntime-gpu"), ("tpu", "'tpu' is unknown")):
        with pytest.raises(OptionError, match=message):
            open_runtime(file, device=device)


def test_a_foreign_graph_is_refused(tmp_path):
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [value],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    path = tmp_path / "foreign.onnx"
    for text, message in ((None, "no metadata"), ("[]", "cannot use"), ('{"format": 9}', "format 9")):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        if text:
            model.metadata_props.add(key="mss_models", value=text)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(OptionError, match=message):
            open_runtime(path)


def test_metadata_survives_the_way_through_json(network):
    metadata = Metadata.of(checkpoint.load(network), None, "fp16")
    assert Metadata.from_json(metadata.to_json(), "x") == metadata


@pytest.mark.parametrize(("hidden", "call", "message"), [
    ("onnxruntime", "open_runtime(sys.argv[1])", "pip install onnxruntime"),
    ("onnx", "to_onnx(load(DEFAULT_CHECKPOINT), (32, 32))", "pip install onnx onnxscript onnxruntime"),
    ("onnxscript", "to_onnx(load(DEFAULT_CHECKPOINT), (32, 32))", "pip install onnx onnxscript onnxruntime"),
    ("tensorrt", "open_runtime(sys.argv[1], 'tensorrt')", "pip install tensorrt"),
])
def test_what_is_not_installed_is_named_with_what_to_install(file, hidden, call, message):
    program = (f"import sys; sys.modules[{hidden!r}] = None\n"
               "from mss_models.checkpoint import DEFAULT_CHECKPOINT, load\n"
               "from mss_models.export import to_onnx\nfrom mss_models.runtime import OptionError, open_runtime\n"
               f"try:\n    {call}\nexcept OptionError as error:\n    print(error)")
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, timeout=120)
    assert message in done.stdout and done.stderr == ""
