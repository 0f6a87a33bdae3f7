"""CHARM against its equations written out plainly: every pixel pair of the attention, every draw of the sampling."""

from __future__ import annotations

import pytest
import torch
from by_hand import shaken
from torch import nn

from mss_models.backbones import swin
from mss_models.layers.present import encode_present
from mss_models.losses import cross_entropy
from mss_models.system import create
from mss_models.systems.charm import MPU, Scale, SemanticProjector, reassembly

NAMES = ("rgb", "depth", "event")


def build(**options):
    torch.manual_seed(0)
    return create(**{"system": "charm", "modalities": NAMES, "num_classes": 5, "head_width": 16, **options}).eval()


def batch_of(count, *names):
    torch.manual_seed(1)
    images = {name: torch.randn(count, 3, 64, 64) for name in names}
    present = {name: torch.ones(count, dtype=torch.bool) for name in names}
    return images, present, torch.randint(0, 5, (count, 64, 64))


def plain_attention(unit, f_se, x, allowed):
    """MPU of one sample over all pixels at once: f_se (h, w, C), x (M, h, w, C), allowed (M, h, w): the context.

    Query and key see each other if they are in one window. The windows of a shifted block start at `shift`; before it
    there is a narrow one.
    """
    h, w, C = f_se.shape
    row, column = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    at = torch.stack((row, column), dim=-1).reshape(-1, 2)  # (h w, 2)
    windows = torch.div(at - unit.shift, unit.window, rounding_mode="floor")
    together = (windows[:, None] == windows[None]).all(dim=-1)  # (h w, h w)
    span = 2 * unit.window - 1
    offset = (at[:, None] - at[None]).clamp(1 - unit.window, unit.window - 1) + unit.window - 1
    bias = unit.bias[offset[..., 0] * span + offset[..., 1]]  # (h w, h w, heads)
    q = unit.q(unit.norm1(f_se)).reshape(h * w, unit.heads, -1)
    scores, values = [], []
    for name, one, there in zip(NAMES, x, allowed, strict=False):
        k, v = unit.kv[name](unit.norm1(one)).reshape(h * w, 2, unit.heads, -1).unbind(1)
        product = torch.einsum("qnd,knd->qkn", q, k) / q.shape[-1] ** 0.5 + bias
        scores.append(product.masked_fill(~(together & there.flatten())[..., None], -torch.inf))
        values.append(v)
    weights = torch.cat(scores, dim=1).softmax(dim=1)  # (h w, M h w, heads)
    y = torch.einsum("qkn,knd->qnd", weights, torch.cat(values)).reshape(h, w, C)
    if unit.mlp is None:
        return unit.proj(y)
    f_se = f_se + unit.proj(y)
    return f_se + unit.mlp(unit.norm2(f_se))


@pytest.mark.parametrize(("shift", "size", "form"), [
    *((shift, size, "block") for shift in (0, 2) for size in ((8, 12), (4, 4), (5, 7), (1, 2))),
    (2, (5, 7), "attention")])
@torch.no_grad()
def test_mpu_equals_plain_attention_with_an_explicit_mask(shift, size, form):
    unit = shaken(MPU(8, 2, NAMES, window=4, shift=shift, unit=form))
    assert (unit.mlp is None) == (form == "attention")
    f_se, x = torch.randn(3, *size, 8), torch.randn(3, 3, *size, 8)
    mask = torch.tensor([[True, False, True], [True, True, False], [True, False, False]])
    for b, one in enumerate(unit(f_se, x, NAMES)):
        torch.testing.assert_close(one, plain_attention(unit, f_se[b], x[:, b], torch.ones(3, *size).bool()))
    for b, one in enumerate(unit(f_se, x, NAMES, mask)):
        allowed = mask[:, b, None, None].expand(3, *size)
        torch.testing.assert_close(one, plain_attention(unit, f_se[b], x[:, b], allowed))
    # f_re: at every pixel the drawn modality alone, with its own W^K and W^V; two paths over the three samples.
    drawn = torch.randint(0, 3, (6, *size))
    for p, one in enumerate(unit(f_se.repeat(2, 1, 1, 1), x, NAMES, drawn=drawn)):
        allowed = drawn[p] == torch.arange(3)[:, None, None]
        torch.testing.assert_close(one, plain_attention(unit, f_se[p % 3], x[:, p % 3], allowed))


