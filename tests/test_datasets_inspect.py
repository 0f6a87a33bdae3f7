"""python -m training.inspect on trees made here: figures against NumPy, every fault named, sheets drawn."""

from __future__ import annotations

import json
import shutil

import boxes
import muses_tree
import numpy as np
import pytest
from deliver_tree import FOLDERS, write_tree
from PIL import Image
from test_datasets_mcubes import write_tree as write_mcubes

from mss_models.labels import DELIVER
from mss_models.modality import DELIVER_MODALITIES
from training.contact_sheet import sheets
from training.datasets.opening import open_dataset
from training.inspect import main


@pytest.fixture(name="tree")
def write_one(tmp_path):
    return write_tree(tmp_path / "DELIVER", {"train": 3, "val": 2})


def inspected(data, out, *options, status=0):
    """inspection.json of a run."""
    assert main([str(data), "--out", str(out), "--quiet", *options]) == status
    return json.loads((out / "inspection.json").read_text())


def test_figures_of_a_whole_tree(tree, tmp_path, capsys):
    result = inspected(tree, tmp_path / "out")
    assert result["problems"] == [] and set(result["splits"]) == {"train", "val"} == set(result["fingerprints"])
    assert any("split test is left out" in text for text in result["notes"])
    train = result["splits"]["train"]
    assert train["frames"] == 6 and train["conditions"] == {"night/motionblur": 3, "sun/normal": 3}
    assert train["sizes"] == {"64 x 64": 6} and train["variant"] == "metric" and train["ignored"] == 0
    raw = np.stack([np.array(Image.open(path)) for path in sorted((tree / "semantic").glob("*/train/*/*.png"))])
    for number, name in enumerate(DELIVER.names):
        expected = {"pixels": int((raw == number + 1).sum()), "share": round((raw == number + 1).mean(), 6),
                    "frames": int((raw == number + 1).any((1, 2)).sum())}
        assert train["classes"][name] == expected
    assert sum(one["pixels"] for one in train["classes"].values()) == 6 * 64 * 64
    for name in DELIVER_MODALITIES:
        images = np.stack([np.array(Image.open(path)) for path in (tree / FOLDERS[name]).glob("*/train/*/*.png")]) / 255
        one = train["modalities"][name]
        np.testing.assert_allclose(one["mean"], images.mean((0, 1, 2)), atol=2e-5)
        np.testing.assert_allclose(one["std"], images.std((0, 1, 2)), atol=2e-5)
        assert one["filled"] == pytest.approx(images.any(3).mean(), abs=1e-5) and one["blank"] == 0
    shown = capsys.readouterr().out
    assert "nothing is broken" in shown and "night/motionblur 3" in shown and "metric_depth" in shown


