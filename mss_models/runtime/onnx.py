"""The ONNX Runtime backend: runs what `python -m mss_models.export --format onnx` wrote, on a CPU or an NVIDIA GPU.

Verified on CPUs. The CUDA execution provider is chosen and reported by code that has not run on a GPU.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mss_models.checkpoint import METADATA_KEY
from mss_models.runtime.exported import INPUTS, ExportedRuntime, Metadata
from mss_models.runtime.torch import OptionError, named_device

INSTALL = {"cpu": "pip install onnxruntime", "cuda": "pip install onnxruntime-gpu (instead of onnxruntime)"}


class OnnxRuntime(ExportedRuntime):
    """See ExportedRuntime. `device`: 'auto' (CUDA where onnxruntime has it, else the CPU), 'cpu', 'cuda', 'cuda:1'.

    precision: the file's, or 'auto'. threads: of this session alone; None or 0 leaves ONNX Runtime's choice.
    """

    def __init__(self, model: str | Path | bytes, device: str = "auto", precision: str = "auto",
                 threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise OptionError(f"the backend 'onnxruntime' needs a module that is not installed ({error}): "
                              f"{INSTALL['cpu']}") from error
        source = "the graph" if isinstance(model, bytes) else str(model)
        if not isinstance(model, bytes) and not Path(model).is_file():
            raise OptionError(f"{source} cannot be read: there is no such file")
        self.device = _device(device, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; they are raised as well
        options.intra_op_num_threads = threads or 0
        providers = ["CPUExecutionProvider"]
        if self.device.type == "cuda":  # first; what it does not have runs on the CPU
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": self.device.index or 0}))
        try:
            self._session = onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), options,
                                                         providers=providers)
            text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        except Exception as error:  # its errors share no base class; nor need a text be UTF-8
            reason = str(error).strip() or type(error).__name__
            raise OptionError(f"{source} cannot be opened by ONNX Runtime {onnxruntime.__version__}: "
                              f"{reason.splitlines()[0]}") from error
        if self.device.type == "cuda" and "CUDAExecutionProvider" not in self._session.get_providers():
            raise OptionError(f"ONNX Runtime {onnxruntime.__version__} could not start on {self.device}: its CUDA "
                              "and cuDNN libraries do not fit; see its page 'CUDA Execution Provider', or use 'cpu'")
        super().__init__(Metadata.from_json(text, source), source, precision)
        self._check_interface(source)
        self._options = onnxruntime.RunOptions()
        self._options.only_execute_path_to_fetches = True  # what only the other outputs need is not computed

    def _check_interface(self, source: str) -> None:
        """Raises OptionError unless the graph takes and gives what exported.py says, as far as it names fixed sizes."""
        height, width = self.size or (None, None)
        count, classes = len(self.modalities), len(self.labels)
        expected = {"images": ("tensor(uint8)", (None, count, height, width, 3)),
                    "present": ("tensor(bool)", (None, count)),
                    "logits": ("tensor(float)", (None, classes, height, width)),
                    "labels": ("tensor(uint8)", (None, height, width)),
                    "confidence": ("tensor(uint8)", (None, height, width))}
        try:
            found = {one.name: (one.type, one.shape)
                     for one in (*self._session.get_inputs(), *self._session.get_outputs())}
        except UnicodeDecodeError as error:
            raise OptionError(f"{source} has names of inputs, outputs or sizes that are not UTF-8: export the "
                              "checkpoint again") from error
        for name, (kind, sizes) in expected.items():
            there, shape = found.pop(name, ("nothing", ()))
            if there != kind or len(shape) != len(sizes) or any(
                    type(a) is int and b is not None and a != b for a, b in zip(shape, sizes, strict=True)):
                raise OptionError(f"{source} has {there} {list(shape)} as {name!r}; {kind} {list(sizes)} is needed, "
                                  "None being any size: export the checkpoint again")
        if found:
            raise OptionError(f"{source} has other inputs or outputs too: {', '.join(found)}; export the checkpoint "
                              "again")

    def run(self, images: np.ndarray, present: np.ndarray, outputs: tuple[str, ...]) -> list[Tensor]:
        """See ExportedRuntime.run. The results are on the CPU: labels of the images' size are little to copy."""
        feeds = dict(zip(INPUTS, (images, present), strict=True))
        return [torch.from_numpy(one) for one in self._session.run(list(outputs), feeds, self._options)]


def _device(device: str, providers: list[str]) -> torch.device:
    """Raises OptionError when the device is unknown or this onnxruntime was built without it."""
    there = "CUDAExecutionProvider" in providers
    if device == "auto":
        return torch.device("cuda" if there else "cpu")
    chosen = named_device(device)
    if chosen.type == "cuda" and not there:
        raise OptionError(f"device {device!r} is not there: this onnxruntime has no CUDA execution provider; "
                          f"{INSTALL['cuda']}, or use 'cpu'")
    return chosen
