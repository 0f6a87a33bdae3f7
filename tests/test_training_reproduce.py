"""`training.reproduce` end to end: the plan is done once, goes on, is shared, and makes the page."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from deliver_tree import write_tree

from mss_models import checkpoint
from training import reproduce as module
from training.datasets.deliver import SUFFIXES, WEATHERS
from training.datasets.opening import open_dataset
from training.loop import train
from training.reproduce import Place, ReproduceError, chosen, claimed, is_done, main, read_result, recipe_of, reproduce
from training.reproduce_page import page, picture
from training.reproduce_plan import Run
from training.synthetic import deliver_tree

PHASE = "phases=[{share: 1, crop: 32, batch: 2}]"
SMALL = (PHASE, "iterations=2", "eval_every=2", "eval_frames=1", "head_width=16", "modalities=[rgb, lidar]")
PLAN = [Run("student", "anyseg-mini", SMALL, teacher="teacher"),  # stands before its teacher
        Run("teacher", "segformer_mean-mini-teacher", (*SMALL, "iterations=3"))]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    torch.set_num_threads(1)  # tiny batches: threads would only wait for each other
    return write_tree(tmp_path_factory.mktemp("tree"), {"train": 1, "val": 1, "test": 1})


@pytest.fixture
def place(tree, tmp_path):
    return Place(tree, tmp_path / "results", tmp_path / "runs")


def times(place):
    return {path.name: path.stat().st_mtime_ns for path in sorted(place.out.glob("*.json"))}


def test_quick_records_trains_evaluates_and_writes_the_page(tmp_path, capsys):
    assert main(["--quick", "--runs", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "results/segformer_mean-seed1.json").read_text())
    assert result["recipe"]["seed"] == 1 and result["iterations"] == 4 and result["train_seconds"] > 0
    assert (result["precision"], result["device"]) == ("fp32", "cpu" if not torch.cuda.is_available() else "cuda")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "segformer_mean-seed1/log.jsonl").open()]
    assert result["terms"] == {"loss": pytest.approx(sum(losses) / 4, abs=1e-5)}
    figures = result["figures"]
    assert len(figures["subsets"]) == 15 and {"emm", "rmm", "nm", "prior", "composites"} <= figures.keys()
    metrics = json.loads((tmp_path / "segformer_mean-seed1/scores/metrics.json").read_text())
    assert figures["summary"] == metrics["summary"] and figures["nm"]["low"]["miou_present"] == (
        metrics["nm"]["low"]["miou_present"])
    page = (tmp_path / "results.md").read_text()
    average = metrics["summary"]["miou_present"]["average"]
    assert "| cmnext | not run |" in page and f"| segformer_mean | {average:.1f} |" in page
    capsys.readouterr()
    before = (tmp_path / "results/segformer_mean-seed1.json").read_bytes()
    (tmp_path / "results/notes.md").write_text("F12: too few iterations.\n")
    assert main(["--quick", "--runs", str(tmp_path)]) == 0  # nothing is left to do
    assert (tmp_path / "results/segformer_mean-seed1.json").read_bytes() == before
    assert "to go" not in capsys.readouterr().out
    page = (tmp_path / "results.md").read_text()
    assert "from results/notes.md.\n\nF12: too few iterations.\n\n## Further runs" in page


def test_students_wait_for_their_teacher_and_count_it(place):
    assert reproduce(PLAN, [4], place) == []
    student, teacher = (json.loads(place.result(run, 4).read_text()) for run in PLAN)
    assert (student["iterations"], teacher["iterations"], student["teacher"]) == (5, 3, "teacher")
    assert student["train_seconds"] > teacher["train_seconds"] > 0 and student["data"] == teacher["data"]
    made = times(place)
    reproduce(PLAN, [4], place)
    assert times(place) == made
    with pytest.raises(ReproduceError, match="student-seed4.json is of another recipe: .*lr was 0.001 and is 0.5"):
        reproduce([Run("student", "anyseg-mini", (*SMALL, "lr=0.5"), teacher="teacher"), PLAN[1]], [4], place)
    other = write_tree(place.runs / "other", {"train": 1, "val": 1, "test": 1}, seed=1)
    with pytest.raises(ReproduceError, match="is of another data: train was [0-9a-f]{12} and is"):
        reproduce(PLAN, [4], Place(other, place.out, place.runs))
    with pytest.raises(ReproduceError, match="is of another data: test was [0-9a-f]{12} and is"):
        reproduce(PLAN, [4], dataclasses.replace(place, frames=1))
    place.result(PLAN[0], 4).write_text("{")
    with pytest.raises(ReproduceError, match="student-seed4.json is damaged or no result"):
        reproduce(PLAN, [4], place)


def test_a_student_trains_its_teacher_again_where_only_results_are(place, tree, monkeypatch):
    student, teacher = PLAN
    assert reproduce(PLAN, [4], place) == []
    clone = dataclasses.replace(place, runs=place.runs.with_name("elsewhere"))
    folder, result, made = clone.folder(teacher, 4), clone.result(student, 4), times(place)
    before = json.loads(result.read_text())
    result.unlink()
    train(recipe_of(teacher, 4), tree, folder, stop_at=1)  # as a process leaves it that was interrupted
    assert reproduce(PLAN, [4], clone) == []
    assert checkpoint.load(folder / "last.safetensors").model_id == (
        checkpoint.load(place.folder(teacher, 4) / "last.safetensors").model_id)
    assert times(clone)["teacher-seed4.json"] == made["teacher-seed4.json"]
    assert json.loads(result.read_text())["figures"] == before["figures"]
    result.unlink()
    shutil.rmtree(clone.folder(student, 4))
    (folder / "state.pt").unlink()  # what somebody brings may be the weights alone
    with ExitStack() as other:
        assert other.enter_context(claimed(folder))
        clock = SimpleNamespace(perf_counter=time.perf_counter, sleep=lambda _: other.close())
        monkeypatch.setattr(module, "time", clock)
        assert reproduce(PLAN, [4], clone) == []
    assert result.exists() and not (folder / "state.pt").exists()


def test_an_interrupted_run_goes_on(place, tree):
    teacher = PLAN[1]
    folder = place.folder(teacher, 4)
    train(recipe_of(teacher, 4), tree, folder, stop_at=1)
    first = (folder / "log.jsonl").read_text()
    assert reproduce([teacher], [4], place) == []
    assert (folder / "log.jsonl").read_text().startswith(first)  # and not from the beginning
    assert json.loads(place.result(teacher, 4).read_text())["iterations"] == 3


def test_a_failed_run_keeps_only_its_students_from_running(place):
    failing = Run("teacher", "segformer_mean-mini-teacher", (*SMALL, "lr=1e30", "ema=0", "iterations=4"))
    other = Run("other", "debug", SMALL)
    texts = Run("texts", "any2seg-mini", (*SMALL, "text_teacher=nowhere"))
    errors = reproduce([failing, PLAN[0], texts, other], [1], place)
    assert errors[0].startswith("teacher, seed 1: the loss is nan") and "its teacher's run failed" in errors[1]
    assert errors[2].startswith("texts, seed 1: text embeddings") and len(errors) == 3
    assert [path.name for path in place.out.glob("*.json")] == ["other-seed1.json"]


def test_a_run_belongs_to_one_process_as_long_as_it_lives(place, capsys):
    folder = place.folder(PLAN[1], 1)
    code = textwrap.dedent(f"""
        from pathlib import Path
        from training.reproduce import claimed
        with claimed(Path({str(folder)!r})) as mine:
            print(mine, flush=True)
            input()
        """)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as other:
        assert other.stdout.readline() == "True\n"
        with claimed(folder) as mine:
            assert not mine
        assert reproduce([PLAN[1]], [1], place) == []
        assert "another process is at it" in capsys.readouterr().out and not times(place)
        other.kill()
    assert str(other.pid) in (folder / "claim").read_text()  # it left its file, but no claim
    with claimed(folder) as mine:
        assert mine


def test_the_plan_can_be_cut():
    assert [run.name for run in chosen(PLAN, ["student"])] == ["student", "teacher"]
    assert chosen(PLAN, []) == PLAN
    with pytest.raises(ReproduceError, match="--only studnet: .* did you mean 'student'"):
        chosen(PLAN, ["studnet"])


@pytest.mark.parametrize("arguments, message", [
    ([], "--data is needed"), (["--data", "nowhere"], "nowhere: no such folder"), (["--only", "charmm"], "'charm'"),
    (["--data", ".", "--device", "cuda:99"], "'cuda:99' is not there"), (["--seeds", "-1"], "-1 must be at least 0"),
])
def test_command_line_errors(tmp_path, capsys, arguments, message):
    try:
        status = main([*arguments, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "results")])
    except SystemExit as stop:
        status = stop.code
    shown = capsys.readouterr().err
    assert status == 2 and shown.startswith("error: ") and message in shown and shown.count("\n") == 1


def test_committed_results_are_of_the_documented_world_and_of_the_recipes(tmp_path):
    """And docs/results.md is what they give."""
    docs = Path(module.__file__).parents[1] / "docs"
    command = re.search(r"training.synthesize --out runs/mini .*--split train val test --frames (\d+) (\d+) (\d+) "
                        r"--size 256 --seed 1\n", (text := (docs / "training.md").read_text()))
    planned = {split: deliver_tree.plan(split, int(frames), list(WEATHERS), 256, 1)
               for split, frames in zip(("train", "val", "test"), command.groups(), strict=True)}
    deliver_tree.begin(tmp_path, planned)
    for kind in SUFFIXES:
        (tmp_path / kind).mkdir()
    for path in (one.file(tmp_path, "img", frame) for split in planned.values() for one in split
                 for frame in range(one.frames)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # an origin is of how it was recorded: no picture is looked at
    origins = {split: open_dataset(tmp_path, split, limit=limit, strict=False).origin()
               for split, limit in (("train", None), ("val", None), ("test", 125))}
    assert ", ".join(f"{split} {value}" for split, value in origins.items()) in text
    place = Place(tmp_path, docs / "results", tmp_path / "runs", frames=125)
    runs = {one.name: one for one in module.PLAN}
    results = [read_result(path) for path in sorted(place.out.glob("*-seed*.json"))]
    assert results and all(is_done(runs[one["run"]], one["seed"], place, origins) for one in results)
    notes = place.out / "notes.md"
    assert (docs / "results.md").read_text() == page(results, "results", notes.read_text() if notes.exists() else "")
    assert (docs / "results.svg").read_text() == picture(results) + "\n"


def test_list_shows_what_is_done(tmp_path, capsys):
    (tmp_path / "charm-seed2.json").write_text("{}")
    assert main(["--list", "--out", str(tmp_path)]) == 0
    lines = {line.split()[0]: line.split()[-3:] for line in capsys.readouterr().out.splitlines()}
    assert lines["charm"] == [".", "x", "."] and lines["charm-a"] == [".", ".", "."]
    assert {run.name for run in module.PLAN} < lines.keys()
