"""A student and its teacher as one command: the same as two, resumable in either stage, counted."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from deliver_tree import write_tree
from test_models_importing import imagenet, tensors

from mss_models import checkpoint as checkpoints
from training.batches import make_batch
from training.datasets.deliver import Deliver
from training.loop import train
from training.recipe import RecipeError, override
from training.recipes import find_recipe
from training.run_folder import seconds_spent
from training.stages import resolve, train_stages
from training.train import main

PHASES = "phases=[{share: 1, crop: 32, batch: 2}]"
SMALL = [PHASES, "iterations=2", "eval_every=2", "eval_frames=1", "head_width=32", "modalities=[rgb, lidar]", "seed=5",
         "options.regularisation_weight=0"]
SETTINGS = [*SMALL, *(f"teacher.{one}" for one in (PHASES, "iterations=3", "eval_every=2", "eval_frames=1",
                                                   "head_width=16"))]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    torch.set_num_threads(1)  # tiny batches: threads would only wait for each other
    return write_tree(tmp_path_factory.mktemp("tree"), {"train": 2, "val": 1})


@pytest.fixture(scope="module")
def recipes():
    return resolve(find_recipe("robustseg-mini"), SETTINGS)


@pytest.fixture(scope="module")
def by_hand(tree, recipes, tmp_path_factory):
    """The teacher's run and the student's, each trained by itself."""
    out = tmp_path_factory.mktemp("by_hand")
    student, teacher = recipes
    train(teacher, tree, out / "first")
    train(student, tree, out / "second", teacher=out / "first/last.safetensors")
    return out / "first", out / "second"


def test_the_teacher_follows_its_student(recipes):
    student, teacher = recipes
    assert (student.iterations, student.head_width, student.teacher) == (2, 32, "segformer_mean-mini-teacher")
    assert (teacher.name, teacher.iterations, teacher.head_width) == ("segformer_mean-mini-teacher", 3, 16)
    assert teacher.modalities == student.modalities == ("rgb", "lidar") and teacher.seed == student.seed == 5
    assert resolve(find_recipe("robustseg-mini"), ["loss=ce"])[1] is None and resolve(find_recipe("debug"))[1] is None
    with pytest.raises(RecipeError, match="teacher.iterations=3: recipe debug .* has no teacher"):
        resolve(find_recipe("debug"), ["teacher.iterations=3"])
    with pytest.raises(RecipeError, match="no field 'itertions'.*'iterations'"):
        resolve(find_recipe("robustseg-mini"), ["teacher.itertions=3"])


@pytest.mark.parametrize("name", ["robustseg-mini", "anyseg-mini"])
@pytest.mark.parametrize("settings", [[], ["teacher=''"]], ids=["own teacher", "a teacher from elsewhere"])
def test_a_student_sees_other_views_than_its_teacher(tree, name, settings):
    """In every iteration; and frame by frame as often, in epochs."""
    student, teacher = resolve(find_recipe(name), [*SMALL[:-1], "iterations=16", "teacher.iterations=16",
                                                   f"teacher.{PHASES}"])
    student = override(student, settings)
    data = Deliver(tree, "train", cache=True)
    seen = [[make_batch(data, one, i) for i in range(16)] for one in (student, teacher)]
    for run in seen:
        epochs = np.array([names for names, _ in run]).reshape(-1, len(data))
        assert all(set(epoch) == {one.name for one in data.frames} for epoch in epochs)
    assert [names for names, _ in seen[0]] != [names for names, _ in seen[1]]
    labels = [[view for _, batch in run for view in batch["labels"]] for run in seen]
    assert not any(torch.equal(one, other) for one, other in zip(*labels, strict=True))
    again = make_batch(data, student, 3)[1]
    assert all(torch.equal(again["images"][one], seen[0][3][1]["images"][one]) for one in again["images"])


def same_states(*folders):
    states = [torch.load(one / "state.pt", weights_only=True) for one in folders]
    return all(torch.equal(value, states[1][part][name])
               for part in ("model", "average") for name, value in states[0][part].items())


def test_one_command_is_both(tree, by_hand, tmp_path, capsys):
    arguments = ["robustseg-mini", "--data", str(tree), "--out", str(tmp_path / "run"), "--set", *SETTINGS]
    assert main(arguments) == 0
    assert same_states(tmp_path / "run", by_hand[1]) and same_states(tmp_path / "run/teacher", by_hand[0])
    card = checkpoints.load(tmp_path / "run/last.safetensors").card
    (before,) = card["stages_before"]
    assert before["iterations"] == 3 and before["recipe"]["head_width"] == 16 and card["iterations"] == 2
    for folder, name, iterations in (("teacher", "segformer_mean-mini-teacher", 3), (".", "robustseg-mini", 2)):
        lines = [json.loads(line) for line in (tmp_path / "run" / folder / "log.jsonl").read_text().splitlines()]
        evaluations = [line["evaluation_seconds"] for line in lines if "evaluation_seconds" in line]
        spent = sum(line["seconds"] for line in lines) + sum(evaluations)
        assert len(lines) == iterations and min(evaluations) > 0
        assert seconds_spent(tmp_path / "run" / folder) == pytest.approx(spent, abs=0.0501)  # it has one digit
        assert json.loads((tmp_path / "run" / folder / "recipe.json").read_text())["name"] == name
    assert before["seconds"] == seconds_spent(tmp_path / "run/teacher")
    capsys.readouterr()
    assert main(arguments) == 2 and "run/teacher holds a run already; go on with --resume" in capsys.readouterr().err
    before = (tmp_path / "run/state.pt").stat().st_mtime_ns
    assert main([*arguments, "--resume"]) == 0  # nothing is left to do
    assert (tmp_path / "run/state.pt").stat().st_mtime_ns == before


def test_both_start_from_a_published_encoder(tree, tmp_path, capsys):
    source, out = tmp_path / "mit_b0.pth", tmp_path / "run"
    torch.save(state := tensors(imagenet()), source)

    def run(name, init, *settings):
        return main(["robustseg-mini", "--data", str(tree), "--out", str(tmp_path / name), "--init", str(init), "--set",
                     *SETTINGS, *settings])

    still = ["lr=1e-9", "weight_decay=0", "teacher.lr=1e-9", "teacher.weight_decay=0"]
    assert run("run", source, *still) == 0
    for folder in (out / "teacher", out):
        saved = checkpoints.load(folder / "last.safetensors")
        assert saved.card["init"] == checkpoints.model_id(source.read_bytes())
        encoder = saved.model.backbone
        for ours, theirs in ((encoder.stages[0].embed.proj.weight, "patch_embed1.proj.weight"),
                             (encoder.stages[3].blocks[1].mlp.fc2.bias, "block4.1.mlp.fc2.bias")):
            torch.testing.assert_close(ours, state[theirs], rtol=1e-3, atol=1e-4)  # checkpoints are fp16
    assert run("other", source, "backbone=PVTv2-B0") == 2
    assert "--init" in (shown := capsys.readouterr().err) and "backbone is 'B0' in this file" in shown
    whole = out / "last.safetensors"
    assert run("third", whole) == 2 and "a start for the student alone" in capsys.readouterr().err
    assert not (tmp_path / "third").exists()
    assert main(["robustseg-mini", "--data", str(tree), "--out", str(tmp_path / "third"), "--init", str(whole),
                 "--teacher", str(out / "teacher/last.safetensors"), "--set", *SETTINGS[:len(SMALL)]]) == 0


def test_either_stage_is_resumed(tree, recipes, by_hand, tmp_path):
    student, teacher = recipes
    train(teacher, tree, tmp_path / "teacher", stop_at=1)  # as Ctrl-C leaves it
    torch.manual_seed(99)
    train_stages(student, teacher, tree, tmp_path, resume=True, stop_at=1)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["iteration"] == 1
    train_stages(student, teacher, tree, tmp_path, resume=True)
    assert same_states(tmp_path, by_hand[1]) and same_states(tmp_path / "teacher", by_hand[0])


@pytest.mark.parametrize("arguments, message", [
    (["--resume"], "holds no state to resume, nor does .*teacher"),
    (["--set", "options.pairing=any"], "pairing = 'any'; choose from"),  # before the teacher is trained
])
def test_errors_come_before_the_teacher(tree, tmp_path, capsys, arguments, message):
    out = tmp_path / "run"
    assert main(["robustseg-mini", "--data", str(tree), "--out", str(out), *arguments]) == 2
    shown = capsys.readouterr().err
    assert re.search("^error: .*" + message, shown) and shown.count("\n") == 1 and not out.exists()


def test_a_teacher_from_elsewhere_must_be_given_again(tree, by_hand, capsys):
    assert main(["robustseg-mini", "--data", str(tree), "--out", str(by_hand[1]), "--set", *SETTINGS,
                 "--resume"]) == 2
    assert "was trained with a teacher from elsewhere; give it again as --teacher" in capsys.readouterr().err
    assert not (by_hand[1] / "teacher").exists()
