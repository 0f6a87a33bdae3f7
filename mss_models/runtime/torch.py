"""The torch runtime: eager PyTorch on a CPU or a GPU. Faster forms: runtime/compiled.py and runtime/graphs.py."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mss_models.checkpoint import Checkpoint
from mss_models.runtime.readout import read_out
from mss_models.system import InputError, check_names

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class OptionError(ValueError):
    """A backend, device or precision is unknown or not there. The message names it and what is right."""


@dataclass(frozen=True)
class Result:
    """labels: uint8 (B, H, W), class ids. confidence: uint8 (B, H, W), the soft-max of the label, 255 = 1.0."""

    labels: np.ndarray
    confidence: np.ndarray


class TorchRuntime:
    """A loaded network. Call it from one thread at a time.

    Attributes: `modalities`, `labels` (LabelSet), `encodings`, `image_size` (height, width), `model_id`, `card`,
    `device` (torch.device), `precision` ('fp32', 'bf16' or 'fp16').
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "auto", precision: str = "auto",
                 threads: int | None = None) -> None:
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        if threads:
            torch.set_num_threads(threads)
        self.modalities = checkpoint.model.modalities
        self.labels = checkpoint.labels
        self.encodings = checkpoint.encodings
        self.image_size = checkpoint.image_size
        self.model_id = checkpoint.model_id
        self.card = checkpoint.card
        self._dtype = PRECISIONS[self.precision]
        # A copy: the caller's checkpoint keeps its own device and precision.
        self._model = copy.deepcopy(checkpoint.model).eval().requires_grad_(False).to(
            self.device, self._dtype, memory_format=torch.channels_last)
        for name, norm in checkpoint.model.named_modules():
            if isinstance(norm, nn.BatchNorm2d):  # its statistics may exceed float16's range or bfloat16's 3 digits
                self._model.get_submodule(name).float().load_state_dict(norm.state_dict())
        # (value / 255 - mean) / std = value * scale + shift
        self._scale, self._shift = {}, {}
        for name in self.modalities:
            mean, std = (torch.tensor(one, device=self.device).view(1, 3, 1, 1)
                         for one in (self.encodings[name].mean, self.encodings[name].std))
            self._scale[name], self._shift[name] = 1 / (255 * std), -mean / std

    @torch.inference_mode()
    def __call__(self, images: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray],
                 output_size: tuple[int, int] | None = None) -> Result:
        """Segment a batch.

        images: uint8 (B, H, W, 3) per modality; present: bool (B,) per modality. What no sample has may be left out of
        both. `output_size` (H, W): the logits are resized to it before the arg-max; None keeps the images' size.
        Raises InputError (a ValueError).
        """
        check_names(self.modalities, images, present)
        masks = {name: torch.tensor(np.asarray(mask)) for name, mask in present.items()}
        if not any(bool(mask.any()) for mask in masks.values()):
            raise InputError("no modality is present; one is needed")
        given = {name: self._upload(name, image) for name, image in images.items() if bool(masks[name].any())}
        logits = self._network(given, masks)
        labels, confidence = read_out(logits, output_size or logits.shape[-2:])
        return Result(labels.cpu().numpy(), confidence.cpu().numpy())

    @torch.inference_mode()
    def logits(self, images: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K, H, W) float32 of images that are normalised already; both as `System.forward` takes them."""
        return self._model(images, present)

    def warmup(self, height: int, width: int) -> None:
        """Run every number of modalities once at this image size, so that the first frame is not slow."""
        self._run_blank([self.modalities[:count] for count in range(1, len(self.modalities) + 1)], height, width)

    def _run_blank(self, subsets: Iterable[Sequence[str]], height: int, width: int) -> None:
        blank = np.zeros((1, height, width, 3), np.uint8)
        for names in subsets:
            self(dict.fromkeys(names, blank), {name: np.ones(1, bool) for name in names})

    def _network(self, images: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, K, H, W) float32 of uint8 images (B, H, W, 3) on the device and masks (B,)."""
        return self._model({name: self._normalised(name, image) for name, image in images.items()}, masks)

    def _upload(self, name: str, image: np.ndarray) -> Tensor:
        """uint8 (B, H, W, 3) on the device. Raises InputError."""
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim != 4 or image.shape[3] != 3:
            raise InputError(f"image {name!r} is {image.dtype} {image.shape}; uint8 (B, H, W, 3) is needed")
        if self.device.type == "cuda":  # from page-locked memory, which torch keeps, the copy goes on in the background
            pinned = torch.empty(image.shape, dtype=torch.uint8, pin_memory=True)
            pinned.numpy()[...] = image
            return pinned.to(self.device, non_blocking=True)
        image = image if image.flags.writeable and image.flags.c_contiguous else image.copy()  # torch wants these
        return torch.from_numpy(image)

    def _normalised(self, name: str, image: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> (B, 3, H, W), channels-last because that is how the bytes lie."""
        return (image.permute(0, 3, 1, 2) * self._scale[name] + self._shift[name]).to(self._dtype)


def choose_device(device: str) -> torch.device:
    """'auto' -> the first GPU, else the CPU. Raises OptionError when the device is unknown or not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = named_device(device)
    if chosen.type == "cuda" and not (chosen.index or 0) < torch.cuda.device_count():
        raise OptionError(f"device {device!r} is not there: torch {torch.__version__} sees {torch.cuda.device_count()} "
                         "CUDA devices; use 'cpu', or install a CUDA build of torch and the driver")
    return chosen


def named_device(device: str) -> torch.device:
    """'cpu', 'cuda', 'cuda:1', ..., whether it is there or not. Raises OptionError for any other."""
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise OptionError(f"device {device!r} is unknown; 'auto', 'cpu' or 'cuda' (cuda:1, ...) is right")
    return chosen


def choose_precision(precision: str, device: torch.device) -> str:
    """'auto' -> fp16 on cuda, bf16 on a CPU that has instructions for it, else fp32."""
    if precision == "auto":
        if device.type == "cuda":
            return "fp16"
        return "bf16" if device.type == "cpu" and cpu_has_bf16() else "fp32"
    if precision not in PRECISIONS:
        raise OptionError(f"precision {precision!r} is unknown; 'auto', {', '.join(map(repr, PRECISIONS))} are right")
    return precision


def cpu_has_bf16() -> bool:
    """Whether Linux reports products of bf16 (AMX, AVX-512). False where nobody can tell: fp32 is right everywhere."""
    try:
        flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return False
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags.split()) and torch.backends.mkldnn.is_available()
