"""The distillation losses against loops, closed forms, finite differences and automatic differentiation."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from by_hand import softmax

from mss_models.distillation import (
    cosine_matrices,
    cross_modal,
    cross_modal_published,
    draw_pairs,
    draw_partners,
    fisher_penalty,
    kl_mean,
    labels_at,
    perturb,
    prototypes,
)

ALL = ("rgb", "depth", "event", "lidar")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dim", [1, 2])
def test_kl_is_from_teacher_to_student_and_the_mean_over_all_elements(dim):
    student, teacher = randn(2, 3, 4, 5), 2 * randn(2, 3, 4, 5, seed=1)
    for n in range(2):
        total = 0.0
        rows = zip(student[n].movedim(dim - 1, -1).flatten(0, 1), teacher[n].movedim(dim - 1, -1).flatten(0, 1),
                   strict=True)
        for s, t in rows:
            s, t = softmax(s.tolist()), softmax(t.tolist())
            total += sum(one * (math.log(one) - math.log(other)) for one, other in zip(t, s, strict=True))
        assert kl_mean(student, teacher, dim)[n].item() == pytest.approx(total / 60, rel=1e-5)
    torch.testing.assert_close(kl_mean(student, teacher, dim).mean(),
                               F.kl_div(student.log_softmax(dim), teacher.softmax(dim), reduction="none").mean())


def test_kl_of_two_classes_by_hand():
    student, teacher = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])  # (1/2, 1/2) and (3/4, 1/4)
    expected = (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)) / 2
    assert kl_mean(student, teacher, 1).item() == pytest.approx(expected)
    assert kl_mean(teacher, student, 1).item() != pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("size", [(4, 6), (2, 3), (8, 12)])
def test_labels_come_from_the_nearest_pixel(size):
    labels = torch.arange(8 * 12).reshape(1, 8, 12)
    small = labels_at(labels, size)
    for y, x in itertools.product(range(size[0]), range(size[1])):
        assert small[0, y, x] == labels[0, y * 8 // size[0], x * 12 // size[1]]


@pytest.mark.parametrize("published", [False, True])
def test_prototypes_equal_a_loop_and_absent_classes_are_zero(published):
    maps = randn(2, 3, 4, 5)
    labels = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1))  # no class 3
    labels[0, :2], labels[1, 0, 0] = 255, -1
    found = prototypes(maps, labels, 4, published)
    assert found.shape == (2, 4, 3) and not bool(found[:, 3].any())
    for p, c in itertools.product(range(2), range(3)):
        pixels = [maps[p, :, y, x] for y in range(4) for x in range(5) if labels[p, y, x] == c]
        expected = torch.stack(pixels).mean(dim=0) / (len(pixels) if published else 1)
        torch.testing.assert_close(found[p, c], expected)


def test_matched_partners_are_the_same_modality():
    assert draw_partners("matched", ["depth", "lidar"], ALL) == {"depth": "depth", "lidar": "lidar"}


def test_hybrid_partners_are_a_uniform_permutation_of_all_modalities():
    torch.manual_seed(0)
    count = 4800
    drawn = Counter(tuple(draw_partners("hybrid", ALL, ALL).values()) for _ in range(count))
    assert set(drawn) == set(itertools.permutations(ALL))  # 24, of 200 each: a deviation of 5 sigma is 70
    assert all(abs(one - count / 24) < 70 for one in drawn.values())
    alone = Counter(draw_partners("hybrid", ["lidar"], ALL)["lidar"] for _ in range(400))
    assert set(alone) == set(ALL)


def test_published_partners_are_the_first_of_the_teachers_in_any_order():
    torch.manual_seed(0)
    drawn = {tuple(sorted(draw_partners("published", ["depth", "lidar"], ALL).items())) for _ in range(50)}
    assert drawn == {(("depth", "rgb"), ("lidar", "depth")), (("depth", "depth"), ("lidar", "rgb"))}


def test_pairs_index_both_sides_and_need_both_halves():
    student = (("rgb", "lidar"), torch.tensor([[True, True, False], [False, True, True]]))
    teacher = (("depth", "lidar", "rgb"), torch.tensor([[True] * 3, [True, True, False], [True, True, True]]))
    pairs = draw_pairs("matched", student, teacher, ALL)
    assert [one.tolist() for one in pairs] == [[0, 0, 1], [2, 2, 1], [0, 1, 1]]
    nothing = draw_pairs("matched", student, (("event",), torch.ones(1, 3, dtype=torch.bool)), ALL)
    assert [one.tolist() for one in nothing] == [[], [], []]


def test_samples_draw_their_permutations_by_themselves():
    torch.manual_seed(0)
    everything = (ALL, torch.ones(4, 40, dtype=torch.bool))
    _, partner, sample = draw_pairs("hybrid", everything, everything, ALL)
    orders = {tuple(partner[sample == b].tolist()) for b in range(40)}
    assert len(orders) > 10 and all(sorted(one) == [0, 1, 2, 3] for one in orders)


def test_cosine_matrices_equal_a_loop():
    maps = randn(3, 2, 4, 5, 6)
    found = cosine_matrices(maps)
    for b, m, n in itertools.product(range(2), range(3), range(3)):
        cosines = []
        for c in range(4):
            f, g = maps[m, b, c].flatten(), maps[n, b, c].flatten()
            cosines.append(float(f @ g / (f.norm() * g.norm())))
        assert found[b, m, n].item() == pytest.approx(sum(cosines) / 4, abs=1e-6)


def test_cross_modal_equals_a_loop_over_what_is_there():
    student, teacher = randn(3, 3, 4, 5, 6), randn(3, 3, 4, 5, 6, seed=1)
    mask = torch.tensor([[True, True, False], [True, False, True], [True, True, False]])  # sample 2 has one modality
    c_s, c_t = cosine_matrices(student), cosine_matrices(teacher)
    for b, there in enumerate([(0, 1, 2), (0, 2), (1,)]):
        squares = [float(c_s[b, m, n] - c_t[b, m, n]) ** 2 for m in there for n in there]
        assert cross_modal(student, teacher, mask)[b].item() == pytest.approx(sum(squares) / len(squares), abs=1e-7)
    assert cross_modal(student, 3 * student, mask).abs().max() < 1e-9  # equal up to a factor: equal relations


def test_published_cross_modal_compares_the_whole_batch_after_its_soft_maxes():
    student, teacher = randn(3, 2, 4, 5), randn(3, 2, 4, 5, seed=1)
    log_s, t = student.log_softmax(-2), teacher.softmax(-2)
    squares = [(F.cosine_similarity(log_s[p].flatten(1), log_s[q].flatten(1)).mean()
                - F.cosine_similarity(t[p].flatten(1), t[q].flatten(1)).mean()).item() ** 2
               for p in range(3) for q in range(3)]
    assert cross_modal_published(student, teacher).item() == pytest.approx(sum(squares) / 9, rel=1e-4)
    assert cross_modal_published(student, student) > 1e-3
    assert cross_modal_published(student[:0], teacher[:0]) == 0


def test_perturbation_has_each_pixels_deviation_over_the_channels():
    torch.manual_seed(0)
    maps = randn(2, 6, 3, 3) * torch.tensor([0.1, 1.0, 5.0]) + 7
    noise = perturb(maps, 4000) - maps[:, None]
    torch.testing.assert_close(noise.mean(dim=(1, 2)), torch.zeros(2, 3, 3), atol=0.2, rtol=0)
    sigma = maps.double().var(dim=1, correction=0).mul(6 / (6 - 1 / 4000)).sqrt().float()
    torch.testing.assert_close(noise.std(dim=(1, 2)), sigma, rtol=0.03, atol=0)
    assert perturb(maps, 1).shape == (2, 1, 6, 3, 3)


def test_constant_maps_can_be_differentiated():
    maps = torch.ones(1, 4, 2, 2, requires_grad=True)
    fisher_penalty(perturb(maps, 3), perturb(maps.detach(), 3)).sum().backward()
    assert bool(torch.isfinite(maps.grad).all())


def by_autograd(student, teacher, dim, of_mean):
    """The penalties as the papers put them: gradients of the loss, which can be differentiated again."""
    penalties = []
    for s, t in zip(student, teacher, strict=True):  # (draws, C, h, w)
        a, b = s.log_softmax(dim - 1), t.softmax(dim - 1)
        a, b = a.requires_grad_(), b.requires_grad_()
        f = F.kl_div(a, b, reduction="none")
        value = f.mean() if of_mean else f.sum()  # of the sum: every distribution's own gradient
        level = value if of_mean else f.sum(dim - 1).mean()
        information = [(g.square().sum(dim - 1) / level).mean()
                       for g in torch.autograd.grad(value, [a, b], create_graph=True)]
        penalties.append(torch.hypot(*(1 / one for one in information)))
    return torch.stack(penalties)


@pytest.mark.parametrize("of_mean", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_penalty_and_its_gradient_equal_automatic_differentiation(dim, of_mean):
    student = randn(2, 3, 4, 5, 6).requires_grad_()
    teacher = randn(2, 3, 4, 5, 6, seed=1)
    found = fisher_penalty(student, teacher, dim, of_mean)
    reference = student.detach().double().requires_grad_()
    expected = by_autograd(reference, teacher.double(), dim, of_mean)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    (expected,) = torch.autograd.grad(expected.sum(), reference)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_fisher_information_equals_finite_differences():
    """One distribution of three entries; f(a, b) = sum b (log b - a), each variable moved by itself."""
    s, t = [0.3, -0.8, 1.1], [1.0, 0.2, -0.4]
    a, b = [math.log(one) for one in softmax(s)], softmax(t)

    def f(a, b):
        return sum(two * (math.log(two) - one) for one, two in zip(a, b, strict=True))

    def squared_slope(of):
        step = 1e-6
        return sum(((of(i, step) - of(i, -step)) / (2 * step)) ** 2 for i in range(3))

    def moved(values, i, step):
        return [one + step * (i == j) for j, one in enumerate(values)]

    i_s = squared_slope(lambda i, step: f(moved(a, i, step), b)) / f(a, b)
    i_t = squared_slope(lambda i, step: f(a, moved(b, i, step))) / f(a, b)
    maps = [torch.tensor(one).view(1, 1, 3, 1, 1) for one in (s, t)]
    assert fisher_penalty(*maps).item() == pytest.approx(math.hypot(1 / i_s, 1 / i_t), rel=1e-5)
    # of the mean over 3 elements: f / 3 with the slopes / 3, so that I is 1 / 3 of it
    assert fisher_penalty(*maps, of_mean=True).item() == pytest.approx(3 * math.hypot(1 / i_s, 1 / i_t), rel=1e-5)
