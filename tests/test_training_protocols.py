"""What the protocols hand to the network and how it is scored, against brute force and the published tables."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from deliver_tree import write_tree
from torch import nn

from mss_models.checkpoint import Checkpoint
from mss_models.labels import LABEL_SETS
from mss_models.metrics import Confusion
from mss_models.modality import DEFAULT_ENCODINGS, DELIVER_MODALITIES
from mss_models.runtime import open_runtime
from mss_models.system import create
from training.datasets.deliver import Deliver
from training.loop import evaluate
from training.protocols import (
    Trial,
    all_subsets,
    class_prior,
    key,
    merge,
    score,
    score_prior,
    skipped,
    trials_of,
)
from training.protocols.counts import read_scores, write_scores
from training.protocols.grid import EvaluationError, Grid, arg_max, mean_logits, resized, windows
from training.protocols.subsets import expectation, expectation_weights
from training.protocols.summary import equiseg_robustness, robustseg_mean, summarise
from training.protocols.versions import BLOCK, Versions
from training.recipes import find_recipe
from training.report.published import ANY_MODAL, ROBUSTNESS

ALL = DELIVER_MODALITIES


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    torch.set_num_threads(1)
    return Deliver(write_tree(tmp_path_factory.mktemp("tree"), {"train": 3, "test": 2}), "test")


def counted_whole(runtime, dataset, subsets):
    """The confusion of each subset over all frames, the others marked absent."""
    scores = score(runtime, dataset, [Trial("any-modal", one) for one in subsets])
    return {trial.subset: merge(by_condition) for trial, by_condition in scores.items()}


# --- subsets and averages --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("p, expected", [(0.2, (".41026", ".10256", ".025641", ".0064103")),
                                         (0.1, (".65617", ".072907", ".0081008", ".0009001")),
                                         (0.05, (".81451", ".042869", ".0022563", ".0001188"))])
def test_weights_of_the_expectation(p, expected):
    weights = expectation_weights(4, p)
    for weight, text in zip(weights, expected, strict=True):
        digits = len(text) - 1
        assert round(weight, digits) == float(text)
    assert sum(math.comb(4, k) * weight for k, weight in enumerate(weights)) == pytest.approx(1)


def test_expectation_is_the_mean_over_drawn_subsets():
    rng = np.random.default_rng(0)
    values = {subset: rng.random() for subset in all_subsets(ALL)}
    there = rng.random((400_000, 4)) >= 0.2
    there = there[there.any(1)]  # given that one at least is there
    of_mask = np.array([values.get(tuple(itertools.compress(ALL, mask)), np.nan)
                        for mask in itertools.product((False, True), repeat=4)])
    drawn = of_mask[there @ [8, 4, 2, 1]].mean()
    assert expectation(values, 0.2) == pytest.approx(drawn, abs=0.003)


def test_summary_of_subsets():
    confusions = {}
    for i, subset in enumerate(all_subsets(("rgb", "depth"))):
        confusions[subset] = Confusion(2)
        confusions[subset].hist[:] = [[10 * (i + 1), 5], [0, 0]]  # IoU of class 0; class 1 only predicted: 0
    iou = [10 / 15, 20 / 25, 30 / 35]
    one = summarise(confusions)["miou_published"]
    assert one["average"] == pytest.approx(100 * sum(iou) / 6, abs=0.005)
    assert (one["top1_subset"], one["last1_subset"]) == ("rgb+depth", "rgb")
    assert one["last1"] == pytest.approx(100 * iou[0] / 2, abs=0.005)
    w0, w1 = 0.81 / 0.99, 0.09 / 0.99
    assert one["e"]["0.1"] == pytest.approx(50 * (w0 * iou[2] + w1 * (iou[0] + iou[1])), abs=0.005)


# --- the published tables --------------------------------------------------------------------------------------------

def test_composites_of_the_published_rows():
    assert robustseg_mean(49.72, 58.04, 51.81, 58.44, 32.13) == 50.03
    checked = []
    for row in ROBUSTNESS:
        for name, compose, parts in (
                ("robustseg_mean", robustseg_mean, ("emm", "emm_e0.2", "rmm0.5", "rmm0.5_e0.2", "nm_low")),
                ("equiseg_robustness", equiseg_robustness,
                 ("clean", "emm", "emm_e0.1", "rmm0.5", "rmm0.5_e0.1", "nm_low", "nm_mid"))):
            if name in row.values:
                assert compose(*(row.values[one] for one in parts)) == pytest.approx(printed(row, name), abs=0.011)
                checked.append(name)
    assert (checked.count("robustseg_mean"), checked.count("equiseg_robustness")) == (12, 2)


def printed(row, name):
    """What a row's values average to: what the table prints, but where the source tells otherwise."""
    if "its row averages" not in row.source:
        return row.values[name]
    average = float(row.source.split("its row averages ")[1][:5])
    assert average != row.values[name]
    return average


