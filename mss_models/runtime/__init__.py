"""Inference: uint8 images in, uint8 labels and confidence out, whatever runs the network."""

from __future__ import annotations

from pathlib import Path

from mss_models.checkpoint import Checkpoint, load
from mss_models.runtime.compiled import CompiledRuntime
from mss_models.runtime.exported import ExportedRuntime
from mss_models.runtime.graphs import GraphRuntime
from mss_models.runtime.onnx import OnnxRuntime
from mss_models.runtime.tensorrt import TensorRTRuntime
from mss_models.runtime.torch import PRECISIONS, OptionError, Result, TorchRuntime, choose_device

__all__ = ["BACKENDS", "PRECISIONS", "ExportedRuntime", "OptionError", "Result", "TorchRuntime", "choose_device",
           "open_runtime"]

CHECKPOINT_BACKENDS: dict[str, type[TorchRuntime]] = {
    "torch": TorchRuntime,
    "torch-compile": CompiledRuntime,
    "torch-graphs": GraphRuntime,
}
# What they read, by its suffix. None of them imports what it runs with before it is asked for.
EXPORTED_BACKENDS: dict[str, tuple[type[ExportedRuntime], tuple[str, ...]]] = {
    "onnxruntime": (OnnxRuntime, (".onnx",)),
    "tensorrt": (TensorRTRuntime, (".onnx", ".engine")),
}
BACKENDS: tuple[str, ...] = ("auto", *CHECKPOINT_BACKENDS, *EXPORTED_BACKENDS)


def open_runtime(checkpoint: Checkpoint | str | Path, backend: str = "auto", device: str = "auto",
                 precision: str = "auto", threads: int | None = None) -> TorchRuntime | ExportedRuntime:
    """A runtime for a checkpoint, its file, or a file that mss_models.export made of it.

    backend: one of BACKENDS. 'auto': 'onnxruntime' for .onnx, 'tensorrt' for .engine, else 'torch'.
    device: 'auto' (the first GPU, else the CPU), 'cpu', 'cuda', 'cuda:1', ...
    precision: 'fp32', 'bf16', 'fp16', or 'auto': fp16 on cuda, bf16 on a CPU with AMX or AVX-512 BF16, else fp32. An
    exported file has its own; 'auto' takes it.
    threads: CPU threads of the whole process's torch, or of ONNX Runtime; None or 0 leaves their choice.
    Raises OptionError naming what is unknown, not there or not installed, CheckpointError for a bad checkpoint.
    """
    if backend not in BACKENDS:
        raise OptionError(f"backend {backend!r} is unknown; known: {', '.join(BACKENDS)}")
    suffix = "" if isinstance(checkpoint, Checkpoint) else Path(checkpoint).suffix
    if backend == "auto":
        backend = {".onnx": "onnxruntime", ".engine": "tensorrt"}.get(suffix, "torch")
    if backend in EXPORTED_BACKENDS:
        runtime, suffixes = EXPORTED_BACKENDS[backend]
        if suffix not in suffixes:
            raise OptionError(f"backend {backend!r} reads {' or '.join(suffixes)} files, not {checkpoint}; first: "
                              "python -m mss_models.export CHECKPOINT --out FILE.onnx")
        return runtime(checkpoint, device, precision, threads)
    if suffix in (".onnx", ".engine"):
        raise OptionError(f"backend {backend!r} reads checkpoints (.safetensors), not {checkpoint}; use backend 'auto'")
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load(checkpoint)
    return CHECKPOINT_BACKENDS[backend](checkpoint, device, precision, threads)
