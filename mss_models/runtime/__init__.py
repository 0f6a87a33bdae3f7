"""Inference: uint8 images in, uint8 labels and confidence out, whatever runs the network."""

from __future__ import annotations

from pathlib import Path

from mss_models.checkpoint import Checkpoint, load
from mss_models.runtime.torch import PRECISIONS, OptionError, Result, TorchRuntime, choose_device

__all__ = ["BACKENDS", "PRECISIONS", "OptionError", "Result", "TorchRuntime", "choose_device", "open_runtime"]

BACKENDS: dict[str, type[TorchRuntime]] = {
    "torch": TorchRuntime,
}


def open_runtime(checkpoint: Checkpoint | str | Path, backend: str = "torch", device: str = "auto",
                 precision: str = "auto", threads: int | None = None) -> TorchRuntime:
    """A runtime for a checkpoint or its file.

    device: 'auto' (the first GPU, else the CPU), 'cpu', 'cuda', 'cuda:1', ...
    precision: 'fp32', 'bf16', 'fp16', or 'auto': fp16 on cuda, bf16 on a CPU with AMX, else fp32.
    threads: CPU threads of the whole process's torch; None or 0 leaves torch's choice.
    Raises OptionError naming what is unknown or not there, CheckpointError for a bad file.
    """
    if backend not in BACKENDS:
        raise OptionError(f"backend {backend!r} is unknown; known: {', '.join(BACKENDS)}")
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load(checkpoint)
    return BACKENDS[backend](checkpoint, device, precision, threads)
