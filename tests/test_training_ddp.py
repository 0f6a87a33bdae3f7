"""Several processes and accumulation: both learn what one process learns from the micro-batches' mean."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from deliver_tree import write_tree

from mss_models import checkpoint as checkpoints
from training.batches import make_batch
from training.datasets.deliver import Deliver
from training.loop import train
from training.networks import make_model, make_optimiser
from training.recipe import override
from training.recipes import find_recipe
from training.run_folder import TrainingError
from training.steps import Stepper
from training.train import main

CPU = torch.device("cpu")
# Without dropout, which the processes draw each for itself.
SETTINGS = ["iterations=2", "eval_every=2", "eval_frames=3", "phases=[{share: 1, crop: 64, batch: 4}]", "ema=0.5",
            "options.dropout=0", "modality_dropout=sample", "loss=ce", "lr=1e-3"]
RECIPE = override(find_recipe("debug"), SETTINGS)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    torch.set_num_threads(1)  # tiny batches: threads would only wait for each other
    return write_tree(tmp_path_factory.mktemp("tree"), {"train": 4, "val": 2})


BRANCHES = override(RECIPE, ["system=equiseg", "options={guidance: none, dropout: 0}"])  # an encoder per modality
LONGER = [*SETTINGS, "iterations=4", "options.dropout=0.5"]


@pytest.fixture(scope="module")
def pair(tree, tmp_path_factory):
    """The folder with what two processes have left, started as torchrun starts them; see work_of_one."""
    out = tmp_path_factory.mktemp("pair")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Path(__file__).parent
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
              "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)]), "CUDA_VISIBLE_DEVICES": ""}
    both = [subprocess.Popen([sys.executable, __file__, str(tree), str(out)], text=True, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT,
                             env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(2)]
    said = "\n".join(one.communicate(timeout=500)[0] for one in both)
    assert [one.returncode for one in both] == [0, 0], said
    return out


def first_step(recipe, tree, batch, group=None):
    """The model after one iteration with learning rate 0."""
    torch.manual_seed(recipe.seed)
    model = make_model(recipe, 25).train()
    Stepper(model, make_optimiser(model, recipe), recipe, Deliver(tree, "train").encodings, CPU,
            group=group).step(batch, lr=0.0)
    return model


def gradients_of(model):
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def part_of_batch(tree, recipe, part):
    """A part of the first batch, from which every second sample lacks the LiDAR."""
    _, batch = make_batch(Deliver(tree, "train"), dataclasses.replace(recipe, modality_dropout="none"), 0, part)
    batch["present"]["lidar"][1::2] = False
    return batch


def assert_same(gradients, given):
    assert given.keys() == gradients.keys() and len(gradients) > 100
    scale = max(float(one.abs().max()) for one in gradients.values())
    assert scale > 0.01
    for name, one in gradients.items():
        assert float((one - given[name]).abs().max()) <= 1e-6 * max(1.0, scale), name


@pytest.mark.parametrize("loss", ["ce", "system"])  # the system's: OHEM
def test_two_processes_have_the_gradients_of_two_accumulated_micro_batches(tree, pair, loss):
    """Their first step; and the running statistics are rank 0's, of the first micro-batch alone."""
    given, recipe = torch.load(pair / f"{loss}.pt", weights_only=True), dataclasses.replace(RECIPE, loss=loss)
    _, batch = make_batch(Deliver(tree, "train"), recipe, 0)
    model = first_step(dataclasses.replace(recipe, accumulate=2), tree, batch)
    gradients = gradients_of(model)
    assert_same(gradients, given["gradients"])
    _, half = make_batch(Deliver(tree, "train"), recipe, 0, part=(0, 2))
    alone = first_step(recipe, tree, half)
    assert any(not torch.equal(one, given["buffers"][name]) for name, one in model.named_buffers())
    assert all(torch.equal(one, given["buffers"][name]) for name, one in alone.named_buffers())
    whole = first_step(recipe, tree, batch)  # and accumulation is not the same as one large batch: batch norm, the loss
    assert any(not torch.allclose(one.grad, gradients[name], atol=1e-6) for name, one in whole.named_parameters()
               if name in gradients)


def test_a_modality_that_is_missing_everywhere_in_the_last_micro_batches(tree, pair):
    """Its parameters' gradients of the first ones are averaged all the same."""
    alone = first_step(dataclasses.replace(BRANCHES, accumulate=4), tree, part_of_batch(tree, BRANCHES, (0, 1)))
    for rank in range(2):
        assert_same(gradients_of(alone), torch.load(pair / f"branches{rank}.pt", weights_only=True))


def test_a_batch_is_the_same_in_parts(tree):
    data = Deliver(tree, "train")
    names, batch = make_batch(data, RECIPE, 1)
    parts = [make_batch(data, RECIPE, 1, part=(i, 2)) for i in range(2)]
    assert names == parts[0][0] + parts[1][0]
    assert torch.equal(batch["labels"], torch.cat([one["labels"] for _, one in parts]))
    for kind in ("images", "present", "available"):
        for name, value in batch[kind].items():
            assert torch.equal(value, torch.cat([one[kind][name] for _, one in parts]))
    assert not all(mask.all() for mask in batch["present"].values())


