"""Checkpoints: exact, atomic, and clear about files that are wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import resource

import pytest
import safetensors.torch
import torch

from mss_models import checkpoint
from mss_models.checkpoint import CheckpointError
from mss_models.labels import LABEL_SETS
from mss_models.modality import DEFAULT_ENCODINGS
from mss_models.system import create
from mss_models.systems import SYSTEMS

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


@pytest.mark.parametrize("where", ["weights", "card"])
def test_a_file_that_has_changed_since_is_refused(file, tmp_path, where):
    data = bytearray(file.read_bytes())
    at = len(data) - 1000 if where == "weights" else data.index(b"0.5")
    data[at] ^= 1  # another finite weight; 1.5 instead of 0.5
    changed = tmp_path / "changed.safetensors"
    changed.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"changed\.safetensors is damaged.*digest"):
        checkpoint.load(changed)


def test_a_file_without_a_digest_is_read(file, tmp_path):
    older = rewrite(file, tmp_path / "older.safetensors", lambda m: {k: v for k, v in m.items() if k != "digest"})
    assert checkpoint.load(older).card == checkpoint.load(file).card


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
    ("architecture", [1], "architecture.*object is needed"),
    ("architecture", {"system": ["segformer_mean"]}, "cannot use"),
    ("architecture", {"system": "segformer_mean", "modalities": 3, "num_classes": 19}, "cannot use|cannot be built"),
    ("architecture", {"system": "segformer_mean", "modalities": ["rgb"], "num_classes": "19"}, "cannot be built"),
    ("labels", None, "labels.*object is needed"),
    ("labels", MUSES.to_dict() | {"names": list(range(19))}, "texts"),
    ("labels", MUSES.to_dict() | {"palette": [["a", "b", "c"]] * 19}, "integers"),
    ("labels", MUSES.to_dict() | {"ignore_id": "255"}, "ignore_id '255'"),
    ("encodings", {"rgb": 1, "lidar": 2}, "mapping"),
    ("encodings", {"rgb": DEFAULT_ENCODINGS["rgb"].to_dict() | {"mean": {}}, "lidar": {}}, "mean"),
    ("image_size", 128, "cannot use"),
    ("image_size", [1e3, 128], "image_size"),
    ("image_size", [10**9, 128], "image_size"),
    ("card", "text", "card.*object is needed"),
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
    deep = 200_000 * "[" + 200_000 * "]"
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "deep.safetensors", {"mss_models": deep})
    with pytest.raises(CheckpointError, match="no JSON|object is needed|another version"):
        checkpoint.load(tmp_path / "deep.safetensors")
    header = f'{{"__metadata__": {deep}}}'.encode()
    (tmp_path / "header.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="no JSON|did not write it"):
        checkpoint.load(tmp_path / "header.safetensors")
    lists = json.loads(100 * "[" + 100 * "]")
    nested = rewrite(file, tmp_path / "nested.safetensors",
                     lambda m: m | {"architecture": m["architecture"] | {"modalities": lists}})
    with pytest.raises(CheckpointError, match="cannot use"):
        checkpoint.load(nested)
    header = b'{"__metadata__": {"mss_models": [1]}}'
    (tmp_path / "list.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="did not write it"):
        checkpoint.load(tmp_path / "list.safetensors")
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
    for value, message in ((torch.zeros(20), r"shape \(20,\), not \(19,\)"),
                           (torch.zeros(19, dtype=torch.int32), "int32"),
                           (torch.full((19,), float("nan")), "not finite")):
        other = rewrite(file, tmp_path / "c.safetensors", change_tensors=lambda t, value=value: t | {name: value})
        with pytest.raises(CheckpointError, match=rf"{name}.*{message}"):
            checkpoint.load(other)


def test_a_huge_architecture_is_refused_before_it_takes_memory(file, tmp_path):
    huge = rewrite(file, tmp_path / "huge.safetensors",
                   lambda m: m | {"architecture": m["architecture"] | {"head_width": 2_000_000}})  # 64 TB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"do not fit.*head\..*2000000.*more"):
        checkpoint.load(huge)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_loaded_network_is_the_saved_one(system, tmp_path):
    torch.manual_seed(0)
    model = create(system=system, modalities=("rgb", "lidar"), num_classes=19, backbone="B0").eval()
    path = tmp_path / "net.safetensors"
    checkpoint.save(path, model, MUSES, DEFAULT_ENCODINGS, {}, image_size=(64, 64), half=False)
    state = torch.get_rng_state()
    loaded = checkpoint.load(path).model
    assert torch.equal(torch.get_rng_state(), state)
    assert [(name, one.shape, one.requires_grad) for name, one in loaded.named_parameters()] == [
        (name, one.shape, one.requires_grad) for name, one in model.named_parameters()]
    images = {name: torch.randn(1, 3, 64, 64) for name in model.modalities}
    present = {name: torch.ones(1, dtype=torch.bool) for name in model.modalities}
    with torch.no_grad():
        assert torch.equal(loaded(images, present), model(images, present))


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
