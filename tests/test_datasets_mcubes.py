"""MCubeS on a tree in the published layout, against the public loaders' formulas."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mss_models.modality import MCUBES_MODALITIES
from training.datasets.mcubes import MCubeS
from training.datasets.opening import open_dataset
from training.datasets.sample import DatasetError
from training.transforms import Augment, augment, normalise

HEIGHT, WIDTH = 40, 192 + 48  # what is left of a row is 48 wide, to be scored 40
RANGES = {"polL_aolp_sin": (-2.66, 2.40), "polL_aolp_cos": (-0.57, 1.64), "polL_dolp": (-0.53, 1.45)}


def write_tree(root, frames=("a_1_0000000150", "b_2_0000000180", "c_3_0000000210")):
    """One frame in each list; returns {name: {folder: array}} of what the files hold, colours as R, G, B."""
    rng, content = np.random.default_rng(0), {}
    for folder in ("polL_color", "NIR_warped", "GT", "list_folder", *RANGES):
        (root / folder).mkdir(parents=True)
    for name, split in zip(frames, ("train", "val", "test"), strict=True):
        (root / "list_folder" / f"{split}.txt").write_text(f"{name}\n")
        files = {"polL_color": rng.integers(0, 65536, (HEIGHT, WIDTH, 3)).astype(np.uint16),
                 "NIR_warped": rng.integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8),
                 "GT": rng.choice([0, 7, 19, 255], (HEIGHT, WIDTH)).astype(np.uint8)}
        cv2.imwrite(str(root / "polL_color" / f"{name}.png"), files["polL_color"][:, :, ::-1])
        cv2.imwrite(str(root / "NIR_warped" / f"{name}.png"), files["NIR_warped"])
        Image.fromarray(files["GT"]).save(root / "GT" / f"{name}.png")
        for folder, (low, high) in RANGES.items():
            files[folder] = rng.uniform(low, high, (HEIGHT, WIDTH)).astype(np.float32)
            np.save(root / folder / f"{name}.npy", files[folder])
        content[name] = files
    return content


def published(files: dict, square: bool) -> dict[str, np.ndarray]:
    """What the public loader hands to the network, (H, W, 3) float, without its float transform."""
    columns = slice(192 + 4, WIDTH - 4) if square else slice(192, None)
    sine, cosine, dolp = (files[name][:, columns] for name in RANGES)
    nir = files["NIR_warped"][:, columns] / 255
    rgb = (files["polL_color"][:, columns] / 65535 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return {"rgb": rgb, "aolp": np.stack([sine, cosine, sine], -1), "dolp": np.stack([dolp] * 3, -1),
            "nir": np.stack([nir] * 3, -1)}


@pytest.mark.parametrize("split, square", [("train", False), ("val", True), ("test", True)])
def test_the_network_sees_the_published_values(tmp_path, split, square):
    content = write_tree(tmp_path / "multimodal_dataset")
    data = open_dataset(tmp_path, split)
    assert type(data) is MCubeS and data.modalities == MCUBES_MODALITIES == ("rgb", "aolp", "dolp", "nir")
    assert len(data.labels) == 20 and data.labels.names[19] == "sky" and len(data) == 1
    assert data.image_size == ((HEIGHT, HEIGHT) if square else (HEIGHT, WIDTH - 192))
    sample, files = data[0], content[data.frames[0].name]
    np.testing.assert_array_equal(sample.labels, files["GT"][:, 196:-4] if square else files["GT"][:, 192:])
    images = {name: torch.from_numpy(image.copy())[None] for name, image in sample.images.items()}
    network = normalise(images, data.encodings)
    steps = {"rgb": 1 / 255 / 0.224, "aolp": 1 / 46, "dolp": 1 / 125, "nir": 1 / 255}  # of the 8 bits
    for name, expected in published(files, square).items():
        difference = np.abs(network[name][0].permute(1, 2, 0).numpy() - expected)
        assert difference.max() <= 0.5 * steps[name] + 1e-5, name


def test_the_published_val_is_the_test_list(tmp_path):
    write_tree(tmp_path)
    names = {(split, variant): open_dataset(tmp_path, split, variant=variant).frames[0].name
             for split in ("train", "val", "test") for variant in ("", "published")}
    assert names["val", ""] == "b_2_0000000180" and names["test", ""] == "c_3_0000000210"
    assert names["val", "published"] == "c_3_0000000210" and names["train", "published"] == "a_1_0000000150"
    prints = {open_dataset(tmp_path, "test", variant=variant).fingerprint() for variant in ("own", "published")}
    assert len(prints) == 2  # a training on the one is not resumed on the other


def test_its_augmentation_pads_with_nothing_and_blurs_rgb_and_nir(tmp_path):
    write_tree(tmp_path)
    data = open_dataset(tmp_path, "train")
    options = Augment(colour_jitter=0, flip=0, blur=1, blur_sigma=1, nearest=())
    pads = {name: one.nothing for name, one in data.encodings.items()}
    rng = np.random.default_rng(3)
    plain = augment(data[0], 64, (1.0, 1.0), Augment(colour_jitter=0, flip=0, blur=0, nearest=()), rng, pads)
    blurred = augment(data[0], 64, (1.0, 1.0), options, np.random.default_rng(3), pads)
    assert (plain.labels[HEIGHT:] == 255).all() and (plain.labels[:, 48:] == 255).all()
    network = normalise({name: torch.from_numpy(image)[None] for name, image in plain.images.items()}, data.encodings)
    for name in ("aolp", "dolp", "nir"):
        assert network[name][0, :, HEIGHT:].abs().max() < 1e-6  # the published loader pads the values with 0
        assert network[name][0, :, :HEIGHT, :48].abs().max() > 0.1
    for name in data.modalities:
        changed = not np.array_equal(blurred.images[name], plain.images[name])
        assert changed == (name in ("rgb", "nir"))
    hardly = augment(data[0], 64, (1.0, 1.0), replace(options, blur_sigma=1e-4), np.random.default_rng(3), pads)
    np.testing.assert_array_equal(hardly.images["rgb"], plain.images["rgb"])  # no other blur is there
    rows = [np.abs(np.diff(one.images["nir"][:HEIGHT, :48].astype(int), axis=1)).mean() for one in (plain, blurred)]
    assert rows[1] < rows[0]


def test_bad_files_are_named(tmp_path):
    write_tree(tmp_path)
    name = "a_1_0000000150"

    def fails(match, split="train", modalities=None):
        with pytest.raises(DatasetError, match=match):
            open_dataset(tmp_path, split, modalities)[0]

    sine, whole = tmp_path / "polL_aolp_sin" / f"{name}.npy", (tmp_path / "polL_color" / f"{name}.png").read_bytes()
    kept = sine.read_bytes()
    sine.write_bytes(kept[:100])
    fails(f"{sine}: not a NumPy file of numbers")
    np.save(sine, np.full((HEIGHT, WIDTH), np.nan))
    fails(r"polL_aolp_sin/.*: 9600 values are not finite")
    np.save(sine, np.zeros((HEIGHT, WIDTH + 1)))
    fails("polL_aolp_cos/.*: 240 x 40 values, its sines 241 x 40")
    np.save(sine, np.array([{}], object), allow_pickle=True)
    fails("not a NumPy file of numbers")
    sine.write_bytes(kept)
    (tmp_path / "polL_color" / f"{name}.png").write_bytes(whole[: len(whole) // 2])
    fails(f"polL_color/{name}.png: the image cannot be read")
    (tmp_path / "list_folder" / "val.txt").write_text("nowhere\n")
    fails("polL_color/nowhere.png: no such file; of 1 frames of split val", "val")
    (tmp_path / "list_folder" / "test.txt").unlink()
    fails("list_folder/test.txt: no such file", "test")
    (tmp_path / "polL_color" / f"{name}.png").write_bytes(whole)
    Image.fromarray(np.full((HEIGHT, WIDTH), 20, np.uint8)).save(tmp_path / "GT" / f"{name}.png")
    fails(rf"GT/{name}.png: label ids \[20\] are out of range; 0..19 are classes, 255 is ignored")
    fails("modality 'depth' is not part of MCubeS; it has rgb, aolp, dolp, nir", "train", ["rgb", "depth"])
    with pytest.raises(DatasetError, match="weather .* the data set tells no weather"):
        open_dataset(tmp_path, "train", weathers=["rain"])
    with pytest.raises(DatasetError, match="MCubeS has no variant 'old'; choose from own, published"):
        open_dataset(tmp_path, "train", variant="old")
