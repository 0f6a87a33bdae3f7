"""EQUISeg against its equations written out plainly, and the statistics of who teaches whom."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from by_hand import shaken
from torch import nn

from mss_models.losses import cross_entropy
from mss_models.system import create
from mss_models.systems.equiseg import CMTB, class_prototypes, most_similar_pairs, random_pairs, similarities

NAMES = ("rgb", "depth", "event")


def build(**options):
    torch.manual_seed(0)
    return create(**{"system": "equiseg", "modalities": NAMES, "num_classes": 5, "head_width": 16, **options}).eval()


def batch_of(count, *names):
    torch.manual_seed(1)
    return {"images": {name: torch.randn(count, 3, 64, 64) for name in names},
            "present": {name: torch.ones(count, dtype=torch.bool) for name in names},
            "labels": torch.randint(0, 5, (count, 64, 64))}


def first(x):
    """(h, w, C) -> (1, C, h, w)."""
    return x.permute(2, 0, 1)[None]


def plain_attention(layer, x, context):
    """Softmax(Q K^T / sqrt d) V of one sample, x and context (h, w, C), head by head."""
    if layer.reduction > 1:
        context = layer.norm(layer.sr(first(context))[0].permute(1, 2, 0))
    C = x.shape[-1]
    weight_k, weight_v = layer.kv.weight.chunk(2)
    bias_k, bias_v = layer.kv.bias.chunk(2)
    q, k, v = (one.view(-1, C).chunk(layer.heads, dim=1)
               for one in (layer.q(x), context @ weight_k.T + bias_k, context @ weight_v.T + bias_v))
    heads = [(a @ b.T / math.sqrt(a.shape[1])).softmax(dim=1) @ c for a, b, c in zip(q, k, v, strict=True)]
    return layer.proj(torch.cat(heads, dim=1)).view(x.shape)


def plain_block(block, f_1, others):
    """The CMTB of one sample: f_1 (h, w, C), others: name -> (h, w, C) of those that are there."""
    f_1 = f_1 + plain_attention(block.mhsa, f_1, f_1)
    if not others:
        return f_1
    if block.hub:
        weighted = []
        for name, x in others.items():
            depthwise, point, _ = block.hub.scores[block.others.index(name)]
            score = 1 / (1 + (-point(depthwise(first(x)))).exp())
            weighted.append(first(x) * score + first(x))
        gathered = torch.stack(weighted).amax(dim=0)
    else:
        gathered = sum(first(x) for x in others.values()) / len(others)
    f_aux = block.ppx(gathered.permute(0, 2, 3, 1))[0]
    f_c = plain_attention(block.mhca, f_1, f_aux) if block.mhca else f_aux
    return f_1 + f_c if block.addition else f_c


@pytest.mark.parametrize("hub", ["self_query", "mean"])
@pytest.mark.parametrize(("cross_attention", "addition"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("reduction", [1, 2])
@torch.no_grad()
def test_block_equals_its_equations_for_every_subset_of_the_others(hub, cross_attention, addition, reduction):
    block = shaken(CMTB(8, 2, reduction, 4, 0.0, NAMES, hub, cross_attention, addition))
    assert bool(block.mhca) == cross_attention and bool(block.hub) == (hub == "self_query")
    subsets = [subset for size in range(4) for subset in itertools.combinations(NAMES, size)]
    f_1 = torch.randn(len(subsets), 4, 6, 8)
    others = {name: torch.randn_like(f_1) for name in NAMES}
    there = {name: torch.tensor([name in subset for subset in subsets]) for name in NAMES}
    result = block(f_1, others, there)
    for b, subset in enumerate(subsets):
        expected = plain_block(block, f_1[b], {name: others[name][b] for name in subset})
        torch.testing.assert_close(result[b], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block(f_1, {}, there)[0], result[0])


@torch.no_grad()
def test_all_modalities_are_encoded_at_once_each_by_its_own_branch():
    """Every block reads what the others were before any block of the stage (eq. 5)."""
    model = build()
    batch = batch_of(1, *NAMES)
    features, mask = model.encode(batch["images"], batch["present"])
    x = {name: image.permute(0, 2, 3, 1) for name, image in batch["images"].items()}
    for i in range(4):
        x = {name: model.backbones[name].stages[i](one) for name, one in x.items()}
        x = {name: plain_block(model.blocks[name][i], one[0], {other: x[other][0] for other in NAMES if other != name})
             for name, one in x.items()}
        for m, name in enumerate(NAMES):
            torch.testing.assert_close(features[i][m, 0].permute(1, 2, 0), x[name], rtol=1e-4, atol=1e-4)
        x = {name: one[None] for name, one in x.items()}
    means = [one.mean(dim=0) for one in features]
    expected = nn.functional.interpolate(model.head(means), scale_factor=4, mode="bilinear")
    torch.testing.assert_close(model.decode(features, mask, (64, 64)), expected)
    assert len({id(one) for one in model.backbones.values()}) == 3


def plain_prototypes(f, mask, labels, num_classes):
    """Eq. 3 pixel by pixel: (modality, class) -> mean (C,), where there is one."""
    sums, counts = {}, Counter()
    stride = labels.shape[1] // f.shape[3]
    for m, b, y, x in itertools.product(*map(range, (*f.shape[:2], *f.shape[3:]))):
        c = int(labels[b, y * stride, x * stride])
        if mask[m, b] and c < num_classes:
            sums[m, c] = sums.get((m, c), 0) + f[m, b, :, y, x]
            counts[m, c] += 1
    return {key: one / counts[key] for key, one in sums.items()}


def labels_with_gaps(batch=2, size=32):
    """Class 3 is nowhere, class 1 in the first sample alone, some pixels are ignored."""
    torch.manual_seed(2)
    labels = torch.tensor([0, 1, 2, 4, 255])[torch.randint(0, 5, (batch, size, size))]
    labels[1][labels[1] == 1] = 0
    return labels


def test_prototypes_equal_loops():
    f, mask = torch.randn(3, 2, 6, 4, 4), torch.tensor([[True, True], [False, True], [True, False]])
    labels = labels_with_gaps()
    p, there = class_prototypes(f, mask, labels, 5)
    expected = plain_prototypes(f, mask, labels, 5)
    assert {(m, c) for m, c in there.nonzero().tolist()} == set(expected)
    assert not bool(there[:, 3].any()) and not bool(there[1, 1])
    for (m, c), one in expected.items():
        torch.testing.assert_close(p[m, c], one)


def plain_kl(teacher, student):
    """KL(softmax t || softmax s) over the first axis of (N, D), the mean over all elements, number by number."""
    total = 0.0
    for column in range(teacher.shape[1]):
        t, s = ([math.exp(v) for v in one[:, column].tolist()] for one in (teacher, student))
        total += sum(a / sum(t) * math.log((a / sum(t)) / (b / sum(s))) for a, b in zip(t, s, strict=True))
    return total / teacher.numel()


def pyramid(modalities=2, batch=2):
    torch.manual_seed(3)
    return [torch.randn(modalities, batch, 6, 16 >> i, 16 >> i, requires_grad=True) for i in range(4)]


def plain_guidance(features, mask, labels, teacher, student, guidance):
    total = 0.0
    for f in features:
        if guidance == "prototypes":
            p = plain_prototypes(f.detach(), mask, labels, 5)
            classes = [c for c in range(5) if (teacher, c) in p and (student, c) in p]
            total += plain_kl(*(torch.stack([p[m, c] for c in classes]) for m in (teacher, student)))
        else:
            both = [b for b in range(f.shape[1]) if mask[teacher, b] and mask[student, b]]
            t, s = (f.detach()[m, both].transpose(0, 1).flatten(1) for m in (teacher, student))  # (C, pixels)
            total += plain_kl(t, s)
    return total


@pytest.mark.parametrize("guidance", ["prototypes", "features"])
@pytest.mark.parametrize("mask", [[[True, True], [True, True]], [[True, True], [True, False]]])
def test_guidance_is_the_kl_from_teacher_to_student_and_moves_the_student_alone(guidance, mask):
    model, labels, mask, seen = build(guidance=guidance), labels_with_gaps(), torch.tensor(mask), set()
    for seed in range(6):
        features = pyramid()
        torch.manual_seed(seed)
        ((teacher, student),) = random_pairs(2)
        torch.manual_seed(seed)
        value = model.guide(features, mask, labels)
        expected = plain_guidance(features, mask, labels, teacher, student, guidance)
        assert value.item() == pytest.approx(expected, rel=1e-4)
        value.backward()
        for f in features:
            assert not bool(f.grad[teacher].any()) and bool(f.grad[student].any())
        seen.add(teacher)
    assert seen == {0, 1}
    other = plain_guidance(features, mask, labels, student, teacher, guidance)
    assert other != pytest.approx(value.item(), rel=1e-2)  # the direction can be told


def test_guidance_sums_the_pairs():
    model, labels, features, mask = build(), labels_with_gaps(), pyramid(4), torch.ones(4, 2).bool()
    torch.manual_seed(7)
    pairs = random_pairs(4)
    torch.manual_seed(7)
    value = model.guide(features, mask, labels)
    expected = sum(plain_guidance(features, mask, labels, *pair, "prototypes") for pair in pairs)
    assert value.item() == pytest.approx(expected, rel=1e-4)


def test_guidance_is_zero_where_there_is_nobody_or_nothing_to_learn_from():
    model = build()
    assert model.guide(pyramid(1), torch.ones(1, 2).bool(), labels_with_gaps()) == 0
    assert model.guide(pyramid(), torch.ones(2, 2).bool(), torch.full((2, 32, 32), 255)) == 0


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_halves_are_random(count):
    torch.manual_seed(0)
    rounds, roles, pairs = 6000, Counter(), Counter()
    for _ in range(rounds):
        drawn = random_pairs(count)
        assert len(drawn) == count // 2 and len({i for pair in drawn for i in pair}) == 2 * (count // 2)
        pairs.update(drawn)
        roles.update(t for t, _ in drawn)
    for i in range(count):
        assert roles[i] / rounds == pytest.approx((count // 2) / count, abs=0.04)
        for j in set(range(count)) - {i}:
            assert pairs[i, j] / rounds == pytest.approx((count // 2) / (count * (count - 1)), abs=0.03)


def test_cosine_pairing_joins_the_most_similar():
    similarity = torch.tensor([[1.0, 0.9, 0.2, 0.8], [0.9, 1.0, 0.95, 0.1], [0.2, 0.95, 1.0, 0.3],
                               [0.8, 0.1, 0.3, 1.0]])
    torch.manual_seed(0)
    drawn = Counter(pair for _ in range(400) for pair in most_similar_pairs(similarity))
    assert set(drawn) == {(1, 2), (2, 1), (0, 3), (3, 0)}
    assert all(140 < one < 260 for one in drawn.values())  # sd 10
    assert {frozenset(pair) for pair in most_similar_pairs(similarity[:3, :3])} == {frozenset((1, 2))}


def test_similarities_equal_loops():
    stages = [(torch.randn(3, 5, 4), torch.tensor([[1, 1, 0, 1, 1], [1, 0, 1, 1, 1], [0, 1, 1, 0, 0]]).bool()),
              (torch.randn(3, 5, 7), torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 1, 1], [0, 1, 1, 0, 0]]).bool())]
    result = similarities(stages)
    for i, j in itertools.permutations(range(3), 2):
        cosines = []
        for rows, there in stages:
            pairs = [(a, b) for r in range(5) if there[i, r] and there[j, r]
                     for a, b in zip(rows[i, r].tolist(), rows[j, r].tolist(), strict=True)]
            norms = math.sqrt(sum(a * a for a, _ in pairs) * sum(b * b for _, b in pairs))
            cosines.append(sum(a * b for a, b in pairs) / norms if pairs else -1.0)
        assert result[i, j].item() == pytest.approx(sum(cosines) / 2, abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"guidance": "features"}, {"pairing": "cosine"}, {"guidance_weight": 1.0}])
@torch.no_grad()
def test_loss_is_cross_entropy_and_weighted_guidance(options):
    model, batch = build(**options), batch_of(2, *NAMES)
    torch.manual_seed(4)
    loss, logs = model.loss(batch)
    torch.manual_seed(4)
    features, mask = model.encode(batch["images"], batch["present"])
    torch.testing.assert_close(logs["L_s"], model.guide(features, mask, batch["labels"]))
    torch.testing.assert_close(logs["L_CE"], cross_entropy(model(batch["images"], batch["present"]), batch["labels"]))
    torch.testing.assert_close(loss, logs["L_CE"] + options.get("guidance_weight", 60.0) * logs["L_s"])
    assert logs["L_s"] > 0


@torch.no_grad()
def test_without_guidance_there_is_cross_entropy_alone():
    loss, logs = build(guidance="none").loss(batch_of(2, *NAMES))
    assert set(logs) == {"loss", "L_CE"} and loss == logs["L_CE"]


@pytest.mark.parametrize(("option", "message"), [
    ({"hub": "max"}, "hub = 'max' is unknown; known: self_query, mean"), ({"guidance": "all"}, "prototypes, features"),
    ({"pairing": "kl"}, "random, cosine"), ({"cross_attention": False, "addition": False}, "both off")])
def test_wrong_options_are_named(option, message):
    with pytest.raises(ValueError, match=message):
        build(**option)
