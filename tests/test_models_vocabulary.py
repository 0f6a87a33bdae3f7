"""Modalities, encodings and label sets: the words that a checkpoint and the sensor lanes share."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest

from mss_models.labels import DELIVER, LABEL_SETS, MUSES, LabelError, LabelSet
from mss_models.modality import DEFAULT_ENCODINGS, MODALITIES, SCHEMES, Encoding, ModalityError, canonical_order


@pytest.mark.parametrize("name", DEFAULT_ENCODINGS)
def test_encoding_survives_json_and_pickle(name):
    encoding = DEFAULT_ENCODINGS[name]
    assert Encoding.from_dict(json.loads(json.dumps(encoding.to_dict()))) == encoding
    assert pickle.loads(pickle.dumps(encoding)) == encoding  # loader processes need it


@pytest.mark.parametrize(("change", "word"), [
    ({"surprise": 1}, "surprise"), ({"modality": "sonar"}, "sonar"), ({"modality": ["rgb"]}, "rgb"),
    ({"mean": [0, 0]}, "mean.*3 numbers"), ({"mean": 0.5}, "mean.*0.5"), ({"mean": [0, "a", 0]}, "'a'"),
    ({"mean": [0, 0, float("nan")]}, "nan"), ({"std": [1, 0, 1]}, "positive"), ({"std": [1, 10**400, 1]}, "3 numbers"),
    ({"name": "bayer"}, "rgb cannot be encoded as 'bayer'; known: rgb"), ({"name": ["rgb"]}, "cannot be encoded"),
    ({"name": "metric_depth"}, "rgb cannot be encoded as 'metric_depth'"), ({"version": 2}, "version 2.*knows 1"),
    ({"params": {"gain": 1.0}}, "'rgb' has no parameter.*gain.*it has none"), ({"params": [1]}, "mapping")])
def test_bad_encoding_is_named(change, word):
    with pytest.raises(ModalityError, match=word):
        Encoding.from_dict(DEFAULT_ENCODINGS["rgb"].to_dict() | change)


@pytest.mark.parametrize(("name", "params", "word"), [
    ("metric_depth", {"max": 80.0}, "no parameter.*'max'.*it has max_m, near_m"),
    ("metric_depth", {"max_m": "80"}, "max_m = '80'.*number"), ("metric_depth", {"max_m": None}, "max_m = None"),
    ("metric_depth", {"near_m": float("nan")}, "near_m = nan"), ("metric_depth", {"max_m": float("inf")}, "max_m"),
    ("metric_depth", {"near_m": 0.0}, "near_m = 0.0.*0.01..100"), ("metric_depth", {"max_m": 10**400}, "max_m"),
    ("metric_depth", {"near_m": 5.0, "max_m": 5.0}, "max_m = 5.*must exceed near_m = 5"),
    ("metric_depth", {"near_m": 90.0}, "max_m = 80.*must exceed near_m = 90"),
    ("on_off_counts", {"window_sec": 0.0}, "window_sec = 0.0"), ("on_off_counts", {"gain": True}, "gain = True"),
    ("on_off_counts", {"gain": -1.0}, "gain = -1.0"),
    ("range_intensity_height", {"dilate_px": 1.5}, "dilate_px = 1.5.*integer in 0..16"),
    ("range_intensity_height", {"dilate_px": -1}, "dilate_px = -1"),
    ("range_intensity_height", {"intensity_scale": 0.0}, "intensity_scale = 0.0"),
    ("range_intensity_height", {"height_min_m": 8.0}, "height_max_m = 7.*must exceed height_min_m = 8")])
def test_impossible_parameters_are_named(name, params, word):
    with pytest.raises(ModalityError, match=word):
        Encoding(SCHEMES[name].modality, name, params=params)


def test_parameters_take_their_defaults_and_types():
    encoding = Encoding("lidar", "range_intensity_height", params={"max_m": 50, "dilate_px": 2.0})
    assert encoding.params == {"max_m": 50.0, "near_m": 1.0, "height_min_m": -3.0, "height_max_m": 7.0, "dilate_px": 2,
                               "intensity_scale": 1.0}
    assert isinstance(encoding.params["max_m"], float) and isinstance(encoding.params["dilate_px"], int)
    assert Encoding("depth", "metric_depth") == DEFAULT_ENCODINGS["depth"]


def test_schemes_are_consistent():
    for name, scheme in SCHEMES.items():
        assert scheme.modality in MODALITIES
        Encoding(scheme.modality, name)  # the defaults lie in their ranges
        assert all(one.above in ("", *scheme.params) for one in scheme.params.values())
    assert all(encoding.modality == name for name, encoding in DEFAULT_ENCODINGS.items())


def test_encoding_without_a_name_is_an_error():
    with pytest.raises(ModalityError, match="name"):
        Encoding.from_dict({"modality": "rgb"})
    with pytest.raises(ModalityError, match="mapping"):
        Encoding.from_dict([1])


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


def test_the_first_difference_of_two_label_sets_is_named():
    names = list(DELIVER.names)
    names[3:5] = names[4:2:-1]
    swapped = dataclasses.replace(DELIVER, name="mine", names=tuple(names))
    assert DELIVER.difference(swapped) == "class 3 is 'Pedestrian' ('deliver') and 'Pole' ('mine')"
    assert DELIVER.difference(MUSES) == "25 classes ('deliver') and 19 ('muses')"
    assert DELIVER.difference(dataclasses.replace(DELIVER, ignore_id=254)) == "ignore_id 255 and 254"
    assert DELIVER.difference(dataclasses.replace(DELIVER)) == ""


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
