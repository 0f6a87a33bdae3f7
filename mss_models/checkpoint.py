"""A checkpoint: one safetensors file that holds a network and everything needed to feed and read it.

The tensors are the network's parameters and buffers. The header's metadata holds, as one JSON text, what rebuilds the
rest: architecture, label set, encoding of every modality, image size and a card (how it was trained, what it scored).
Equal content gives equal bytes. A digest over both tells a file that has changed since; files of before have none.
Loading runs no code from the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from mss_models.files import write_atomically
from mss_models.labels import LabelSet
from mss_models.modality import Encoding
from mss_models.system import System, create

DEFAULT_CHECKPOINT = Path(__file__).parent / "checkpoints" / "demo.safetensors"
"""The network that is shipped with the package."""

METADATA_KEY = "mss_models"  # a single key, because safetensors writes several in random order
FORMAT = 1
LARGEST_SIDE = 1 << 15  # of image_size, pixels
FIELDS = ("architecture", "labels", "encodings", "image_size", "card")


class CheckpointError(ValueError):
    """A file is missing, truncated, foreign or inconsistent, or a network cannot be saved. Names file and reason."""


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    model: in eval mode, float32, on the CPU.  encodings: one per modality of the model.  image_size: (height, width)
    of the images it was trained on.  card: free JSON.  model_id: the first 12 hex digits of the file's SHA-256.
    """

    model: System
    labels: LabelSet
    encodings: dict[str, Encoding]
    image_size: tuple[int, int]
    card: dict[str, Any]
    model_id: str


def save(path: str | Path, model: System, labels: LabelSet, encodings: Mapping[str, Encoding], card: Mapping[str, Any],
         *, image_size: tuple[int, int], half: bool = True) -> str:
    """Write a checkpoint and return its model_id. The file appears complete or not at all.

    `encodings` may hold more modalities than the network's; only those are kept. `half` stores the parameters as
    float16; buffers (batch-norm statistics) keep their type, as they cost nothing and may exceed float16's range.
    Raises CheckpointError when the parts do not fit together or a weight is not finite in the type it is stored in,
    OSError when the file cannot be written.
    """
    encodings = {name: encodings[name] for name in model.modalities if name in encodings}
    _check_consistency(str(path), model, labels, encodings, image_size)
    parameters = dict(model.named_parameters())
    tensors = {}
    for name, value in model.state_dict().items():
        stored = value.detach().cpu().half() if half and name in parameters else value.detach().cpu()
        if not bool(torch.isfinite(stored).all()):
            raise CheckpointError(f"{path}: {name} is not finite as {stored.dtype}; "
                                  + ("the training has diverged" if not bool(torch.isfinite(value).all())
                                     else "save with half=False"))
        tensors[name] = stored.contiguous()
    metadata = {"format": FORMAT, "architecture": model.architecture, "labels": labels.to_dict(),
                "encodings": {name: one.to_dict() for name, one in encodings.items()},
                "image_size": list(image_size), "card": dict(card)}
    try:
        metadata = json.loads(json.dumps(metadata, allow_nan=False))  # as it will be read
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the card is no JSON: {error}") from error
    metadata["digest"] = _digest(metadata, safetensors.save(tensors))
    data = safetensors.save(tensors, {METADATA_KEY: json.dumps(metadata)})
    write_atomically(Path(path), data)
    return model_id(data)


def load(path: str | Path) -> Checkpoint:
    """Read a checkpoint. Raises CheckpointError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    metadata = _metadata(path, data)
    try:
        with torch.device("meta"):  # shapes alone: what the header asks for may be larger than any memory
            model = create(**metadata["architecture"])
        labels = LabelSet.from_dict(metadata["labels"])
        encodings = {name: Encoding.from_dict(one) for name, one in metadata["encodings"].items()}
        image_size = tuple(metadata["image_size"])
    except (ValueError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{path} holds metadata that this version cannot use: {error}") from error
    _check_consistency(str(path), model, labels, encodings, image_size)
    try:
        tensors = safetensors.load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}; fetch or write it again") from error
    _check_weights(path, tensors, model.state_dict())
    try:
        whole = "digest" not in metadata or metadata["digest"] == _digest(metadata, data)
    except RecursionError:  # brackets without end
        whole = False
    if not whole:
        raise CheckpointError(f"{path} is damaged: it is not what was written, by the digest in it; fetch or write it "
                              "again")
    model.load_state_dict({name: value.float() if value.is_floating_point() else value
                           for name, value in tensors.items()}, strict=True, assign=True)
    if empty := [name for name, value in model.named_buffers() if value.is_meta]:
        raise CheckpointError(f"{path}: {empty} of its network are not saved; buffers of a system must be persistent")
    return Checkpoint(model.eval(), labels, encodings, image_size, metadata["card"], model_id(data))


def model_id(data: bytes) -> str:
    """The identity of a checkpoint's bytes: 12 hex digits."""
    return hashlib.sha256(data).hexdigest()[:12]


