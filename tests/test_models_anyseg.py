"""AnySeg: the teacher's place, and the terms of the loss against loops. The contract is in test_models_systems.py."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from mss_models.distillation import cosine_matrices
from mss_models.losses import ohem_cross_entropy
from mss_models.modality import DELIVER_MODALITIES
from mss_models.system import InputError, create
from mss_models.systems.anyseg import TeacherError

CLASSES = 4
SIZE = (32, 64)
STUDENTS = ["anyseg", "robustseg"]


def net(system, modalities=DELIVER_MODALITIES, seed=0, **options):
    torch.manual_seed(seed)
    return create(system=system, modalities=modalities, num_classes=CLASSES, head_width=16, dropout=0.0, drop_path=0.0,
                  **options)


def taught(system, **options):
    model = net(system, **options).train()
    model.learn_from(net("segformer_mean", seed=1))
    return model


def batch_of(*subsets, available=None, size=SIZE):
    generator = torch.Generator().manual_seed(3)
    images = {name: torch.randn(len(subsets), 3, *size, generator=generator) for name in DELIVER_MODALITIES}
    masks = {"present": subsets} | ({"available": available} if available else {})
    return {"images": images, "labels": torch.randint(0, CLASSES, (len(subsets), *size), generator=generator)} | {
        key: {name: torch.tensor([name in one for one in each]) for name in images} for key, each in masks.items()}


EVERYTHING = [DELIVER_MODALITIES] * 2
DROPPED = [("depth", "lidar"), ("rgb", "depth", "event")]


@pytest.mark.parametrize("system", STUDENTS)
def test_the_network_is_segformer_mean(system):
    student, plain = net(system).eval(), net("segformer_mean").eval()
    assert student.state_dict().keys() == plain.state_dict().keys()
    batch = batch_of(*DROPPED)
    with torch.no_grad():
        assert torch.equal(student(batch["images"], batch["present"]), plain(batch["images"], batch["present"]))


@pytest.mark.parametrize("system", STUDENTS)
def test_the_teacher_is_no_part_of_the_student(system):
    without, student = net(system), taught(system)
    assert student.state_dict().keys() == without.state_dict().keys()
    assert len(list(student.parameters())) == len(list(without.parameters()))
    assert student.architecture == without.architecture
    assert copy.deepcopy(student).teacher is student.teacher
    student.train()
    assert not any(module.training for module in student.teacher.modules())


@pytest.mark.parametrize("system", STUDENTS)
def test_training_changes_the_student_alone(system):
    student = taught(system)
    before = {name: value.clone() for name, value in student.teacher.state_dict().items()}
    optimiser = torch.optim.SGD(student.parameters(), lr=1e-6)
    loss, _ = student.loss(batch_of(*DROPPED, available=EVERYTHING))
    loss.backward()
    optimiser.step()
    assert all(one.grad is not None and bool(one.grad.any()) for one in student.parameters())
    assert all(one.grad is None for one in student.teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in student.teacher.state_dict().items())


@pytest.mark.parametrize("system", STUDENTS)
def test_without_a_teacher_it_says_what_it_needs(system):
    with pytest.raises(TeacherError, match=f"{system}.*learn_from"):
        net(system).loss(batch_of(*EVERYTHING))


@pytest.mark.parametrize(("teacher", "message"), [
    (lambda: net("cmnext"), "CMNeXt; a SegFormer-mean"),
    (lambda: net("segformer_mean", modalities=("rgb", "lidar")), r"modalities: \('rgb', 'lidar'\)"),
    (lambda: create(system="segformer_mean", modalities=DELIVER_MODALITIES, num_classes=9), "classes: 9.*student's: 4"),
    (lambda: net("segformer_mean", backbone="B1"), r"channels: \(64, .*student's: \(32"),
])
def test_a_teacher_that_does_not_fit_is_named(teacher, message):
    with pytest.raises(TeacherError, match=message):
        net("anyseg").learn_from(teacher())


@pytest.mark.parametrize("system", STUDENTS)
def test_the_teacher_sees_what_the_student_misses_and_nothing_else(system):
    def loss(batch):
        torch.manual_seed(0)
        return student.loss(batch)[0]

    student = taught(system)
    hidden = loss(batch_of(*DROPPED, available=EVERYTHING))
    assert hidden != loss(batch_of(*DROPPED))
    batch = batch_of(*DROPPED, available=EVERYTHING)
    batch["images"]["rgb"][0] += 1
    assert loss(batch) != hidden
    some = [("depth", "event", "lidar"), DELIVER_MODALITIES]  # sample 0 has no rgb at all
    expected = loss(batch_of(*DROPPED, available=some))
    batch = batch_of(*DROPPED, available=some)
    batch["images"]["rgb"][0] = float("nan")
    assert loss(batch) == expected
    with pytest.raises(InputError, match="depth.*subset of `available`"):
        loss(batch_of(*DROPPED, available=[("rgb", "lidar"), DELIVER_MODALITIES]))


def test_the_loss_is_the_weighted_sum_of_its_terms():
    batch = batch_of(*DROPPED, available=EVERYTHING)
    value, logs = taught("anyseg").loss(batch)
    expected = logs["ohem"] + 50 * logs["kl"] + 5 * logs["umd"] + 10 * logs["cmd"]
    torch.testing.assert_close(value.detach(), expected)
    value, again = taught("anyseg", kl_weight=1.0, umd_weight=2.0, cmd_weight=0.0).loss(batch)
    torch.testing.assert_close(value.detach(), logs["ohem"] + logs["kl"] + 2 * logs["umd"])
    assert again["cmd"] == logs["cmd"]
    with pytest.raises(ValueError, match="umd_weight = -1"):
        net("anyseg", umd_weight=-1)


@pytest.mark.parametrize("published", [False, True])
def test_every_term_equals_a_loop(published):
    student = taught("anyseg", published_losses=published)
    batch = batch_of(*DROPPED, available=EVERYTHING)
    _, logs = student.loss(batch)
    with torch.no_grad():
        (names, maps, mask), logits = student.encode_and_decode(batch["images"], batch["present"])
        (_, known, _), targets = student.teacher.encode_and_decode(batch["images"], batch["available"])
    torch.testing.assert_close(logs["ohem"], ohem_cross_entropy(logits, batch["labels"]))
    torch.testing.assert_close(logs["kl"], F.kl_div(logits.log_softmax(1), targets.softmax(1), reduction="none").mean())
    umd, cmd = 0.0, 0.0
    for f_s, f_t in zip(maps, known, strict=True):
        for b in range(2):
            for m in mask[:, b].nonzero().flatten().tolist():
                s, t = f_s[m, b], f_t[DELIVER_MODALITIES.index(names[m]), b]  # (C, h, w)
                axis = 1 if published else 0
                umd += F.kl_div(s.log_softmax(axis), t.softmax(axis), reduction="none").mean() / 2
            there = mask[:, b]
            squares = (cosine_matrices(f_s[there, b][:, None]) - cosine_matrices(f_t[there, b][:, None])).square()
            cmd += squares.mean() / 2
    torch.testing.assert_close(logs["umd"], umd, rtol=1e-4, atol=1e-7)
    assert torch.isclose(logs["cmd"], cmd, rtol=1e-4, atol=1e-7) != published


def test_a_student_equal_to_its_teacher_has_nothing_to_learn():
    student = net("anyseg").eval()
    student.learn_from(net("segformer_mean"))
    _, logs = student.loss(batch_of(*EVERYTHING))
    assert max(float(logs[name].abs()) for name in ("kl", "umd", "cmd")) < 1e-9


def test_padding_is_unlabelled():
    student = taught("robustseg", regularisation_weight=0.0, pairing="matched").eval()
    batch = batch_of(*EVERYTHING, size=(20, 50))
    padded = {"images": {name: F.pad(one, (0, 14, 0, 12)) for name, one in batch["images"].items()},
              "labels": F.pad(batch["labels"], (0, 14, 0, 12), value=255), "present": batch["present"]}
    small, whole = student.loss(batch)[1], student.loss(padded)[1]
    torch.testing.assert_close(small["ohem"], whole["ohem"])
    torch.testing.assert_close(small["prototype"], whole["prototype"])
