"""Modalities, encodings and label sets: the words that a checkpoint and the sensor lanes share."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from mss_models.labels import LABEL_SETS, LabelError, LabelSet
from mss_models.modality import DEFAULT_ENCODINGS, MODALITIES, Encoding, ModalityError, canonical_order


@pytest.mark.parametrize("name", MODALITIES)
def test_encoding_survives_json_and_pickle(name):
    encoding = DEFAULT_ENCODINGS[name]
    assert Encoding.from_dict(json.loads(json.dumps(encoding.to_dict()))) == encoding
    assert pickle.loads(pickle.dumps(encoding)) == encoding  # loader processes need it


@pytest.mark.parametrize(("change", "word"), [
    ({"surprise": 1}, "surprise"), ({"modality": "sonar"}, "sonar"), ({"mean": [0, 0]}, "2 numbers"),
    ({"std": [1, 0, 1]}, "positive")])
def test_bad_encoding_is_named(change, word):
    with pytest.raises(ModalityError, match=word):
        Encoding.from_dict(DEFAULT_ENCODINGS["rgb"].to_dict() | change)


def test_encoding_without_a_name_is_an_error():
    with pytest.raises(ModalityError, match="name"):
        Encoding.from_dict({"modality": "rgb"})


def test_canonical_order():
    assert canonical_order(["lidar", "rgb", "lidar"]) == ("rgb", "lidar")
    with pytest.raises(ModalityError, match="sonar"):
        canonical_order(["rgb", "sonar"])
    with pytest.raises(ModalityError, match="no modality"):
        canonical_order([])


@pytest.mark.parametrize(("name", "classes", "sample"), [
    ("deliver", 25, (24, "Truck", (0, 0, 70))), ("muses", 19, (18, "bicycle", (119, 11, 32))),
    ("mcubes", 20, (9, "sand", (174, 199, 232)))])
def test_label_sets(name, classes, sample):
    labels = LABEL_SETS[name]
    index, class_name, colour = sample
    assert len(labels) == classes == len(set(labels.palette))
    assert labels.names[index] == class_name and labels.palette[index] == colour
    assert LabelSet.from_dict(json.loads(json.dumps(labels.to_dict()))) == labels


def test_colorize_equals_a_loop_and_ignore_is_black():
    labels = LABEL_SETS["deliver"]
    ids = np.random.default_rng(0).integers(0, 256, (5, 7)).astype(np.uint8)
    image = labels.colorize(ids)
    for y, x in np.ndindex(ids.shape):
        expected = labels.palette[ids[y, x]] if ids[y, x] < len(labels) else (0, 0, 0)
        assert tuple(image[y, x]) == expected
    with pytest.raises(LabelError, match="int64"):
        labels.colorize(ids.astype(np.int64))


@pytest.mark.parametrize("change", [
    {"names": ["a"]}, {"names": ["a", "a"]}, {"palette": [[0, 0, 0], [0, 0, 256]]}, {"ignore_id": 1}, {"extra": 1}])
def test_bad_label_set(change):
    good = {"name": "two", "names": ["a", "b"], "palette": [[0, 0, 0], [1, 1, 1]], "ignore_id": 255}
    with pytest.raises(LabelError):
        LabelSet.from_dict(good | change)
