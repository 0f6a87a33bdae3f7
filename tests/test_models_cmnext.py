"""CMNeXt against its published sizes and against its equations written out plainly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mss_models.info import TABLE_MODALITIES, describe
from mss_models.layers.ppx import PPX, average
from mss_models.layers.sq_hub import SQHub
from mss_models.system import create
from mss_models.systems.cmnext import AuxiliaryStage, FeatureFusion, FeatureRectify


def first(x):
    """(B, H, W, C) -> (B, C, H, W)"""
    return x.permute(0, 3, 1, 2)


def last(x):
    return x.permute(0, 2, 3, 1)


def shaken(module):
    """The module with every parameter and statistic away from its neutral value, in eval mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
                tensor.sub_(0.5 if tensor.ndim > 1 else 0)
    return module.eval()


def as_1x1(linear):
    return {"weight": linear.weight[:, :, None, None], "bias": linear.bias}


def batch_norm(x, norm):
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)


@pytest.mark.parametrize(("count", "millions", "published_gflops"), [
    (1, 25.79, 38.93), (2, 58.69, 62.94), (3, 58.72, 64.19), (4, 58.73, 65.42)])
def test_size_of_b2_is_the_published_one(count, millions, published_gflops):
    row = describe("cmnext", "B2", 512, TABLE_MODALITIES[:count])
    assert row["parameters"] / 1e6 == pytest.approx(millions, abs=0.005)
    assert row["gflops"] == pytest.approx(published_gflops, rel=0.02)


def test_size_of_b0_is_the_published_one():
    assert describe("cmnext", "B0", 256)["parameters"] / 1e6 == pytest.approx(10.31, abs=0.005)


@pytest.mark.parametrize("window", [3, 7, 11])
def test_average_is_that_of_the_neighbours_that_exist(window):
    x = torch.randn(2, 3, 9, 6)
    expected = torch.empty_like(x)
    reach = window // 2
    for i in range(9):
        for j in range(6):
            expected[..., i, j] = x[..., max(0, i - reach) : i + reach + 1,
                                    max(0, j - reach) : j + reach + 1].mean(dim=(2, 3))
    torch.testing.assert_close(average(x, window), expected)