def _digest(metadata: Mapping[str, Any], data: bytes) -> str:
    """SHA-256 of what a file says, but for the digest itself, and of its tensors' bytes."""
    text = json.dumps({name: value for name, value in metadata.items() if name != "digest"})
    digest = hashlib.sha256(text.encode())
    digest.update(memoryview(data)[8 + int.from_bytes(data[:8], "little") :])
    return digest.hexdigest()


def _metadata(path: str | Path, data: bytes) -> dict[str, Any]:
    """The parsed header metadata. A safetensors file starts with the header's length, uint64 little endian."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 9 or data[8:9] != b"{":
        raise CheckpointError(f"{path} is not a safetensors file; a checkpoint that mss_models wrote is needed")
    if 8 + length > len(data):
        raise CheckpointError(f"{path} is truncated: its header needs {8 + length} bytes and it has {len(data)}; "
                              "fetch or write it again")
    try:
        texts = json.loads(data[8 : 8 + length]).get("__metadata__")
        if not isinstance(texts, dict) or not isinstance(texts.get(METADATA_KEY), str):
            raise CheckpointError(f"{path} is a safetensors file, but mss_models did not write it")
        metadata = json.loads(texts[METADATA_KEY])
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of 5000 digits; brackets without end
        raise CheckpointError(f"{path} is damaged: its header is no JSON ({error})") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is of another version: this one reads format {FORMAT}, and the file's metadata "
                              f"starts with {texts[METADATA_KEY][:40]!r}")
    if missing := set(FIELDS) - set(metadata):
        raise CheckpointError(f"{path}: its metadata lacks {sorted(missing)}")
    for field in ("architecture", "labels", "encodings", "card"):
        if not isinstance(metadata[field], dict):
            raise CheckpointError(f"{path}: {field} in its metadata is {str(metadata[field])[:40]!r}; an object is "
                                  "needed")
    return metadata


def _check_consistency(path: str, model: System, labels: LabelSet, encodings: Mapping[str, Encoding],
                       image_size: tuple[int, int]) -> None:
    if len(labels) != model.num_classes:
        raise CheckpointError(f"{path}: the network has {model.num_classes} classes and label set {labels.name!r} "
                              f"has {len(labels)}")
    if set(encodings) != set(model.modalities) or any(name != one.modality for name, one in encodings.items()):
        raise CheckpointError(f"{path}: the network has the modalities {list(model.modalities)} and there are "
                              f"encodings for {[one.modality for one in encodings.values()]}")
    if len(image_size) != 2 or not all(type(one) is int and 0 < one <= LARGEST_SIDE for one in image_size):
        raise CheckpointError(f"{path}: image_size is {image_size}; (height, width) in 1..{LARGEST_SIDE} pixels is "
                              "needed")


def _check_weights(path: str | Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError unless the file's tensors are the network's: names, shapes, kinds, finite values."""
    wrong = [f"{name} is missing" for name in expected if name not in tensors]
    for name, value in tensors.items():
        if name not in expected:
            wrong.append(f"{name} is not part of it")
        elif value.shape != expected[name].shape:
            wrong.append(f"{name} has shape {tuple(value.shape)}, not {tuple(expected[name].shape)}")
        elif value.is_floating_point() != expected[name].is_floating_point():
            wrong.append(f"{name} is {value.dtype}, not {expected[name].dtype}")
        elif not bool(torch.isfinite(value.float()).all()):
            wrong.append(f"{name} is not finite")
    if wrong:
        more = f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(f"{path}: its weights do not fit its architecture: {'; '.join(wrong[:3])}{more}")
