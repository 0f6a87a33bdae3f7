"""MiT and the SegFormer head against the published sizes and against plain, literal forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mss_models.backbones import BACKBONES, create_backbone
from mss_models.backbones.mit import Attention
from mss_models.heads.segformer import SegFormerHead
from mss_models.info import count_parameters, describe, main
from mss_models.layers.tokens import DropPath

ENCODER_PARAMETERS = {"B0": 3_319_392, "B1": 13_151_424, "B2": 24_196_288, "B3": 44_072_128, "B4": 60_842_688,
                      "B5": 81_443_008}
PUBLISHED_MILLIONS = {"B0": (3.721, 4.646, 6.096), "B1": (13.684, 14.740, 16.321), "B2": (24.729, 25.785, 27.366),
                      "B4": (61.375, 62.431, 64.012)}


@pytest.mark.parametrize("name", BACKBONES)
def test_encoder_parameters_equal_the_published_count(name):
    with torch.device("meta"):
        assert count_parameters(create_backbone(name)) == ENCODER_PARAMETERS[name]


@pytest.mark.parametrize("name", PUBLISHED_MILLIONS)
@pytest.mark.parametrize(("index", "width"), list(enumerate((256, 512, 768))))
def test_network_parameters(name, index, width):
    row = describe("segformer_mean", name, width)
    assert row["parameters"] / 1e6 == pytest.approx(PUBLISHED_MILLIONS[name][index], rel=2e-4)
    assert row["parameters_inference"] == row["parameters"]


def test_published_gflops():
    """SegFormer-B0, 150 classes: 8.4 G (its paper, table 1); B2 and one modality: 38.93 G (CMNeXt's table)."""
    assert describe("segformer_mean", "B0", 256, ["rgb"], 150)["gflops"] == pytest.approx(8.4, rel=0.02)
    row = describe("segformer_mean", "B2", 512, ["rgb"])
    assert row["gflops"] == pytest.approx(38.93, rel=0.02)
    assert row["gflops_executed"] < row["gflops"]


def test_info_prints_a_row_per_system(capsys):
    main(["--backbone", "B0", "--modalities", "lidar", "rgb"])
    assert "segformer_mean" in capsys.readouterr().out
    main(["--backbone", "B0", "--json", "--system", "segformer_mean"])
    assert '"parameters": 3720569' in capsys.readouterr().out


def test_declared_channels_and_strides_are_what_comes_out():
    backbone = create_backbone("B0").eval()
    features = backbone(torch.randn(2, 3, 64, 96))
    for feature, channels, stride in zip(features, backbone.channels, backbone.strides, strict=True):
        assert feature.shape == (2, channels, 64 // stride, 96 // stride)


def test_unknown_backbone_lists_the_names():
    with pytest.raises(ValueError, match="B9.*B0, B1"):
        create_backbone("B9")


@pytest.mark.parametrize("reduction", [1, 2])
def test_attention_equals_a_loop_over_heads(reduction):
    torch.manual_seed(0)
    layer = Attention(channels=12, heads=3, reduction=reduction).eval()
    x = torch.randn(2, 4, 6, 12)
    context = x
    if reduction > 1:
        context = layer.norm(layer.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
    q = layer.q(x).flatten(1, 2)
    k, v = layer.kv(context).flatten(1, 2).split(12, dim=-1)
    heads = []
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        weights = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / 4**0.5, dim=-1)
        heads.append(weights @ v[..., part])
    expected = layer.proj(torch.cat(heads, dim=-1)).view_as(x)
    torch.testing.assert_close(layer(x), expected)


def test_bf16_attention_has_the_same_gradient_in_training():
    """On a CPU in bf16, training takes another route than inference."""
    torch.manual_seed(0)
    layer = Attention(channels=64, heads=2, reduction=2)
    x = torch.randn(2, 8, 8, 64)
    exact = layer(x)
    (gradient,) = torch.autograd.grad(exact.square().sum(), layer.kv.weight)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = layer(x)
    (rounded_gradient,) = torch.autograd.grad(rounded.float().square().sum(), layer.kv.weight)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(rounded, layer(x), rtol=0.05, atol=0.01)
    assert F.cosine_similarity(gradient.flatten(), rounded_gradient.flatten(), dim=0) > 0.99


def test_drop_path_keeps_the_expectation_and_drops_whole_samples():
    torch.manual_seed(0)
    layer = DropPath(0.3)
    x = torch.ones(20_000, 2, 1, 3)
    y = layer(x)
    assert y.mean().item() == pytest.approx(1.0, abs=0.02)
    assert bool((y == y[:, :1, :1, :1]).all())
    assert torch.equal(layer.eval()(x), x)


def test_drop_path_rises_linearly():
    rates = [block.drop_path.probability for stage in create_backbone("B0", 0.1).stages for block in stage.blocks]
    assert rates == pytest.approx([0.1 * i / 7 for i in range(8)])


def test_merged_head_equals_the_published_order():
    torch.manual_seed(0)
    head = SegFormerHead((8, 12, 16, 20), width=24, num_classes=5).eval()
    head.norm.running_mean.normal_()
    head.norm.running_var.uniform_(0.5, 2)
    features = [torch.randn(2, c, 32 >> i, 48 >> i) for i, c in enumerate((8, 12, 16, 20))]
    merged = head(features)
    head.published_order = True
    torch.testing.assert_close(merged, head(features), rtol=1e-5, atol=1e-5)
