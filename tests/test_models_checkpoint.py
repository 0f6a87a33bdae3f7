"""Checkpoints: exact, atomic, and clear about files that are wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os

import pytest
import safetensors.torch
import torch

from mss_models import checkpoint
from mss_models.checkpoint import CheckpointError
from mss_models.labels import LABEL_SETS
from mss_models.modality import DEFAULT_ENCODINGS
from mss_models.system import create

MUSES = LABEL_SETS["muses"]


def build():
    torch.manual_seed(0)
    model = create(system="segformer_mean", modalities=("rgb", "lidar"), num_classes=19, backbone="B0", head_width=32)
    model.head.norm.running_var.fill_(1e6)  # beyond float16's range
    return model


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "net.safetensors"
    card = {"seed": 3, "scores": {"miou": 0.5}}
    checkpoint.save(path, build(), MUSES, DEFAULT_ENCODINGS, card, image_size=(128, 160))
    return path


def rewrite(source, target, change_metadata=lambda m: m, change_tensors=lambda t: t):
    """A copy of a checkpoint with other metadata or tensors, written by safetensors itself."""
    with safetensors.safe_open(source, "pt") as opened:
        metadata = json.loads(opened.metadata()["mss_models"])
    tensors = safetensors.torch.load_file(source)
    safetensors.torch.save_file(change_tensors(tensors), target, {"mss_models": json.dumps(change_metadata(metadata))})
    return target


def test_full_precision_is_exact(tmp_path):
    model = build()
    checkpoint.save(tmp_path / "net.safetensors", model, MUSES, DEFAULT_ENCODINGS, {}, image_size=(64, 64), half=False)
    loaded = checkpoint.load(tmp_path / "net.safetensors").model
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


def test_half_precision_rounds_parameters_once_and_keeps_statistics(file, tmp_path):
    model, loaded = build(), checkpoint.load(file)
    parameters = dict(model.named_parameters())
    for name, value in loaded.model.state_dict().items():
        expected = model.state_dict()[name]
        assert value.dtype == expected.dtype
        assert torch.equal(value, expected.half().float() if name in parameters else expected)
    again = tmp_path / "again.safetensors"
    identity = checkpoint.save(again, loaded.model, loaded.labels, loaded.encodings, loaded.card,
                               image_size=loaded.image_size)
    assert again.read_bytes() == file.read_bytes()
    assert identity == loaded.model_id == hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def test_everything_beside_the_weights_comes_back(file):
    loaded = checkpoint.load(file)
    assert loaded.labels == MUSES and loaded.image_size == (128, 160)
    assert loaded.encodings == {name: DEFAULT_ENCODINGS[name] for name in ("rgb", "lidar")}
    assert loaded.card == {"seed": 3, "scores": {"miou": 0.5}}
    assert loaded.model.architecture == build().architecture and not loaded.model.training
    assert file.stat().st_size < 2.2 * sum(p.numel() for p in loaded.model.parameters())


def test_nothing_half_written_is_left(file, tmp_path, monkeypatch):
    target = tmp_path / "net.safetensors"
    target.write_bytes(b"old")

    def disk_full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(target, build(), MUSES, DEFAULT_ENCODINGS, {}, image_size=(64, 64))
    assert [one.name for one in tmp_path.iterdir()] == ["net.safetensors"] and target.read_bytes() == b"old"


@pytest.mark.parametrize("keep", [0, 5, 200, 5000, -1])
def test_truncated_files(file, tmp_path, keep):
    broken = tmp_path / "cut.safetensors"
    broken.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors.*(truncated|damaged|not a safetensors)"):
        checkpoint.load(broken)


def test_foreign_files(file, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        checkpoint.load(tmp_path / "net.pth")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="did not write it"):
        checkpoint.load(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"nowhere.*No such file"):
        checkpoint.load(tmp_path / "nowhere.safetensors")
    with pytest.raises(CheckpointError, match="directory"):
        checkpoint.load(tmp_path)
    newer = rewrite(file, tmp_path / "newer.safetensors", lambda m: m | {"format": 2})
    with pytest.raises(CheckpointError, match="reads format 1.*format.*2"):
        checkpoint.load(newer)


@pytest.mark.parametrize(("key", "value", "message"), [
    ("architecture", {"system": "unheard_of"}, "unheard_of"),
    ("architecture", {"system": "segformer_mean", "modalities": ["rgb"], "num_classes": 19, "magic": 1}, "magic"),
    ("architecture", [1], "cannot use"),
    ("labels", LABEL_SETS["deliver"].to_dict(), "19 classes.*deliver"),
    ("labels", {"name": "x"}, "exactly the keys"),
    ("encodings", {"rgb": DEFAULT_ENCODINGS["rgb"].to_dict()}, "lidar"),
    ("encodings", {"rgb": DEFAULT_ENCODINGS["rgb"].to_dict() | {"colour": 1}}, "colour"),
    ("image_size", [128], "image_size"),
])
def test_inconsistent_metadata(file, tmp_path, key, value, message):
    other = rewrite(file, tmp_path / "net.safetensors", lambda m: m | {key: value})
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(other)


def test_missing_or_garbled_metadata(file, tmp_path):
    without = rewrite(file, tmp_path / "a.safetensors", lambda m: {k: v for k, v in m.items() if k != "card"})
    with pytest.raises(CheckpointError, match="lacks .*card"):
        checkpoint.load(without)
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "b.safetensors", {"mss_models": "{"})
    with pytest.raises(CheckpointError, match="no JSON"):
        checkpoint.load(tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes((20).to_bytes(8, "little") + b"{" + 40 * b"x")
    with pytest.raises(CheckpointError, match="no JSON"):
        checkpoint.load(tmp_path / "c.safetensors")


def test_loading_is_strict(file, tmp_path):
    name = "head.classify.bias"
    without = rewrite(file, tmp_path / "a.safetensors", change_tensors=lambda t: {k: t[k] for k in t if k != name})
    with pytest.raises(CheckpointError, match=name):
        checkpoint.load(without)
    more = rewrite(file, tmp_path / "b.safetensors", change_tensors=lambda t: t | {"surplus": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="surplus"):
        checkpoint.load(more)


def test_what_cannot_be_saved_is_named(tmp_path):
    path = tmp_path / "net.safetensors"
    with pytest.raises(CheckpointError, match="19 classes.*25"):
        checkpoint.save(path, build(), LABEL_SETS["deliver"], DEFAULT_ENCODINGS, {}, image_size=(64, 64))
    with pytest.raises(CheckpointError, match="encodings"):
        checkpoint.save(path, build(), MUSES, {"rgb": DEFAULT_ENCODINGS["rgb"]}, {}, image_size=(64, 64))
    with pytest.raises(CheckpointError, match="no JSON"):
        checkpoint.save(path, build(), MUSES, DEFAULT_ENCODINGS, {"what": object()}, image_size=(64, 64))
    big, diverged = build(), build()
    big.head.classify.bias.data[0] = 1e6
    diverged.head.classify.bias.data[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"head\.classify\.bias.*half=False"):
        checkpoint.save(path, big, MUSES, DEFAULT_ENCODINGS, {}, image_size=(64, 64))
    with pytest.raises(CheckpointError, match="diverged"):
        checkpoint.save(path, diverged, MUSES, DEFAULT_ENCODINGS, {}, image_size=(64, 64), half=False)
    assert not path.exists()


def test_checkpoint_is_frozen(file):
    with pytest.raises(dataclasses.FrozenInstanceError):
        checkpoint.load(file).card = {}
