"""Backbones and the SegFormer head against the published sizes and against plain, literal forms."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from mss_models.backbones import BACKBONES, create_backbone, swin
from mss_models.backbones.mit import Attention
from mss_models.heads.segformer import SegFormerHead
from mss_models.info import count_parameters, describe, main
from mss_models.layers.tokens import DropPath
from mss_models.layers.windows import merge, partition, shift_mask
from mss_models.system import create
from mss_models.systems import SYSTEMS

# Published with a classifier of 1000 classes on the last map; Swin has one norm there, ours one on every map.
PVT_V2 = {"B0": 3_666_760, "B1": 14_009_000, "B2": 25_362_856, "B3": 45_238_696, "B4": 62_556_072, "B5": 81_956_008}
SWIN = {"T": (96, 28_288_354), "S": (96, 49_606_258), "B": (128, 87_768_224)}
ENCODER_PARAMETERS = {
    "B0": 3_319_392, "B1": 13_151_424, "B2": 24_196_288, "B3": 44_072_128, "B4": 60_842_688, "B5": 81_443_008,
    **{f"PVTv2-{name}": count - 1000 * (256 if name == "B0" else 512) - 1000 for name, count in PVT_V2.items()},
    **{f"Swin-{name}": count - 1000 * 8 * width - 1000 + 2 * (1 + 2 + 4) * width
       for name, (width, count) in SWIN.items()}}
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
    assert main(["--backbone", "B0", "--modalities", "lidar", "rgb"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(SYSTEMS) + 1]] == list(SYSTEMS)
    assert main(["--backbone", "B0", "--json", "--system", "segformer_mean"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["parameters"] == row["parameters_inference"] == 3_720_569
    assert {"system", "backbone", "modalities", "head_width", "gflops", "source", "ours"} <= set(row)


def test_info_says_which_systems_cannot_use_a_backbone(capsys):
    assert main(["--backbone", "Swin-T", "--json"]) == 0
    printed = capsys.readouterr()
    found = {row["system"] for row in json.loads(printed.out)}
    assert "segformer_mean" in found and "cmnext" not in found and "cmnext: backbone 'Swin-T'" in printed.err


@pytest.mark.parametrize(("arguments", "message"), [
    (["--classes", "0"], "--classes 0: at least 2"), (["--classes", "1", "--json"], "--classes 1: at least 2"),
    (["--head-width", "0"], "--head-width 0: at least 1"),
    (["--backbone", "Swin-T", "--system", "cmnext"], "cmnext: backbone 'Swin-T'")])
def test_info_with_nothing_to_show_is_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert not printed.out and printed.err.startswith("error: " + message) and printed.err.count("\n") == 1


@pytest.mark.parametrize("name", ["B0", "PVTv2-B0", "Swin-T"])
def test_every_family_keeps_the_interface(name):
    torch.manual_seed(0)
    backbone = create_backbone(name, drop_path=0.0).eval()
    images = torch.randn(2, 3, 64, 96)
    features = backbone(images)
    for feature, channels, stride in zip(features, backbone.channels, backbone.strides, strict=True):
        assert feature.shape == (2, channels, 64 // stride, 96 // stride)
        assert feature.is_contiguous(memory_format=torch.channels_last)
    sum(one.square().mean() for one in features).backward()
    assert all(p.grad is not None for p in backbone.parameters())
    with torch.no_grad():
        apart = [torch.cat(one) for one in zip(backbone(images[:1]), backbone(images[1:]), strict=True)]
        rounded = backbone.bfloat16()(images.bfloat16())
    for feature, alone, half in zip(features, apart, rounded, strict=True):
        torch.testing.assert_close(feature, alone, rtol=1e-4, atol=1e-4)
        assert (half.float() - feature).abs().mean() < 0.1 * feature.std()


@pytest.mark.parametrize("system", ["cmnext", "stitchfusion", "geminifusion"])
def test_systems_that_work_inside_the_stages_take_mit_and_pvt_only(system):
    assert create(system=system, modalities=("rgb", "lidar"), num_classes=5, backbone="PVTv2-B0")
    with pytest.raises(ValueError, match="'Swin-T' is unknown or none that this system can work in; known: B0, B1"):
        create(system=system, modalities=("rgb", "lidar"), num_classes=5, backbone="Swin-T")


@pytest.mark.parametrize(("system", "backbone"), [("segformer_mean", "B0"), ("segformer_mean", "PVTv2-B0"),
                                                  ("segformer_mean", "Swin-T"), ("cmnext", "B0"),
                                                  ("stitchfusion", "B0"), ("geminifusion", "B0")])
@pytest.mark.parametrize("blank", [("rgb",), ("depth", "lidar")])
def test_blank_images_do_not_blow_up_the_first_gradients(system, backbone, blank):
    """Zeros after normalisation: 1e4 and more, up to infinity, if all tokens of an image are 0."""
    torch.manual_seed(0)
    model = create(system=system, modalities=("rgb", "depth", "lidar"), num_classes=5, backbone=backbone, head_width=32)
    images = {name: torch.randn(2, 3, 64, 64) * (name not in blank) for name in model.modalities}
    everywhere = {name: torch.ones(2, dtype=torch.bool) for name in images}
    loss, _ = model.train().loss({"images": images, "present": everywhere, "labels": torch.randint(5, (2, 64, 64))})
    loss.backward()
    norms = [p.grad.norm().item() for p in model.parameters() if p.grad is not None]
    assert norms and max(norms) < 100


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


def test_windows_are_squares_in_reading_order_and_merge_again():
    x = torch.arange(2 * 4 * 6).view(2, 4, 6, 1)
    windows = partition(x, 2)
    assert windows.shape == (12, 4, 1)
    assert windows[1].flatten().tolist() == [2, 3, 8, 9] and windows[6].flatten().tolist() == [24, 25, 30, 31]
    assert torch.equal(merge(windows, 2, 4, 6), x)


def test_shift_mask_keeps_pixels_from_across_the_border_apart():
    height, width, size, shift = 6, 9, 3, 1
    mask = shift_mask(height, width, size, shift, torch.device("cpu"))
    place = torch.arange(height * width).view(1, height, width, 1)  # of each pixel before rolling
    rolled = partition(place.roll((-shift, -shift), dims=(1, 2)), size).squeeze(-1)  # (nW, N)
    for window, allowed in zip(rolled, mask, strict=True):
        for i, p in enumerate(window.tolist()):
            for j, q in enumerate(window.tolist()):
                near = abs(p // width - q // width) < size and abs(p % width - q % width) < size
                assert bool(allowed[i, j]) == near


@pytest.mark.parametrize("shift", [0, 3])
@torch.no_grad()
def test_swin_block_equals_attention_over_the_whole_map_with_an_explicit_mask(shift):
    torch.manual_seed(0)
    heads, channels, height, width = 2, 8, 10, 16  # padded to 14 x 21
    block = swin.Block(channels, heads, shift, drop_path=0.0).eval()
    for parameter in block.parameters():
        parameter.normal_(std=0.5)
    x = torch.randn(2, height, width, channels)
    y = F.pad(block.norm1(x), (0, 0, 0, 5, 0, 4)).flatten(1, 2)  # (B, 14 * 21, C)
    q, k, v = block.attention.qkv(y).view(2, 294, 3, heads, 4).permute(2, 0, 3, 1, 4)
    row, column = torch.arange(294) // 21, torch.arange(294) % 21
    row, column = (row - shift) % 14, (column - shift) % 21  # the place in the rolled map
    same = torch.ones(294, 294, dtype=torch.bool)
    for at, length in ((row, 14), (column, 21)):
        for key in (at // 7, at >= length - shift):  # the window; whether rolling wrapped it around
            same &= key[:, None] == key
    index = (row[:, None] - row + 6) * 13 + column[:, None] - column + 6
    bias = block.attention.bias[index.clamp(0, 168)].permute(2, 0, 1)  # (heads, 294, 294)
    weights = torch.softmax((q @ k.transpose(-2, -1) / 2 + bias).masked_fill(~same, -torch.inf), dim=-1)
    attended = block.attention.proj((weights @ v).transpose(1, 2).reshape(2, 14, 21, channels))
    expected = x + attended[:, :height, :width]
    expected = expected + block.mlp(block.norm2(expected))
    padded = (14, 21)
    mask = shift_mask(*padded, 7, 3, x.device)
    torch.testing.assert_close(block(x, mask), expected, rtol=1e-4, atol=1e-4)


def test_patch_merging_takes_the_neighbours_column_by_column():
    layer = swin.PatchMerging(2)
    layer.norm, layer.reduction = torch.nn.Identity(), torch.nn.Identity()
    x = torch.arange(32).view(1, 4, 4, 2)
    expected = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1)
    assert torch.equal(layer(x), expected)


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