@pytest.mark.parametrize("shift", [0, 3])
@torch.no_grad()
def test_mpu_with_one_modality_is_self_attention(shift):
    """Beside a block of Swin with the same weights."""
    unit, block = shaken(MPU(12, 3, NAMES, swin.WINDOW, shift)), swin.Block(12, 3, shift, drop_path=0.0).eval()
    attention = block.attention
    for mine, its in ((unit.norm1, block.norm1), (unit.norm2, block.norm2), (unit.mlp, block.mlp),
                      (unit.proj, attention.proj)):
        its.load_state_dict(mine.state_dict())
    attention.qkv.weight.copy_(torch.cat((unit.q.weight, unit.kv["depth"].weight)))
    attention.qkv.bias.copy_(torch.cat((unit.q.bias, unit.kv["depth"].bias)))
    attention.bias.copy_(unit.bias)
    x = torch.randn(2, 14, 21, 12)
    expected = block(x, swin.shift_mask(14, 21, swin.WINDOW, shift, x.device))
    torch.testing.assert_close(unit(x, x[None], ["depth"]), expected)


@pytest.mark.parametrize(("sampling", "sign"), [("softmin", -1), ("uniform", 0), ("softmax", 1)])
def test_sampling_frequencies(sampling, sign):
    scale, count = Scale(8, 1, NAMES, 0, 4, "softmax", sampling), 40_000
    r = torch.tensor([[0.1, 0.3], [0.0, 1.0], [0.9, 0.5]])  # means 0.2, 0.5, 0.7 over a map of two pixels
    torch.manual_seed(0)
    s_m, draws = scale.sample(r.view(3, 1, 1, 2).expand(-1, count, -1, -1), torch.ones(3, count).bool())
    weights = torch.tensor([0.2, 0.5, 0.7]).mul(sign).exp()
    expected = weights / weights.sum()
    torch.testing.assert_close(s_m, expected[:, None].expand(3, count))
    joint = torch.bincount(3 * draws[0] + draws[1], minlength=9).view(3, 3) / count
    torch.testing.assert_close(joint, torch.outer(expected, expected), rtol=0, atol=0.01)  # independent; sd 0.002


@pytest.mark.parametrize("sampled_by", ["robustness", "scores"])
@torch.no_grad()
def test_what_is_sampled_by(sampled_by):
    """SoftMin over the means of r_m, or of the scores of which r_m is the soft-max: those are not bounded."""
    scale = shaken(Scale(8, 1, NAMES, 0, 4, "softmax", "softmin", sampled_by))
    f_m, mask = torch.randn(3, 2, 8, 4, 4), torch.tensor([[True, True], [True, False], [True, True]])
    scale(f_m, mask, NAMES, learning=True, complete=False, shares=(shares := []))
    for b in range(2):
        there = [m for m in range(3) if mask[m, b]]
        projected = [scale.projectors[NAMES[m]](f_m[m, b : b + 1])[0] for m in there]  # (8, 4, 4)
        means = torch.stack([(scale.evaluator.weight[0][:, None, None] * one).sum(0) for one in projected])
        means = (means.softmax(dim=0) if sampled_by == "robustness" else means).mean(dim=(1, 2))
        expected = torch.zeros(3)
        expected[there] = (-means).exp() / (-means).exp().sum()
        torch.testing.assert_close(shares[0][:, b], expected)


def test_absent_modalities_are_neither_sampled_nor_in_the_context():
    mask = torch.tensor([[False, True, True], [True, True, False], [False, False, True]])  # (M, B)
    mask = mask.repeat(1, 500)
    scale = Scale(8, 1, NAMES, 0, 4, "softmax", "softmin")
    torch.manual_seed(0)
    s_m, draws = scale.sample(torch.rand(3, 1500, 2, 2), mask)
    assert torch.equal(s_m > 0, mask)
    assert bool(mask.gather(0, draws).all())
    drawn = reassembly(mask, 4, 6)
    assert drawn.shape == (1500, 4, 6)
    assert bool(mask.gather(0, drawn.flatten(1).T).all())


def test_context_pixels_are_drawn_independently_and_uniformly():
    torch.manual_seed(0)
    drawn = reassembly(torch.ones(3, 4000).bool(), 2, 2).flatten(1)
    joint = torch.stack([torch.bincount(3 * drawn[:, i] + drawn[:, i + 1], minlength=9) for i in range(3)]) / 4000
    torch.testing.assert_close(joint, torch.full((3, 9), 1 / 9), rtol=0, atol=0.025)  # sd 0.005


