"""StitchFusion against its published sizes and against its equations written out plainly."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mss_models.backbones.mit import Block
from mss_models.info import TABLE_MODALITIES, count_parameters
from mss_models.layers.present import zero_filled
from mss_models.system import create
from mss_models.systems.stitchfusion import Adapters, FeatureFusion, Stitch


def shaken(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(0.5 * torch.rand(tensor.shape) + (0.5 if tensor.ndim == 1 else -0.25))
    return module.eval()


@pytest.mark.parametrize(("options", "millions"), [
    ({"adapters": ["none", "none", "undirected", "undirected"]}, 26.50), ({}, 26.65), ({"fusion": "ffm"}, 29.87)])
def test_size_of_b2_with_four_modalities_is_the_published_one(options, millions):
    with torch.device("meta"):
        model = create(system="stitchfusion", modalities=TABLE_MODALITIES, num_classes=25, backbone="B2",
                       head_width=512, **options)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize(("kind", "count"), [("undirected", 6), ("directed", 12), ("shared", 1)])
def test_who_shares_an_adapter(kind, count):
    adapters = Adapters(16, 4, kind, dropout=0.1)
    assert len(adapters.adapters) == count
    assert (adapters.between(1, 3) is adapters.between(3, 1)) == (kind != "directed")
    assert (adapters.between(1, 3) is adapters.between(0, 2)) == (kind == "shared")


def carry(adapter, x):
    down, middle, _, _, up = adapter
    hidden = (x @ down.weight.T + down.bias) @ middle.weight.T + middle.bias
    return F.gelu(hidden) @ up.weight.T + up.bias


@pytest.mark.parametrize("kind", ["undirected", "directed", "shared"])
@pytest.mark.parametrize("published", [False, True])
@torch.no_grad()
def test_stitched_block_equals_its_equations(kind, published):
    block = shaken(Block(8, heads=2, reduction=2, ratio=4, drop_path=0.1, eps=1e-5))
    stitch = shaken(Stitch(8, 3, kind, dropout=0.1, published_aliasing=published))
    x = [torch.randn(2, 4, 6, 8) for _ in range(3)]
    expected = x
    for norm, layer, adapters in ((block.norm1, block.attention, stitch.attention),
                                  (block.norm2, block.mlp, stitch.mlp)):
        result = [one + layer(norm(one)) for one in expected]
        # The released code's "original" list is the very list that it writes to.
        read = result if published else list(expected)
        for i in range(3):
            for j in range(3):
                if i != j:
                    result[j] = result[j] + carry(adapters.between(i, j), norm(read[i]))
        expected = result
    torch.testing.assert_close(stitch(block, torch.stack(x)), torch.stack(expected), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_ffm_equals_its_equations():
    layer = shaken(FeatureFusion(32, 2))
    x = torch.randn(2, 3, 5, 6, 32)  # (M, B, H, W, C)

    def norm(y, norm):
        return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    u = layer.merge(torch.cat((x[0], x[1]), dim=-1))
    h = norm(layer.mlp.before[0](layer.mlp.fc1(u).permute(0, 3, 1, 2)), layer.mlp.before[1])
    scales = [F.conv2d(h, one.weight, one.bias, padding=size // 2, groups=32)
              for one, size in zip(layer.mlp.dwconvs, (3, 5, 7), strict=True)]
    h = F.gelu(norm(layer.mlp.after[0](h + sum(scales)), layer.mlp.after[1])).permute(0, 2, 3, 1)
    mean = u.mean(dim=(1, 2))
    weights = torch.sigmoid(F.relu(mean @ layer.weights[0].weight.T) @ layer.weights[2].weight.T)
    torch.testing.assert_close(layer(x), layer.mlp.fc2(h) + weights[:, None, None] * u, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_training_starts_from_the_sum_of_modalities_apart():
    torch.manual_seed(0)
    model = create(system="stitchfusion", modalities=TABLE_MODALITIES[:3], num_classes=5).eval()
    images = {name: torch.randn(2, 3, 64, 64) for name in model.modalities}
    present = {"rgb": torch.tensor([True, True]), "depth": torch.tensor([False, True]),
               "event": torch.tensor([True, False])}
    apart = [model.backbone(one) for one in zero_filled(images, present, model.modalities)]
    logits = F.interpolate(model.head([sum(stage) for stage in zip(*apart, strict=True)]), (64, 64), mode="bilinear")
    torch.testing.assert_close(model(images, present), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("options", "message"), [
    ({"adapters": ["directed"] * 3}, "four of undirected, directed, shared, none"),
    ({"adapters": "none"}, "four of"),
    ({"adapters": ["none", "none", "none", "sparse"]}, "sparse"),
    ({"fusion": "mean"}, "fusion = 'mean'; choose from sum, ffm"),
])
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        create(system="stitchfusion", modalities=("rgb", "depth"), num_classes=5, **options)
