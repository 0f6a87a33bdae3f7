"""The DELIVER loader on trees made here, and augmentation, collation and modality dropout."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from deliver_tree import paint, write_frame, write_tree
from PIL import Image

from mss_models.modality import DEFAULT_ENCODINGS, DELIVER_MODALITIES, Encoding
from mss_perception import messages
from mss_perception.camera import Camera
from mss_perception.lidar import LidarLane
from mss_perception.projection import Motion
from training.batches import check_augmentation
from training.datasets.deliver import Deliver, recording_card
from training.datasets.memory import memory_bytes
from training.datasets.opening import open_dataset
from training.datasets.sample import DatasetError, Sample
from training.recipe import RecipeError, override
from training.recipes import find_recipe
from training.transforms import Augment, augment, collate, draw_present, normalise, without_intensity

PLAIN = Augment(colour_jitter=0, flip=0, blur=0)


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "DELIVER", {"train": 5, "val": 2, "test": 2})


def test_counts_order_and_conditions(tree):
    train = Deliver(tree, "train")
    assert len(train) == 10 and len(Deliver(tree, "val")) == 4
    assert [one.name for one in train.frames] == sorted(one.name for one in train.frames)
    assert train.frames[0].name == "night/train/MAP_1_point0_motionblur/000000"
    assert {(one.weather, one.case) for one in train.frames} == {("sun", "normal"), ("night", "motionblur")}
    assert [one.weather for one in Deliver(tree, "train", weathers=["sun"]).frames] == ["sun"] * 5
    assert len(Deliver(tree, "train", cases=["motionblur"])) == 5
    limited = Deliver(tree, "train", limit=4)
    assert [one.name for one in limited.frames] == [train.frames[i].name for i in (0, 2, 5, 7)]


def test_rain_filter_does_not_match_train(tree):
    with pytest.raises(DatasetError, match="no frame of weather rain"):
        Deliver(tree, "train", weathers=["rain"])


def test_images_labels_and_encodings(tmp_path):
    rng = np.random.default_rng(1)
    images, labels = paint(rng, 32)
    labels[0, :3] = 255, 0, 24
    write_frame(tmp_path, "sun", "train", "MAP_1_point1", "000001", images, labels)
    raw = np.array(Image.open(tmp_path / "semantic/sun/train/MAP_1_point1/000001_semantic_front.png"))
    raw[1, 0] = 0  # raw 0 is ignored as 255 is
    labels[1, 0] = 255
    Image.fromarray(np.stack([raw, raw * 0, raw * 0, raw * 0 + 255], -1)).save(  # labels are in channel 0 of RGBA
        tmp_path / "semantic/sun/train/MAP_1_point1/000001_semantic_front.png")
    Image.fromarray(images["lidar"][:, :, 0]).save(  # one channel is repeated
        tmp_path / "lidar/sun/train/MAP_1_point1/000001_lidar_front.png")
    sample = Deliver(tmp_path, "train", variant="metric")[0]
    np.testing.assert_array_equal(sample.labels, labels)
    for name in ("rgb", "depth", "event"):
        np.testing.assert_array_equal(sample.images[name], images[name])
    np.testing.assert_array_equal(sample.images["lidar"], np.repeat(images["lidar"][:, :, :1], 3, 2))
    assert not sample.labels.flags.writeable and not sample.images["rgb"].flags.writeable


@pytest.mark.parametrize("small, size", [(26, 104), (51, 104), (128, 260), (33, 64)])
def test_events_are_resized_as_torch_does(tmp_path, small, size):
    images, labels = paint(np.random.default_rng(2), size)
    event = np.random.default_rng(3).integers(0, 256, (small, small, 3), dtype=np.uint8)
    write_frame(tmp_path, "fog", "test", "MAP_1_point1_eventlowres", "000001", images | {"event": event}, labels)
    expected = torch.nn.functional.interpolate(torch.from_numpy(event).permute(2, 0, 1)[None], (size, size))[0]
    np.testing.assert_array_equal(Deliver(tmp_path, "test", ["event"])[0].images["event"],
                                  expected.permute(1, 2, 0).numpy())


def test_variants_of_the_depth(tmp_path):
    tree = write_tree(tmp_path / "public", {"val": 1}, recorded=False)
    images, _ = paint(np.random.default_rng(7), 64)
    for path in (tree / "depth").rglob("*.png"):
        copy = tree / "hha" / path.relative_to(tree / "depth")
        copy.parent.mkdir(parents=True)
        Image.fromarray(images["rgb"]).save(copy)
    usual, metric, cafuser = (Deliver(tree, "val", variant=one) for one in ("", "metric", "cafuser"))
    assert (usual.variant, usual.encodings["depth"].name) == ("hha", "hha")
    np.testing.assert_array_equal(usual[0].images["depth"], images["rgb"])
    np.testing.assert_array_equal(cafuser[0].images["depth"], images["rgb"])
    assert metric.frames[0].images["depth"].is_relative_to(tree / "depth")
    assert metric.encodings["depth"].name == "deliver_depth" and metric.encodings["lidar"].mean == (0, 0, 0)
    one = cafuser.encodings["depth"]  # 110.35 of 255 becomes 0, one deviation more is 1
    np.testing.assert_allclose((np.array([110.35 + 44.37, 66.51, 117.08]) / 255 - one.mean) / one.std, [1, 0, 0],
                               atol=1e-9)
    assert cafuser.encodings["rgb"] == usual.encodings["rgb"]
    for data in (usual, metric, cafuser):  # a checkpoint is scored on what it learned
        assert open_dataset(tree, "val", data.modalities, encodings=data.encodings).variant == data.variant
    assert open_dataset(tree, "val", ["rgb"], encodings=cafuser.encodings).variant == "hha"
    with pytest.raises(DatasetError, match="DELIVER has no variant 'rgbd'; choose from hha, metric, cafuser"):
        Deliver(tree, "val", variant="rgbd")
    recorded = write_tree(tmp_path / "own", {"val": 1})
    assert Deliver(recorded, "val").variant == "metric"


def test_a_recording_may_have_radar_and_classes_of_its_own(tmp_path):
    tree = write_tree(tmp_path, {"val": 1})
    encodings = json.loads((tree / "encodings.json").read_text())
    encodings["radar"] = DEFAULT_ENCODINGS["radar"].to_dict()
    (tree / "encodings.json").write_text(json.dumps(encodings))
    for path in (tree / "lidar").rglob("*.png"):
        copy = tree / "radar" / path.relative_to(tree / "lidar").with_name(path.name.replace("lidar", "radar"))
        copy.parent.mkdir(parents=True)
        copy.write_bytes(path.read_bytes())
    data = open_dataset(tree, "val")
    assert data.modalities == (*DELIVER_MODALITIES, "radar")
    np.testing.assert_array_equal(data[0].images["radar"], data[0].images["lidar"])
    classes = {"name": "own", "names": [f"class {i}" for i in range(10)], "palette": [[i, 0, 0] for i in range(10)],
               "ignore_id": 255}
    (tree / "labels.json").write_text(json.dumps(classes))
    assert open_dataset(tree, "val").labels.to_dict() == classes
    with pytest.raises(DatasetError, match=r"raw label ids \[13\] are out of range; 1..10 are classes"):
        open_dataset(tree, "val")[0]


def test_low_resolution_events_are_resized_nearest(tmp_path):
    images, labels = paint(np.random.default_rng(2), 32)
    small = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    write_frame(tmp_path, "fog", "test", "MAP_1_point1_eventlowres", "000001", images | {"event": small}, labels)
    data = Deliver(tmp_path, "test", variant="metric")
    assert data.frames[0].case == "eventlowres"
    np.testing.assert_array_equal(data[0].images["event"], small.repeat(4, 0).repeat(4, 1))
    write_frame(tmp_path, "fog", "test", "MAP_1_point1_eventlowres", "000001", images | {"lidar": small}, labels)
    with pytest.raises(DatasetError, match=r"_lidar_front.png: 8 x 8 pixels, but its labels have 32 x 32"):
        data[0]


def test_events_of_other_proportions_are_refused_not_stretched(tmp_path):
    images, labels = paint(np.random.default_rng(2), 32)
    cut = images["event"][:28]
    write_frame(tmp_path, "fog", "test", "MAP_1_point1_eventlowres", "000001", images | {"event": cut}, labels)
    with pytest.raises(DatasetError, match="_event_front.png: 32 x 28 pixels, but its labels have 32 x 32"):
        Deliver(tmp_path, "test", variant="metric")[0]


def test_encodings_of_recordings_and_of_the_public_data(tree, tmp_path):
    assert Deliver(tree, "val").encodings == {name: DEFAULT_ENCODINGS[name] for name in DELIVER_MODALITIES}
    assert Deliver(tree.parent, "val").root == tree  # the folder above is accepted
    assert recording_card(tree) == {"seed": 0}
    public = write_tree(tmp_path / "public", {"val": 1}, recorded=False)
    with pytest.raises(DatasetError, match="hha: no such folder, and modality depth is read from it"):
        Deliver(public, "val")
    (public / "depth").rename(public / "hha")
    data = Deliver(public, "val")
    assert data.encodings["depth"].name == "hha" and data.encodings["rgb"] == DEFAULT_ENCODINGS["rgb"]
    assert data.encodings["lidar"].mean == (0, 0, 0) and data.encodings["lidar"].std == (1, 1, 1)
    assert data.frames[0].images["depth"].name.endswith("_depth_front.png")


def test_bad_trees_are_named(tree, tmp_path):
    with pytest.raises(DatasetError, match="no DELIVER tree here"):
        Deliver(tmp_path / "nowhere", "train")
    with pytest.raises(DatasetError, match="split 'training' is unknown; choose from train, val, test"):
        Deliver(tree, "training")
    with pytest.raises(DatasetError, match=r"weather \['storm'\] is unknown"):
        Deliver(tree, "train", weathers=["storm"])
    frame = Deliver(tree, "train").frames[3]
    whole = frame.images["depth"].read_bytes()
    frame.images["depth"].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=f"{frame.images['depth']}: the image cannot be read"):
        Deliver(tree, "train")[3]
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(frame.images["depth"])
    with pytest.raises(DatasetError, match="pixel format 'I;16'"):
        Deliver(tree, "train")[3]
    cv2.imwrite(str(frame.images["depth"]), np.full((64, 64, 3), 7, np.uint16))  # Pillow would read zeros
    with pytest.raises(DatasetError, match="pixel format 'RGB' of 16 bits; 8-bit"):
        Deliver(tree, "train")[3]
    frame.images["depth"].unlink()
    with pytest.raises(DatasetError, match="_depth_front.png: no such file; of 10 frames .* 1 in depth/"):
        Deliver(tree, "train")
    Deliver(tree, "train", ["rgb", "lidar"])  # what is not asked for need not be there
    Image.fromarray(np.full((64, 64), 26, np.uint8)).save(frame.labels)
    with pytest.raises(DatasetError, match=rf"{frame.labels.name}: raw label ids \[26\] are out of range"):
        Deliver(tree, "train", ["rgb"])[3]
    (tree / "encodings.json").write_text(json.dumps({"rgb": DEFAULT_ENCODINGS["rgb"].to_dict()}))
    with pytest.raises(DatasetError, match="no encoding for 'lidar'"):
        Deliver(tree, "train", ["lidar"])


def test_cache_returns_what_the_files_hold(tree):
    cached, fresh = Deliver(tree, "train", cache=True), Deliver(tree, "train")
    cached.preload()
    for path in (tree / "img").glob("*/train/*/*.png"):
        path.write_bytes(b"gone")
    for name in ("depth", "lidar"):
        np.testing.assert_array_equal(cached[4].images[name], np.array(Image.open(fresh.frames[4].images[name])))
    with pytest.raises(DatasetError):
        fresh[4]


def coordinate_sample(height: int, width: int) -> Sample:
    """Every modality and the labels carry the pixel's own position: (row, column) in their values."""
    rows, columns = np.mgrid[:height, :width]
    grid = np.stack([rows, columns, np.full_like(rows, 200)], -1).astype(np.uint8)
    return Sample("grid", dict.fromkeys(DELIVER_MODALITIES, grid), (rows // 2 + columns // 2).astype(np.uint8))


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.4, 0.9), (1.1, 2.0), (0.3, 3.0)])
def test_all_modalities_and_labels_stay_aligned(scale):
    sample = coordinate_sample(96, 120)
    for seed in range(20):
        out = augment(sample, 64, scale, Augment(colour_jitter=0, blur=0, flip=0.5), np.random.default_rng(seed))
        inside = out.images["depth"][:, :, 2] == 200
        assert inside.any() and np.array_equal(out.labels == 255, ~inside)
        for name in ("event", "lidar"):
            np.testing.assert_array_equal(out.images[name], out.images["depth"])
        rows, columns = (out.images["depth"][:, :, i].astype(int) for i in (0, 1))
        np.testing.assert_array_equal(out.labels[inside], (rows // 2 + columns // 2)[inside])
        rgb = out.images["rgb"].astype(int)  # bilinear: within a source pixel of what nearest takes
        tolerance = max(1.0, 1 / scale[0])
        assert np.abs(rgb[:, :, 0] - rows)[inside].max() <= tolerance
        assert np.abs(rgb[:, :, 1] - columns)[inside].max() <= tolerance
        size = inside.any(1).sum(), inside.any(0).sum()
        assert inside[: size[0], : size[1]].all() and (out.images["rgb"][~inside] == 0).all()  # pads right and bottom


def test_scale_enlarges_by_its_factor():
    out = augment(coordinate_sample(100, 100), 64, (2.0, 2.0), PLAIN, np.random.default_rng(0))
    rows = out.images["depth"][:, 0, 0].astype(int)
    assert rows[-1] - rows[0] == 31 and (np.bincount(rows - rows[0]) == 2).all()
    out = augment(coordinate_sample(100, 100), 64, (0.5, 0.5), PLAIN, np.random.default_rng(0))
    assert (out.labels != 255).sum() == 50 * 50
    np.testing.assert_array_equal(out.images["rgb"][:50, :50],
                                  cv2.resize(coordinate_sample(100, 100).images["rgb"], (50, 50)))


def test_flip_mirrors_and_identity_keeps():
    sample = coordinate_sample(64, 64)
    same = augment(sample, 64, (1.0, 1.0), PLAIN, np.random.default_rng(0))
    mirrored = augment(sample, 64, (1.0, 1.0), Augment(colour_jitter=0, blur=0, flip=1), np.random.default_rng(0))
    for name in DELIVER_MODALITIES:
        np.testing.assert_array_equal(same.images[name], sample.images[name])
        np.testing.assert_array_equal(mirrored.images[name], sample.images[name][:, ::-1])
    np.testing.assert_array_equal(mirrored.labels, sample.labels[:, ::-1])


def test_appearance_changes_rgb_alone_and_never_the_source():
    sample = coordinate_sample(64, 64)
    before = sample.images["rgb"].copy()
    out = augment(sample, 64, (1.0, 1.0), Augment(colour_jitter=1, flip=0, blur=1, darken=1), np.random.default_rng(0))
    assert not np.array_equal(out.images["rgb"], before)
    np.testing.assert_array_equal(sample.images["rgb"], before)
    for name in ("depth", "event", "lidar"):
        np.testing.assert_array_equal(out.images[name], before)


def test_dropped_intensity_is_what_the_lane_makes_of_a_cloud_without_one():
    rng = np.random.default_rng(0)
    xyz = (rng.uniform((-20, -5, 2), (20, 2, 60), (4000, 3))).astype(np.float32)
    camera = Camera(64, 64, np.array([[40.0, 0, 32], [0, 40, 32], [0, 0, 1]]))
    lane = LidarLane(DEFAULT_ENCODINGS["lidar"], camera, 64, 64)
    images = []
    for fields in ({"intensity": rng.uniform(0.1, 1, 4000).astype(np.float32)}, {}):
        fields |= dict(zip("xyz", xyz.T.copy(), strict=True))
        cloud = messages.encode_cloud(messages.bag_types(), fields, 1, "lidar")
        images.append(lane(messages.decode_cloud(cloud), Motion.fixed(np.eye(4))).image)
    measured, without = images
    assert measured[:, :, 1].max() > 200 and 0.1 < measured.any(-1).mean() < 0.9
    np.testing.assert_array_equal(without_intensity(measured), without)
    sample = Sample("x", {"lidar": measured, "depth": measured}, np.zeros((64, 64), np.uint8))
    before = measured.copy()
    seen = [augment(sample, 64, (1.0, 1.0), Augment(flip=0, drop_intensity=0.3), np.random.default_rng(seed)).images
            for seed in range(200)]
    dropped = [np.array_equal(one["lidar"], without) for one in seen]
    assert all(drop or np.array_equal(one["lidar"], measured) for drop, one in zip(dropped, seen, strict=True))
    assert 0.2 < np.mean(dropped) < 0.4
    assert all(np.array_equal(one["depth"], measured) for one in seen) and np.array_equal(measured, before)


def test_no_intensity_is_dropped_where_the_encoding_has_none(tree, tmp_path):
    train_set = Deliver(tree, "train")
    recipe = override(find_recipe("debug"), ["augment.drop_intensity=0.5"])
    check_augmentation(recipe, train_set)
    train_set.encodings["lidar"] = Encoding("lidar", "deliver_lidar")
    with pytest.raises(RecipeError, match="drop_intensity=0.5, but lidar is encoded as 'deliver_lidar'"):
        check_augmentation(recipe, train_set)


@pytest.mark.parametrize("group, files, limit", [
    ("0::/", {"memory.max": "1000000"}, 1_000_000), ("0::/", {"memory.max": "max"}, None),
    ("0::/user/app", {"user/app/memory.max": "max", "user/memory.max": "5000", "memory.max": "max"}, 5000),
    ("0::/hosts/path", {"memory.max": "7000"}, 7000),  # in a container: its own group is the root
    ("9:name=systemd:/\n4:cpu,memory:/box", {"memory/box/memory.limit_in_bytes": "9000",
                                             "memory/memory.limit_in_bytes": "9223372036854771712"}, 9000),
    ("4:cpu:/box", {"box/memory.max": "1"}, None), ("", {}, None)])
def test_memory_is_that_of_the_control_group(tmp_path, monkeypatch, group, files, limit):
    whole = memory_bytes(tmp_path / "no such system")
    assert whole > 1e8
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(group + "\n")
    for name, text in files.items():
        (tmp_path / "sys/fs/cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys/fs/cgroup" / name).write_text(text + "\n")
    assert memory_bytes(tmp_path) == (limit or whole)
    assert 0 < memory_bytes() <= whole
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # each of torchrun's processes keeps a data set of its own
    assert memory_bytes(tmp_path) == (limit or whole) // 4


def test_collate_and_normalise():
    sample = coordinate_sample(8, 12)
    images, labels = collate([sample, sample])
    assert labels.shape == (2, 8, 12) and labels.dtype == torch.int64
    network = normalise(images, DEFAULT_ENCODINGS)
    for name in DELIVER_MODALITIES:
        encoding = DEFAULT_ENCODINGS[name]
        expected = (sample.images[name] / 255 - encoding.mean) / encoding.std
        assert network[name].shape == (2, 3, 8, 12) and network[name].dtype == torch.float32
        np.testing.assert_allclose(network[name][1].numpy(), expected.transpose(2, 0, 1), atol=1e-5)


def test_modality_dropout():
    rng = np.random.default_rng(0)
    rows = torch.stack(list(draw_present("sample", 30000, DELIVER_MODALITIES, rng).values()), 1).numpy()
    sizes = np.bincount(rows.sum(1), minlength=5) / len(rows)
    np.testing.assert_allclose(sizes, [0, 0.25, 0.25, 0.25, 0.25], atol=0.02)  # n ~ U{1..4}
    codes = np.bincount(rows @ [1, 2, 4, 8], minlength=16) / len(rows)
    expected = [0] + [0.25 / [4, 6, 4, 1][bin(code).count("1") - 1] for code in range(1, 16)]
    np.testing.assert_allclose(codes, expected, atol=0.02)  # and every subset of n alike
    whole = [torch.stack(list(draw_present("batch", 4, DELIVER_MODALITIES, rng).values()), 1) for _ in range(50)]
    assert all((one == one[0]).all() and one.any() for one in whole) and len({str(one) for one in whole}) > 5
    assert all(mask.all() for mask in draw_present("none", 4, DELIVER_MODALITIES, rng).values())
    with pytest.raises(ValueError, match="'often' is unknown; choose from none, sample, batch"):
        draw_present("often", 4, DELIVER_MODALITIES, rng)


def test_the_origin_is_the_recording_the_fingerprint_its_files(tmp_path):
    def tree(name, world, seed=0):
        root = write_tree(tmp_path / name, {"train": 1}, seed=seed)
        card = {"world": world, "seed": 1, "class_shares": {"Road": len(name)}} if world else {}
        (root / "recording.json").write_text(json.dumps({"train": card}))
        return Deliver(root, "train")

    # painted differently, as if one seed had been recorded by another kind of processor
    one, other = tree("one", 1), tree("another", 1, seed=1)
    assert one.fingerprint() != other.fingerprint() and one.origin() == other.origin()
    assert one.origin() != tree("next", 2).origin() and one.origin() != Deliver(one.root, "train", ["rgb"]).origin()
    foreign = tree("foreign", None)
    assert foreign.origin() == foreign.fingerprint()