@torch.no_grad()
def test_ppx_equals_its_equations():
    block = shaken(PPX(8, 4))
    x = torch.randn(2, 8, 13, 12)
    u = batch_norm(x, block.norm1)
    c = F.conv2d(u, block.attention.dwconv.weight, block.attention.dwconv.bias, padding=3, groups=8)
    pooled = sum(F.avg_pool2d(c, k, 1, k // 2, count_include_pad=False) for k in (3, 7, 11))
    gate = F.conv2d(c + pooled, **as_1x1(block.attention.mix)).sigmoid()
    y = x + block.scale1[:, None, None] * (u + gate * u)
    means = F.pad(y.mean(dim=(2, 3)), (1, 1))  # (B, C + 2)
    kernel = block.channel_mixer.weight.flatten()
    weights = torch.stack([(means[:, c : c + 3] * kernel).sum(dim=1) for c in range(8)], dim=1).sigmoid()
    hidden = F.conv2d(batch_norm(y, block.norm2), **as_1x1(block.mlp.fc1))
    hidden = F.gelu(F.conv2d(hidden, block.mlp.dwconv.weight, block.mlp.dwconv.bias, padding=1, groups=32))
    mlp = F.conv2d(hidden, **as_1x1(block.mlp.fc2))
    expected = weights[:, :, None, None] * y + block.scale2[:, None, None] * mlp
    torch.testing.assert_close(first(block(last(x))), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_sq_hub_weights_each_modality_and_keeps_the_largest():
    hub = shaken(SQHub(4, 3))
    tokens = [torch.randn(2, 5, 6, 4) for _ in range(3)]
    weighted, fused = hub(tokens)
    for x, (depthwise, pointwise, _), result in zip(tokens, hub.scores, weighted, strict=True):
        score = F.conv2d(first(x), depthwise.weight, depthwise.bias, padding=1, groups=4)
        score = F.conv2d(score, pointwise.weight, pointwise.bias).sigmoid()  # (B, 1, H, W)
        torch.testing.assert_close(result, last((1 + score) * first(x)))
    assert torch.equal(fused, torch.stack(weighted).amax(dim=0))


@torch.no_grad()
def test_rectification_equals_its_equations():
    layer = shaken(FeatureRectify(4))
    x1, x2 = torch.randn(2, 2, 4, 5, 6)
    both = torch.cat((x1, x2), dim=1)
    extent = torch.cat((both.mean(dim=(2, 3)), both.amax(dim=(2, 3))), dim=1)
    channel = layer.channel_weights(extent).view(2, 2, 4, 1, 1)  # (B, stream, C, 1, 1)
    hidden = F.relu(F.conv2d(both, **as_1x1(layer.spatial_weights[0])))
    spatial = F.conv2d(hidden, **as_1x1(layer.spatial_weights[2])).sigmoid().view(2, 2, 1, 5, 6)
    y1, y2 = layer(last(x1), last(x2))
    torch.testing.assert_close(first(y1), x1 + 0.5 * channel[:, 1] * x2 + 0.5 * spatial[:, 1] * x2)
    torch.testing.assert_close(first(y2), x2 + 0.5 * channel[:, 0] * x1 + 0.5 * spatial[:, 0] * x1)


@torch.no_grad()
def test_fusion_equals_its_equations():
    layer = shaken(FeatureFusion(8, heads=2))
    x = torch.randn(2, 3, 5, 4, 8)  # (stream, B, H, W, C)
    split = [F.relu(cross.proj(one)).flatten(1, 2) for cross, one in zip((layer.cross1, layer.cross2), x, strict=True)]
    read = torch.empty(2, 3, 20, 8)
    for own, other, cross in ((0, 1, layer.cross2), (1, 0, layer.cross1)):
        k, v = cross.kv(split[other][..., 8:]).chunk(2, dim=-1)
        for head in (slice(0, 4), slice(4, 8)):
            context = torch.softmax(k[..., head].transpose(1, 2) @ v[..., head] / 2, dim=1)  # (B, 4, 4)
            read[own, ..., head] = split[own][..., 8:][..., head] @ context
    merged = [cross.norm(one.flatten(1, 2) + cross.end(torch.cat((half[..., :8], seen), dim=-1)))
              for cross, one, half, seen in zip((layer.cross1, layer.cross2), x, split, read, strict=True)]
    both = first(torch.cat(merged, dim=-1).view(3, 5, 4, 16))
    hidden = F.conv2d(both, layer.embed[0].weight, layer.embed[0].bias)
    hidden = F.relu(F.conv2d(hidden, layer.embed[1].weight, layer.embed[1].bias, padding=1, groups=8))
    hidden = batch_norm(F.conv2d(hidden, layer.embed[3].weight, layer.embed[3].bias), layer.embed[4])
    expected = batch_norm(F.conv2d(both, layer.residual.weight) + hidden, layer.norm)
    torch.testing.assert_close(first(layer(*x)), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_what_is_carried_to_the_next_stage():
    x, fused = [torch.randn(2, 4, 6, 8) for _ in range(2)], torch.randn(2, 4, 6, 8)

    def carried(others, published):
        return AuxiliaryStage((8, 8, 8, 8), 1, others, [0.0], published).carry(x[:others], fused)

    assert torch.equal(carried(1, False)[0], fused) and torch.equal(carried(1, True)[0], fused)
    assert all(torch.equal(a, b + fused) for a, b in zip(carried(2, False), x, strict=True))
    for a, b in zip(carried(2, True), x, strict=True):
        scrambled = first(b).contiguous().flatten().view(2, 4, 6, 8)  # channels-first memory, read as channels-last
        assert torch.equal(a, scrambled + fused)


@torch.no_grad()
def test_a_single_modality_is_segformer():
    torch.manual_seed(0)
    ours = create(system="cmnext", modalities=("rgb",), num_classes=5).eval()
    segformer = create(system="segformer_mean", modalities=("rgb",), num_classes=5).eval()
    segformer.load_state_dict(ours.state_dict())
    images, present = {"rgb": torch.randn(1, 3, 64, 64)}, {"rgb": torch.ones(1, dtype=torch.bool)}
    torch.testing.assert_close(ours(images, present), segformer(images, present), rtol=1e-3, atol=1e-3)
