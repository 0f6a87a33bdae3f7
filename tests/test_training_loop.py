"""The training loop with its exact resume, end to end on a tiny tree."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import re
import resource
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from deliver_tree import write_tree

from mss_models import checkpoint as checkpoints
from training import loop as training
from training.batches import class_weights, make_batch
from training.datasets.deliver import Deliver
from training.log import Log
from training.loop import train
from training.recipe import Phase
from training.recipes import find_recipe
from training.run_folder import TrainingError
from training.steps import Stepper
from training.train import main

DEBUG = find_recipe("debug")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    torch.set_num_threads(1)  # tiny batches: threads would only wait for each other
    return write_tree(tmp_path_factory.mktemp("tree"), {"train": 4, "val": 2, "test": 2})


# --- training --------------------------------------------------------------------------------------------------------

def test_resumed_training_equals_uninterrupted(tree, tmp_path):
    recipe = dataclasses.replace(DEBUG, drop_path=0.2, loss="ce", class_balance=0.3, grad_clip=1.0,
                                 augment=dataclasses.replace(DEBUG.augment, darken=0.5))
    train(recipe, tree, tmp_path / "whole")
    train(recipe, tree, tmp_path / "parts", stop_at=2)
    with pytest.raises(TrainingError, match="holds a run already; go on with --resume"):
        train(recipe, tree, tmp_path / "parts")
    torch.manual_seed(99)  # whatever happened in between must not matter
    train(recipe, tree, tmp_path / "parts", resume=True)
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts")]
    assert states[0]["iteration"] == 4 and states[0]["scores"] == states[1]["scores"]
    for part in ("model", "average"):
        assert states[0][part].keys() == states[1][part].keys()
        assert all(torch.equal(value, states[1][part][name]) for name, value in states[0][part].items())
    for name, value in states[0]["optimiser"]["state"].items():
        assert all(torch.equal(value[one], states[1]["optimiser"]["state"][name][one]) for one in value)
    assert torch.equal(states[0]["torch_rng"][0], states[1]["torch_rng"][0])
    logs = [[json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
            for name in ("whole", "parts")]
    assert [one["loss"] for one in logs[0]] == [one["loss"] for one in logs[1]] and len(logs[0]) == 4
    assert (tmp_path / "whole/last.safetensors").stat().st_size == (tmp_path / "parts/last.safetensors").stat().st_size
    with pytest.raises(TrainingError, match="lr was 0.001, not 0.5"):
        train(dataclasses.replace(recipe, lr=0.5), tree, tmp_path / "parts", resume=True)
    state = tmp_path / "parts/state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(TrainingError, match=r"state.pt is damaged"):
        train(recipe, tree, tmp_path / "parts", resume=True)


def test_resuming_on_other_data_is_refused(tree, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tree, data)
    train(DEBUG, data, tmp_path / "run", stop_at=1)
    moved = data.rename(tmp_path / "moved")
    train(DEBUG, moved, tmp_path / "run", resume=True, stop_at=2)  # the same data elsewhere
    frame = Deliver(moved, "train").frames[0]
    frame.labels.write_bytes(frame.labels.read_bytes() + b"another picture")
    with pytest.raises(TrainingError, match=r"trained otherwise: train was 8 frames .* and is 8 frames"):
        train(DEBUG, moved, tmp_path / "run", resume=True)
    shutil.rmtree(moved / "img/sun/val")
    with pytest.raises(TrainingError, match=r"val was 2 frames .* and is 2 frames"):  # evenly spread over fewer
        train(DEBUG, moved, tmp_path / "run", resume=True)


def test_tensorboard_has_what_the_log_has_or_is_named_as_missing(tree, tmp_path, caplog):
    train(DEBUG, tree, tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        assert "the package tensorboard is not installed; log.jsonl has it all" in caplog.text
        assert not (tmp_path / "run/tensorboard").exists()
        return
    board = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    assert [one.value for one in board.Scalars("loss")] == pytest.approx([one["loss"] for one in log])
    assert [one.step for one in board.Scalars("val_miou_present/rgb")] == [2, 4]


def test_tensorboard_forgets_what_a_killed_run_did_after_its_state(tree, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(DEBUG, tree, tmp_path / "run", stop_at=2)
    time.sleep(1.1)  # its files are read in the order of their names, which begin with the second they were opened in
    with Log(tmp_path / "run", 2) as log:  # as a kill in the fourth iteration leaves it
        for iteration in (3, 4):
            log.add({"iteration": iteration, "loss": 99.0})
    time.sleep(1.1)
    train(DEBUG, tree, tmp_path / "run", resume=True)
    board = accumulator.EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    assert [one.step for one in board.Scalars("loss")] == [1, 2, 3, 4]
    assert all(one.value < 99 for one in board.Scalars("loss"))


def test_a_killed_runs_log_is_cut_back(tree, tmp_path):
    recipe = dataclasses.replace(DEBUG, ema=0.0)
    train(recipe, tree, tmp_path / "run", stop_at=2)
    with open(tmp_path / "run/log.jsonl", "a") as log:  # as a kill after the second evaluation leaves it
        log.write('{"iteration": 3, "loss": 9}\n{"iterat')
    train(recipe, tree, tmp_path / "run", resume=True)
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [one["iteration"] for one in lines] == [1, 2, 3, 4] and all("lr" in one for one in lines)


def test_batches_follow_from_seed_and_iteration(tree):
    data = Deliver(tree, "train", cache=True)
    recipe = dataclasses.replace(DEBUG, iterations=8, phases=(Phase(1.0, crop=32, batch=2),))
    names = [make_batch(data, recipe, i)[0] for i in range(8)]
    epochs = np.array(names).reshape(2, 8)  # 8 frames: every epoch sees each of them once, in another order
    assert all(set(epoch) == {one.name for one in data.frames} for epoch in epochs)
    assert list(epochs[0]) != list(epochs[1])
    for one, again in zip(make_batch(data, recipe, 3)[1]["images"].values(),
                          make_batch(data, recipe, 3)[1]["images"].values(), strict=True):
        assert torch.equal(one, again)
    other = make_batch(data, dataclasses.replace(recipe, seed=1), 3)[1]
    assert not torch.equal(other["labels"], make_batch(data, recipe, 3)[1]["labels"])


def test_weight_decay_spares_one_dimensional_parameters():
    model = training.make_model(DEBUG, 25)
    groups = training.make_optimiser(model, DEBUG).param_groups
    assert [group["weight_decay"] for group in groups] == [DEBUG.weight_decay, 0.0]
    assert all(one.ndim <= 1 for one in groups[1]["params"]) and all(one.ndim > 1 for one in groups[0]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_class_weights_against_formula(tree):
    data = Deliver(tree, "train")
    labels = np.concatenate([data.read_labels(i).ravel() for i in range(len(data))])
    frequency = np.array([(labels == c).sum() for c in range(25)]) / (labels != 255).sum()
    weights = class_weights(data, 0.5).numpy()
    assert (weights[frequency == 0] == 0).all()
    present = frequency > 0
    np.testing.assert_allclose(weights[present] * frequency[present] ** 0.5,
                               (weights * frequency ** 0.5)[present][0], rtol=1e-5)
    np.testing.assert_allclose((weights * frequency).sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(class_weights(data, 0.0).numpy()[present], 1, rtol=1e-5)


def test_non_finite_loss_names_the_batch(tree, tmp_path):
    with pytest.raises(TrainingError, match="loss is nan at iteration .*(sun|night)/train/MAP_"):
        train(dataclasses.replace(DEBUG, lr=1e30, ema=0.0), tree, tmp_path / "run")
    assert not (tmp_path / "run/state.pt").exists()


def test_a_batch_without_labels_teaches_nothing(tree):
    """A micro-batch may well have none; torch's own mean over nothing is NaN."""
    data, cpu = Deliver(tree, "train"), torch.device("cpu")
    recipe = dataclasses.replace(DEBUG, loss="ce", weight_decay=0.0)
    _, batch = make_batch(data, recipe, 0)
    batch["labels"][:] = 255
    model = training.make_model(recipe, 25)
    before = {name: value.clone() for name, value in model.named_parameters()}
    loss, logs = Stepper(model, training.make_optimiser(model, recipe), recipe, data.encodings, cpu).step(batch, lr=1.0)
    assert loss == 0 == logs["grad_norm"]
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_a_non_finite_gradient_changes_nothing_and_names_the_batch(tree, tmp_path, monkeypatch):
    data, cpu = Deliver(tree, "train"), torch.device("cpu")
    _, batch = make_batch(data, DEBUG, 0)
    model = training.make_model(DEBUG, 25)
    model.head.classify.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = {name: value.clone() for name, value in model.named_parameters()}
    loss, logs = Stepper(model, training.make_optimiser(model, DEBUG), DEBUG, data.encodings, cpu).step(batch, lr=1.0)
    assert np.isfinite(loss) and not np.isfinite(logs["grad_norm"])
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())

    def overflowing(*arguments):
        model = make_model(*arguments)
        model.head.classify.weight.register_hook(lambda gradient: gradient * torch.inf)
        return model

    make_model = training.make_model
    monkeypatch.setattr(training, "make_model", overflowing)
    with pytest.raises(TrainingError, match="norm of the gradient is (nan|inf) at iteration 0.*train/MAP_"):
        train(DEBUG, tree, tmp_path / "run")
    assert not (tmp_path / "run/state.pt").exists()