@pytest.mark.parametrize("row", [one for one in ANY_MODAL if one.subsets], ids=lambda one: f"{one.data}-{one.method}")
def test_published_rows_average_as_printed(row):
    values = list(row.subsets.values())
    assert np.mean(values) == pytest.approx(printed(row, "average"), abs=0.011)
    assert row.values.get("top1", max(values)) == max(values) and row.values.get("last1", min(values)) == min(values)


def test_published_ablations_differ_as_printed():
    """The papers print the differences, too, or tell them in their text."""
    (equiseg,) = [one for one in ROBUSTNESS if (one.method, one.backbone) == ("EQUISeg", "B0")]
    printed_emm = {"mean for the SQ-Hub": -1.94, "no cross-attention": -5.41, "no addition": -6.16, "no SGM": -3.23,
                   "no prototypes": -4.93, "cosine pairing": -1.66, "lambda 1": -1.31, "lambda 40": -0.38,
                   "lambda 80": -0.24}
    rows = {one.method.partition(", ")[2]: one.values for one in ROBUSTNESS if one.method.startswith("EQUISeg, ")}
    assert {name: round(one["emm"] - equiseg.values["emm"], 2) for name, one in rows.items()} == printed_emm
    assert [round(rows[name]["clean"] - equiseg.values["clean"], 2) for name in list(printed_emm)[:3]] == [
        -0.69, -1.34, -4.57]
    softmin, uniform = (next(one.values for one in ANY_MODAL if one.method == f"CHARM, {name} sampling")
                        for name in ("softmin", "uniform"))
    assert [round(softmin[one] - uniform[one], 2) for one in ("average", "last1")] == [2.75, 3.11]


# --- versions of images ----------------------------------------------------------------------------------------------