def test_sheets_show_every_condition(tree, tmp_path):
    inspected(tree, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"inspection.json", "sun.png", "night.png"}
    sheet = np.array(Image.open(tmp_path / "out" / "sun.png"))
    raw = np.array(Image.open(next((tree / "semantic/sun/train").glob("*/000000*"))))
    colours = DELIVER.colorize(raw - np.uint8(1))
    enlarged = colours.repeat(200 // 64 + 1, 0).repeat(200 // 64 + 1, 1)
    for colour in np.unique(colours.reshape(-1, 3), axis=0):  # about as much of it as in the labels, and in the legend
        share = (sheet == colour).all(2).sum() / 200**2
        assert share > 0.7 * (enlarged == colour).all(2).mean()
    assert sheet.shape[1] == 5 * 200 + 4 * 4  # four modalities and the labels


def test_every_fault_is_named(tree, tmp_path, capsys):
    frames = sorted((tree / "img/sun/train").glob("*/*.png"))

    def sibling(number, folder, suffix):
        place = frames[number].relative_to(tree / "img")
        return tree / folder / place.with_name(place.name.replace("_rgb_", f"_{suffix}_"))

    sibling(0, "lidar", "lidar").unlink()
    depth = sibling(1, "depth", "depth")
    depth.write_bytes(depth.read_bytes()[:200])
    labels = sibling(2, "semantic", "semantic")
    Image.fromarray(np.full((64, 64), 77, np.uint8)).save(labels)
    night = sorted((tree / "img/night/train").glob("*/*.png"))
    again = sorted((tree / "img/sun/val").glob("*/*.png"))[0]
    again.write_bytes(night[0].read_bytes())
    for path in sorted(tree.glob("*/night/train/*/000001*.png")):
        Image.open(path).resize((32, 32), Image.Resampling.NEAREST).save(path)
    result = inspected(tree, tmp_path / "out", status=1)
    assert result["fingerprints"] == {} and len(result["problems"]) == 5
    expected = (f"{sibling(0, 'lidar', 'lidar')}: no such file", f"{depth}: the image cannot be read",
                f"{labels}: raw label ids [77] are out of range", "32 x 32 pixels, where most frames of split train",
                f"{again.parent.name}/000000 of split val: the same picture as")
    for text in expected:
        assert sum(text in one for one in result["problems"]) == 1, text
    shown = capsys.readouterr().out
    assert shown.count("BROKEN: ") == 5 and "5 problems" in shown
    assert result["splits"]["train"]["modalities"]["lidar"]["read"] == 4  # the readable rest is counted


def test_siblings_without_their_picture_are_noticed(tree, tmp_path):
    one, *_ = sorted((tree / "img/night/val").glob("*/*.png"))
    one.unlink()
    for path in (tree / "img/sun/val").glob("*/*.png"):  # a whole sequence
        path.unlink()
    result = inspected(tree, tmp_path / "out", status=1)
    assert result["splits"]["val"]["frames"] == 1 and len(result["problems"]) == 4
    for folder in ("depth", "event", "lidar", "semantic"):
        text, = (text for text in result["problems"] if f"{tree / folder}/" in text)
        assert "belongs to no frame" in text and f"so do 2 more in {folder}/*/val/*/*.png" in text
    assert inspected(tree, tmp_path / "few", "--split", "train")["problems"] == []


def test_a_split_that_is_there_and_cannot_be_opened_is_broken(tree, tmp_path):
    result = inspected(tree, tmp_path / "out", status=0)
    assert any("split test is left out" in one for one in result["notes"])  # nothing of it is there
    stray = next((tree / "img/sun/val").iterdir()) / "Thumbs.png"
    stray.write_bytes(b"")
    problem, = inspected(tree, tmp_path / "out", status=1)["problems"]
    assert problem.startswith(f"split val: {stray}: a camera file must end in")
    for path in (tree / "img").glob("*/val/*/*.png"):
        path.unlink()
    problem, = inspected(tree, tmp_path / "out", status=1)["problems"]
    assert problem.startswith("split val: ") and "has no picture of the camera" in problem


def test_what_is_worth_knowing_is_a_note(tree, tmp_path):
    notes = inspected(tree, tmp_path / "out")["notes"]
    assert not any("no labelled pixel" in one or "depth is read" in one or "count as" in one for one in notes)
    for path in tree.glob("*/night/val/*"):
        path.rename(path.with_name(path.name.replace("motionblur", "motionblurr")))
    shutil.copytree(tree / "depth", tree / "hha")
    bare, *_ = sorted((tree / "semantic/sun/train").glob("*/*.png"))
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(bare)
    result = inspected(tree, tmp_path / "out")
    assert result["splits"]["val"]["conditions"] == {"night/normal": 2, "sun/normal": 2}
    for text in ("split train: 1 of 6 frames have no labelled pixel; the first: sun/train/MAP_0_point0/000000",
                 "depth is read from depth/; to look at hha/: --variant hha",
                 "split val: 1 of 2 sequences that count as normal end in a word that is none of motionblur, "):
        assert sum(one.startswith(text) for one in result["notes"]) == 1, result["notes"]
    assert sum(one.endswith("semantic/night/val/MAP_1_point0_motionblurr") for one in result["notes"]) == 1


def test_a_sheet_has_its_cases_in_order(tmp_path):
    tree = write_tree(tmp_path / "DELIVER", {"val": 1}, conditions=(
        ("sun", "_lidarjitter"), ("sun", "_motionblur"), ("sun", "")))
    opened = [open_dataset(tree, "val")]
    one, = sheets(opened).values()
    again, = sheets([open_dataset(tree, "val", cases=["normal"])]).values()
    assert np.array_equal(one[30:200, :830], again[30:200, :830])  # the first row's pictures


def test_a_modality_whose_folder_is_gone_is_broken_where_it_was_promised(tree, tmp_path):
    shutil.rmtree(tree / "lidar")
    assert any(one.startswith("modality lidar: its folder is gone")
               for one in inspected(tree, tmp_path / "out", status=1)["problems"])
    (tree / "encodings.json").unlink()
    result = inspected(tree, tmp_path / "out", "--variant", "metric", status=0)
    assert "modality lidar is not there" in result["notes"]


@pytest.mark.parametrize("arguments, message", [
    (["nowhere"], "nowhere: no such folder"), (["."], "no data set here"),
    (["TREE", "--out", "FILE"], "FILE is a file; name a folder"), (["BAG"], "bag.mcap cannot be opened"),
    (["TREE", "--split", "test"], "holds no PNG"), (["TREE", "--variant", "x"], "no variant 'x'"),
    (["TREE", "--modality", "nir"], "modality 'nir' is not part of DELIVER"), (["TREE", "--frames", "0"], "at least 1"),
    (["TREE", "--modality", "sonar"], "invalid choice: 'sonar'")])
def test_what_cannot_be_looked_at_is_one_line_and_status_2(tree, tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for name in ("FILE", "bag.mcap"):
        (tmp_path / name).write_text("no bag")
    places = {"TREE": str(tree), "FILE": str(tmp_path / "FILE"), "BAG": str(tmp_path / "bag.mcap")}
    arguments = [places.get(one, one) for one in arguments]
    try:
        status = main([*arguments, "--quiet"])
    except SystemExit as stop:
        status = stop.code
    shown = capsys.readouterr().err
    assert status == 2 and message in shown and shown.count("\n") == 1 and shown.startswith("error: ")


def test_every_data_set(tmp_path, capsys):
    scene = ("val", "snow", "night", "REC0002_frame_000001")
    muses_tree.write_scene(tmp_path / "muses", *scene, np.random.default_rng(0), h5=False)
    result = inspected(tmp_path / "muses", tmp_path / "out1")
    assert result["dataset"] == "MUSES" and result["splits"]["val"]["conditions"] == {"snow/night": 1}
    assert result["splits"]["val"]["modalities"]["lidar"]["filled"] > 0.1 and (tmp_path / "out1/snow.png").is_file()

    write_mcubes(tmp_path / "multimodal_dataset")
    result = inspected(tmp_path / "multimodal_dataset", tmp_path / "out2")
    assert any("the public data set has 302" in text for text in result["notes"])
    assert result["splits"]["train"]["conditions"] == {"all": 1} and (tmp_path / "out2/frames.png").is_file()
    assert result["splits"]["train"]["modalities"]["aolp"]["encoding"] == "aolp_sin_cos"

    boxes.write_bag(tmp_path / "bag", 0.8, leave_out=("/points",))
    result = inspected(tmp_path / "bag", tmp_path / "out3", "--modality", "rgb", "lidar")
    assert list(result["splits"]) == ["test"]
    entry = result["splits"]["test"]["modalities"]["lidar"]
    assert entry["missing"] == result["splits"]["test"]["frames"] > 4 and entry["read"] == 0
    assert any("lidar is missing in" in text for text in result["notes"])
