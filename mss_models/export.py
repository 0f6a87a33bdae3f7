"""`python -m mss_models.export`: a checkpoint as an ONNX graph or a TensorRT engine.

The graph's interface is in runtime/exported.py: one stacked uint8 tensor of images and the mask of what is there, so
that one graph serves every subset of the modalities. It holds the label set, the encodings, the card and the
checkpoint's model_id as JSON in its metadata.

Before the file appears, ONNX Runtime runs it beside the network in PyTorch: every subset of up to four modalities (of
more: each alone, all but each, all), random bytes where a modality is absent, a batch of two, and several sizes where
the size is free. A difference fails the export and writes nothing. An engine is compared in the same way on its GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mss_models.checkpoint import METADATA_KEY, Checkpoint, CheckpointError, load
from mss_models.files import write_atomically
from mss_models.modality import Encoding
from mss_models.runtime.exported import INPUTS, OUTPUTS, ExportedRuntime, Metadata
from mss_models.runtime.onnx import OnnxRuntime
from mss_models.runtime.torch import PRECISIONS, OptionError
from mss_models.system import System

OPSET = 18  # ONNX Runtime from 1.14 and TensorRT 10 read it
EXPORTED_PRECISIONS = ("fp32", "fp16")
# Of the logits, relative to the largest: how far one may be off, and the share of them that may be further off (near
# ties that Any2Seg decides per pixel). fp16 is compared with fp32 too.
TOLERANCES = {"fp32": (1e-3, 1e-3), "fp16": (5e-2, 1e-2)}
# Of a graph of free size, while it is traced: no multiples of 32, and no map one of an attention window, so that the
# padding, which does nothing at other sizes, becomes part of the graph. No memory is touched.
TRACED_SIZE, TRACED_BATCH = (32 * 17 - 3, 32 * 19 - 5), 7
CHECKED_SIZES = ((64, 96), (50, 131))  # of a graph of free size, besides the checkpoint's


class ExportError(ValueError):
    """A network cannot be exported, or its graph does not compute the same. The message has the figures."""


@dataclass(frozen=True)
class Check:
    """What the comparison with PyTorch found, over `cases` calls. Differences of logits; agreement of labels."""

    cases: int
    largest: float
    mean: float
    agreement: float


class Graph(nn.Module):
    """What is exported: normalisation, network and read-out. See runtime/exported.py."""

    def __init__(self, model: System, encodings: Mapping[str, Encoding], precision: str) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False).to(PRECISIONS[precision])
        for name, norm in model.named_modules():
            if isinstance(norm, nn.BatchNorm2d):  # its statistics may exceed float16's range
                self.model.get_submodule(name).float().load_state_dict(norm.state_dict())
        self.model.dense = True
        mean, std = (torch.tensor([getattr(encodings[name], which) for name in model.modalities])[:, None, None]
                     for which in ("mean", "std"))  # (M, 1, 1, 3)
        self.register_buffer("scale", 1 / (255 * std))  # (value / 255 - mean) / std = value * scale + shift
        self.register_buffer("shift", -mean / std)

    def forward(self, images: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = (images.float() * self.scale + self.shift).permute(0, 1, 4, 2, 3)  # (B, M, 3, H, W)
        names = self.model.modalities
        logits = self.model({name: x[:, i] for i, name in enumerate(names)},
                            {name: present[:, i] for i, name in enumerate(names)}).float()
        total = (logits - logits.amax(dim=1, keepdim=True)).exp().sum(dim=1)
        # By way of float: TensorRT has no other conversion to uint8.
        return logits, logits.argmax(dim=1).float().to(torch.uint8), (255 / total).round().to(torch.uint8)


def to_onnx(checkpoint: Checkpoint, size: tuple[int, int] | None, precision: str = "fp32",
            opset: int = OPSET) -> tuple[bytes, Check]:
    """The file's content, and what the check found. size: (H, W) of the images, None: any.

    Raises OptionError (something is not installed), ExportError.
    """
    if precision not in EXPORTED_PRECISIONS:
        raise OptionError(f"precision {precision!r} cannot be exported; {', '.join(EXPORTED_PRECISIONS)} can")
    try:
        import onnx  # noqa: F401  (torch's exporter needs both)
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise OptionError(f"the export needs a module that is not installed ({error}): "
                          "pip install onnx onnxscript onnxruntime") from error
    graph = Graph(checkpoint.model, checkpoint.encodings, precision).eval()
    traced = size or TRACED_SIZE
    example = (torch.zeros(TRACED_BATCH, len(checkpoint.model.modalities), *traced, 3, dtype=torch.uint8),
               torch.ones(TRACED_BATCH, len(checkpoint.model.modalities), dtype=torch.bool))
    free = {} if size else {2: "height", 3: "width"}
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                graph, example, dynamo=True, opset_version=opset, verbose=False, input_names=INPUTS,
                output_names=OUTPUTS, dynamic_shapes={"images": {0: "batch", **free}, "present": {0: "batch"}})
    except Exception as error:  # the exporter's errors share no base class
        raise ExportError(f"torch {torch.__version__} cannot export this network at opset {opset}: "
                          f"{type(error).__name__}: {str(error).strip().splitlines()[0]}") from error
    proto = program.model_proto
    proto.metadata_props.add(key=METADATA_KEY, value=Metadata.of(checkpoint, size, precision).to_json())
    content = proto.SerializeToString()
    runtime = OnnxRuntime(content, device="cpu")
    return content, verify(checkpoint, runtime, [size] if size else [checkpoint.image_size, *CHECKED_SIZES])


def verify(checkpoint: Checkpoint, runtime: ExportedRuntime, sizes: Sequence[tuple[int, int]], batch: int = 2) -> Check:
    """Compare a graph with the network in PyTorch, float32, eager. Raises ExportError with the figures.

    sizes: (H, W) of the images; the first is that of every subset. batch: of the mixed ones.
    """
    model, names = checkpoint.model, checkpoint.model.modalities
    reference = Graph(model, checkpoint.encodings, "fp32")
    reference.model.dense = False  # absent modalities are left out, as ever
    random = np.random.default_rng(0)
    cases = [(sizes[0], [subset]) for subset in _subsets(names)]
    cases += [(size, [names, *[names[-1:]] * (batch - 1)]) for size in sizes]
    tolerance, share = TOLERANCES[runtime.precision]
    largest = mean = disagreeing = pixels = 0.0
    for shape, subsets in cases:
        images = random.integers(0, 256, (len(subsets), len(names), *shape, 3), dtype=np.uint8)
        present = np.array([[name in subset for name in names] for subset in subsets])
        with torch.no_grad():
            expected, *_ = reference(torch.from_numpy(images), torch.from_numpy(present))
        logits, labels, confidence = (one.cpu() for one in runtime.run(images, present, OUTPUTS))
        difference = (logits - expected).abs()
        off = (~(difference <= tolerance * max(1.0, float(expected.abs().max())))).float().mean()  # NaN is off
        probability, label = logits.softmax(dim=1).max(dim=1)
        if (off > share or not torch.equal(labels.long(), label)
                or (confidence - 255 * probability).abs().max() > 0.51):
            raise ExportError(
                f"the graph does not compute what the network does. Images {shape}, present {subsets}: logits differ "
                f"by up to {float(difference.max()):.2g}, on average {float(difference.mean()):.2g}, and "
                f"{float(off):.2%} by more than {tolerance:g} of the largest, {float(expected.abs().max()):.3g}")
        largest, mean = max(largest, float(difference.max())), max(mean, float(difference.mean()))
        disagreeing += int((expected.argmax(dim=1) != label).sum())
        pixels += label.numel()
    return Check(len(cases), largest, mean, 1 - disagreeing / pixels)


def _subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    sizes = range(1, len(names) + 1) if len(names) <= 4 else (1, len(names) - 1, len(names))
    return [subset for count in sizes for subset in itertools.combinations(names, count)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes on its own progress."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.__trace", "onnxscript", "onnx_ir")]
    before = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mss_models.export", description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path, help="a checkpoint that training wrote (.safetensors)")
    parser.add_argument("--format", choices=("onnx", "tensorrt"), default="onnx", help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="written when the check has passed")
    parser.add_argument("--size", nargs="+", metavar="S", help="H W of the images, or 'dynamic' (default: the "
                        "checkpoint's image size)")
    parser.add_argument("--precision", choices=EXPORTED_PRECISIONS, help="default: fp32 for onnx, fp16 for tensorrt")
    parser.add_argument("--opset", type=int, default=OPSET, help="of ONNX (default: %(default)s)")
    parser.add_argument("--batch", type=int, nargs=2, metavar=("BEST", "MAX"), default=(1, 4),
                        help="that the TensorRT engine is made for, and takes at most (default: 1 4); an ONNX graph "
                        "takes any")
    options = parser.parse_args(arguments)
    suffix = {"onnx": ".onnx", "tensorrt": ".engine"}[options.format]
    if options.out.suffix != suffix:
        parser.error(f"--out {options.out} must end in {suffix}, by which open_runtime knows what it is")
    size = _parse_size(parser, options.size)
    precision = options.precision or {"onnx": "fp32", "tensorrt": "fp16"}[options.format]
    try:
        if options.format == "tensorrt":
            from mss_models.runtime import tensorrt
            tensorrt.available()  # before the work
        checkpoint = load(options.checkpoint)
        size = checkpoint.image_size if size == () else size
        content, check = to_onnx(checkpoint, size, precision, options.opset)
        if options.format == "tensorrt":
            profile = tensorrt.Profile.of(Metadata.of(checkpoint, size, precision), (1, *options.batch))
            built = tensorrt.build(content, profile, str(options.out))
            check = verify(checkpoint, tensorrt.TensorRTRuntime(built), [profile.sizes[1]], min(2, profile.batch[2]))
            tensorrt.write_engine(options.out, *built)
        else:
            write_atomically(options.out, content)
    except (CheckpointError, OptionError, ExportError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{parser.prog}: {error.filename or options.out} cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    print(f"{options.out}: {precision}, {len(content) / 1e6:.1f} MB as ONNX, size "
          f"{'free' if size is None else ' x '.join(map(str, size))}; in {check.cases} cases logits differ from "
          f"PyTorch's by at most {check.largest:.1e}, labels agree on {check.agreement:.4%} of the pixels")
    return 0


def _parse_size(parser: argparse.ArgumentParser, given: list[str] | None) -> tuple[int, ...] | None:
    """(H, W), None for any, or () where nothing is given."""
    if given is None:
        return ()
    if given == ["dynamic"]:
        return None
    try:
        size = tuple(map(int, given))
    except ValueError:
        size = ()
    if len(size) != 2 or min(size) < 1 or max(size) > 1 << 13:
        parser.error(f"--size {' '.join(given)}: give two numbers, height and width in 1..8192, or 'dynamic'")
    return size


if __name__ == "__main__":
    sys.exit(main())
