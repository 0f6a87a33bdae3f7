"""What the runtimes of exported graphs share: the graph's interface, its metadata, and how it is called.

A graph that `python -m mss_models.export` wrote takes
    images    uint8 (B, M, H, W, 3), the modalities in canonical order; what is absent may hold anything
    present   bool (B, M); every sample needs at least one true value
and gives
    logits      float32 (B, K, H, W)
    labels      uint8 (B, H, W), the class of the largest logit, of equal ones the first
    confidence  uint8 (B, H, W), the soft-max of the label, 255 = 1.0
B is free; H and W are fixed or free, as the metadata's `size` says. Normalisation is inside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mss_models.checkpoint import METADATA_KEY, Checkpoint
from mss_models.labels import LabelSet
from mss_models.modality import Encoding
from mss_models.runtime.readout import read_out
from mss_models.runtime.torch import OptionError, Result
from mss_models.system import InputError, check_names

INPUTS = ("images", "present")
OUTPUTS = ("logits", "labels", "confidence")
FORMAT = 1


@dataclass(frozen=True)
class Metadata:
    """What travels with a graph: the checkpoint's metadata, and how it was exported.

    size: (H, W) of the images, or None: any.  image_size: `size`, or else that of the training.  precision: 'fp32' or
    'fp16', of the weights and activations.
    """

    architecture: dict[str, Any]
    labels: LabelSet
    encodings: dict[str, Encoding]
    image_size: tuple[int, int]
    card: dict[str, Any]
    model_id: str
    size: tuple[int, int] | None
    precision: str

    @classmethod
    def of(cls, checkpoint: Checkpoint, size: tuple[int, int] | None, precision: str) -> Metadata:
        return cls(checkpoint.model.architecture, checkpoint.labels, checkpoint.encodings,
                   size or checkpoint.image_size, checkpoint.card, checkpoint.model_id, size, precision)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.architecture["modalities"])

    def to_json(self) -> str:
        return json.dumps({
            "format": FORMAT, "architecture": self.architecture, "labels": self.labels.to_dict(),
            "encodings": {name: one.to_dict() for name, one in self.encodings.items()},
            "image_size": list(self.image_size), "card": self.card, "model_id": self.model_id,
            "size": None if self.size is None else list(self.size), "precision": self.precision}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | None, source: str) -> Metadata:
        """The inverse of `to_json`. Raises OptionError naming `source`, the file, if the text is no such metadata."""
        if text is None:
            raise OptionError(f"{source} holds no metadata {METADATA_KEY!r}; a file that mss_models.export wrote is "
                              "needed")
        try:
            values = json.loads(text)
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']!r}; this version reads {FORMAT}")
            encodings = {name: Encoding.from_dict(one) for name, one in values["encodings"].items()}
            size = values["size"]
            if list(encodings) != values["architecture"]["modalities"]:
                raise ValueError("its encodings are not those of its modalities")
            return cls(values["architecture"], LabelSet.from_dict(values["labels"]), encodings,
                       _size(values["image_size"]), dict(values["card"]), str(values["model_id"]),
                       None if size is None else _size(size), str(values["precision"]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise OptionError(f"{source} holds metadata that this version cannot use ({type(error).__name__}: {error});"
                              " export the checkpoint again") from error


def _size(value: Any) -> tuple[int, int]:
    height, width = value
    if not all(type(one) is int and one > 0 for one in value):
        raise ValueError(f"{value!r} is no (height, width)")
    return height, width


class ExportedRuntime:
    """An exported graph under the call of TorchRuntime. A subclass implements `run`. Call it from one thread at a time.

    Attributes: `modalities`, `labels` (LabelSet), `encodings`, `image_size`, `model_id`, `card`, `precision`, `size`
    (Metadata), `device` (torch.device).
    """

    device: torch.device

    def __init__(self, metadata: Metadata, source: str, precision: str) -> None:
        if precision not in ("auto", metadata.precision):
            raise OptionError(f"precision {precision!r} is not that of {source}: it was exported as "
                              f"{metadata.precision!r}; use 'auto', or export it with --precision {precision}")
        self.modalities = metadata.modalities
        self.labels, self.encodings, self.image_size = metadata.labels, metadata.encodings, metadata.image_size
        self.model_id, self.card = metadata.model_id, metadata.card
        self.size, self.precision = metadata.size, metadata.precision

    def __call__(self, images: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray],
                 output_size: tuple[int, int] | None = None) -> Result:
        """Segment a batch: as TorchRuntime's call. Raises InputError (a ValueError)."""
        stacked, mask = self.stack(images, present)
        if output_size is None or tuple(output_size) == stacked.shape[2:4]:
            labels, confidence = self.run(stacked, mask, ("labels", "confidence"))
        else:
            (logits,) = self.run(stacked, mask, ("logits",))
            labels, confidence = read_out(logits, output_size)
        return Result(labels.cpu().numpy(), confidence.cpu().numpy())

    def run(self, images: np.ndarray, present: np.ndarray, outputs: tuple[str, ...]) -> list[torch.Tensor]:
        """The named outputs of the graph, on whatever device is cheapest. The arrays are what `stack` gives."""
        raise NotImplementedError

    def warmup(self, height: int, width: int) -> None:
        """Run once at this image size, so that the first frame is not slow."""
        self(dict.fromkeys(self.modalities, np.zeros((1, height, width, 3), np.uint8)),
             dict.fromkeys(self.modalities, np.ones(1, bool)))

    def stack(self, images: Mapping[str, np.ndarray],
              present: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """images (B, M, H, W, 3) uint8 and present (B, M) bool, from what the call takes. Raises InputError."""
        check_names(self.modalities, images, present)
        if not images:
            raise InputError(f"no image is given; give at least one of {list(self.modalities)}")
        first, shape = next((name, np.shape(image)) for name, image in images.items())
        for name, image in images.items():
            image = np.asarray(image)
            if image.dtype != np.uint8 or image.ndim != 4 or image.shape[3] != 3 or not image.size:
                raise InputError(f"image {name!r} is {image.dtype} {image.shape}; uint8 (B, H, W, 3) is needed")
            if image.shape != shape:
                raise InputError(f"image {name!r} has shape {image.shape} and {first!r} {shape}; all need the same")
        if self.size is not None and shape[1:3] != self.size:
            raise InputError(f"the images are {shape[1:3]} (height, width); this graph was exported for {self.size}; "
                             "resize them, or export with --size dynamic")
        mask = np.zeros((shape[0], len(self.modalities)), bool)
        for name, one in present.items():
            one = np.asarray(one)
            if one.dtype != bool or one.shape != (shape[0],):
                raise InputError(f"present[{name!r}] is {one.dtype} {one.shape}; bool ({shape[0]},) is needed")
            if name not in images and one.any():
                raise InputError(f"present[{name!r}] is true for a sample, but no image {name!r} is given")
            mask[:, self.modalities.index(name)] = one
        if not mask.any(axis=1).all():
            raise InputError(f"samples {np.flatnonzero(~mask.any(axis=1)).tolist()} have no present modality; one is "
                             "needed")
        stacked = np.zeros((shape[0], len(self.modalities), *shape[1:]), np.uint8)
        for name, image in images.items():
            stacked[:, self.modalities.index(name)] = image
        return stacked, mask
