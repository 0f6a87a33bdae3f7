"""MAGIC and the reconstruction of MAGIC++ against their equations written out as loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from by_hand import cosine, kl, softmax

from mss_models.info import describe
from mss_models.layers.similarity import cosine_to, robust_and_fragile
from mss_models.losses import agreed, cross_entropy, inconsistency
from mss_models.system import create
from mss_models.systems.magic import MAGIC, Aggregation, ValueMLP
from mss_models.systems.magic_plus import Interaction

NAMES = ("rgb", "depth", "event", "lidar")


def shaken(module):
    """The module with every parameter away from its neutral value, in eval mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)
    return module.eval()


def network(system, **options):
    torch.manual_seed(0)
    return create(system=system, modalities=NAMES, num_classes=4, head_width=16, drop_path=0.0, dropout=0.0, **options)


def batch_of(*subsets, size=(64, 64)):
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(0, 4, (len(subsets), *size), generator=generator)
    labels[:, :5] = 255
    return {"images": {name: torch.randn(len(subsets), 3, *size, generator=generator) for name in NAMES},
            "present": {name: torch.tensor([name in one for one in subsets]) for name in NAMES}, "labels": labels}


@pytest.mark.parametrize(("backbone", "millions"), [("B0", 3.72), ("B2", 24.73)])
def test_size_in_inference_is_the_published_one(backbone, millions):
    row = describe("magic", backbone)
    assert row["parameters_inference"] / 1e6 == pytest.approx(millions, rel=0.005)
    assert row["parameters"] - row["parameters_inference"] == 2 * 25  # the two MLPs of the selection


# --- the modules of MAGIC


def test_value_mlp_starts_as_the_identity():
    x = torch.linspace(-20, 20, 101)
    torch.testing.assert_close(ValueMLP()(x), x)


@torch.no_grad()
def test_value_mlp_maps_each_value_by_itself():
    mlp = shaken(ValueMLP())
    x = torch.randn(2, 3, 4)
    result = mlp(x)
    for index in itertools.product(range(2), range(3), range(4)):
        hidden = [max(0.0, w * x[index].item() + b)
                  for w, b in zip(mlp.widen.weight[:, 0].tolist(), mlp.widen.bias.tolist(), strict=True)]
        total = sum(w * h for w, h in zip(mlp.narrow.weight[0].tolist(), hidden, strict=True))
        assert result[index].item() == pytest.approx(total + mlp.narrow.bias.item(), abs=1e-5)


