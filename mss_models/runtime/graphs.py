"""The torch runtime with CUDA graphs: the GPU's work is recorded once and then replayed without Python.

Written by torch's documentation (CUDA semantics, "CUDA Graphs"). Not run on a GPU yet; the tests replay on the CPU by
calling the work again, which holds everything but the recording itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mss_models.checkpoint import Checkpoint
from mss_models.runtime.torch import OptionError, TorchRuntime

Inputs = Mapping[str, tuple[Tensor, Tensor]]
"""Per modality its images (B, H, W, 3) uint8 and its mask (B,) bool."""

KEPT = 64  # recordings, then all are made anew; 15 subsets of four modalities, at a few sizes
RUNS_BEFORE = 3  # as torch's documentation has it: libraries choose and set themselves up in the first ones


class GraphRuntime(TorchRuntime):
    """As TorchRuntime, on CUDA. There is one recording per set of modalities, batch and image size.

    `warmup` makes those of all subsets; they share their memory, as one is replayed at a time. A batch whose samples
    have different subsets is computed for every given modality, and masks choose (`System.dense`).
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "auto", precision: str = "auto",
                 threads: int | None = None) -> None:
        super().__init__(checkpoint, device, precision, threads)
        self._check = self._model.prepare  # raises InputError
        self._recordings: dict[Any, Recording] = {}
        self._results: dict[torch.Size, Tensor] = {}  # one of each shape, for whichever recording is replayed
        self._prepare_recording()

    def warmup(self, height: int, width: int) -> None:
        """Record every subset of the modalities at this image size, for one sample."""
        counts = range(len(self.modalities), 0, -1)  # the largest first: the memory that it takes is enough for all
        self._run_blank((names for count in counts for names in itertools.combinations(self.modalities, count)),
                        height, width)

    def _prepare_recording(self) -> None:
        if self.device.type != "cuda":
            raise OptionError(f"backend 'torch-graphs' needs a CUDA device; this is {str(self.device)!r}. Use backend "
                              "'torch' or 'torch-compile'")
        self._memory = torch.cuda.graph_pool_handle()

    def _network(self, images: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        shapes = {name: one.permute(0, 3, 1, 2).shape for name, one in images.items()}
        self._check({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, masks)
        inputs = {name: (image, masks[name].to(self.device, non_blocking=True)) for name, image in images.items()}
        key = tuple(sorted(shapes.items()))
        if key not in self._recordings:
            if len(self._recordings) >= KEPT:
                self._recordings.clear()
                self._results.clear()
            self._recordings[key] = Recording(self._dense, inputs, self._record)
        return self._recordings[key](inputs)

    def _dense(self, inputs: Inputs) -> Tensor:
        """Without a branch on what the masks hold: what is recorded must not depend on it."""
        self._model.dense = True
        try:
            logits = super()._network({name: image for name, (image, _) in inputs.items()},
                                      {name: mask for name, (_, mask) in inputs.items()})
        finally:
            self._model.dense = False
        if logits.shape not in self._results:  # in the runs before recording: it outlives them
            self._results[logits.shape] = torch.empty_like(logits)
        return self._results[logits.shape].copy_(logits)

    def _record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        """A function that does the GPU's part of the work again, and the tensor that it fills with the result."""
        with torch.cuda.device(self.device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(RUNS_BEFORE):
                    work()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            # thread_local: what other threads of the process ask of CUDA meanwhile is theirs.
            with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
                result = work()
        return graph.replay, result


class Recording:
    """Work that was recorded on tensors of its own. A call copies its inputs there, replays, and gives the result.

    The result is overwritten by the next call, of any recording.
    """

    def __init__(self, work: Callable[[Inputs], Tensor], inputs: Inputs,
                 record: Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]) -> None:
        self.inputs = {name: tuple(one.clone() for one in both) for name, both in inputs.items()}
        self.replay, self.result = record(lambda: work(self.inputs))

    def __call__(self, inputs: Inputs) -> Tensor:
        for name, both in inputs.items():
            for own, one in zip(self.inputs[name], both, strict=True):
                own.copy_(one, non_blocking=True)
        self.replay()
        return self.result
