"""A student and its teacher as one command: the same as two, resumable in either stage, counted."""

from __future__ import annotations

import json
import re

import pytest
import torch
from deliver_tree import write_tree

from mss_models import checkpoint as checkpoints
from training.loop import train
from training.recipe import RecipeError
from training.recipes import find_recipe
from training.stages import recipes_of, resolve, seconds_of, train_stages
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
    spent = [json.loads(line)["seconds"] for one in ("teacher", ".")
             for line in (tmp_path / "run" / one / "log.jsonl").read_text().splitlines()]
    assert len(spent) == 5 and seconds_of(tmp_path / "run") > sum(spent)  # the evaluations, too
    assert [one["name"] for one in recipes_of(tmp_path / "run")] == ["segformer_mean-mini-teacher", "robustseg-mini"]
    capsys.readouterr()
    assert main(arguments) == 2 and "run/teacher holds a run already; go on with --resume" in capsys.readouterr().err
    before = (tmp_path / "run/state.pt").stat().st_mtime_ns
    assert main([*arguments, "--resume"]) == 0  # nothing is left to do
    assert (tmp_path / "run/state.pt").stat().st_mtime_ns == before


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