@pytest.mark.parametrize("robustness", ["softmax", "sigmoid"])
@torch.no_grad()
def test_initial_semantic_feature_is_weighted_by_robustness(robustness):
    scale = shaken(Scale(8, 1, NAMES, 0, 4, robustness, None))
    f_m, mask = torch.randn(3, 2, 8, 4, 4), torch.tensor([[True, False], [True, True], [False, True]])
    result = scale(f_m, mask, NAMES, learning=False, complete=False)
    for b in range(2):
        there = [m for m in range(3) if mask[m, b]]
        projected = {m: scale.projectors[NAMES[m]](f_m[m, b : b + 1])[0] for m in there}  # (8, 4, 4)
        scores = {m: (scale.evaluator.weight[0][:, None, None] * projected[m]).sum(0) for m in there}
        if robustness == "softmax":
            total = sum(scores[m].exp() for m in there)
            r = {m: scores[m].exp() / total for m in there}
        else:
            r = {m: 1 / (1 + (-scores[m]).exp()) for m in there}
        expected = sum(r[m] * projected[m] for m in there)
        torch.testing.assert_close(result[b].permute(2, 0, 1), expected)


@torch.no_grad()
def test_projectors_are_the_papers_and_start_as_the_identity_in_space():
    projector = SemanticProjector(6)
    assert [(one.kernel_size[0], one.groups) for one in projector] == [(11, 6), (7, 6), (3, 6), (1, 1)]
    x = torch.randn(1, 6, 9, 9)
    torch.testing.assert_close(projector(x), projector[-1](x))