def test_ctrl_c_leaves_a_whole_state(tree, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    recipe = dataclasses.replace(DEBUG, iterations=100_000, eval_every=100_000)
    step, calls = Stepper.step, itertools.count(1)

    def interrupted(*arguments):
        if next(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return step(*arguments)

    monkeypatch.setattr(Stepper, "step", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"stopped after iteration 3 of 100000; go on with --resume"):
        train(recipe, tree, tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is before
    state = torch.load(tmp_path / "run/state.pt", weights_only=True)
    assert state["iteration"] == len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 3
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_ctrl_c_in_the_last_evaluation_stops_what_would_follow(tree, tmp_path, monkeypatch, capfd):
    real = training.evaluate

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(training, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped after iteration 2 of 2"):
        train(dataclasses.replace(DEBUG, iterations=2), tree, tmp_path / "run")
    assert "stopping after this iteration" in capfd.readouterr().err
    assert checkpoints.load(tmp_path / "run/last.safetensors").card["iterations"] == 2
    assert train(dataclasses.replace(DEBUG, iterations=2), tree, tmp_path / "run", resume=True)  # is done: the scores


def test_ctrl_c_before_the_first_iteration_says_so(tree, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "check_augmentation", lambda *_: signal.raise_signal(signal.SIGINT))
    assert main(["debug", "--data", str(tree), "--out", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("interrupted")


def test_a_first_state_that_does_not_fit_on_the_disk(tree, tmp_path, monkeypatch):
    """Checkpoints are there then, and nothing to go on from: both commands say what to do, and neither overwrites."""
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "run/state.pt"))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(training, "save_state", full)
        train(DEBUG, tree, tmp_path / "run")
    with pytest.raises(TrainingError, match="holds no state to resume: .*start again without --resume"):
        train(DEBUG, tree, tmp_path / "run", resume=True)
    with pytest.raises(TrainingError, match="last.safetensors is there without the state.pt to go on from; remove it"):
        train(DEBUG, tree, tmp_path / "run")


@pytest.mark.parametrize("file, content", [("recipe.json", b"{"), ("recipe.json", b"[1]"), ("state.pt", b""),
                                           ("state.pt", b"hello")])
def test_damaged_files_of_a_run_are_named(tree, tmp_path, file, content):
    train(DEBUG, tree, tmp_path / "run", stop_at=1)
    (tmp_path / "run" / file).write_bytes(content)
    with pytest.raises(TrainingError, match=f"run/{file} is damaged"):
        train(DEBUG, tree, tmp_path / "run", resume=True)


def test_a_full_disk_is_named_and_leaves_the_old_state(tree, tmp_path):
    train(DEBUG, tree, tmp_path / "run", stop_at=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))  # acts as a full disk: EFBIG for ENOSPC
        with pytest.raises(OSError, match=r"File too large: '.*safetensors'|File too large: '.*state.pt'"):
            train(DEBUG, tree, tmp_path / "run", resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.load(tmp_path / "run/state.pt", weights_only=True)["iteration"] == 1
    assert not list((tmp_path / "run").glob(".*"))
    train(DEBUG, tree, tmp_path / "run", resume=True)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's, which fails, too
def test_a_log_that_fills_the_disk_is_named(tree, tmp_path, capsys):
    limits, out = resource.getrlimit(resource.RLIMIT_FSIZE), tmp_path / "run"
    arguments = ["debug", "--data", str(tree), "--out", str(out), "--set", "iterations=50", "eval_every=50"]
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1300, limits[1]))
        assert main(arguments) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    shown = capsys.readouterr().err.splitlines()[-1]  # where TensorBoard is installed, its files may be the first
    assert re.fullmatch(f".*File too large: '{re.escape(str(out))}/(log.jsonl|tensorboard)'", shown)
    assert {path.name for path in out.iterdir()} <= {"recipe.json", "log.jsonl", "tensorboard"}


def test_checkpoint_card_and_init(tree, tmp_path, capsys):
    assert main(["debug", "--data", str(tree), "--out", str(tmp_path / "a"), "--set", "eval_frames=1"]) == 0
    saved = checkpoints.load(tmp_path / "a/last.safetensors")
    assert saved.card["command"].startswith("python -m training.train debug --data")
    assert saved.card["recipe"]["eval_frames"] == 1 and saved.card["data"] == {"seed": 0}
    assert saved.card["iterations"] == 4 and saved.image_size == (64, 64)
    assert set(saved.card["val_miou_present"]) == {"rgb", "depth", "event", "lidar", "rgb+depth+event+lidar"}
    init = ["--init", str(tmp_path / "a/last.safetensors"), "--data", str(tree)]
    assert main(["debug", *init, "--out", str(tmp_path / "b")]) == 0
    assert checkpoints.load(tmp_path / "b/last.safetensors").card["init"] == saved.model_id
    assert main(["debug", *init[2:], "--out", str(tmp_path / "b"), "--resume"]) == 2  # what it began with is its part
    assert f"init was {saved.model_id} and is None; give the same --data, --init" in capsys.readouterr().err
    assert main(["debug", *init, "--out", str(tmp_path / "c"), "--set", "head_width=64"]) == 2
    assert "--init" in (message := capsys.readouterr().err) and "its architecture is" in message
    swapped = dataclasses.replace(saved.labels, name="mine", names=saved.labels.names[::-1])
    checkpoints.save(tmp_path / "mine.safetensors", saved.model, swapped, saved.encodings, {}, image_size=(64, 64))
    assert main(["debug", "--data", str(tree), "--init", str(tmp_path / "mine.safetensors"), "--out",
                 str(tmp_path / "c")]) == 2
    assert "label set and this data's differ: class 0 is 'Truck' ('mine') and 'Building'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, message", [
    (["nothing"], "no recipe 'nothing'"),
    (["debug", "--set", "backbone=B9"], "recipe debug: .*B9"),
    (["debug", "--set", "modalities=[rgb, sonar]"], "sonar"),
    (["debug", "--set", "eval_frames=0"], "eval_frames=0 must lie in 1"),
    (["debug", "--set", "phases.0.batch=0"], "batch >= 1"),
    *((["debug", "--set", f"iterations={value}"], "iterations: .* is no YAML value") for value in (
        "2001-99-99", "!!bool x", "!!timestamp x", "!!int ''", "[" * 3000, "{[1]: 2}")),
    (["debug", "--resume"], "no state to resume"),
    (["debug", "--device", "cuda:99"], "device 'cuda:99' is not there"),
    (["debug", "--device", "meta"], "device 'meta' is unknown"),
    (["debug", "--speed", "9"], "unrecognized arguments: --speed 9"),
])
def test_command_line_errors(tree, tmp_path, capsys, arguments, message):
    check_one_line(main, [*arguments, "--data", str(tree), "--out", str(tmp_path / "run")], message, capsys)


def check_one_line(main, arguments, message, capsys):
    try:
        status = main(arguments)
    except SystemExit as stop:  # argparse
        status = stop.code
    shown = capsys.readouterr().err
    assert status == 2 and re.search("^error: .*" + message, shown) and shown.count("\n") == 1
