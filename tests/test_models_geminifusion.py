"""GeminiFusion against the released code's sizes and against its equations written out plainly."""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F

from mss_models.info import TABLE_MODALITIES, describe
from mss_models.losses import ohem_cross_entropy
from mss_models.modality import MODALITIES
from mss_models.system import create
from mss_models.systems.geminifusion import HEADS, PixelFusion, StreamNorms


def shaken(module):
    """The module with every parameter and statistic away from its neutral value, in eval mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.5 * (tensor.ndim > 1))
    return module.eval()


def network(count=3, seed=0, **options):
    torch.manual_seed(seed)
    return create(system="geminifusion", modalities=MODALITIES[:count], num_classes=5,
                  **{"drop_path": 0.0, "dropout": 0.0, **options})


def everything(model, size=(64, 96)):
    return ({name: torch.randn(2, 3, *size) for name in model.modalities},
            {name: torch.ones(2, dtype=torch.bool) for name in model.modalities})


@pytest.mark.parametrize(("count", "parameters", "gflops"), [
    (2, 42_134_491, 100.80), (3, 42_170_343, 102.05), (4, 42_183_659, 103.28)])
def test_size_of_b2_is_that_of_the_released_code(count, parameters, gflops):
    """Counted there. For three and more modalities it builds one score more than it has modalities to score."""
    unused = sum(9 * c + c + c + 1 for c in (64, 128, 320, 512)) if count > 2 else 0
    row = describe("geminifusion", "B2", 512, TABLE_MODALITIES[:count])
    assert row["parameters"] == row["parameters_inference"] == parameters - unused
    assert row["gflops"] == pytest.approx(gflops, rel=1e-3)
    assert row["gflops_executed"] < row["gflops"]


@pytest.mark.parametrize("published_order", [False, True])
@torch.no_grad()
def test_every_pixel_attends_to_itself_and_to_the_other_streams_pixel(published_order):
    layer, C, D = shaken(PixelFusion(16)), 16, 16 // HEADS
    for one in layer.attentions:
        one.published_order = published_order
    streams = torch.randn(2, 2, 3, 4, C)  # (stream, B, h, w, C)
    expected = torch.empty_like(streams)
    for s, b, i, j in torch.cartesian_prod(*map(torch.arange, (2, 2, 3, 4))).tolist():
        x, other = streams[s, b, i, j], streams[1 - s, b, i, j]
        hidden = F.gelu(F.linear(torch.cat((x, other)), layer.relation[0].weight, layer.relation[0].bias))
        relation = torch.softmax(F.linear(hidden, layer.relation[2].weight, layer.relation[2].bias), dim=0)
        w_q, w_k, w_v = layer.attentions[s].qkv.weight.split(C)
        b_q, b_k, b_v = layer.attentions[s].qkv.bias.split(C)
        q = w_q @ x + b_q
        k = [w_k @ one + b_k for one in (x + layer.noise_k[s], relation * x)]
        v = [w_v @ one + b_v for one in (x + layer.noise_v[s], other)]
        read = []
        for head in (slice(D * h, D * h + D) for h in range(HEADS)):
            scores = [math.exp(q[head] @ one[head] / math.sqrt(D)) for one in k]
            read.append(sum(score * one[head] for score, one in zip(scores, v, strict=True)) / sum(scores))
        out = layer.attentions[s].out
        expected[s, b, i, j] = x + out.weight @ torch.cat(read) + out.bias
    torch.testing.assert_close(layer(streams.flatten(0, 1)).view_as(expected), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_every_stream_has_its_own_norm():
    norms, x = shaken(StreamNorms(8, 3)), torch.randn(3, 2, 4, 5, 8)
    for one, norm, result in zip(x, norms, norms(x.flatten(0, 1)).unflatten(0, (3, 2)), strict=True):
        mean, variance = one.mean(dim=-1, keepdim=True), one.var(dim=-1, keepdim=True, correction=0)
        torch.testing.assert_close(result, (one - mean) / (variance + 1e-6).sqrt() * norm.weight + norm.bias)
    assert len({norm.weight[0].item() for norm in norms}) == 3


@torch.no_grad()
def test_without_fusion_it_is_one_segformer_for_both_streams():
    """But for the norms: each stream's own. The logits are weighed by softmax(alpha)."""
    model = network(2).eval()
    model.alpha.copy_(torch.tensor([0.5, -0.5]))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.add_(0.2 * torch.randn_like(parameter))
        if ".attentions." in name and ".out." in name:
            parameter.zero_()
    images, present = everything(model)
    expected = 0
    for stream, (name, weight) in enumerate(zip(model.modalities, (math.e, 1), strict=True)):
        single = create(system="segformer_mean", modalities=(name,), num_classes=5).eval()
        state = {key.replace(f"norm.{stream}.", "norm.").replace(f"norm1.{stream}.", "norm1.")
                 .replace(f"norm2.{stream}.", "norm2."): one for key, one in model.state_dict().items()}
        single.load_state_dict({key: state[key] for key in single.state_dict()})
        expected = expected + weight / (math.e + 1) * single({name: images[name]}, {name: present[name]})
    torch.testing.assert_close(model(images, present), expected, rtol=1e-3, atol=1e-3)  # eps 1e-5 in some norms there


