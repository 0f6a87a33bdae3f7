"""RobustSeg: HPDM, RRM and the zero variant against loops. What it shares with AnySeg is in test_models_anyseg.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_models_anyseg import CLASSES, DROPPED, EVERYTHING, batch_of, net, taught

from mss_models.distillation import draw_partners, fisher_penalty, perturb
from mss_models.modality import DELIVER_MODALITIES

WITHOUT_RRM = {"regularisation_weight": 0.0}


def maps_of(student, batch):
    with torch.no_grad():
        encoded, _ = student.encode_and_decode(batch["images"], batch["present"])
        known, _ = student.teacher.encode_and_decode(batch["images"], batch["available"])
    return encoded, known


def partners_of(kind, batch, encoded):
    """The draws that the loss makes, in its order, from the same seed."""
    torch.manual_seed(0)
    return [draw_partners(kind, [name for name, there in zip(encoded.names, encoded.mask[:, b].tolist(), strict=True)
                                 if there], DELIVER_MODALITIES) for b in range(len(batch["labels"]))]


def logs_of(student, batch):
    torch.manual_seed(0)
    return student.loss(batch)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    value, logs = logs_of(taught("robustseg", regularisation="point"), batch_of(*DROPPED, available=EVERYTHING))
    expected = logs["ohem"] + 50 * logs["kl"] + 100 * logs["prototype"] + 12 * logs["regularisation"]
    torch.testing.assert_close(value.detach(), expected)
    _, logs = logs_of(taught("robustseg", **WITHOUT_RRM), batch_of(*EVERYTHING))
    assert logs["regularisation"] == 0


@pytest.mark.parametrize(("pairing", "published"), [("hybrid", False), ("matched", False), ("published", True)])
def test_prototype_distillation_equals_a_loop(pairing, published):
    student = taught("robustseg", pairing=pairing, published_prototypes=published, **WITHOUT_RRM)
    batch = batch_of(*DROPPED, available=EVERYTHING)
    batch["labels"][0][batch["labels"][0] == 2] = 255  # a class that a sample lacks
    _, logs = logs_of(student, batch)
    encoded, known = maps_of(student, batch)
    expected = 0.0
    for b, pairs in enumerate(partners_of(pairing, batch, encoded)):
        for f_s, f_t in zip(encoded.features, known.features, strict=True):
            stride = batch["labels"].shape[1] // f_s.shape[-2]
            labels = batch["labels"][b, ::stride, ::stride]
            for name, partner in pairs.items():
                both = []
                for map_ in (f_s[encoded.names.index(name), b], f_t[DELIVER_MODALITIES.index(partner), b]):
                    rows = [map_[:, labels == c] for c in range(CLASSES)]  # (C, pixels) each
                    both.append(torch.stack([one.mean(dim=1) / (one.shape[1] if published else 1) if one.numel()
                                             else torch.zeros(len(map_)) for one in rows]))
                expected += F.kl_div(both[0].log_softmax(0), both[1].softmax(0), reduction="none").mean() / 2
    torch.testing.assert_close(logs["prototype"], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("form", "dim", "of_mean"), [("mean", 2, True), ("point", 2, False), ("published", 3, True)])
@pytest.mark.parametrize("pairing", ["matched", "hybrid"])
def test_regularisation_equals_a_loop(pairing, form, dim, of_mean):
    student = taught("robustseg", regularisation=form, regularisation_pairing=pairing)
    batch = batch_of(("depth", "lidar"), available=EVERYTHING[:1])
    _, logs = logs_of(student, batch)
    encoded, known = maps_of(student, batch)
    pairs = partners_of("hybrid", batch, encoded)[0]  # one permutation for HPDM and HRM
    expected = 0.0
    for f_s, f_t in zip(encoded.features, known.features, strict=True):
        here = [encoded.names.index(name) for name in ("depth", "lidar")]
        there = [DELIVER_MODALITIES.index(pairs[name] if pairing == "hybrid" else name) for name in ("depth", "lidar")]
        noisy = perturb(f_s[here, 0], 10), perturb(f_t[there, 0], 10)
        expected += 1e-5 * sum(fisher_penalty(s[None], t[None], dim, of_mean)[0] for s, t in zip(*noisy, strict=True))
    torch.testing.assert_close(logs["regularisation"], expected, rtol=1e-4, atol=0)


def test_a_batch_for_which_the_teacher_has_no_pair_can_be_learned_from():
    """Hybrid partners are drawn of all modalities, and here the frame has one."""
    student = taught("robustseg")
    paired = []
    for seed in range(12):
        torch.manual_seed(seed)
        loss, logs = student.loss(batch_of(("rgb",)))
        student.zero_grad()
        loss.backward()
        assert all(bool(torch.isfinite(one.grad).all()) for one in student.parameters() if one.grad is not None)
        paired.append(bool(logs["prototype"]))
    assert True in paired and False in paired


def test_in_the_zero_variant_an_absent_modality_is_a_blank_image():
    student, plain = net("robustseg", missing="zero").eval(), net("segformer_mean").eval()
    plain.load_state_dict(student.state_dict())
    batch = batch_of(*DROPPED)
    blank = {name: torch.where(batch["present"][name].view(-1, 1, 1, 1), image, 0)
             for name, image in batch["images"].items()}
    everywhere = {name: torch.ones(2, dtype=torch.bool) for name in blank}
    with torch.no_grad():
        torch.testing.assert_close(student(batch["images"], batch["present"]), plain(blank, everywhere))
        few = {name: batch["images"][name][:1] for name in DROPPED[0]}
        alone = student(few, {name: torch.ones(1, dtype=torch.bool) for name in few})
        torch.testing.assert_close(alone, plain(blank, everywhere)[:1])


def test_in_the_zero_variant_blank_images_learn_too():
    student = taught("robustseg", missing="zero", pairing="matched", **WITHOUT_RRM)
    plain = taught("robustseg", pairing="matched", **WITHOUT_RRM)
    plain.load_state_dict(student.state_dict())
    batch = batch_of(*DROPPED, available=EVERYTHING)
    _, logs = student.loss(batch)
    blank = batch | {"present": batch["available"], "images": {
        name: torch.where(batch["present"][name].view(-1, 1, 1, 1), image, 0)
        for name, image in batch["images"].items()}}
    with torch.no_grad():
        encoded, _ = plain.encode_and_decode(blank["images"], blank["present"])
        known, _ = plain.teacher.encode_and_decode(batch["images"], batch["available"])
    expected = plain.distil(encoded, known, batch["labels"])["prototype"]
    torch.testing.assert_close(logs["prototype"], expected, rtol=1e-4, atol=1e-7)


def test_blank_images_do_not_overflow_the_gradients_of_an_untrained_network():
    student = taught("robustseg", missing="zero")
    loss, _ = student.loss(batch_of(*DROPPED, available=EVERYTHING))
    loss.backward()
    assert all(bool(torch.isfinite(one.grad).all()) for one in student.parameters())


@pytest.mark.parametrize(("option", "value"), [("missing", "nan"), ("pairing", "random"), ("regularisation", "l2"),
                                               ("regularisation_pairing", "none")])
def test_unknown_options_are_named(option, value):
    with pytest.raises(ValueError, match=f"{option} = '{value}'; choose from "):
        net("robustseg", **{option: value})