def versions(names=("a", "b"), size=(96, 64), seed=0, constant=False):
    rng = np.random.default_rng(5)
    count = 1 if constant else len(names)  # constant: the same pixels for every frame
    images = {name: rng.integers(1, 256, (count, *size, 3), dtype=np.uint8).repeat(len(names) // count, 0)
              for name in ALL}
    return Versions(images, names, DEFAULT_ENCODINGS, seed, torch.device("cpu"), torch.float32), images


def whole(made, modality, version):
    height, width = made._images[modality].shape[2:]
    return made.get(modality, version, windows((height, width), None, None)[0])


def test_clean_and_zero_are_normalised():
    made, images = versions()
    mean, std = (np.float32(one).reshape(3, 1, 1) for one in (DEFAULT_ENCODINGS["rgb"].mean,
                                                              DEFAULT_ENCODINGS["rgb"].std))
    expected = (images["rgb"].transpose(0, 3, 1, 2) / np.float32(255) - mean) / std
    np.testing.assert_allclose(whole(made, "rgb", "clean"), expected, atol=1e-5)
    assert not whole(made, "rgb", "zero").any()  # after normalisation: not black, but the mean colour
    assert whole(made, "rgb", "clean") is whole(made, "rgb", "clean")


@pytest.mark.parametrize("rate", [0.25, 0.5, 0.75])
def test_missing_values(rate):
    made, _ = versions(size=(128, 128))
    clean, damaged = whole(made, "depth", "clean"), whole(made, "depth", f"rmm:{rate:g}")
    gone = damaged != clean
    assert clean.all() and not damaged[gone].any()
    sigma = math.sqrt(rate * (1 - rate) / gone.numel())
    assert gone.float().mean() == pytest.approx(rate, abs=4 * sigma)
    for axis in itertools.combinations(range(4), 3):  # no channel, row, column or frame is special
        spread = gone.float().mean(axis)
        assert (spread - rate).abs().max() < 5 * math.sqrt(rate * (1 - rate) * spread.numel() / gone.numel())
    together = (gone[:, 0] & gone[:, 1]).float().mean()  # channels by themselves
    assert together == pytest.approx(rate**2, abs=0.02)


def test_missing_blocks():
    made, _ = versions(names=[str(i) for i in range(60)], size=(80, 72))  # blocks of 32, cut at the edges
    gone = whole(made, "lidar", "rmm-block:0.5")[..., :80, :72] == 0
    assert (gone == gone[:, :1]).all()
    for top, left in itertools.product(range(0, 80, BLOCK), range(0, 72, BLOCK)):
        block = gone[:, :, top : top + BLOCK, left : left + BLOCK].flatten(1)
        assert (block.all(1) | ~block.any(1)).all()
    assert gone[:, 0, ::BLOCK, ::BLOCK].float().mean() == pytest.approx(0.5, abs=0.09)  # of 540 blocks


@pytest.mark.parametrize("level, density", [("low", 0.05), ("mid", 0.1), ("high", 0.2)])
def test_salt_and_pepper(level, density):
    image = np.random.default_rng(1).permutation(96 * 64 * 3) / (96 * 64 * 3)  # all values differ
    made, _ = versions()
    made._images["event"] = torch.from_numpy(np.stack([image, image * 2])).float().view(2, 3, 96, 64)
    clean, noisy = made._images["event"], whole(made, "event", f"nm:{level}")
    n = math.ceil(density * clean[0].numel() / 2)
    for one, after in zip(clean, noisy, strict=True):  # of the frame's own image, not the batch's
        changed = one != after
        assert ((after == one.max()) | (after == one.min()))[changed].all()
        pepper = int((after == one.min()).sum())  # n draws with replacement, the last to be written
        expected = one.numel() * (1 - (1 - 1 / one.numel()) ** n)
        assert pepper <= n + 1 and pepper == pytest.approx(expected, abs=6 + 4 * math.sqrt(n - expected))
        salt = int((after == one.max()).sum())
        assert salt <= n + 1 and salt == pytest.approx(expected * (1 - density / 2), abs=10 + 6 * math.sqrt(n / 10))


@pytest.mark.parametrize("level, density, sigma", [("low", 0.05, 0.1), ("mid", 0.1, 0.2), ("high", 0.2, 0.5)])
def test_gaussian_noise_but_on_events(level, density, sigma):
    made, _ = versions(size=(128, 128))
    for name in ALL:
        clean, noisy = whole(made, name, "clean"), whole(made, name, f"nm:{level}")
        same = (clean == noisy).float().mean()
        if name == "event":
            assert same == pytest.approx(math.exp(-density), abs=0.01)  # that no draw has hit, of two times d/2
            continue
        typical = (noisy - clean).abs().median()  # not moved much by the few salted values
        assert same < 0.001 and typical == pytest.approx(0.6745 * sigma, rel=0.02 + 1.5 * density)
        assert noisy.max() > clean.max() and noisy.min() < clean.min()  # not clipped


def test_draws_follow_from_seed_frame_and_modality_alone():
    both, _ = versions(("a", "b"), constant=True)
    alone, _ = versions(("b",), constant=True)
    other_seed, _ = versions(("a", "b"), constant=True, seed=1)
    for version in ("rmm:0.5", "rmm-block:0.5", "nm:mid"):
        one = whole(both, "depth", version)
        assert torch.equal(one[1], whole(alone, "depth", version)[0])
        assert not torch.equal(one[0], one[1]) and not torch.equal(one, whole(other_seed, "depth", version))
    masks = [whole(both, name, "rmm:0.5") == 0 for name in ("depth", "lidar")]
    assert not torch.equal(*masks)
    small, large = (whole(both, "depth", f"rmm:{rate}") == 0 for rate in ("0.25", "0.75"))
    assert (small <= large).all()  # rates share their draw


def test_padding_is_the_networks():
    made, _ = versions(size=(40, 50))
    image = whole(made, "rgb", "nm:low")
    assert image.shape[2:] == (64, 64) and not image[:, :, 40:].any() and not image[:, :, :, 50:].any()


# --- pixels ----------------------------------------------------------------------------------------------------------

def test_sizes():
    assert Grid().network_size((1042, 1042)) == (1042, 1042)
    assert Grid(1024).network_size((1042, 1042)) == (1024, 1024)
    assert Grid(1024).network_size((1080, 1920)) == (1024, 1824)  # 1820.4, aligned up
    labels = np.random.default_rng(0).integers(0, 25, (70, 70), dtype=np.uint8)
    assert Grid(32).target(labels).shape == (70, 70)
    floor = labels[np.ix_(*[np.arange(32) * 70 // 32] * 2)]  # as the published code resizes, not centre to centre
    np.testing.assert_array_equal(Grid(32, "network").target(labels), floor)
    rows = np.broadcast_to((np.arange(1042) % 251).astype(np.uint8)[:, None], (1042, 1042))
    target = Grid(1024, "network").target(rows)
    np.testing.assert_array_equal(target[:, 0], np.arange(1024) * 1042 // 1024 % 251)
    assert np.mean(target != resized(np.ascontiguousarray(rows), (1024, 1024))) == pytest.approx(0.508, abs=0.001)
    assert Grid(64, "network").target(labels[:64, :64]).base is labels
    for wrong in ({"stride": 3}, {"window": 4, "stride": 5}, {"score_at": "moon"}):
        with pytest.raises(EvaluationError):
            Grid(**wrong)


@pytest.mark.parametrize("size, side, stride", [((11, 8), 5, 3), ((9, 9), 4, 4), ((6, 13), 6, 1), ((4, 5), 8, 6)])
def test_sliding_windows_against_a_loop(size, side, stride):
    parts = windows(size, side, stride)
    assert len(parts) == math.prod(math.ceil(max(length - side, 0) / stride) + 1 for length in size)
    generator = torch.Generator().manual_seed(0)
    logits = {part: torch.randn(2, 3, *(min(side, length) for length in size), generator=generator) for part in parts}
    mean = mean_logits(logits.__getitem__, parts)
    for y, x in itertools.product(*map(range, size)):
        covering = [one[:, :, y - part.top, x - part.left] for part, one in logits.items()
                    if part.top <= y < part.top + side and part.left <= x < part.left + side]
        assert covering
        torch.testing.assert_close(mean[:, :, y, x], torch.stack(covering).mean(0))


def test_arg_max():
    logits = torch.randint(-3, 4, (2, 25, 33, 70), generator=torch.Generator().manual_seed(0)).float()  # many ties
    np.testing.assert_array_equal(arg_max(logits), logits.numpy().argmax(1))
    np.testing.assert_array_equal(arg_max(logits.to(memory_format=torch.channels_last)), logits.numpy().argmax(1))
    logits[1, 3, 5, 6] = torch.nan
    with pytest.raises(EvaluationError, match="not finite"):
        arg_max(logits)


# --- what reaches the network, and the counts ------------------------------------------------------------------------

class Probe:
    """In the place of a runtime: notes what it is given, and predicts from the lidar image, else Sky."""

    modalities, encodings, precision, device = ALL, DEFAULT_ENCODINGS, "fp32", torch.device("cpu")

    def __init__(self):
        self.given = []

    def logits(self, images, present):
        assert all(mask.all() and len(mask) == len(images[name]) for name, mask in present.items())
        self.given.append({name: image.clone() for name, image in images.items()})
        first = next(iter(images.values()))
        classes = (images["lidar"][:, 0] * 25.5).round().long() if "lidar" in images else \
            torch.full((len(first), *first.shape[2:]), 12)
        return nn.functional.one_hot(classes.clamp(0, 24), 25).permute(0, 3, 1, 2).float()


def test_what_the_protocols_hand_over(data):
    probe = Probe()
    score(probe, data, trials_of(["any-modal", "conditions"], ALL))
    assert [set(one) for one in probe.given] == [set(one) for one in all_subsets(ALL)]
    clean = probe.given[-1]
    probe.given.clear()
    trials = trials_of(["emm", "rmm", "nm"], ALL)
    assert len(trials) == 15 + 3 * 15 + 3
    score(probe, data, trials)
    assert all(set(one) == set(ALL) for one in probe.given)  # every modality is marked present
    assert len(probe.given) == 15 + 3 * 14 + 3  # with all modalities whole, EMM and RMM hand over the same
    for subset, one in zip(all_subsets(ALL), probe.given[:15], strict=True):
        for name in ALL:
            assert torch.equal(one[name], clean[name] if name in subset else torch.zeros_like(clean[name]))
    for trial, one in zip([one for one in trials[15:30] if len(one.subset) < 4], probe.given[15:29], strict=True):
        for name in ALL:
            assert torch.equal(one[name], clean[name]) == (name in trial.subset)
    assert not any(torch.equal(one[name], clean[name]) for one in probe.given[-3:] for name in ALL)


def test_counts_against_brute_force(data):
    probe, seen = Probe(), {}
    scores = score(probe, data, [Trial("any-modal", ("rgb", "lidar")), Trial("any-modal", ("rgb",))],
                   keep=lambda frame, trial, labels: seen.update({(frame, key(trial.subset)): labels}))
    brute = {condition: Confusion(25) for condition in (("sun", "normal"), ("night", "motionblur"))}
    for frame, sample in zip(data.frames, data, strict=True):
        predicted = np.minimum(sample.images["lidar"][:, :, 0] // 10, 24)
        np.testing.assert_array_equal(seen[sample.name, "rgb+lidar"], predicted)
        brute[frame.weather, frame.case].update(sample.labels, predicted)
    found = scores[Trial("any-modal", ("rgb", "lidar"))]
    assert found.keys() == brute.keys()
    for condition, confusion in brute.items():
        np.testing.assert_array_equal(found[condition].hist, confusion.hist)
    total = merge(scores[Trial("any-modal", ("rgb",))])
    assert total.hist[:, 12].sum() == total.pixels == len(data) * 64 * 64
    assert merge(scores[Trial("any-modal", ("rgb",))], lambda weather, case: weather == "night").pixels == 2 * 64 * 64
    assert merge({}) is None
    part = score(probe, data, [Trial("any-modal", ("rgb",))], frames=[1])[Trial("any-modal", ("rgb",))]
    assert list(part) == [("night", "motionblur")] and merge(part).pixels == 64 * 64


def test_scoring_at_another_size(data):
    probe = Probe()
    trial = Trial("any-modal", ("lidar",))
    at_labels = merge(score(probe, data, [trial], grid=Grid(96))[trial])
    assert probe.given[0]["lidar"].shape[2:] == (96, 96) and at_labels.pixels == len(data) * 64 * 64
    assert merge(score(probe, data, [trial], grid=Grid(96, "network"))[trial]).pixels == len(data) * 96 * 96
    whole_image = merge(score(probe, data, [trial])[trial])
    sliding = merge(score(probe, data, [trial], grid=Grid(window=48, stride=16))[trial])
    np.testing.assert_array_equal(sliding.hist, whole_image.hist)  # the probe looks at pixels alone


class Failing(Deliver):
    """Its frames lack nothing, rgb, rgb and lidar, lidar, in turn; the images of what they lack are noise."""

    MISSING = (frozenset(), frozenset({"rgb"}), frozenset({"rgb", "lidar"}), frozenset({"lidar"}))

    def missing_in(self, frame):
        return self.MISSING[self.frames.index(frame) % 4]

    def _read(self, frame):
        one = super()._read(frame)
        noise = np.random.default_rng(len(frame.name)).integers(0, 256, one.images["rgb"].shape, dtype=np.uint8)
        missing = self.missing_in(frame)
        images = {name: noise if name in missing else image for name, image in one.images.items()}
        return dataclasses.replace(one, images=images, missing=missing)


def test_sensors_that_gave_nothing_are_absent(data):
    failing, probe, seen = Failing(data.root, "test"), Probe(), {}
    whole = [one.images for one in data]
    trials = trials_of(["any-modal", "emm", "rmm", "nm"], ALL)
    scores = score(probe, failing, trials, keep=lambda frame, trial, labels: seen.update({(frame, trial.name): labels}))
    at = 0
    for images, frame in zip(whole, failing.frames, strict=True):
        missing, clean = failing.missing_in(frame), None
        left = []  # the subsets that any-modal hands over, each once
        for subset in all_subsets(ALL):
            there = tuple(name for name in subset if name not in missing)
            if there and there not in left:
                left.append(there)
            assert ((frame.name, f"any-modal/{key(subset)}") in seen) == bool(there)
        given, at = probe.given[at : at + len(left)], at + len(left)
        assert sorted(tuple(one) for one in given) == sorted(left)
        clean = next(one for one in given if len(one) == 4 - len(missing))
        for one in given:
            assert all(torch.equal(one[name], clean[name]) for name in one)
        for name in clean:
            mean, std = (np.array(one).reshape(3, 1, 1) for one in (DEFAULT_ENCODINGS[name].mean,
                                                                    DEFAULT_ENCODINGS[name].std))
            np.testing.assert_allclose(clean[name][0], (images[name].transpose(2, 0, 1) / 255 - mean) / std, atol=1e-5)
        damaged = {trial.inputs(ALL, missing) for trial in trials if trial.protocol != "any-modal"} - {
            tuple((name, "clean") for name in ALL)}
        given, at = probe.given[at : at + len(damaged)], at + len(damaged)
        assert all(set(one) == set(ALL) for one in given)
        assert not any(one[name].any() for one in given for name in missing)  # zeros after normalisation
    assert at == len(probe.given)
    for subset, frames in ((("rgb",), 2), (("lidar",), 2), (("rgb", "lidar"), 3), (ALL, 4), (("depth",), 4)):
        assert merge(scores[Trial("any-modal", subset)]).pixels == frames * 64 * 64
        assert merge(scores[Trial("emm", subset)]).pixels == 4 * 64 * 64
    assert skipped(failing, all_subsets(ALL)) == {("rgb",): 2, ("lidar",): 2, ("rgb", "lidar"): 1}
    assert skipped(data, all_subsets(ALL)) == {}


def test_missing_sensors_against_the_runtime(data, network):
    failing, runtime, seen = Failing(data.root, "test"), network("segformer_mean"), {}
    trials = [Trial("any-modal", ALL), Trial("any-modal", ("rgb", "depth"))]
    score(runtime, failing, trials, keep=lambda frame, trial, labels: seen.update({(frame, trial): labels}))
    for sample, trial in itertools.product(failing, trials):
        there = {name: np.array([name in trial.subset and name not in sample.missing]) for name in ALL}
        labels = runtime({name: image[None] for name, image in sample.images.items()}, there).labels[0]
        assert np.mean(labels == seen[sample.name, trial]) > 0.999


def test_a_training_chooses_by_the_same_counts(data, network, monkeypatch):
    monkeypatch.setattr("mss_models.runtime.torch.cpu_has_bf16", lambda: False)  # the same figures on any processor
    model, recipe, cpu = network("segformer_mean")._model, find_recipe("debug"), torch.device("cpu")
    with torch.no_grad():
        model.head.classify.weight *= 30  # random weights alone see one class everywhere
        model.head.classify.bias[[0, 3, 6, 9, 12]] += 50
    failing = Failing(data.root, "test")
    runtime = open_runtime(Checkpoint(model, data.labels, data.encodings, (64, 64), {}, ""), device="cpu")
    subsets = [*((name,) for name in ALL), ALL]
    found = evaluate(model, failing, failing, recipe, cpu)
    assert found == {key(subset): pytest.approx(100 * one.miou_present, abs=0.006)
                     for subset, one in counted_whole(runtime, failing, subsets).items()}
    assert len({found["rgb"], found["lidar"], evaluate(model, data, data, recipe, cpu)["rgb"]}) == 3
    failing.MISSING = (frozenset({"rgb"}),) * 4  # never there: no figure, rather than one of black images
    assert list(evaluate(model, failing, failing, recipe, cpu)) == [key(one) for one in subsets[1:]]


def test_files_of_trials_with_no_frame(data, tmp_path):
    failing = Failing(data.root, "test")
    trials = [Trial("any-modal", ("rgb",)), Trial("any-modal", ("rgb", "lidar"))]
    write_scores(tmp_path / "x.npz", score(Probe(), failing, trials, frames=[2]))  # it has neither
    read = read_scores(tmp_path / "x.npz")
    assert [merge(read[trial]).pixels for trial in trials] == [0, 0]


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """System name -> runtime of that system with random weights."""
    from mss_models import checkpoint as checkpoints

    def make(system):
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp("net") / f"{system}.safetensors"
        model = create(system=system, modalities=ALL, num_classes=25, backbone="B0", head_width=32)
        checkpoints.save(path, model, LABEL_SETS["deliver"], DEFAULT_ENCODINGS, {}, image_size=(64, 64))
        return open_runtime(path, device="cpu", precision="fp32")

    return make


def test_predictions_are_the_runtimes(data, network):
    runtime, seen = network("segformer_mean"), {}
    score(runtime, data, trials_of(["any-modal"], ALL),
          keep=lambda frame, trial, labels: seen.update({(frame, trial.subset): labels}))
    assert len(seen) == 15 * len(data)
    agreement = []
    for sample in data:
        for subset in all_subsets(ALL):
            labels = runtime({name: sample.images[name][None] for name in subset},
                             {name: np.array([name in subset]) for name in ALL}).labels[0]
            agreement.append(np.mean(labels == seen[sample.name, subset]))
    assert np.mean(agreement) > 0.999  # but for ties within rounding


def test_every_image_is_encoded_once(data, network):
    runtime = network("segformer_mean")
    encoded = []
    runtime._model.backbone.register_forward_hook(lambda _, given, __: encoded.append(len(given[0])))
    score(runtime, data, trials_of(["any-modal", "emm", "rmm", "nm"], ALL))
    assert sum(encoded) == len(data) * 4 * (1 + 1 + 3 + 3)  # clean, zero, three rates, three levels
    encoded.clear()
    counted_whole(runtime, data, [("rgb",), ("rgb", "depth")])
    assert sum(encoded) == len(data) * 2


@pytest.mark.parametrize("system", ["cmnext", "stitchfusion", "geminifusion"])
def test_zeros_are_what_absent_is_to_the_systems_that_fill_in_zeros(data, network, system):
    trials = [Trial(protocol, ("rgb", "lidar")) for protocol in ("any-modal", "emm")]
    absent, zero = (merge(one) for one in score(network(system), data, trials).values())
    assert np.abs(absent.hist - zero.hist).sum() <= 2e-3 * absent.pixels


def test_zeros_are_not_what_absent_is_to_the_others(data, network):
    trials = [Trial(protocol, ("rgb",)) for protocol in ("any-modal", "emm")]
    absent, zero = (merge(one) for one in score(network("segformer_mean"), data, trials).values())
    assert not np.array_equal(absent.hist, zero.hist)


def test_counts_as_files(tmp_path):
    confusion, path = Confusion(3, 200), tmp_path / "counts.npz"
    confusion.hist[:] = [[2**53 + 1, 0, 1], [0, 5, 0], [7, 0, 0]]
    scores = {Trial("rmm", ("rgb", "lidar"), "0.5"): {("night", "normal"): confusion},
              Trial("emm", ("rgb",)): {("sun", ""): Confusion(3, 200), ("", ""): confusion}}
    write_scores(path, scores)
    read = read_scores(path)
    assert read.keys() == scores.keys()
    for trial, by_condition in scores.items():
        assert read[trial].keys() == by_condition.keys()
        for condition, one in by_condition.items():
            np.testing.assert_array_equal(read[trial][condition].hist, one.hist)
            assert read[trial][condition].ignore_id == 200 and read[trial][condition].hist.dtype == np.int64
    whole_file = path.read_bytes()
    for length in (0, 10, len(whole_file) // 2, len(whole_file) - 5):
        path.write_bytes(whole_file[:length])
        assert read_scores(path) is None
    assert read_scores(tmp_path / "nothing.npz") is None


# --- the class prior -------------------------------------------------------------------------------------------------

def test_class_prior_against_brute_force(data):
    train = Deliver(data.root, "train")
    labels = [train.read_labels(i).copy() for i in range(len(train))]
    labels[0][:, :2] = 255
    for one in labels[1:]:
        one[:, 0] = 255  # column 0: never labelled
    everything = np.concatenate([one[one != 255] for one in labels])
    expected = np.zeros((64, 64), np.uint8)
    for y, x in itertools.product(range(64), repeat=2):
        column = np.array([one[y, x] for one in labels])
        column = column[column != 255]
        column = column if len(column) else everything
        expected[y, x] = np.bincount(column, minlength=25).argmax()
    prior = class_prior(iter(labels), 25)
    np.testing.assert_array_equal(prior, expected)
    scored = score_prior(prior, data)
    frames = [(one.weather, one.case) for one in data.frames]
    assert {condition: one.pixels for condition, one in scored.items()} == {
        condition: sum((data.read_labels(i) != 255).sum() for i, of in enumerate(frames) if of == condition)
        for condition in frames}
    target = data.read_labels(0)
    first = score_prior(prior, Deliver(data.root, "test", limit=1))[frames[0]]
    assert first.iou()[12] == pytest.approx(
        ((target == 12) & (prior == 12)).sum() / ((target == 12) | (prior == 12)).sum())
    with pytest.raises(ValueError, match="at least one labelled pixel"):
        class_prior(iter([np.full((4, 4), 255, np.uint8)]), 25)


def test_resized_labels_are_nearest():
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(resized(labels, (6, 8)), np.kron(labels, np.ones((2, 2), np.uint8)))
    assert resized(labels, (3, 4)) is labels
