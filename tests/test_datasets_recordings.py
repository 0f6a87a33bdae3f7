"""Labelled bags as a data set: the pipeline's pictures beside the bag's labels, and which data set lies in a folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from boxes import HEIGHT, PERIOD_NS, START_NS, WIDTH, render, write_bag
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Writer

from mss_models.labels import DELIVER
from mss_models.modality import DEFAULT_ENCODINGS
from mss_perception import messages
from mss_perception.bags import BagWriter, read_bag, typestore
from training.batches import make_batch, restricted
from training.datasets.opening import open_dataset
from training.datasets.recordings import Recordings
from training.datasets.sample import DatasetError
from training.recipe import override
from training.recipes import find_recipe

LIDAR_ENDS_NS = START_NS + 8 * PERIOD_NS


@pytest.fixture(scope="module", name="bag")
def write_it(tmp_path_factory):
    """A bag of 1.3 s whose LiDAR stops at 0.8 s, and its messages by topic."""
    folder = tmp_path_factory.mktemp("bags")
    whole, cut = write_bag(folder / "whole", 1.3), folder / "cut"
    kept: dict[str, list] = {}
    with BagWriter(cut) as out:
        for topic, receive_ns, message in read_bag(whole):
            if topic != "/points" or receive_ns < LIDAR_ENDS_NS:
                out.write(topic, message, receive_ns)
                kept.setdefault(topic, []).append(message)
    return cut, kept


def test_frames_are_the_labelled_moments_as_the_pipeline_sees_them(bag):
    path, kept = bag
    data = open_dataset(path, "test")
    assert type(data) is Recordings and data.modalities == ("rgb", "depth", "event", "lidar")
    assert data.image_size == (HEIGHT, WIDTH) and data.labels is DELIVER
    assert data.encodings == {name: DEFAULT_ENCODINGS[name] for name in data.modalities}
    pictures = {messages.stamp_ns(one.header): messages.decode_image(one) for one in kept["/image"]}
    seen = {int(frame.name.rpartition("/")[2]): data[i] for i, frame in enumerate(data.frames)}
    stamps = sorted(set(seen) & set(pictures))
    assert len(stamps) >= 10 and len(seen) <= len(pictures) + 1
    for stamp in stamps:
        labels, depth = render((stamp - START_NS) / 1e9)
        sample = seen[stamp]
        np.testing.assert_array_equal(sample.labels, labels)
        np.testing.assert_array_equal(sample.images["rgb"], pictures[stamp])
        np.testing.assert_array_equal(sample.images["depth"][:, :, 2] == 255, np.isfinite(depth))
        gone = stamp >= LIDAR_ENDS_NS
        assert sample.missing == ({"lidar"} if gone else set()) and sample.images["lidar"].any() != gone
    assert data[0].labels is data.read_labels(0) and not data[0].labels.flags.writeable
    assert data.fingerprint() == open_dataset(path, "test").fingerprint()
    assert data.fingerprint() != open_dataset(path, "test", ["rgb", "lidar"]).fingerprint()
    assert [len(open_dataset(path, "test", ["lidar"], limit=3)), len(open_dataset(path, "test", limit=3))] == [3, 3]


def test_a_bag_that_is_compressed_file_by_file(bag, tmp_path):
    whole = open_dataset(bag[0], "test", ["rgb", "lidar"])
    writer = Writer(tmp_path / "packed", version=8)
    writer.set_compression(CompressionMode.FILE, CompressionFormat.ZSTD)
    with writer as out:
        connections = {}
        for topic, receive_ns, message in read_bag(bag[0]):
            if topic not in connections:
                connections[topic] = out.add_connection(topic, message.__msgtype__, typestore=typestore())
            raw = typestore().serialize_cdr(message, message.__msgtype__)
            out.write(connections[topic], receive_ns, raw)
    assert [one.suffixes for one in (tmp_path / "packed").iterdir() if one.suffix != ".yaml"] == [[".db3", ".zstd"]]
    packed = open_dataset(tmp_path / "packed", "test", ["rgb", "lidar"])
    assert len(packed) == len(whole) > 10 and np.array_equal(packed[3].images["lidar"], whole[3].images["lidar"])


@pytest.fixture(scope="module")
def drives(tmp_path_factory):
    """A folder of three bags of 4, 5 and 6 frames."""
    folder = tmp_path_factory.mktemp("drives")
    for number, name in enumerate(("a", "b", "c")):
        write_bag(folder / name, 0.5 + 0.1 * number, seed=number)
    return folder


@pytest.mark.parametrize("cache", [False, "auto"])
def test_a_folder_of_bags_is_split_test_and_gives_the_frames_of_each_in_any_order(drives, cache):
    data = open_dataset(drives, "test", ["rgb", "lidar"], cache=cache)
    alone = [open_dataset(drives / name, "test", ["rgb", "lidar"]) for name in ("a", "b", "c")]
    samples = [sample for one in alone for sample in one]
    assert [frame.name for frame in data.frames] == [sample.name for sample in samples]
    assert [len(one) for one in alone] == [4, 5, 6]
    assert [data.missing_in(frame) for frame in data.frames] == [sample.missing for sample in samples]
    for i in (14, 0, 13, 1, *range(15)):
        assert data[i].name == samples[i].name and np.array_equal(data.read_labels(i), samples[i].labels)
        for name, image in data[i].images.items():
            np.testing.assert_array_equal(image, samples[i].images[name])
    first = data[0]
    _ = data[5], data[14]       # of both others: only a training holds all bags
    assert (data[0] is first) == (cache == "auto")
    with pytest.raises(DatasetError, match="is a folder of bags, which is split test as a whole"):
        open_dataset(drives, "train")


def test_what_is_missing_is_not_available_to_a_training(bag, tmp_path):
    path, _ = bag
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "drive").symlink_to(path)
    data = open_dataset(tmp_path, "train", ["rgb", "lidar"])
    recipe = override(find_recipe("debug"), ["modalities=[rgb, lidar]", "phases.0.batch=16"])
    names, batch = make_batch(data, recipe, 0)
    gone = [int(name.rpartition("/")[2]) >= LIDAR_ENDS_NS for name in names]
    assert 1 < sum(gone) < 16
    assert batch["available"]["rgb"].all() and batch["available"]["lidar"].tolist() == [not one for one in gone]
    assert not (batch["present"]["lidar"] & ~batch["available"]["lidar"]).any()
    assert (batch["present"]["rgb"] | batch["present"]["lidar"]).all()


def test_dropout_never_leaves_nothing():
    drawn = {"rgb": torch.tensor([True, False, False, True]), "lidar": torch.tensor([True, True, True, False])}
    there = {"rgb": torch.tensor([True, True, True, False]), "lidar": torch.tensor([True, True, False, True])}
    left = restricted(drawn, there)
    assert left["rgb"].tolist() == [True, False, True, False] and left["lidar"].tolist() == [True, True, False, True]


def test_its_own_topics_and_classes(bag, tmp_path):
    path, kept = bag
    folder = tmp_path / "test"
    folder.mkdir()
    with BagWriter(folder / "renamed") as out:
        for topic, receive_ns, message in read_bag(path):
            out.write({"/image": "/cam/picture", "/labels": "/truth"}.get(topic, topic), message, receive_ns)
    with pytest.raises(DatasetError, match="no labels: topic /labels is not in the bag; it has .*/truth"):
        open_dataset(tmp_path, "test", ["rgb"])
    (tmp_path / "sensors.yaml").write_text("labels_topic: truth\nrgb: {topic: cam/picture}\n")
    data = open_dataset(tmp_path, "test", ["rgb"])
    assert len(data) >= 10 and data[0].images["rgb"].any()
    (tmp_path / "labels.json").write_text(json.dumps(
        {"name": "few", "names": ["a", "b"], "palette": [[0, 0, 0], [9, 9, 9]], "ignore_id": 255}))
    with pytest.raises(DatasetError, match=r"label ids \[.*\] are out of range; 0..1 are classes"):
        open_dataset(tmp_path, "test", ["rgb"])
    (tmp_path / "labels.json").write_text('{"name": "few"}')
    with pytest.raises(DatasetError, match="labels.json: a label set needs exactly the keys"):
        open_dataset(tmp_path, "test", ["rgb"])
    (tmp_path / "labels.json").unlink()
    (tmp_path / "sensors.yaml").write_text("rgb: {topik: x}\n")
    with pytest.raises(DatasetError, match="unknown parameter 'rgb.topik'"):
        open_dataset(tmp_path, "test", ["rgb"])


def test_which_data_set_lies_in_a_folder(bag, tmp_path):
    path, _ = bag
    assert type(open_dataset(next(path.glob("*.mcap")), "test", ["rgb"])) is Recordings
    with pytest.raises(DatasetError, match="is a bag, which is split test as a whole"):
        open_dataset(path, "train")
    with pytest.raises(DatasetError, match=f"{tmp_path}/nowhere: no such folder"):
        open_dataset(tmp_path / "nowhere", "train")
    with pytest.raises(DatasetError, match="no data set here; DELIVER and our own recordings have a folder img/"):
        open_dataset(tmp_path, "train")
    uncalibrated = tmp_path / "few" / "val" / "b"
    uncalibrated.parent.mkdir(parents=True)
    write_bag(uncalibrated, 0.4, leave_out=("/camera_info",))
    with pytest.raises(DatasetError, match=r"lacks /camera_info"):
        open_dataset(tmp_path / "few", "val")
    with pytest.raises(DatasetError, match="few/train holds no bag"):
        open_dataset(tmp_path / "few", "train")
    for folder in ("img", "semantic"):
        (tmp_path / "tree" / "DELIVER" / folder).mkdir(parents=True)
    with pytest.raises(DatasetError, match="holds no PNG; is the split recorded"):
        open_dataset(tmp_path / "tree", "train", ["rgb"])