@torch.no_grad()
def test_the_hub_makes_one_map_of_the_others_which_each_takes_along():
    model = network(4).eval()
    images, present = everything(model)
    first, *others = (one.permute(0, 2, 3, 1) for one in images.values())
    for i, (stage, maps) in enumerate(zip(model.backbone.stages, model.encode(images, present), strict=True)):
        first, *others = (norm(stage.embed.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
                          for norm, x in zip(stage.embed.norm, (first, *others), strict=True))
        others = [model.hubs[i].weigh(k, x) for k, x in enumerate(others)]
        x = torch.cat((first, functools.reduce(torch.maximum, others)))
        for block in stage.blocks:
            x = block(x)
        first, fused = stage.norm(x).chunk(2)
        torch.testing.assert_close(maps.permute(0, 1, 3, 4, 2), torch.stack((first, fused)))
        others = [one + fused for one in others]


def test_alpha_learns_from_the_ensemble_and_nothing_else_does():
    model = network().train()
    images, present = everything(model)
    labels = torch.randint(0, 5, (2, 64, 96))
    loss, logs = model.loss({"images": images, "present": present, "labels": labels})
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    first, others = (F.interpolate(one, (64, 96), mode="bilinear")
                     for one in model.decode(model.encode(images, present)))
    apart = ohem_cross_entropy(first, labels) + ohem_cross_entropy(others, labels)
    apart.backward()
    for name, parameter in model.named_parameters():
        if name != "alpha":
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-5)
    share = torch.tensor(0.5, requires_grad=True)  # softmax(1, 1)
    ensemble = ohem_cross_entropy(share * first.detach() + (1 - share) * others.detach(), labels)
    ensemble.backward()
    assert loss.item() == pytest.approx(apart.item() + ensemble.item(), rel=1e-5)
    slope = share.grad * 0.25  # d softmax_1 / d alpha_1 at equal alphas
    torch.testing.assert_close(found["alpha"], torch.stack((slope, -slope)), rtol=1e-3, atol=1e-6)
    assert logs["L_ensemble"].item() == pytest.approx(ensemble.item(), rel=1e-5)


@pytest.mark.parametrize("count", [5, 6])
@torch.no_grad()
def test_more_modalities(count):
    model = network(count, head_width=32).eval()
    images, present = everything(model, (33, 50))
    full = model(images, present)
    assert full.shape == (2, 5, 33, 50) and bool(torch.isfinite(full).all())
    present[model.modalities[-1]] = torch.tensor([False, True])
    logits = model(images, present)
    torch.testing.assert_close(logits[1], full[1])
    assert (logits[0] - full[0]).abs().max() > 1e-3


def test_one_modality_is_refused():
    with pytest.raises(ValueError, match=r"\['rgb'\]; two streams need at least two"):
        network(1)