def test_two_processes_train_and_go_on(tree, pair):
    """One log, one checkpoint, resumable with every random state."""
    with pytest.raises(TrainingError, match="trained otherwise: processes was 2 and is None"):
        train(override(find_recipe("debug"), LONGER), tree, pair / "parts", resume=True)
    states = [torch.load(pair / one / "state.pt", weights_only=True) for one in ("whole", "parts")]
    for part in ("model", "average"):
        assert all(torch.equal(value, states[1][part][name]) for name, value in states[0][part].items())
    assert len(states[0]["torch_rng"]) == 2 and not torch.equal(*states[0]["torch_rng"])  # each its own dropout
    assert all(torch.equal(one, other) for one, other in zip(*(one["torch_rng"] for one in states), strict=True))
    log = [json.loads(line) for line in (pair / "whole/log.jsonl").read_text().splitlines()]
    assert [one["iteration"] for one in log] == [1, 2, 3, 4] and states[0]["iteration"] == 4
    saved = checkpoints.load(pair / "whole/last.safetensors").model.state_dict()  # as fp16
    assert all(torch.allclose(saved[name], value, rtol=1e-3, atol=1e-6) for name, value in states[0]["average"].items())
    assert log[-1]["val_miou_present"] == states[0]["scores"]


def test_accumulation_trains_and_resumes(tree, tmp_path):
    recipe = dataclasses.replace(RECIPE, accumulate=4, loss="system")
    train(recipe, tree, tmp_path / "whole")
    train(recipe, tree, tmp_path / "parts", stop_at=1)
    train(recipe, tree, tmp_path / "parts", resume=True)
    states = [torch.load(tmp_path / one / "state.pt", weights_only=True)["model"] for one in ("whole", "parts")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize("setting, message", [
    ("accumulate=3", "a batch of 4 cannot be cut into 3 equal parts"), ("accumulate=0", "accumulate=0 must lie in 1"),
    ("precision=fp16", "precision=fp16 needs a GPU, and the device is cpu; bf16 works here"),
])
def test_what_cannot_be_is_said_before_the_start(tree, tmp_path, capsys, setting, message):
    arguments = ["debug", "--data", str(tree), "--out", str(tmp_path / "run"), "--device", "cpu", "--set", *SETTINGS]
    assert main([*arguments, setting]) == 2
    assert message in (shown := capsys.readouterr().err) and shown.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_bf16_learns_nearly_the_same(tree):
    _, batch = make_batch(Deliver(tree, "train"), RECIPE, 0)
    exact, rounded = (first_step(dataclasses.replace(RECIPE, precision=one), tree, batch) for one in ("fp32", "bf16"))
    pairs = [(one.grad.flatten(), other.grad.flatten())
             for one, other in zip(exact.parameters(), rounded.parameters(), strict=True) if one.grad is not None]
    one, other = (torch.cat(list(which)) for which in zip(*pairs, strict=True))
    assert torch.cosine_similarity(one, other, dim=0) > 0.98 and not torch.equal(one, other)
    assert other.dtype == torch.float32


def work_of_one(tree, out):
    """What each of the two does: its part of first batches, of which it keeps gradients and buffers; a whole
    training, and the same in two halves; and one that must stop.
    """
    from training.distributed import Group, joined

    torch.set_num_threads(1)
    with joined("cpu"):
        group, data = Group(), Deliver(tree, "train")
        _, batch = make_batch(data, RECIPE, 0, part=(group.rank, group.size))
        for loss in ("ce", "system"):
            model = first_step(dataclasses.replace(RECIPE, loss=loss), tree, batch, group)
            if group.first:
                torch.save({"gradients": gradients_of(model), "buffers": dict(model.named_buffers())},
                           out / f"{loss}.pt")
        batch = part_of_batch(tree, BRANCHES, (group.rank, group.size))
        model = first_step(dataclasses.replace(BRANCHES, accumulate=2), tree, batch, group)
        torch.save(gradients_of(model), out / f"branches{group.rank}.pt")
        command = ["debug", "--device", "cpu", "--data", str(tree), "--set", *LONGER, "--out"]
        assert main([*command, str(out / "whole")]) == 0
        train(override(find_recipe("debug"), LONGER), tree, out / "parts", device="cpu", stop_at=2)
        torch.manual_seed(99)
        assert main([*command, str(out / "parts"), "--resume"]) == 0
        with pytest.raises(TrainingError, match="loss is nan at iteration"):  # in both: none waits for the other
            train(dataclasses.replace(RECIPE, lr=1e30, ema=0.0, iterations=4), tree, out / "failed", device="cpu")


if __name__ == "__main__":
    work_of_one(*map(Path, sys.argv[1:]))