@torch.no_grad()
def test_aggregation_equals_its_equations():
    mam = shaken(Aggregation(5, NAMES))
    maps = torch.randn(3, 2, 5, 13, 12)
    mask = torch.tensor([[True, False], [True, True], [False, True]])
    names = ("rgb", "event", "lidar")
    explored = torch.empty_like(maps)
    for m in range(3):
        f = maps[m]
        x0 = F.conv2d(f, mam.attention.dwconv.weight, mam.attention.dwconv.bias, padding=3, groups=5)
        pooled = x0 + sum(F.avg_pool2d(x0, k, 1, k // 2, count_include_pad=False) for k in (3, 7, 11))
        mix = mam.attention.mix
        explored[m] = f + F.conv2d(pooled, mix.weight[:, :, None, None], mix.bias).sigmoid() * f
    torch.testing.assert_close(mam.explore(maps.flatten(0, 1)).unflatten(0, (3, 2)), explored, rtol=1e-5, atol=1e-5)
    result = mam.merge(explored, mask, names)
    for b in range(2):
        there = [mam.mlps[names[m]](explored[m, b]) for m in range(3) if mask[m, b]]
        torch.testing.assert_close(result[b], sum(there) / len(there))


# --- ranking


@pytest.mark.parametrize("seed", range(5))
def test_ranking_equals_a_loop_over_cosines(seed):
    generator = torch.Generator().manual_seed(seed)
    subsets = [one for size in range(1, 5) for one in itertools.combinations(range(4), size)]
    mask = torch.tensor([[m in one for one in subsets] for m in range(4)])
    maps = torch.randn(4, len(subsets), 3, 2, 5, generator=generator) * 100
    maps[~mask] = 0
    reference = torch.randn(len(subsets), 3, 2, 5, generator=generator)
    similarity = cosine_to(reference, maps)
    robust, fragile, rest = robust_and_fragile(similarity, mask)
    for b, subset in enumerate(subsets):
        cosines = {m: cosine(maps[m, b], reference[b]) for m in subset}
        for m in subset:
            assert similarity[m, b].item() == pytest.approx(cosines[m], abs=1e-5)
        assert robust[b] == max(cosines, key=cosines.get) and fragile[b] == min(cosines, key=cosines.get)
        assert rest[:, b].nonzero().flatten().tolist() == [m for m in subset if m not in (robust[b], fragile[b])]


def test_equally_similar_modalities_are_still_two():
    robust, fragile, rest = robust_and_fragile(torch.zeros(3, 1), torch.tensor([[True], [False], [True]]))
    assert (robust.item(), fragile.item()) == (0, 2) and not bool(rest.any())


def test_cosines_of_large_maps_do_not_overflow_in_half_precision():
    maps = torch.full((2, 1, 4, 64, 64), 60.0, dtype=torch.float16)
    torch.testing.assert_close(cosine_to(maps[0], maps), torch.ones(2, 1))


@torch.no_grad()
def test_selection_takes_the_most_and_the_least_similar_one():
    model = shaken(network("magic"))
    maps, semantic = torch.randn(4, 2, 4, 6, 5), torch.randn(2, 4, 6, 5)
    mask = torch.tensor([[True, True], [True, False], [True, False], [True, False]])
    salient, rest = model.select(maps, semantic, mask)
    cosines = [cosine(maps[m, 0], semantic[0]) for m in range(4)]
    best, worst = cosines.index(max(cosines)), cosines.index(min(cosines))
    robust, fragile = model.selection["robust"], model.selection["fragile"]
    torch.testing.assert_close(salient[0], robust(maps[best, 0]) + fragile(maps[worst, 0]))
    torch.testing.assert_close(salient[1], robust(maps[0, 1]) + fragile(maps[0, 1]))  # one modality is both
    assert rest[:, 0].tolist() == [m not in (best, worst) for m in range(4)] and not bool(rest[:, 1].any())


# --- losses


def test_labels_are_kept_only_where_the_prediction_is_right():
    logits = torch.tensor([[0.0, 1.0, 2.0], [5.0, 0.0, 1.0], [0.0, 3.0, 0.0], [1.0, 0.0, 0.0]]).T.view(1, 3, 2, 2)
    labels = torch.tensor([[[2, 1], [255, 0]]])
    assert agreed(logits, labels).tolist() == [[[2, 255], [255, 0]]]
    assert labels.tolist() == [[[2, 1], [255, 0]]]


def test_cross_entropy_is_the_mean_over_the_labelled_pixels():
    logits = torch.randn(2, 3, 4, 5)
    labels = torch.randint(0, 3, (2, 4, 5))
    labels[0, :2] = 255
    losses = [-math.log(softmax(logits[b, :, y, x].tolist())[labels[b, y, x]])
              for b, y, x in itertools.product(range(2), range(4), range(5)) if labels[b, y, x] != 255]
    assert cross_entropy(logits, labels).item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_cross_entropy_without_labelled_pixels_is_zero_with_zero_gradient():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0 and bool((logits.grad == 0).all())


def test_inconsistency_equals_a_loop():
    maps, salient = torch.randn(5, 4, 3, 4, 6), torch.randn(4, 3, 4, 6)
    rest = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 1]]).bool()
    expected = 0.0
    for b in range(4):
        c = [softmax([cosine(maps[m, b, k], salient[b, k]) for k in range(3)]) for m in range(5) if rest[m, b]]
        middle = [sum(values) / len(c) for values in zip(*c, strict=True)]
        expected += sum(kl(one, middle) for one in c) / len(c)
    assert inconsistency(maps, salient, rest).item() == pytest.approx(expected / 4, rel=1e-4, abs=1e-8)


def test_inconsistency_of_two_is_the_jensen_shannon_divergence():
    maps, salient = torch.randn(4, 1, 5, 4, 6), torch.randn(1, 5, 4, 6)
    p, q = (softmax([cosine(maps[m, 0, k], salient[0, k]) for k in range(5)]) for m in (1, 3))
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    result = inconsistency(maps, salient, torch.tensor([[False], [True], [False], [True]])).item()
    assert result == pytest.approx((kl(p, middle) + kl(q, middle)) / 2, rel=1e-3)
    assert 0 < result < math.log(2)


@pytest.mark.parametrize("count", [0, 1])
def test_inconsistency_of_fewer_than_two_is_zero_with_finite_gradient(count):
    maps = torch.randn(2, 3, 5, 4, 6, requires_grad=True)
    rest = torch.zeros(2, 3, dtype=torch.bool)
    rest[:count] = True
    loss = inconsistency(maps, torch.randn(3, 5, 4, 6), rest)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-7) and bool(torch.isfinite(maps.grad).all())


@pytest.mark.parametrize("system", ["magic", "magic_plus"])
def test_total_loss_weighs_its_terms(system):
    model = network(system, lam=0.25, beta=8.0)
    loss, logs = model.loss(batch_of(NAMES, NAMES))
    assert set(logs) == {"loss", "L_M", "L_S", "L_C"} and logs["L_C"] > 0
    assert loss.item() == pytest.approx((logs["L_M"] + 0.25 * logs["L_S"] + 8.0 * logs["L_C"]).item(), rel=1e-6)


