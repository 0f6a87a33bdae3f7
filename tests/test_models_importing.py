"""Foreign weights: files with the key layouts of the public classes, written here by rule, and damaged ones."""

from __future__ import annotations

import json
import pickle

import pytest
import torch

from mss_models import checkpoint
from mss_models.backbones import create_backbone
from mss_models.importing import DELIVER_ENCODINGS, ImportingError, import_weights, main, read
from training.datasets.deliver import PUBLISHED_ENCODINGS

MODALITIES = ("rgb", "depth", "event", "lidar")
CHANNELS, DEPTHS, REDUCTIONS = (32, 64, 160, 256), (2, 2, 2, 2), (8, 4, 2, 1)  # B0


def weight_and_bias(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def batch_norm(name, channels):
    return {**weight_and_bias(name, channels), f"{name}.running_mean": (channels,), f"{name}.running_var": (channels,),
            f"{name}.num_batches_tracked": ()}


def mix_ffn(name, c, hidden, tail=()):
    return {**weight_and_bias(f"{name}.fc1", hidden, c, *tail),
            **weight_and_bias(f"{name}.dwconv.dwconv", hidden, 1, 3, 3),
            **weight_and_bias(f"{name}.fc2", c, hidden, *tail)}


def mit(prefix="", adapters=None, ratios=(4, 4, 4, 4)):
    """Names and shapes of MiT-B0. `adapters(stage)`: names of the adapters inside the blocks of stage 1..4."""
    shapes = {}
    for s, (c, depth, reduction) in enumerate(zip(CHANNELS, DEPTHS, REDUCTIONS, strict=True), 1):
        kernel, inputs = (3, CHANNELS[s - 2]) if s > 1 else (7, 3)
        shapes |= weight_and_bias(f"{prefix}patch_embed{s}.proj", c, inputs, kernel, kernel)
        shapes |= weight_and_bias(f"{prefix}patch_embed{s}.norm", c)
        for n in range(depth):
            block = f"{prefix}block{s}.{n}."
            shapes |= weight_and_bias(f"{block}norm1", c) | weight_and_bias(f"{block}norm2", c)
            shapes |= weight_and_bias(f"{block}attn.q", c, c) | weight_and_bias(f"{block}attn.kv", 2 * c, c)
            shapes |= weight_and_bias(f"{block}attn.proj", c, c)
            if reduction > 1:
                shapes |= weight_and_bias(f"{block}attn.sr", c, c, reduction, reduction)
                shapes |= weight_and_bias(f"{block}attn.norm", c)
            shapes |= mix_ffn(f"{block}mlp", c, ratios[s - 1] * c)
            for name in adapters(s) if adapters else ():
                for layer, out, into in (("down", 8, c), ("mid", 8, 8), ("up", c, 8)):
                    shapes |= weight_and_bias(f"{block}{name}.adapter_{layer}", out, into)
        shapes |= weight_and_bias(f"{prefix}norm{s}", c)
    return shapes


def head(prefix, width=256, classes=25):
    shapes = {}
    for i, c in enumerate(CHANNELS, 1):
        shapes |= weight_and_bias(f"{prefix}linear_c{i}.proj", width, c)
    return {**shapes, f"{prefix}linear_fuse.conv.weight": (width, 4 * width, 1, 1),
            **batch_norm(f"{prefix}linear_fuse.bn", width),
            **weight_and_bias(f"{prefix}linear_pred", classes, width, 1, 1)}


def imagenet():
    return mit() | weight_and_bias("head", 1000, 256)


def robustseg():
    return mit("encoder.") | head("decoder.", 768) | {"classifier.weight": (25, 256, 1, 1)}


def cmnext(modalities=4):
    shapes = mit("backbone.") | head("decode_head.")
    for s, c in enumerate(CHANNELS):
        kernel, inputs = (3, CHANNELS[s - 1]) if s else (7, 3)
        name = f"backbone.extra_downsample_layers.{s}"
        shapes |= weight_and_bias(f"{name}.proj.module", c, inputs, kernel, kernel)
        for m in range(modalities - 1):
            shapes |= weight_and_bias(f"{name}.norm.ln_{m}", c)
            if modalities > 2:
                score = f"backbone.extra_score_predictor.{s}.score_nets.{m}"
                shapes |= weight_and_bias(f"{score}.0", c, 1, 3, 3) | weight_and_bias(f"{score}.1", 1, c, 1, 1)
        for n in range(2):
            block = f"backbone.extra_block{s + 1}.{n}"
            shapes |= batch_norm(f"{block}.norm1", c) | batch_norm(f"{block}.norm2", c)
            shapes |= weight_and_bias(f"{block}.attn.conv0", c, 1, 7, 7)
            shapes |= weight_and_bias(f"{block}.attn.conv4", c, c, 1, 1)
            shapes |= mix_ffn(f"{block}.mlp", c, (8, 8, 4, 4)[s] * c, (1, 1))
            shapes |= {f"{block}.layer_scale_1": (c,), f"{block}.layer_scale_2": (c,),
                       f"{block}.c_nets.0.weight": (1, 1, 3)}
        shapes |= weight_and_bias(f"backbone.extra_norm{s + 1}", c)
        frm, ffm = f"backbone.FRMs.{s}", f"backbone.FFMs.{s}"
        shapes |= weight_and_bias(f"{frm}.channel_weights.mlp.0", 4 * c, 4 * c)
        shapes |= weight_and_bias(f"{frm}.channel_weights.mlp.2", 2 * c, 4 * c)
        shapes |= weight_and_bias(f"{frm}.spatial_weights.mlp.0", c, 2 * c, 1, 1)
        shapes |= weight_and_bias(f"{frm}.spatial_weights.mlp.2", 2, c, 1, 1)
        for side in (1, 2):
            shapes |= weight_and_bias(f"{ffm}.cross.channel_proj{side}", 2 * c, c)
            shapes |= {f"{ffm}.cross.cross_attn.kv{side}.weight": (2 * c, c)}
            shapes |= weight_and_bias(f"{ffm}.cross.end_proj{side}", c, 2 * c)
            shapes |= weight_and_bias(f"{ffm}.cross.norm{side}", c)
        shapes |= {f"{ffm}.channel_emb.residual.weight": (c, 2 * c, 1, 1)}
        shapes |= weight_and_bias(f"{ffm}.channel_emb.channel_embed.0", c, 2 * c, 1, 1)
        shapes |= weight_and_bias(f"{ffm}.channel_emb.channel_embed.1", c, 1, 3, 3)
        shapes |= weight_and_bias(f"{ffm}.channel_emb.channel_embed.3", c, c, 1, 1)
        shapes |= batch_norm(f"{ffm}.channel_emb.channel_embed.4", c) | batch_norm(f"{ffm}.channel_emb.norm", c)
    return shapes


def stitchfusion(modalities=3, kinds=("none", "shared", "undirected", "directed"), ffm=True):
    def adapters(stage):
        pairs = [(i, j) for i in range(1, modalities + 1) for j in range(1, modalities + 1) if i != j]
        return {"none": [], "shared": ["adap_t", "adap2_t"],
                "undirected": [f"adap_t_{half}{i}{j}" for i, j in pairs if i < j for half in ("att", "mlp")],
                "directed": [f"adap_t_{half}{i}{j}" for i, j in pairs for half in ("att", "mlp")]}[kinds[stage - 1]]

    shapes = mit("backbone.", adapters) | head("decode_head.")
    for s, c in enumerate(CHANNELS if ffm else ()):
        cross = "backbone.feature_cross"
        shapes |= weight_and_bias(f"{cross}.liner_fusion_layers.{s}", c, modalities * c)
        for name in ("pwconv1", "pwconv2"):
            shapes |= weight_and_bias(f"{cross}.mix_ffn.{s}.{name}.pwconv", c, c, 1, 1)
            shapes |= batch_norm(f"{cross}.mix_ffn.{s}.{name}.bn", c)
        for size in (3, 5, 7):
            shapes |= weight_and_bias(f"{cross}.mix_ffn.{s}.dwconv{size}.dwconv", c, 1, size, size)
        shapes |= weight_and_bias(f"{cross}.mix_ffn.{s}.fc1", c, c) | weight_and_bias(f"{cross}.mix_ffn.{s}.fc2", c, c)
        shapes |= {f"{cross}.channel_attns.{s}.fc.0.weight": (c // 16, c),
                   f"{cross}.channel_attns.{s}.fc.2.weight": (c, c // 16)}
    return shapes


def geminifusion(modalities=3):
    shapes = {"alpha": (2,)} | head("decode_head.", 512)
    for name, shape in mit("backbone.").items():
        stem, leaf = name.rsplit(".", 1)
        if "norm" in stem:
            for k in range(modalities if "patch_embed" in stem else 2):
                shapes[f"{stem}.ln_{k}.{leaf}"] = shape
        else:
            shapes[name if "dwconv" in stem else f"{stem}.module.{leaf}"] = shape
    for s, c in enumerate(CHANNELS):
        for n in range(2):
            attention = f"backbone.block{s + 1}.{n}.attn"
            for side in ("0_to_1", "1_to_0"):
                cross = f"{attention}.cross_attn_{side}"
                shapes |= {f"{cross}.in_proj_weight": (3 * c, c), f"{cross}.in_proj_bias": (3 * c,)}
                shapes |= weight_and_bias(f"{cross}.out_proj", c, c)
            shapes |= weight_and_bias(f"{attention}.relation_judger.0.fc1", c, 2 * c)
            shapes |= weight_and_bias(f"{attention}.relation_judger.0.fc2", c, c)
            shapes |= {f"{attention}.k_noise.weight": (2, c), f"{attention}.v_noise.weight": (2, c)}
        for m in range(modalities if modalities > 2 else 0):  # one more than there are to score
            score = f"backbone.extra_score_predictor.{s}.score_nets.{m}"
            shapes |= weight_and_bias(f"{score}.0", c, 1, 3, 3) | weight_and_bias(f"{score}.1", 1, c, 1, 1)
    return shapes


def tensors(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) + 0.1 if shape or not name.endswith("tracked")
            else torch.tensor(7) for name, shape in shapes.items()}


PAIRS = {  # kind -> foreign name -> ours, for at least one name of every rule
    "mit": {"patch_embed1.proj.weight": "stages.0.embed.proj.weight",
            "patch_embed4.norm.bias": "stages.3.embed.norm.bias",
            "block2.1.attn.kv.weight": "stages.1.blocks.1.attention.kv.weight",
            "block1.0.attn.sr.bias": "stages.0.blocks.0.attention.sr.bias",
            "block3.0.mlp.dwconv.dwconv.weight": "stages.2.blocks.0.mlp.dwconv.weight",
            "block3.0.mlp.fc2.weight": "stages.2.blocks.0.mlp.fc2.weight",
            "block4.1.norm2.weight": "stages.3.blocks.1.norm2.weight", "norm3.weight": "stages.2.norm.weight"},
    "head": {"linear_c1.proj.weight": "linears.0.weight", "linear_c4.proj.bias": "linears.3.bias",
             "linear_fuse.conv.weight": "fuse.weight", "linear_fuse.bn.running_var": "norm.running_var",
             "linear_pred.weight": "classify.weight"},
    "cmnext": {
        "backbone.extra_downsample_layers.1.proj.module.weight": "branches.1.proj.weight",
        "backbone.extra_downsample_layers.2.norm.ln_1.weight": "branches.2.norms.1.weight",
        "backbone.extra_score_predictor.0.score_nets.2.0.weight": "branches.0.hub.scores.2.0.weight",
        "backbone.extra_score_predictor.3.score_nets.0.1.bias": "branches.3.hub.scores.0.1.bias",
        "backbone.extra_block2.1.norm1.running_mean": "branches.1.blocks.1.norm1.running_mean",
        "backbone.extra_block2.1.attn.conv0.weight": "branches.1.blocks.1.attention.dwconv.weight",
        "backbone.extra_block2.1.attn.conv4.weight": "branches.1.blocks.1.attention.mix.weight",
        "backbone.extra_block1.0.layer_scale_2": "branches.0.blocks.0.scale2",
        "backbone.extra_block1.0.c_nets.0.weight": "branches.0.blocks.0.channel_mixer.weight",
        "backbone.extra_block4.0.mlp.fc1.weight": "branches.3.blocks.0.mlp.fc1.weight",
        "backbone.extra_block4.0.mlp.dwconv.dwconv.bias": "branches.3.blocks.0.mlp.dwconv.bias",
        "backbone.extra_norm3.bias": "branches.2.norm.bias",
        "backbone.FRMs.2.channel_weights.mlp.2.weight": "rectify.2.channel_weights.2.weight",
        "backbone.FRMs.0.spatial_weights.mlp.0.weight": "rectify.0.spatial_weights.0.weight",
        "backbone.FFMs.1.cross.channel_proj2.weight": "fuse.1.cross2.proj.weight",
        "backbone.FFMs.1.cross.cross_attn.kv1.weight": "fuse.1.cross1.kv.weight",
        "backbone.FFMs.1.cross.end_proj1.bias": "fuse.1.cross1.end.bias",
        "backbone.FFMs.1.cross.norm2.weight": "fuse.1.cross2.norm.weight",
        "backbone.FFMs.3.channel_emb.residual.weight": "fuse.3.residual.weight",
        "backbone.FFMs.3.channel_emb.channel_embed.3.weight": "fuse.3.embed.3.weight",
        "backbone.FFMs.3.channel_emb.norm.running_var": "fuse.3.norm.running_var"},
    "stitchfusion": {
        "backbone.block2.0.adap_t.adapter_down.weight": "stitches.1.0.attention.adapters.all.0.weight",
        "backbone.block2.1.adap2_t.adapter_up.bias": "stitches.1.1.mlp.adapters.all.4.bias",
        "backbone.block3.0.adap_t_att13.adapter_mid.weight": "stitches.2.0.attention.adapters.0_2.1.weight",
        "backbone.block4.1.adap_t_mlp32.adapter_up.weight": "stitches.3.1.mlp.adapters.2_1.4.weight",
        "backbone.feature_cross.liner_fusion_layers.2.weight": "fuse.2.merge.weight",
        "backbone.feature_cross.channel_attns.1.fc.2.weight": "fuse.1.weights.2.weight",
        "backbone.feature_cross.mix_ffn.0.pwconv1.pwconv.weight": "fuse.0.mlp.before.0.weight",
        "backbone.feature_cross.mix_ffn.0.pwconv2.bn.running_mean": "fuse.0.mlp.after.1.running_mean",
        "backbone.feature_cross.mix_ffn.3.dwconv5.dwconv.weight": "fuse.3.mlp.dwconvs.1.weight",
        "backbone.feature_cross.mix_ffn.3.fc1.bias": "fuse.3.mlp.fc1.bias"},
    "geminifusion": {
        "backbone.patch_embed1.proj.module.weight": "backbone.stages.0.embed.proj.weight",
        "backbone.patch_embed4.norm.ln_2.bias": "backbone.stages.3.embed.norm.2.bias",
        "backbone.norm2.ln_1.weight": "backbone.stages.1.norm.1.weight",
        "backbone.block2.1.norm2.ln_0.weight": "backbone.stages.1.blocks.1.norm2.0.weight",
        "backbone.block1.0.attn.norm.ln_1.bias": "backbone.stages.0.blocks.0.attention.norm.1.bias",
        "backbone.block2.1.attn.kv.module.weight": "backbone.stages.1.blocks.1.attention.kv.weight",
        "backbone.block3.0.attn.sr.module.bias": "backbone.stages.2.blocks.0.attention.sr.bias",
        "backbone.block4.0.attn.relation_judger.0.fc1.weight":
            "backbone.stages.3.blocks.0.attention.between.relation.0.weight",
        "backbone.block4.0.attn.relation_judger.0.fc2.bias":
            "backbone.stages.3.blocks.0.attention.between.relation.2.bias",
        "backbone.block4.0.attn.v_noise.weight": "backbone.stages.3.blocks.0.attention.between.noise_v",
        "backbone.block1.1.attn.cross_attn_1_to_0.in_proj_weight":
            "backbone.stages.0.blocks.1.attention.between.attentions.1.qkv.weight",
        "backbone.block1.1.attn.cross_attn_0_to_1.out_proj.bias":
            "backbone.stages.0.blocks.1.attention.between.attentions.0.out.bias",
        "backbone.block3.0.mlp.fc2.module.weight": "backbone.stages.2.blocks.0.mlp.fc2.weight",
        "backbone.block3.0.mlp.dwconv.dwconv.weight": "backbone.stages.2.blocks.0.mlp.dwconv.weight",
        "backbone.extra_score_predictor.3.score_nets.1.0.weight": "hubs.3.scores.1.0.weight", "alpha": "alpha"},
}


def prefixed(pairs, theirs, ours):
    return {theirs + foreign: ours + name for foreign, name in pairs.items()}


CASES = {
    "mit": (imagenet(), MODALITIES, {"num_classes": 25}, prefixed(PAIRS["mit"], "", "backbone.")),
    "robustseg": (robustseg(), MODALITIES[:3], {}, prefixed(PAIRS["mit"], "encoder.", "backbone.")
                  | prefixed(PAIRS["head"], "decoder.", "head.")),
    "cmnext": (cmnext(), MODALITIES, {}, PAIRS["cmnext"] | prefixed(PAIRS["mit"], "backbone.", "backbone.")
               | prefixed(PAIRS["head"], "decode_head.", "head.")),
    "stitchfusion": (stitchfusion(), MODALITIES[:3], {"fusion": "ffm"},
                     PAIRS["stitchfusion"] | prefixed(PAIRS["mit"], "backbone.", "backbone.")
                     | prefixed(PAIRS["head"], "decode_head.", "head.")),
    "geminifusion": (geminifusion(), MODALITIES[:3], {}, PAIRS["geminifusion"]
                     | prefixed(PAIRS["head"], "decode_head.", "head.")),
}
UNUSED = {"mit": ["head.weight", "head.bias"], "robustseg": ["classifier.weight"],
          "geminifusion": [name for name in geminifusion() if "score_nets.2" in name]}


@pytest.mark.parametrize("kind", CASES)
def test_every_tensor_lands_where_it_belongs(kind):
    shapes, modalities, options, pairs = CASES[kind]
    state = tensors(shapes)
    model, unused = import_weights(state, kind, modalities, **options)
    ours = model.state_dict()
    for foreign, name in pairs.items():
        assert torch.equal(state[foreign].flatten(), ours[name].flatten()), name
    assert unused == UNUSED.get(kind, [])
    given = sorted(one.sum().item() for name, one in state.items() if name not in unused)
    filled = sorted(one.sum().item() for name, one in ours.items() if kind != "mit" or name.startswith("backbone."))
    assert given == pytest.approx(filled)  # each exactly once
    assert not model.training and model.modalities == modalities


@pytest.mark.parametrize("modalities", [2, 3])
def test_options_are_read_off_the_file(modalities):
    model, _ = import_weights(tensors(cmnext(modalities)), "cmnext", MODALITIES[:modalities])
    assert model.architecture["published_carry"] and model.architecture["head_width"] == 256
    kinds = ["shared", "none", "directed", "undirected"]
    model, _ = import_weights(tensors(stitchfusion(modalities, kinds, ffm=False)), "stitchfusion",
                              MODALITIES[:modalities])
    assert model.architecture["published_aliasing"] and model.architecture["adapters"] == kinds
    assert model.architecture["fusion"] == "sum"
    model, _ = import_weights(tensors(geminifusion(modalities)), "geminifusion", MODALITIES[:modalities])
    assert model.architecture["head_width"] == 512 and len(model.hubs) == (4 if modalities > 2 else 0)


def test_an_ffm_that_was_not_used_is_left_out_when_the_user_says_so():
    state = tensors(stitchfusion())
    with pytest.raises(ImportingError, match="fusion=sum or fusion=ffm"):
        import_weights(state, "stitchfusion", MODALITIES[:3])
    model, unused = import_weights(state, "stitchfusion", MODALITIES[:3], fusion="sum")
    assert unused == [name for name in state if "feature_cross" in name] and not model.fuse


@pytest.mark.parametrize("kind", CASES)
def test_every_key_is_accounted_for(kind):
    shapes, modalities, options, _ = CASES[kind]
    state = tensors(shapes)
    lost, bent = [name for name in state if "attn.norm" in name and name.endswith("weight")][:2]
    del state[lost]
    state[bent] = torch.zeros(5)
    state["backbone.lora.weight"] = torch.zeros(1)
    with pytest.raises(ImportingError) as caught:
        import_weights(state, kind, modalities, **options)
    text = str(caught.value)
    assert "of no such network: backbone.lora.weight;" in text and f"of another shape: {bent} (5,) instead of" in text
    assert text.count("nothing for: backbone.stages.") == 1 and text.count(".weight") == 3


@pytest.mark.parametrize(("kind", "modalities", "options", "message"), [
    ("cmnext", MODALITIES[:3], {}, "for 4 modalities, and 3 are given"),
    ("cmnext", ("depth", "rgb"), {}, "in the order rgb depth"),
    ("cmnext", MODALITIES, {"num_classes": 19}, "num_classes is 25 in this file, and 19 is given"),
    ("geminifusion", MODALITIES, {}, "for 0 modalities, and 4 are given"),
    ("robustseg", MODALITIES, {}, "this is no robustseg file: decoder.linear_pred.weight is missing"),
    ("segnext", MODALITIES, {}, "'segnext' is unknown; known: mit, cmnext"),
])
def test_what_does_not_fit_is_named(kind, modalities, options, message):
    with pytest.raises(ImportingError, match=message):
        import_weights(tensors(cmnext()), kind, modalities, **options)


@pytest.mark.parametrize("system", ["equiseg", "geminifusion"])
def test_an_imagenet_encoder_fills_all_the_copies_that_a_system_has_of_it(system):
    state = tensors(imagenet())
    model, _ = import_weights(state, "mit", MODALITIES[:2], system=system, num_classes=25)
    ours = model.state_dict()
    if system == "equiseg":
        places = [f"backbones.{name}.stages.1.blocks.0.norm2.weight" for name in MODALITIES[:2]]
    else:
        places = [f"backbone.stages.1.blocks.0.norm2.{stream}.weight" for stream in range(2)]
        assert torch.equal(ours["backbone.stages.0.embed.proj.weight"], state["patch_embed1.proj.weight"])
    assert all(torch.equal(ours[one], state["block2.0.norm2.weight"]) for one in places)
    del state["block2.0.norm2.weight"]
    with pytest.raises(ImportingError, match=f"nothing for: {', '.join(places)}$"):
        import_weights(state, "mit", MODALITIES[:2], system=system, num_classes=25)


def test_pvt_v2_has_the_layout_of_mit():
    state = tensors(mit(ratios=(8, 8, 4, 4)) | weight_and_bias("head", 1000, 256))
    model, _ = import_weights(state, "mit", MODALITIES, num_classes=25)
    assert model.architecture["backbone"] == "PVTv2-B0"
    assert torch.equal(model.backbone.stages[1].blocks[0].mlp.fc1.weight, state["block2.0.mlp.fc1.weight"])


def test_another_encoder_is_named():
    state = tensors(imagenet())
    state["patch_embed2.proj.weight"] = torch.zeros(48, 32, 3, 3)
    with pytest.raises(ImportingError, match=r"channels \(32, 48, 160, 256\), depths \(2, 2, 2, 2\).*B0, B1"):
        import_weights(state, "mit", MODALITIES, num_classes=25)


class Opener:
    """Unpickling it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_reading(tmp_path):
    state = tensors(imagenet())
    path = tmp_path / "weights.pth"
    for content in (state, {"model_state_dict": state, "epoch": 3}, {"state_dict": {f"module.{k}": v for k, v
                                                                                    in state.items()}}):
        torch.save(content, path)
        again = read(path)
        assert again.keys() == state.keys() and all(torch.equal(again[name], state[name]) for name in state)
    for content, message in (({"epoch": 3}, "no state dict"), ([1, 2], "no state dict"),
                             ({"x": Opener(tmp_path / "trace")}, "no torch file of tensors alone")):
        torch.save(content, path)
        with pytest.raises(ImportingError, match=message):
            read(path)
    assert not (tmp_path / "trace").exists()
    for junk in (b"no zip file", b"", b"hello", pickle.dumps(3)[:-1]):
        path.write_bytes(junk)
        with pytest.raises(ImportingError, match="weights.pth is no torch file of tensors alone, or is damaged"):
            read(path)
    with pytest.raises(ImportingError, match="cannot be read: No such file"):
        read(tmp_path / "nothing.pth")


def test_command_writes_a_checkpoint_that_says_where_it_comes_from(tmp_path, capsys):
    source, out = tmp_path / "cmnext.pth", tmp_path / "net.safetensors"
    torch.save(tensors(cmnext()), source)
    assert main([str(source), "--kind", "cmnext", "--out", str(out)]) == 0
    loaded = checkpoint.load(out)
    assert loaded.model.architecture["system"] == "cmnext" and loaded.image_size == (1024, 1024)
    assert loaded.encodings == DELIVER_ENCODINGS == {
        name: PUBLISHED_ENCODINGS["hha" if name == "depth" else name] for name in MODALITIES}
    assert loaded.card["imported"]["source"] == "github.com/jamycheung/DELIVER"
    expected, _ = import_weights(read(source), "cmnext", MODALITIES)
    images = {name: torch.randn(1, 3, 64, 64) for name in MODALITIES}
    present = {name: torch.ones(1, dtype=torch.bool) for name in MODALITIES}
    with torch.no_grad():
        assert torch.equal(loaded.model(images, present), expected(images, present))
    assert "net.safetensors" in capsys.readouterr().out


def test_command_puts_an_imagenet_encoder_into_any_system(tmp_path, capsys):
    source = tmp_path / "mit_b0.pth"
    state = tensors(imagenet())
    torch.save(state, source)
    nets = []
    for name in ("one", "two"):
        out = tmp_path / f"{name}.safetensors"
        assert main([str(source), "--kind", "mit", "--out", str(out), "--modalities", "rgb", "lidar", "--labels",
                     "muses", "--set", "system=cmnext", "head_width=64", "--image-size", "256", "512"]) == 0
        nets.append(checkpoint.load(out))
    assert "of no use in it: head.weight, head.bias" in capsys.readouterr().out
    model = nets[0].model
    assert model.architecture["system"] == "cmnext" and model.num_classes == 19 and nets[0].image_size == (256, 512)
    assert torch.equal(model.backbone.stages[2].blocks[1].attention.q.weight, state["block3.1.attn.q.weight"])
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), nets[1].model.state_dict().values(),
                                                 strict=True))  # the seed makes the rest
    plain = create_backbone("B0").eval()
    plain.load_state_dict(model.backbone.state_dict())


def test_command_writes_nothing_when_something_is_wrong(tmp_path, capsys):
    source, out = tmp_path / "net.pth", tmp_path / "net.safetensors"
    torch.save(tensors(cmnext(3)), source)
    encodings, no_encodings = tmp_path / "encodings.json", tmp_path / "no_encodings.json"
    encodings.write_text(json.dumps({"rgb": {"modality": "rgb", "name": "infrared"}}))
    no_encodings.write_text("[]")
    for arguments, message in ((["--modalities", "rgb", "depth"], "for 3 modalities"),
                               (["--modalities", "rgb", "depth", "event", "--labels", "muses"], "num_classes is 25"),
                               (["--modalities", "rgb", "depth", "event", "--set", "fusion"], "KEY=VALUE is needed"),
                               (["--modalities", "rgb", "depth", "event", "--encodings", str(encodings)], "infrared"),
                               (["--encodings", str(no_encodings)], "no_encodings.json: a JSON object"),
                               (["--encodings", str(source)], "net.pth: a JSON object"),
                               (["--set", "num_classes=3"], "num_classes=3: --labels says that"),
                               (["--modalities", "rgb", "depth", "event", "--set", "kind=mit"], "'kind'")):
        assert main([str(source), "--kind", "cmnext", "--out", str(out), *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not out.exists()