@torch.no_grad()
def test_variant_a_is_the_sum_of_the_encoders_maps():
    model = build(variant="a")
    images, present, _ = batch_of(2, *NAMES)
    expected = [sum(model.backbone(images[name])[i] for name in NAMES) for i in range(4)]
    for one, other in zip(model.fuse(images, present, learning=True), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert not any(name.startswith(("scales", "steps")) for name, _ in model.named_parameters())


@torch.no_grad()
def test_variants_b_and_d_have_no_units_and_add_the_scales_progressively():
    images, present, _ = batch_of(3, *NAMES)
    for variant in "bd":
        model = build(variant=variant)
        shaken(model.scales)
        assert not any(isinstance(one, MPU) for one in model.modules())
        features, mask = encode_present(model.backbone, images, present)
        torch.manual_seed(3)
        fused = model.fuse(images, present, learning=True)
        sampled = set()
        for i, scale in enumerate(model.scales):
            f_col = scale(features[i], mask, NAMES, learning=False, complete=True).permute(0, 3, 1, 2)
            carried = model.steps[i - 1](fused[i - 1]) if i else torch.zeros_like(fused[i])
            torch.testing.assert_close(fused[i][:3], f_col + carried[:3], rtol=1e-4, atol=1e-4)
            assert len(fused[i]) == (3 if variant == "b" else 6)
            for b in range(3, len(fused[i])):  # f_InE is one modality's whole projected map
                own = fused[i][b] - carried[b]
                matches = [name for name, f_m in zip(NAMES, features[i], strict=True)
                           if torch.allclose(own, scale.projectors[name](f_m[b - 3 : b - 2])[0], rtol=1e-3, atol=1e-3)]
                assert len(matches) == 1
                sampled |= set(matches)
        assert variant == "b" or len(sampled) > 1  # drawn per sample and scale


@pytest.mark.parametrize(("variant", "units", "terms"), [
    ("a", 0, {"L_CoL"}), ("b", 0, {"L_CoL"}), ("c", 2, {"L_CoL"}), ("d", 0, {"L_CoL", "L_InE"}),
    ("e", 2, {"L_CoL", "L_InE"})])
def test_what_each_row_of_the_ablation_has(variant, units, terms):
    model = build(variant=variant, blocks=2)
    assert [[unit.shift for unit in scale.units] for scale in model.scales] in ([], [[0, 4][:units]] * 4)
    images, present, labels = batch_of(2, *NAMES)
    _, logs = model.loss({"images": images, "present": present, "labels": labels})
    shares = {f"s{i}_{name}" for i in range(1, 5) for name in NAMES} if "L_InE" in terms else set()
    assert set(logs) == {"loss"} | terms | shares


@torch.no_grad()
def test_the_log_has_the_mean_shares_of_every_scale():
    model = build(variant="d")
    shaken(model.scales)
    images, _, labels = batch_of(2, *NAMES)
    present = {name: torch.tensor([True, name != "depth"]) for name in NAMES}
    _, logs = model.loss({"images": images, "present": present, "labels": labels})
    for i, scale in enumerate(model.scales):
        shares = dict.fromkeys(NAMES, 0.0)
        for b in range(2):
            there = [name for name in NAMES if present[name][b]]
            maps = [scale.projectors[name](model.backbone(images[name][b : b + 1])[i]) for name in there]
            scores = torch.stack([(scale.evaluator.weight[0][:, None, None] * one[0]).sum(0) for one in maps])
            weights = scores.softmax(0).mean((1, 2)).neg().exp()
            for name, weight in zip(there, weights, strict=True):
                shares[name] += float(weight / weights.sum()) / 2
        assert {name: float(logs[f"s{i + 1}_{name}"]) for name in NAMES} == pytest.approx(shares, abs=1e-4)
        assert sum(shares.values()) == pytest.approx(1) and len(set(shares.values())) == len(NAMES)


@torch.no_grad()
def test_loss_weighs_both_paths_through_one_head():
    model = build(col_weight=0.25, ine_weight=3.0)
    images, present, labels = batch_of(2, *NAMES)
    torch.manual_seed(5)
    loss, logs = model.loss({"images": images, "present": present, "labels": labels})
    torch.manual_seed(5)
    logits = model.head(model.fuse(images, present, learning=True))  # (4, 5, 16, 16)
    logits = nn.functional.interpolate(logits, scale_factor=4, mode="bilinear")
    torch.testing.assert_close(logs["L_CoL"], cross_entropy(logits[:2], labels))
    torch.testing.assert_close(logs["L_InE"], cross_entropy(logits[2:], labels))
    torch.testing.assert_close(loss, 0.25 * logs["L_CoL"] + 3 * logs["L_InE"])


@torch.no_grad()
def test_paths_and_inference_are_one_with_a_single_modality():
    """Then nothing is left to draw: f_re is the modality, InE samples it, and f_se_0 is its projection."""
    model = build()
    images, present, _ = batch_of(2, "event")
    for learned, inferred in zip(model.fuse(images, present, True), model.fuse(images, present, False), strict=True):
        torch.testing.assert_close(learned, inferred.repeat(2, 1, 1, 1), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_individual_enhancement_knows_nothing_of_a_modality_that_it_did_not_draw():
    scale = shaken(Scale(8, 1, NAMES, 2, 4, "softmax", "uniform"))
    f_m, mask = torch.randn(2, 1, 8, 8, 8).repeat(1, 400, 1, 1, 1), torch.ones(2, 400).bool()
    other = torch.stack((f_m[0], torch.randn(8, 8, 8).expand(400, -1, -1, -1)))
    paths = []
    for one in (f_m, other):
        torch.manual_seed(0)
        paths.append(scale(one, mask, NAMES[:2], learning=True, complete=True))
    same = torch.isclose(*paths).flatten(1).all(dim=1).view(2, 400)
    assert not bool(same[0].any())  # CoL sees both modalities
    assert 0.25 - 0.09 < same[1].float().mean() < 0.25 + 0.09  # both of InE's draws are the first: sd 0.022


def test_training_draws_from_torchs_generator():
    model = build()
    images, present, labels = batch_of(2, *NAMES)
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(model.loss({"images": images, "present": present, "labels": labels})[0].item())
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(("option", "message"), [
    ({"variant": "f"}, "variant = 'f' is unknown; known: a, b, c, d, e"), ({"sampling": "hardmin"}, "softmin, uniform"),
    ({"robustness": "relu"}, "softmax, sigmoid"), ({"sampled_by": "luck"}, "robustness, scores"),
    ({"unit": "mlp"}, "unit = 'mlp' is unknown; known: block, attention"), ({"blocks": 0}, "blocks = 0"),
    ({"window": 0}, "window = 0"), ({"blocks": 10**12}, "blocks = 10+; 1 to 64"),
    ({"window": 65}, "window = 65; 1 to 64")])
def test_wrong_options_are_named(option, message):
    with pytest.raises(ValueError, match=message):
        build(**option)