@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
@torch.no_grad()
def test_terms_of_magic_are_those_of_its_maps(size):
    model = network("magic").eval()
    for mlp in (*model.selection.values(), *model.aggregation.mlps.values()):
        shaken(mlp)
    batch = batch_of(NAMES, ("depth", "lidar"), size=size)
    _, logs = model.loss(batch)
    p_m = model(batch["images"], batch["present"])
    assert logs["L_M"].item() == pytest.approx(F.cross_entropy(p_m, batch["labels"], ignore_index=255).item(), rel=1e-5)
    padded = {name: F.pad(image, (0, -size[1] % 32, 0, -size[0] % 32)) for name, image in batch["images"].items()}
    maps, semantic, mask = model.aggregate(padded, batch["present"])
    salient, rest = model.select(maps, semantic, mask)
    p_s = F.interpolate(salient, next(iter(padded.values())).shape[-2:], mode="bilinear")[..., : size[0], : size[1]]
    right = p_m.argmax(1) == batch["labels"]
    losses = -p_s.log_softmax(1).gather(1, batch["labels"].clamp(max=3)[:, None])[:, 0]
    assert bool(right.any()) and logs["L_S"].item() == pytest.approx(losses[right].mean().item(), rel=1e-5)
    assert logs["L_C"].item() == pytest.approx(inconsistency(maps, salient, rest).item(), rel=1e-5)


@torch.no_grad()
def test_inference_does_not_use_the_selection():
    model, batch = network("magic").eval(), batch_of(NAMES)
    before = model(batch["images"], batch["present"])
    for parameter in model.selection.parameters():
        parameter.fill_(float("nan"))
    assert torch.equal(model(batch["images"], batch["present"]), before) and MAGIC.training_only == ("selection",)


@torch.no_grad()
def test_magic_starts_as_the_mean_of_the_modalities_explored_scores():
    model, batch = network("magic").eval(), batch_of(NAMES)
    scores = [model.aggregation.explore(model.head(model.backbone(image))) for image in batch["images"].values()]
    expected = F.interpolate(sum(scores) / 4, (64, 64), mode="bilinear")
    torch.testing.assert_close(model(batch["images"], batch["present"]), expected, rtol=1e-4, atol=1e-4)


# --- the reconstruction of MAGIC++


@torch.no_grad()
def test_interaction_equals_its_equations():
    mim = shaken(Interaction(8, reduction=2, kernel=3))
    maps = torch.randn(3, 2, 8, 5, 6)
    mask = torch.tensor([[True, False], [True, True], [False, True]])
    result = mim(maps, mask)
    hidden, _, out, _ = mim.channel_weights
    for m, b in itertools.product(range(3), range(2)):
        if not mask[m, b]:
            continue
        own = maps[m, b]
        common = torch.stack([maps[i, b] for i in range(3) if mask[i, b]]).mean(0)
        extent = torch.cat((own.mean((1, 2)), common.mean((1, 2))))
        w_c = (out.weight @ F.relu(hidden.weight @ extent + hidden.bias) + out.bias).sigmoid()
        places = torch.stack((own.mean(0), own.amax(0), common.mean(0), common.amax(0)))
        convolution = mim.spatial_weights[0]
        w_s = F.conv2d(places[None], convolution.weight, convolution.bias, padding=1)[0, 0].sigmoid()
        torch.testing.assert_close(result[m, b], own + 0.5 * w_c[:, None, None] * common + 0.5 * w_s * common)


@torch.no_grad()
def test_terms_of_magic_plus_are_those_of_its_features():
    model = network("magic_plus").eval()
    batch = batch_of(NAMES, NAMES)
    _, logs = model.loss(batch)
    p_m = model(batch["images"], batch["present"])
    assert logs["L_M"].item() == pytest.approx(F.cross_entropy(p_m, batch["labels"], ignore_index=255).item(), rel=1e-5)
    features, mask = model.interact(batch["images"], batch["present"])
    salient, divergences, chosen = [], [], []
    for one in features:  # each stage ranks by itself
        stage_salient, rests = [], torch.ones_like(mask)
        for b in range(2):
            cosines = [cosine(one[m, b], one[:, b].mean(0)) for m in range(4)]
            best, worst = cosines.index(max(cosines)), cosines.index(min(cosines))
            chosen.append((best, worst))
            rests[[best, worst], b] = False
            stage_salient.append((one[best, b] + one[worst, b]) / 2)
        salient.append(torch.stack(stage_salient))
        divergences.append(inconsistency(one, salient[-1], rests).item())
    assert len(set(chosen[::2])) > 1  # the stages differ, else this would not test them
    p_s = F.interpolate(model.head(salient), (64, 64), mode="bilinear")
    right = p_m.argmax(1) == batch["labels"]
    losses = -p_s.log_softmax(1).gather(1, batch["labels"].clamp(max=3)[:, None])[:, 0]
    assert bool(right.any()) and logs["L_S"].item() == pytest.approx(losses[right].mean().item(), rel=1e-4)
    assert logs["L_C"].item() == pytest.approx(sum(divergences) / 4, rel=1e-4)


def test_magic_plus_calls_itself_a_reconstruction():
    row = describe("magic_plus", "B0")
    assert "reconstruction" in row["source"] and "reconstruction" in row["ours"]
