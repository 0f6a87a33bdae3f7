"""The TensorRT backend: an engine built from an exported graph, on an NVIDIA GPU.

NOT RUN: written against the public Python API of TensorRT 10 and 11 where neither TensorRT nor a GPU was at hand. What
has been run is everything that needs neither: options, refusals, profiles, the cache's keys and files.

The graph's own types are kept (strong typing, the only mode of TensorRT 11): export with --precision fp16 for fp16.
Device memory is torch's, so a CUDA build of torch is needed too.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mss_models.checkpoint import METADATA_KEY
from mss_models.runtime.engine_file import content_key, default_folder, read_engine, write_engine
from mss_models.runtime.exported import INPUTS, ExportedRuntime, Metadata
from mss_models.runtime.readout import read_out
from mss_models.runtime.torch import OptionError, choose_device
from mss_models.system import InputError

LOG = logging.getLogger(__name__)
OLDEST = 10  # major version


@dataclass(frozen=True)
class Profile:
    """What an engine takes: smallest, best and largest batch and size (height, width). Raises OptionError.

    The default of `batch`: one view of the scene; some rigs have more.
    """

    batch: tuple[int, int, int]
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

    def __post_init__(self) -> None:
        rising = all(a <= b <= c for a, b, c in (self.batch, *zip(*self.sizes, strict=True)))
        if self.batch[0] < 1 or min(self.sizes[0]) < 1 or not rising:
            raise OptionError(f"the profile's batches {self.batch} and sizes {self.sizes} must rise from at least 1: "
                              "smallest, best, largest")

    @classmethod
    def of(cls, metadata: Metadata, batch: tuple[int, int, int] = (1, 1, 4)) -> Profile:
        """The graph's own size; if that is free, from half to twice the training's."""
        height, width = metadata.image_size
        if metadata.size is not None:
            return cls(batch, ((height, width),) * 3)
        return cls(batch, ((max(1, height // 2), max(1, width // 2)), (height, width), (2 * height, 2 * width)))

    def shapes(self, modalities: int) -> dict[str, list[tuple[int, ...]]]:
        """Per input: its smallest, best and largest shape."""
        images = [(count, modalities, *size, 3) for count, size in zip(self.batch, self.sizes, strict=True)]
        return dict(zip(INPUTS, (images, [(count, modalities) for count in self.batch]), strict=True))


class TensorRTRuntime(ExportedRuntime):
    """See ExportedRuntime. NOT RUN, see above.

    model: an engine file of `python -m mss_models.export --format tensorrt`, what such a file holds, or an exported
    .onnx, whose engine is built at first and then taken from the cache. precision: the graph's, or 'auto'. threads:
    ignored, the GPU works.
    """

    def __init__(self, model: str | Path | tuple[dict[str, Any], bytes], device: str = "auto", precision: str = "auto",
                 threads: int | None = None) -> None:
        trt = available()
        self.device = choose_device("cuda" if device == "auto" else device)
        if self.device.type != "cuda":
            raise OptionError(f"device {device!r} cannot run the backend 'tensorrt'; 'auto', 'cuda', 'cuda:1', ... can")
        source = "the engine" if isinstance(model, tuple) else str(model)
        with torch.cuda.device(self.device):
            if isinstance(model, tuple):
                header, engine = model
            else:
                header, engine = (open_engine if Path(model).suffix == ".onnx" else read_engine)(Path(model))
            check_made_here(header, made_with(trt, self.device), source)
            super().__init__(Metadata.from_json(header["metadata"], source), source, precision)
            self._runtime = trt.Runtime(_logger(trt))
            self._engine = self._runtime.deserialize_cuda_engine(engine)
            if self._engine is None:
                raise OptionError(f"TensorRT {trt.__version__} cannot load {source}; delete it, or export it again")
            self._context = self._engine.create_execution_context()
            self._stream = torch.cuda.Stream()
        self._shapes = Profile(tuple(header["profile"]["batch"]), tuple(map(tuple, header["profile"]["sizes"]))).shapes(
            len(self.modalities))

    @torch.inference_mode()
    def run(self, images: np.ndarray, present: np.ndarray, outputs: tuple[str, ...]) -> list[Tensor]:
        """See ExportedRuntime.run. The engine gives logits; they are read out on the device."""
        check_shape(images.shape, self._shapes[INPUTS[0]])
        batch, _, height, width, _ = images.shape
        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            feeds = [torch.from_numpy(one).to(self.device) for one in (images, present)]
            for name, one in zip(INPUTS, feeds, strict=True):
                self._context.set_input_shape(name, tuple(one.shape))
                self._context.set_tensor_address(name, one.data_ptr())
            logits = torch.empty(batch, len(self.labels), height, width, device=self.device)
            self._context.set_tensor_address("logits", logits.data_ptr())
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise RuntimeError(f"TensorRT could not run the engine on images {images.shape}")
            found = {"logits": logits}
            if outputs != ("logits",):
                found["labels"], found["confidence"] = read_out(logits, (height, width))
            self._stream.synchronize()
        return [found[name] for name in outputs]


def available() -> ModuleType:
    """The module tensorrt. Raises OptionError that says what to install."""
    try:
        import tensorrt
    except ImportError as error:
        raise OptionError(f"the backend 'tensorrt' needs a module that is not installed ({error}): pip install "
                          "tensorrt onnx, on a machine with an NVIDIA GPU and a CUDA build of torch") from error
    if int(tensorrt.__version__.split(".")[0]) < OLDEST:
        raise OptionError(f"tensorrt {tensorrt.__version__} is too old; {OLDEST} or newer is needed")
    return tensorrt


def made_with(trt: ModuleType, device: torch.device) -> dict[str, Any]:
    """What an engine is bound to: it runs with this version, on this kind of GPU, only."""
    return {"tensorrt": trt.__version__, "gpu": torch.cuda.get_device_name(device),
            "capability": list(torch.cuda.get_device_capability(device))}


def check_made_here(header: dict[str, Any], here: dict[str, Any], source: str) -> None:
    """Raises OptionError for an engine of another version or GPU."""
    for name, value in here.items():
        if header.get(name) != value:
            raise OptionError(f"{source} was built for {name} {header.get(name)!r} and this is {value!r}; export it "
                              "here, or open the .onnx")


def check_shape(shape: tuple[int, ...], allowed: list[tuple[int, ...]]) -> None:
    """Raises InputError for images (B, M, H, W, 3) outside of the profile."""
    if not all(low <= one <= high for one, low, high in zip(shape, allowed[0], allowed[2], strict=True)):
        low, high = ((one[0], *one[2:4]) for one in (allowed[0], allowed[2]))
        raise InputError(f"images of (batch, height, width) {(shape[0], *shape[2:4])} are outside of what the engine "
                         f"takes, {low} to {high}; export another with --batch and --size")


def read_metadata(content: bytes, source: str) -> Metadata:
    """The metadata of an exported graph. Raises OptionError."""
    try:
        import onnx
    except ImportError as error:
        raise OptionError(f"reading {source} needs a module that is not installed ({error}): "
                          "pip install onnx") from error
    try:
        proto = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's errors share no base class
        raise OptionError(f"{source} is no ONNX graph: {error}") from error
    return Metadata.from_json({one.key: one.value for one in proto.metadata_props}.get(METADATA_KEY), source)


def open_engine(path: Path, folder: Path | None = None) -> tuple[dict[str, Any], bytes]:
    """Header and engine of an exported graph, from the cache or built now. Raises OptionError."""
    trt, device = available(), torch.device("cuda", torch.cuda.current_device())
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror}") from error
    metadata = read_metadata(content, str(path))
    profile = Profile.of(metadata)
    key = content_key(content, **made_with(trt, device), precision=metadata.precision, profile=asdict(profile))
    cached = (folder or default_folder()) / f"{key}.engine"
    if not cached.exists():
        LOG.warning("building a TensorRT engine of %s; this takes minutes, once", path)
        write_engine(cached, *build(content, profile, str(path)))
    return read_engine(cached)


def build(content: bytes, profile: Profile, source: str) -> tuple[dict[str, Any], bytes]:
    """Header and engine of an exported graph's bytes, for this GPU. NOT RUN. Raises OptionError."""
    trt, device = available(), choose_device("cuda")
    metadata = read_metadata(content, source)
    logger = _logger(trt)
    builder = trt.Builder(logger)
    # TensorRT 11 knows no other mode and ignores the flag.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise OptionError(f"TensorRT {trt.__version__} cannot read the graph of {source}: {errors}")
    for output in [network.get_output(i) for i in range(network.num_outputs)]:
        if output.name != "logits":
            network.unmark_output(output)  # read_out does this on the device, for any size
    config = builder.create_builder_config()
    shapes = builder.create_optimization_profile()
    for name, (low, best, high) in profile.shapes(len(metadata.modalities)).items():
        shapes.set_shape(name, low, best, high)
    config.add_optimization_profile(shapes)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise OptionError(f"TensorRT {trt.__version__} cannot build an engine of {source}; its log says why")
    engine = bytes(engine)
    return {"metadata": metadata.to_json(), "profile": asdict(profile), "bytes": len(engine),
            **made_with(trt, device)}, engine


def _logger(trt: ModuleType) -> Any:
    return trt.Logger(trt.Logger.WARNING)
