"""The evaluation as a command: every figure, the report, going on, several processes, and what users get wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil

import boxes
import numpy as np
import pytest
import torch
from deliver_tree import write_tree
from PIL import Image
from test_datasets_mcubes import write_tree as write_mcubes

from mss_models import checkpoint as checkpoints
from mss_models.labels import LABEL_SETS
from mss_models.modality import DEFAULT_ENCODINGS, DELIVER_MODALITIES
from mss_models.runtime import open_runtime
from mss_models.system import create
from training import evaluate as evaluation
from training.datasets.deliver import Deliver
from training.datasets.opening import open_dataset
from training.protocols import all_subsets, counts, key
from training.report.page import _published
from training.report.published import differences, is_published_data
from training.report.tables import source_text

FULL = "rgb+depth+event+lidar"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    torch.set_num_threads(1)
    return write_tree(tmp_path_factory.mktemp("tree"), {"train": 2, "test": 5})  # 10 frames: two parts


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return save(tmp_path_factory.mktemp("net") / "net.safetensors")


def save(path, labels="deliver", modalities=DELIVER_MODALITIES):
    torch.manual_seed(0)
    model = create(system="segformer_mean", modalities=modalities, num_classes=len(LABEL_SETS[labels]), backbone="B0",
                   head_width=32)
    with torch.no_grad():
        model.head.classify.weight *= 30  # random weights alone would see one class everywhere,
        model.head.classify.bias[[0, 3, 6, 9, 12]] += 50  # and one that does not occur
    checkpoints.save(path, model, LABEL_SETS[labels], DEFAULT_ENCODINGS, {"recipe": {"name": "x"}}, image_size=(64, 64))
    return path


def command(network, tree, out, *more):
    return [str(network), "--data", str(tree), "--out", str(out), "--precision", "fp32", "--jobs", "1",
            *map(str, more)]


@pytest.fixture(scope="module")
def everything(network, tree, tmp_path_factory):
    """The folder of an evaluation with every protocol."""
    out = tmp_path_factory.mktemp("all") / "out"
    assert evaluation.main(command(network, tree, out, "--protocol", "any-modal", "conditions", "emm", "rmm",
                                   "nm", "--predictions", "any-modal/rgb+lidar", "nm/mid/" + FULL)) == 0
    return out


def figures_of(out):
    return json.loads((out / "metrics.json").read_text())


# --- the figures -----------------------------------------------------------------------------------------------------

def test_any_modal_against_the_runtime(everything, network, tree):
    metrics, runtime, data = figures_of(everything), open_runtime(network, precision="fp32"), Deliver(tree, "test")
    assert metrics["frames"] == metrics["frames_in_split"] == 10 and metrics["recording"] == {"seed": 0}
    for subset in (("rgb",), ("rgb", "lidar"), DELIVER_MODALITIES):
        iou, target, seen = [], [], []
        for sample in data:
            target.append(sample.labels)
            seen.append(runtime({name: sample.images[name][None] for name in subset},
                                {name: np.array([name in subset]) for name in DELIVER_MODALITIES}).labels[0])
        target, seen = np.stack(target), np.stack(seen)
        for c in range(25):
            union = ((target == c) | (seen == c)).sum()
            iou.append(((target == c) & (seen == c)).sum() / union if union else np.nan)
        one = metrics["subsets"][key(subset)]
        assert one["miou_published"] == pytest.approx(100 * np.nansum(iou) / 25, abs=0.05)
        labelled = np.isin(range(25), target)
        assert one["miou_present"] == pytest.approx(100 * np.mean(np.array(iou)[labelled]), abs=0.05)
        assert [value is None for value in one["iou"].values()] == list(np.isnan(iou))
        for c, name in enumerate(data.labels.names):
            hit, here, said = ((target == c) & (seen == c)).sum(), (target == c).sum(), (seen == c).sum()
            assert one["f1"][name] == (pytest.approx(200 * hit / (here + said), abs=0.05) if here + said else None)
            assert one["acc"][name] == (pytest.approx(100 * hit / here, abs=0.05) if here else None)
        assert one["margin_present"] == pytest.approx(one["miou_present"] - metrics["prior"]["miou_present"], abs=0.011)
    assert sum(metrics["class_pixels"].values()) == 10 * 64 * 64
    mious = {subset: one["miou_published"] for subset, one in metrics["subsets"].items()}
    assert list(mious) == [key(one) for one in all_subsets(DELIVER_MODALITIES)]
    summary = metrics["summary"]["miou_published"]
    assert summary["average"] == pytest.approx(np.mean(list(mious.values())), abs=0.011)
    assert (summary["top1"], summary["last1"]) == (max(mious.values()), min(mious.values()))
    assert mious[summary["top1_subset"]] == summary["top1"]
    assert set(metrics["conditions"]) == {"night", "sun", "normal", "motionblur"}
    assert metrics["conditions"]["sun"] == metrics["conditions"]["normal"] != metrics["conditions"]["night"]
    priors = metrics["prior_by_condition"]
    assert set(priors) == set(metrics["conditions"])
    assert priors["sun"] == priors["normal"] != priors["night"] != metrics["prior"]["miou_present"]


def test_damaged_modalities(everything):
    metrics = figures_of(everything)
    full = {name: metrics["subsets"][FULL][name] for name in ("miou_published", "miou_present")}
    assert metrics["emm"]["subsets"][FULL] == full
    assert list(metrics["rmm"]) == ["0.25", "0.5", "0.75"]
    assert all(one["subsets"][FULL] == full for one in metrics["rmm"].values())
    singles = [metrics["emm"]["subsets"]["rgb"], *(one["subsets"]["rgb"] for one in metrics["rmm"].values())]
    assert len({one["miou_published"] for one in singles}) == 4
    for convention in ("miou_published", "miou_present"):
        emm, rmm = metrics["emm"]["summary"][convention], metrics["rmm"]["0.5"]["summary"][convention]
        low, mid = metrics["nm"]["low"][convention], metrics["nm"]["mid"][convention]
        assert metrics["composites"][convention] == {
            "robustseg_mean": pytest.approx(np.mean([emm["average"], emm["e"]["0.2"], rmm["average"], rmm["e"]["0.2"],
                                                     low]), abs=0.006),
            "equiseg_robustness": pytest.approx(np.mean([full[convention], emm["average"], emm["e"]["0.1"],
                                                         rmm["average"], rmm["e"]["0.1"], low, mid]), abs=0.006)}


def test_predictions(everything, network, tree):
    data, runtime = Deliver(tree, "test"), open_runtime(network, precision="fp32")
    files = sorted((everything / "predictions").rglob("*.png"))
    assert len(files) == 2 * len(data)
    for sample in data:
        saved = np.asarray(Image.open(everything / "predictions/any-modal/rgb+lidar" / f"{sample.name}.png"))
        labels = runtime({name: sample.images[name][None] for name in ("rgb", "lidar")},
                         {name: np.ones(1, bool) for name in ("rgb", "lidar")}).labels[0]
        assert saved.dtype == np.uint8 and np.mean(saved == labels) > 0.999


def test_report(everything):
    page, table = (everything / "report.html").read_text(), (everything / "table.md").read_text()
    assert page.count("data:image/png;base64") == 4 * (5 + 5 + 5) and not re.search(r"https?://", page)
    for section in ("Subsets of modalities", "Conditions", "Damaged modalities", "Classes", "Published values",
                    "Frames"):
        assert f"<h2>{section}</h2>" in page
    assert "<b>Other data.</b>" in page and ">50.03</td>" in page
    assert "<dd>a tree in DELIVER&#x27;s layout: all 10 frames" in page
    assert f"| {FULL} |" in table and "| RobustSeg's mean |" in table
    metrics = figures_of(everything)
    assert metrics["skipped"] == {} and "Not counted" not in page + table


PUBLIC = {"recording": {"dataset": "DELIVER", "variant": "hha"}, "label_set": "deliver", "split": "val", "frames": 9,
          "frames_in_split": 9, "short_side": 1024, "score_at": "network", "window": None}


@pytest.mark.parametrize("changes, wanted", [
    ({}, []), ({"split": "test"}, ["split test .*published: val"]), ({"split": "train"}, ["split train"]),
    ({"recording": {"dataset": "DELIVER", "variant": "metric"}}, ["variant metric .*hha or cafuser"]),
    ({"frames": 8}, ["8 of its 9 frames"]), ({"short_side": None}, ["short side as it is .*1024"]),
    ({"short_side": 512, "score_at": "labels"}, ["short side 512", "scored at the labels' size"]),
    ({"window": 512}, ["windows of 512"]),
    *(({"label_set": "mcubes", "split": split, "recording": {"dataset": "MCubeS", "variant": variant}}, wanted)
      for split, variant, wanted in (("test", "own", []), ("val", "published", []), ("test", "published", []),
                                     ("val", "own", ["split val in variant own"]), ("train", "own", ["split train"]))),
    *(({"label_set": "muses", "split": split, "recording": {"dataset": "MUSES", "variant": variant}}, wanted)
      for split, variant, wanted in (("val", "published", []), ("val", "raw", ["variant raw"]),
                                     ("test", "published", ["split test"]))),
    ({"label_set": "muses", "recording": {"dataset": "MUSES", "variant": "published"}, "short_side": None,
      "score_at": "labels"}, []),  # it is 1024 x 1024
])
def test_what_is_unlike_the_published_evaluations(everything, changes, wanted):
    metrics = PUBLIC | changes
    assert is_published_data(metrics)
    found = differences(metrics)
    assert len(found) == len(wanted)
    for one, pattern in zip(found, wanted, strict=True):
        assert re.search(pattern, one)
    if metrics["label_set"] == "deliver":
        text = _published(figures_of(everything) | metrics)
        assert "<b>Other data.</b>" not in text and ("<b>Scored otherwise.</b>" in text) == bool(wanted)
        assert ('class="other"' in text) == bool(wanted)


@pytest.mark.parametrize("changes", [{"label_set": "muses"}, {"recording": {"seed": 0}}])
def test_other_data(everything, changes):
    assert not is_published_data(PUBLIC | changes)
    assert "<b>Other data.</b>" in _published(figures_of(everything) | PUBLIC | {"recording": {"seed": 0}})


class Failing(Deliver):
    """Frames 0 to 5 lack lidar, 4 to 7 lack rgb."""

    def missing_in(self, frame):
        at = self.frames.index(frame)
        return frozenset({"lidar"} if at < 6 else ()) | frozenset({"rgb"} if 4 <= at < 8 else ())

    def _read(self, frame):
        one = super()._read(frame)
        missing = self.missing_in(frame)
        images = {name: np.zeros_like(image) if name in missing else image for name, image in one.images.items()}
        return dataclasses.replace(one, images=images, missing=missing)


def test_frames_with_nothing_left_are_told(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(counts, "open_dataset", lambda data, split, modalities, encodings, limit:
                        Failing(data, split, modalities, encodings=encodings, limit=limit))
    network = save(tmp_path / "two.safetensors", modalities=("rgb", "lidar"))
    job = counts.Job(network, tree, precision="fp32")
    metrics = evaluation.evaluate(job, tmp_path / "out", ["any-modal", "conditions", "emm"])
    assert metrics["skipped"] == {"rgb": 4, "lidar": 6, "rgb+lidar": 2}
    assert sum(metrics["class_pixels"].values()) == 10 * 64 * 64  # EMM's
    assert metrics["conditions"]["night"]["lidar"] == {"miou_published": None, "miou_present": None}  # frames 0..4
    assert metrics["conditions"]["sun"]["lidar"]["miou_present"] is not None
    text = "gave nothing: 4 for rgb, 6 for lidar, 2 for rgb+lidar."
    assert text in (tmp_path / "out/report.html").read_text() and text in (tmp_path / "out/table.md").read_text()
    short = dataclasses.replace(job, frames=2)  # neither has lidar
    metrics = evaluation.evaluate(short, tmp_path / "short", ["any-modal"])
    one = metrics["summary"]["miou_present"]
    assert metrics["subsets"]["lidar"]["miou_present"] is None and "margin_present" not in metrics["subsets"]["lidar"]
    assert one["average"] == one["last1"] == metrics["subsets"]["rgb"]["miou_present"]
    assert one["e"] == {"0.05": None, "0.1": None, "0.2": None}
    assert "<td>-</td>" in (tmp_path / "short/report.html").read_text()


def test_the_prior_is_of_the_train_split_that_is_there(network, tree, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(tree, data)
    job = counts.Job(network, data, precision="fp32")
    before = evaluation.evaluate(job, out)["prior"]
    write_tree(data, {"train": 9}, seed=4)
    after = evaluation.evaluate(job, out)["prior"]
    assert after != before and after == evaluation.evaluate(job, tmp_path / "fresh")["prior"]


def test_some_frames_and_no_train_split(network, tree, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(tree, data)
    for folder in data.rglob("train"):
        shutil.rmtree(folder)
    shipped = tmp_path / "shipped.safetensors"
    assert evaluation.main(command(network, data, tmp_path / "out", "--frames", 4, "--ship", shipped,
                                   "--limits", "not on ice", "--protocol", "any-modal", "rmm-block-0.5")) == 0
    assert list(figures_of(tmp_path / "out")["rmm-block"]) == ["0.5"]
    assert evaluation.main(command(network, data, tmp_path / "out", "--frames", 4,
                                   "--protocol", "any-modal", "rmm-block")) == 0  # goes on with the other rates
    metrics = figures_of(tmp_path / "out")
    assert (metrics["frames"], metrics["frames_in_split"], metrics["prior"]) == (4, 10, None)
    assert list(metrics["rmm-block"]) == ["0.25", "0.5", "0.75"] and "rmm" not in metrics
    assert metrics["rmm-block"]["0.5"]["subsets"][FULL]["miou_present"] == metrics["subsets"][FULL]["miou_present"]
    assert "4 of the 10 frames of split test, evenly spread" in capsys.readouterr().out
    copy = checkpoints.load(shipped)
    assert copy.card["scores"]["miou_published"]["rgb+lidar"] == metrics["subsets"]["rgb+lidar"]["miou_published"]
    assert copy.card["scores"]["iou"]["rgb+lidar"] == metrics["subsets"]["rgb+lidar"]["iou"]
    assert copy.card["recipe"] == {"name": "x"} and copy.card["scores"]["class_prior"] is None
    assert "conditions" not in copy.card["scores"] and copy.card["limits"] == "not on ice"
    original = checkpoints.load(network).model.state_dict()
    assert all(torch.equal(value, original[name]) for name, value in copy.model.state_dict().items())


def test_another_data_set(tmp_path, capsys):
    write_mcubes(tmp_path / "data")  # one frame of 40 x 40 pixels in split test; it tells no conditions
    data = open_dataset(tmp_path / "data", "test")
    model = create(system="segformer_mean", modalities=data.modalities, num_classes=20, backbone="B0", head_width=32)
    path = tmp_path / "net.safetensors"
    checkpoints.save(path, model, data.labels, data.encodings, {}, image_size=(40, 40))
    arguments = command(path, tmp_path / "data", tmp_path / "out", "--window", 32)
    assert evaluation.main(arguments) == 0
    metrics = figures_of(tmp_path / "out")
    assert source_text(metrics) == metrics["dataset"] == "MCubeS"
    assert sum(metrics["class_pixels"].values()) == (data.read_labels(0) < 255).sum()
    assert list(metrics["subsets"])[-1] == "rgb+aolp+dolp+nir" and (metrics["window"], metrics["stride"]) == (32, 21)
    page = (tmp_path / "out/report.html").read_text()
    assert "38.00" in page and "40.97" not in page  # MAGIC on MCubeS
    capsys.readouterr()
    check_one_line([*arguments, "--protocol", "conditions"], "MCubeS tells no weather or case", capsys)


# --- going on --------------------------------------------------------------------------------------------------------

def test_several_processes_equal_one(everything, network, tree, tmp_path):
    arguments = command(network, tree, tmp_path / "out", "--protocol", "any-modal", "conditions", "nm")
    arguments[arguments.index("--jobs") + 1] = "2"
    assert evaluation.main(arguments) == 0
    one, two = figures_of(everything), figures_of(tmp_path / "out")
    for table in ("subsets", "summary", "conditions", "nm", "prior", "class_pixels"):
        assert one[table] == two[table]


def test_a_cluster_equals_one_process(ray_cluster, everything, network, tree, tmp_path):
    arguments = command(network, tree, tmp_path / "out", "--protocol", "any-modal", "nm", "--ray",
                        "--predictions", "any-modal/rgb+lidar")
    del arguments[arguments.index("--jobs") : arguments.index("--jobs") + 2]
    assert evaluation.main(arguments) == 0
    one, two = figures_of(everything), figures_of(tmp_path / "out")
    for table in ("subsets", "summary", "nm", "prior", "class_pixels", "device", "precision"):
        assert one[table] == two[table]
    assert len(list((tmp_path / "out/predictions").rglob("*.png"))) == 10


def test_a_folder_of_bags_adds_up_its_bags(tmp_path):
    """Two processes over the folder against one over each bag: the counts are the sums."""
    network, total = save(tmp_path / "net.safetensors", modalities=("rgb", "lidar")), {}
    for number, name in enumerate(("a", "b", "c")):
        boxes.write_bag(tmp_path / "drives" / name, 0.5 + 0.2 * number, seed=number)
        alone = evaluation.main(command(network, tmp_path / "drives" / name, tmp_path / name))
        assert alone == 0
        for trial, hist in scores_of(tmp_path / name).items():
            total[trial] = total.get(trial, 0) + hist
    arguments = command(network, tmp_path / "drives", tmp_path / "out")
    arguments[arguments.index("--jobs") + 1] = "2"
    assert evaluation.main(arguments) == 0
    found = scores_of(tmp_path / "out")
    assert len(found) == 3 and found.keys() == total.keys()
    assert all(np.array_equal(hist, total[trial]) for trial, hist in found.items())
    metrics = figures_of(tmp_path / "out")
    assert metrics["dataset"] == "recordings" and metrics["frames"] == sum(
        figures_of(tmp_path / name)["frames"] for name in ("a", "b", "c")) > 8      # more than a part


def scores_of(out):
    found = {}
    for path in (out / "parts").glob("any-modal-*.npz"):
        for trial, by_condition in counts.read_scores(path).items():
            found[trial] = found.get(trial, 0) + by_condition["", ""].hist
    return found


def test_an_interrupted_evaluation_goes_on(everything, network, tree, tmp_path, monkeypatch, capsys):
    out, scored = tmp_path / "out", []
    arguments = command(network, tree, out, "--protocol", "any-modal", "nm")
    real = counts.score

    def interrupted(*given, frames, **options):
        scored.append(frames)
        if len(scored) == 2:
            raise KeyboardInterrupt
        return real(*given, frames=frames, **options)

    monkeypatch.setattr(counts, "score", interrupted)
    assert evaluation.main(arguments) == 130
    assert f"the same command goes on from what is in {out}" in capsys.readouterr().err
    assert sorted(os.listdir(out)) == ["parts"]
    assert sorted(os.listdir(out / "parts")) == ["any-modal-0000.npz", "nm-0000.npz", "settings.json"]
    assert evaluation.main(arguments) == 0
    assert scored == [range(8), range(8, 10), range(8, 10)]
    assert figures_of(out)["nm"] == figures_of(everything)["nm"]
    assert evaluation.main(arguments) == 0 and len(scored) == 3  # nothing left to do
    further = command(network, tree, out, "--protocol", "any-modal", "nm", "conditions", "emm")
    assert evaluation.main(further) == 0 and len(scored) == 5
    assert figures_of(out)["emm"] == figures_of(everything)["emm"]
    (out / "parts/nm-0001.npz").write_bytes(b"half of it")  # damaged: made again
    assert evaluation.main(arguments) == 0 and scored[5:] == [range(8, 10)]
    assert figures_of(out)["nm"] == figures_of(everything)["nm"]


def test_another_evaluation_in_the_same_folder_is_refused(everything, network, tree, tmp_path, capsys):
    before = (everything / "metrics.json").read_bytes()
    assert evaluation.main(command(network, tree, everything, "--seed", 1)) == 2
    error = capsys.readouterr().err
    assert "holds an evaluation with other settings: seed was 0 and is 1" in error and "choose another --out" in error
    assert (everything / "metrics.json").read_bytes() == before
    (tmp_path / "parts").mkdir()
    for damaged in ("{", "[]x", "7", "[1]"):
        (tmp_path / "parts/settings.json").write_text(damaged)
        check_one_line(command(network, tree, tmp_path), "settings.json is damaged", capsys)


@pytest.mark.parametrize("counting", [None, 1, counts.COUNTING + 1])
def test_parts_of_another_way_of_counting_are_refused(everything, network, tree, tmp_path, capsys, counting):
    shutil.copytree(everything / "parts", tmp_path / "parts")
    settings = json.loads((tmp_path / "parts/settings.json").read_text())
    assert settings.pop("counting") == counts.COUNTING
    (tmp_path / "parts/settings.json").write_text(json.dumps(settings | ({"counting": counting} if counting else {})))
    before = files_in(tmp_path)
    check_one_line(command(network, tree, tmp_path), rf"parts was counted in another way \(version {counting or 1}, "
                   rf"now {counts.COUNTING}\): it cannot be continued; delete .*/parts or choose another --out", capsys)
    assert files_in(tmp_path) == before


def files_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what users get wrong --------------------------------------------------------------------------------------------

def check_one_line(arguments, message, capsys):
    try:
        status = evaluation.main(arguments)
    except SystemExit as stop:  # argparse
        status = stop.code
    shown = capsys.readouterr().err.splitlines()
    errors = [line for line in shown if "frame/s" not in line and line.strip()]
    assert status == 2 and len(errors) == 1 and re.search("^error: .*" + message, errors[0]), shown


@pytest.mark.parametrize("arguments, message", [
    (["--device", "cuda:99"], "device 'cuda:99' is not there"), (["--precision", "int4"], "int4.*bf16"),
    (["--frames", "0"], "--frames: 0 must be at least 1"), (["--frames", "few"], "--frames: .*'few'"),
    (["--jobs", "0"], "--jobs: 0 must be at least 1"), (["--seed", "-1"], "--seed: -1 must be at least 0"),
    (["--protocol", "guess"], "guess.*any-modal"), (["--data", "nowhere"], "nowhere: no such folder"),
    (["--split", "exam"], "split 'exam' is unknown"), (["--split", "val"], "is the split recorded"),
    (["--stride", "8"], "--window"), (["--window", "8", "--stride", "9"], "stride 9 must lie in 1..8"),
    (["--ray"], "not allowed with argument --jobs"),
    (["--predictions", "any-modal/sonar"], "any-modal/sonar: no trial of any-modal"),
    (["--predictions", "emm/rgb"], "emm/rgb: no trial of any-modal"),
    (["--protocol", "nm", "--ship", "x"], "add any-modal to --protocol"), (["--batch", "x"], "unrecognized arguments"),
])
def test_options(network, tree, tmp_path, capsys, arguments, message):
    check_one_line([*command(network, tree, tmp_path / "out"), *arguments], message, capsys)
    assert not (tmp_path / "out/metrics.json").exists()


def test_networks_that_do_not_fit(network, tree, tmp_path, capsys):
    muses = save(tmp_path / "muses.safetensors", "muses")
    check_one_line(command(muses, tree, tmp_path / "a"),
                   r"the label sets of checkpoint and data differ: 19 classes \('muses'\) and 25 \('deliver'\)", capsys)
    radar = save(tmp_path / "radar.safetensors", modalities=("rgb", "radar"))
    check_one_line(command(radar, tree, tmp_path / "b"), "radar", capsys)
    encodings = json.loads((tree / "encodings.json").read_text())
    encodings["event"]["params"]["window_sec"] = 0.03
    other = write_tree(tmp_path / "other", {"train": 1, "test": 1})
    (other / "encodings.json").write_text(json.dumps(encodings))
    check_one_line(command(network, other, tmp_path / "c"), "modality event: the checkpoint learned", capsys)
    check_one_line(command(tmp_path / "none.safetensors", tree, tmp_path / "d"), "cannot be read", capsys)
    assert not any((tmp_path / name).exists() for name in "abcd")


def test_out_that_is_a_file(network, tree, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    check_one_line(command(network, tree, tmp_path / "out"), "out is a file; a folder is needed", capsys)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_damaged_image_is_named_and_nothing_looks_whole(network, tree, tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(tree, data)
    damaged = Deliver(data, "test").frames[9].images["depth"]
    damaged.write_bytes(damaged.read_bytes()[:-30])
    check_one_line(command(network, data, out), f"{damaged.name}: the image cannot be read", capsys)
    assert sorted(os.listdir(out)) == ["parts"] and "any-modal-0001.npz" not in os.listdir(out / "parts")


def test_no_labelled_pixel(network, tree, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(tree, data)
    for frame in Deliver(data, "test").frames:
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(frame.labels)
    check_one_line(command(network, data, tmp_path / "out"), "none of the 10 frames has a labelled pixel", capsys)
