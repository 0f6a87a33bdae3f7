"""Weights that others published, into our networks: `python -m mss_models.importing FILE --kind KIND --out NET`.

    mit           ImageNet weights of MiT B0-B5 (NVlabs/SegFormer) or PVTv2 (whai362/PVT), which name things alike:
                  the encoder of any system that has one; the rest stays random. A training starts from the file
                  itself, `training.train --init FILE`
    cmnext        CMNeXt (jamycheung/DELIVER)
    stitchfusion  StitchFusion (LiBingyu01/StitchFusion-...), whatever its adapters
    robustseg     the mean-fusion network of RobustSeg, teacher or student (RobustSeg/RobustSeg)
    geminifusion  GeminiFusion (JiaDingCN/GeminiFusion, branch DeLiVER)

A file is the user's own: nothing is downloaded. It is read without running code from it. Names are mapped by the
tables below alone. Every tensor of the file ends up in the network or is named as of no use there, and every tensor of
the network comes from the file; otherwise nothing is written and the error names the keys.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mss_models import checkpoint
from mss_models.backbones import MIT_FORMS
from mss_models.labels import LABEL_SETS
from mss_models.modality import DELIVER_ENCODINGS, MODALITIES, Encoding, canonical_order
from mss_models.system import System, create

State = Mapping[str, Tensor]
Rules = tuple[tuple[str, str], ...]
"""(pattern of a whole foreign name, our name); the first match counts."""
FROM_ONE = ("stage", "first", "second")
"""The groups that count from 1 there and from 0 here."""
ELSEWHERE = {"modalities": "--modalities", "num_classes": "--labels"}
"""What --set does not take, and where the command has it from."""

MIT: Rules = (
    (r"patch_embed(?P<stage>\d)\.(?P<rest>.+)", "stages.{stage}.embed.{rest}"),
    (r"block(?P<stage>\d)\.(?P<n>\d+)\.attn\.(?P<rest>.+)", "stages.{stage}.blocks.{n}.attention.{rest}"),
    (r"block(?P<stage>\d)\.(?P<n>\d+)\.mlp\.dwconv\.dwconv\.(?P<rest>.+)",
     "stages.{stage}.blocks.{n}.mlp.dwconv.{rest}"),
    (r"block(?P<stage>\d)\.(?P<n>\d+)\.(?P<rest>.+)", "stages.{stage}.blocks.{n}.{rest}"),
    (r"norm(?P<stage>\d)\.(?P<rest>.+)", "stages.{stage}.norm.{rest}"),
)
HEAD: Rules = (
    (r"linear_c(?P<stage>\d)\.proj\.(?P<rest>.+)", "linears.{stage}.{rest}"),
    (r"linear_fuse\.conv\.(?P<rest>.+)", "fuse.{rest}"),
    (r"linear_fuse\.bn\.(?P<rest>.+)", "norm.{rest}"),
    (r"linear_pred\.(?P<rest>.+)", "classify.{rest}"),
)
PPX: Rules = (
    (r"attn\.conv0\.(?P<rest>.+)", "attention.dwconv.{rest}"),
    (r"attn\.conv4\.(?P<rest>.+)", "attention.mix.{rest}"),
    (r"mlp\.dwconv\.dwconv\.(?P<rest>.+)", "mlp.dwconv.{rest}"),
    (r"c_nets\.0\.(?P<rest>.+)", "channel_mixer.{rest}"),
    (r"layer_scale_(?P<which>[12])", "scale{which}"),
    (r"(?P<rest>(norm|mlp).+)", "{rest}"),
)
FUSION: Rules = (
    (r"FRMs\.(?P<k>\d)\.(?P<weights>channel|spatial)_weights\.mlp\.(?P<rest>.+)",
     "rectify.{k}.{weights}_weights.{rest}"),
    (r"FFMs\.(?P<k>\d)\.cross\.channel_proj(?P<side>[12])\.(?P<rest>.+)", "fuse.{k}.cross{side}.proj.{rest}"),
    (r"FFMs\.(?P<k>\d)\.cross\.cross_attn\.kv(?P<side>[12])\.(?P<rest>.+)", "fuse.{k}.cross{side}.kv.{rest}"),
    (r"FFMs\.(?P<k>\d)\.cross\.end_proj(?P<side>[12])\.(?P<rest>.+)", "fuse.{k}.cross{side}.end.{rest}"),
    (r"FFMs\.(?P<k>\d)\.cross\.norm(?P<side>[12])\.(?P<rest>.+)", "fuse.{k}.cross{side}.norm.{rest}"),
    (r"FFMs\.(?P<k>\d)\.channel_emb\.channel_embed\.(?P<rest>.+)", "fuse.{k}.embed.{rest}"),
    (r"FFMs\.(?P<k>\d)\.channel_emb\.(?P<rest>(residual|norm).+)", "fuse.{k}.{rest}"),
)


def within(theirs: str, rules: Rules, ours: str) -> Rules:
    """The rules for a module that is called `theirs` (a pattern) there and `ours` here."""
    return tuple((theirs + pattern, ours + name) for pattern, name in rules)


CMNEXT: Rules = (
    *within(r"backbone\.", MIT, "backbone."),
    (r"backbone\.extra_downsample_layers\.(?P<k>\d)\.proj\.module\.(?P<rest>.+)", "branches.{k}.proj.{rest}"),
    (r"backbone\.extra_downsample_layers\.(?P<k>\d)\.norm\.ln_(?P<m>\d+)\.(?P<rest>.+)",
     "branches.{k}.norms.{m}.{rest}"),
    (r"backbone\.extra_score_predictor\.(?P<k>\d)\.score_nets\.(?P<rest>.+)", "branches.{k}.hub.scores.{rest}"),
    *within(r"backbone\.extra_block(?P<stage>\d)\.(?P<n>\d+)\.", PPX, "branches.{stage}.blocks.{n}."),
    (r"backbone\.extra_norm(?P<stage>\d)\.(?P<rest>.+)", "branches.{stage}.norm.{rest}"),
    *within(r"backbone\.", FUSION, ""),
    *within(r"decode_head\.", HEAD, "head."),
)

BLOCK = r"backbone\.block(?P<stage>\d)\.(?P<n>\d+)\."
FFM = r"backbone\.feature_cross\."
STITCHFUSION: Rules = (
    *((BLOCK + rf"{theirs}\.adapter_{layer}\.(?P<rest>.+)",
       f"stitches.{{stage}}.{{n}}.{half}.adapters.{pair}.{index}.{{rest}}")
      for theirs, half, pair in ((r"adap_t_att(?P<first>\d)(?P<second>\d)", "attention", "{first}_{second}"),
                                 (r"adap_t_mlp(?P<first>\d)(?P<second>\d)", "mlp", "{first}_{second}"),
                                 ("adap_t", "attention", "all"), ("adap2_t", "mlp", "all"))
      for layer, index in (("down", 0), ("mid", 1), ("up", 4))),
    *within(r"backbone\.", MIT, "backbone."),
    (FFM + r"liner_fusion_layers\.(?P<k>\d)\.(?P<rest>.+)", "fuse.{k}.merge.{rest}"),
    (FFM + r"channel_attns\.(?P<k>\d)\.fc\.(?P<rest>.+)", "fuse.{k}.weights.{rest}"),
    *((FFM + rf"mix_ffn\.(?P<k>\d)\.{theirs}\.(?P<rest>.+)", f"fuse.{{k}}.mlp.{ours}.{{rest}}")
      for theirs, ours in (("pwconv1.pwconv", "before.0"), ("pwconv1.bn", "before.1"), ("pwconv2.pwconv", "after.0"),
                           ("pwconv2.bn", "after.1"), ("dwconv3.dwconv", "dwconvs.0"), ("dwconv5.dwconv", "dwconvs.1"),
                           ("dwconv7.dwconv", "dwconvs.2"), ("fc1", "fc1"), ("fc2", "fc2"))),
    *within(r"decode_head\.", HEAD, "head."),
)

NORMS = r"\.ln_(?P<k>\d+)\.(?P<rest>.+)"
OURS = "backbone.stages.{stage}."
GEMINIFUSION: Rules = (
    (r"backbone\.patch_embed(?P<stage>\d)\.proj\.module\.(?P<rest>.+)", OURS + "embed.proj.{rest}"),
    (r"backbone\.patch_embed(?P<stage>\d)\.norm" + NORMS, OURS + "embed.norm.{k}.{rest}"),
    (r"backbone\.norm(?P<stage>\d)" + NORMS, OURS + "norm.{k}.{rest}"),
    *((BLOCK + theirs, OURS + "blocks.{n}." + ours) for theirs, ours in (
        (r"(?P<norm>norm[12])" + NORMS, "{norm}.{k}.{rest}"),
        (r"attn\.norm" + NORMS, "attention.norm.{k}.{rest}"),
        (r"attn\.(?P<layer>q|kv|proj|sr)\.module\.(?P<rest>.+)", "attention.{layer}.{rest}"),
        (r"attn\.relation_judger\.0\.fc1\.(?P<rest>.+)", "attention.between.relation.0.{rest}"),
        (r"attn\.relation_judger\.0\.fc2\.(?P<rest>.+)", "attention.between.relation.2.{rest}"),
        (r"attn\.(?P<which>[kv])_noise\.weight", "attention.between.noise_{which}"),
        (r"attn\.cross_attn_(?P<k>\d)_to_\d\.in_proj_(?P<rest>.+)", "attention.between.attentions.{k}.qkv.{rest}"),
        (r"attn\.cross_attn_(?P<k>\d)_to_\d\.out_proj\.(?P<rest>.+)", "attention.between.attentions.{k}.out.{rest}"),
        (r"mlp\.dwconv\.dwconv\.(?P<rest>.+)", "mlp.dwconv.{rest}"),
        (r"mlp\.(?P<layer>fc[12])\.module\.(?P<rest>.+)", "mlp.{layer}.{rest}"))),
    (r"backbone\.extra_score_predictor\.(?P<k>\d)\.score_nets\.(?P<rest>.+)", "hubs.{k}.scores.{rest}"),
    ("alpha", "alpha"),
    *within(r"decode_head\.", HEAD, "head."),
)


class ImportingError(ValueError):
    """A file cannot be read, or does not fit the network. The message names the file or the keys."""


@dataclass(frozen=True)
class Kind:
    """A family of published files.

    architecture: the options of the network that a file is for, read off its names and shapes, from the number of
    modalities and the options that the user gives.  unused: pattern of the names that the network may have no use for.
    covers: pattern of the beginning of those of our names that a file fills.
    """

    source: str
    rules: Rules
    architecture: Callable[[State, int, Mapping[str, Any]], dict[str, Any]]
    unused: str = ""
    covers: str = ""


def read(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a torch file: a state dict, bare or as one entry of a training's snapshot.

    Raises ImportingError.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ImportingError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # the unpickler runs what the file says: of junk it raises almost anything
        reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
        raise ImportingError(f"{path} is no torch file of tensors alone, or is damaged; save the model's state_dict() "
                             f"by itself if it holds more ({reason})") from error
    for name in ("model_state_dict", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not content or not all(isinstance(one, Tensor) for one in content.values()):
        raise ImportingError(f"{path} holds no state dict: a mapping from names to tensors is needed")
    # Saved from within DistributedDataParallel.
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def rename(name: str, rules: Rules) -> str | None:
    """Our name for a foreign one, or None where no rule knows it."""
    for pattern, ours in rules:
        if match := re.fullmatch(pattern, name):
            return ours.format(**{group: int(value) - 1 if group in FROM_ONE else value
                                  for group, value in match.groupdict().items()})
    return None


def remap(state: State, kind: Kind, expected: State) -> tuple[dict[str, Tensor], list[str]]:
    """The file's tensors under our names and in the shapes of `expected`, our network's state dict; and what is unused.

    A 1x1 convolution may be a linear layer here: (O, I, 1, 1) becomes (O, I). Raises ImportingError that names all
    keys that are unknown, missing or of another shape.
    """
    result: dict[str, Tensor] = {}
    unused, unknown, misshapen = [], [], []
    copies = _copies(expected)
    for name, tensor in state.items():
        ours = rename(name, kind.rules)
        places = [ours] if ours in expected else copies.get(ours, [])
        if not places or places[0] in result:
            (unused if re.fullmatch(kind.unused, name) else unknown).append(name)
            continue
        shape = expected[places[0]].shape
        if tensor.shape not in (shape, (*shape, 1, 1)):
            misshapen.append(f"{name} {tuple(tensor.shape)} instead of {tuple(shape)}")
        result |= dict.fromkeys(places, tensor.reshape(shape) if tensor.numel() == shape.numel() else tensor)
    missing = [name for name in expected if re.match(kind.covers, name) and name not in result]
    problems = [f"{what}: {', '.join(names)}" for what, names in
                (("of no such network", unknown), ("nothing for", missing), ("of another shape", misshapen)) if names]
    if problems:
        raise ImportingError("; ".join(problems))
    return result, unused


def _copies(expected: State) -> dict[str, list[str]]:
    """Where a MiT's tensors go that a system has several of: EQUISeg has encoders, GeminiFusion norms in its one."""
    copies: dict[str, list[str]] = {}
    for name in expected:
        one = re.sub(r"(norm[12]?)\.\d+\.", r"\1.", re.sub(r"^backbones\.\w+\.", "backbone.", name))
        copies.setdefault(one, []).append(name)
    return copies


def import_weights(state: State, kind: str, /, modalities: Sequence[str],
                   **options: Any) -> tuple[System, list[str]]:
    """The network that a published state dict is for, with its weights, in eval mode; and the names left unused.

    modalities: in canonical order, what the file's inputs were. options: the architecture's, as far as the file does
    not say it (mit: system, num_classes, ...; stitchfusion: fusion). Raises ImportingError, and ValueError for
    impossible options.
    """
    if kind not in KINDS:
        raise ImportingError(f"kind {kind!r} is unknown; known: {', '.join(KINDS)}")
    if tuple(modalities) != canonical_order(modalities):
        raise ImportingError(f"modalities {' '.join(modalities)}: the file's and these must be in the order "
                             f"{' '.join(canonical_order(modalities))}")
    found = _architecture(state, kind, modalities, options)
    if clash := [name for name in found if name in options and options[name] != found[name]]:
        raise ImportingError("; ".join(f"{name} is {found[name]!r} in this file, and {options[name]!r} is given"
                                       for name in clash))
    model = create(modalities=modalities, **options | found)
    return model.eval(), _fill(model, state, kind)


def fill_encoder(model: System, state: State) -> None:
    """Puts a published encoder (kind mit) into each encoder that the network has; the rest stays as it is.

    Raises ImportingError, also for another encoder than the network's.
    """
    theirs = _architecture(state, "mit", model.modalities, {})["backbone"]
    if (ours := model.architecture["backbone"]) != theirs:
        raise ImportingError(f"backbone is {theirs!r} in this file, and the network's is {ours!r}")
    _fill(model, state, "mit")


def _architecture(state: State, kind: str, modalities: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return KINDS[kind].architecture(state, len(modalities), options)
    except KeyError as error:
        raise ImportingError(f"this is no {kind} file: {error.args[0]} is missing") from error


def _fill(model: System, state: State, kind: str) -> list[str]:
    ours, unused = remap(state, KINDS[kind], model.state_dict())
    model.load_state_dict(model.state_dict() | ours, strict=True)
    return unused


def _encoder(state: State, prefix: str) -> str:
    """The name of the backbone whose widths and depths the state dict has."""
    channels, depths, ratios = [], [], []
    for stage in range(1, 5):
        channels.append(state[f"{prefix}patch_embed{stage}.proj.weight"].shape[0])
        depths.append(sum(f"{prefix}block{stage}.{n}.norm1.weight" in state for n in range(len(state))))
        ratios.append(state[f"{prefix}block{stage}.0.mlp.fc1.weight"].shape[0] // channels[-1])
    found = tuple(map(tuple, (channels, depths, ratios)))
    for name, variant in MIT_FORMS.items():
        if (variant.channels, variant.depths, variant.ratios) == found:
            return name
    raise ImportingError(f"the encoder has the channels {found[0]}, depths {found[1]} and MLP ratios {found[2]}, which "
                         f"is none of {', '.join(MIT_FORMS)}")


def _network(state: State, encoder: str, head: str) -> dict[str, Any]:
    classes, width = state[f"{head}linear_pred.weight"].shape[:2]
    return {"backbone": _encoder(state, encoder), "head_width": width, "num_classes": classes}


def _mit(state: State, modalities: int, options: Mapping[str, Any]) -> dict[str, Any]:
    return {"system": options.get("system", "segformer_mean"), "backbone": _encoder(state, "")}


def _cmnext(state: State, modalities: int, options: Mapping[str, Any]) -> dict[str, Any]:
    norm = r"backbone\.extra_downsample_layers\.0\.norm\.ln_\d+\.weight"
    _check_count(1 + sum(bool(re.fullmatch(norm, name)) for name in state), modalities)
    return {"system": "cmnext", "published_carry": True, **_network(state, "backbone.", "decode_head.")}


def _stitchfusion(state: State, modalities: int, options: Mapping[str, Any]) -> dict[str, Any]:
    def kind(stage: int) -> str:
        signs = {"shared": "adap_t", "directed": "adap_t_att21", "undirected": "adap_t_att12"}
        return next((name for name, sign in signs.items()
                     if f"backbone.block{stage}.0.{sign}.adapter_up.weight" in state), "none")

    if (merge := state.get("backbone.feature_cross.liner_fusion_layers.0.weight")) is not None:
        _check_count(merge.shape[1] // merge.shape[0], modalities)
        if "fusion" not in options:
            raise ImportingError("this file holds an FFM, which the released code builds but does not always use: say "
                                 "what it was trained with, fusion=sum or fusion=ffm")
    return {"system": "stitchfusion", "adapters": [kind(stage) for stage in range(1, 5)], "published_aliasing": True,
            **_network(state, "backbone.", "decode_head.")}


def _robustseg(state: State, modalities: int, options: Mapping[str, Any]) -> dict[str, Any]:
    return {"system": "segformer_mean", **_network(state, "encoder.", "decoder.")}


def _geminifusion(state: State, modalities: int, options: Mapping[str, Any]) -> dict[str, Any]:
    norm = r"backbone\.patch_embed1\.norm\.ln_\d+\.weight"
    _check_count(sum(bool(re.fullmatch(norm, name)) for name in state), modalities)
    plain = {re.sub(r"\.(module|ln_0)(?=\.)", "", name): tensor for name, tensor in state.items()}
    return {"system": "geminifusion", **_network(plain, "backbone.", "decode_head.")}


def _check_count(found: int, given: int) -> None:
    if found != given:
        raise ImportingError(f"this file is for {found} modalities, and {given} are given")


KINDS: dict[str, Kind] = {
    "mit": Kind("github.com/NVlabs/SegFormer or github.com/whai362/PVT", within("", MIT, "backbone."), _mit,
                unused=r"head\.(weight|bias)", covers=r"backbones?\.(?!.*\.between\.)"),
    "cmnext": Kind("github.com/jamycheung/DELIVER", CMNEXT, _cmnext),
    "stitchfusion": Kind("github.com/LiBingyu01/StitchFusion-...", STITCHFUSION, _stitchfusion, unused=FFM + ".+"),
    "robustseg": Kind("github.com/RobustSeg/RobustSeg",
                      within(r"encoder\.", MIT, "backbone.") + within(r"decoder\.", HEAD, "head."), _robustseg,
                      unused=r"classifier\.weight"),
    # The code builds a score more than there are modalities to score.
    "geminifusion": Kind("github.com/JiaDingCN/GeminiFusion", GEMINIFUSION, _geminifusion,
                         unused=r"backbone\.extra_score_predictor\..+"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mss_models.importing", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="torch file with the published weights")
    parser.add_argument("--kind", choices=KINDS, required=True, help="whose weights they are")
    parser.add_argument("--out", type=Path, required=True, metavar="NET", help="checkpoint to write (.safetensors)")
    parser.add_argument("--modalities", nargs="+", choices=MODALITIES, default=list(DELIVER_ENCODINGS),
                        help="what the network takes, in this order (default: %(default)s)")
    parser.add_argument("--labels", choices=LABEL_SETS, default="deliver", help="label set (default: %(default)s)")
    parser.add_argument("--encodings", type=Path, metavar="JSON", help="file with the encoding of each modality, as a "
                        "recording's encodings.json (default: the public DELIVER images, depth as HHA)")
    parser.add_argument("--image-size", type=int, nargs=2, default=(1024, 1024), metavar=("H", "W"),
                        help="what it was trained on (default: 1024 1024)")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", dest="settings",
                        help="what the file does not say: system, head_width, ... (mit), fusion (stitchfusion)")
    parser.add_argument("--seed", type=int, default=3407, help="kind mit: of the random rest (default: %(default)s)")
    args = parser.parse_args(arguments)
    command = "python -m mss_models.importing " + shlex.join(sys.argv[1:] if arguments is None else arguments)
    try:
        encodings = DELIVER_ENCODINGS if args.encodings is None else _read_encodings(args.encodings)
        labels = LABEL_SETS[args.labels]
        torch.manual_seed(args.seed)
        model, unused = import_weights(read(args.file), args.kind, args.modalities, num_classes=len(labels),
                                       **dict(_setting(one) for one in args.settings))
        card = {"command": command, "imported": {
            "file": args.file.name, "sha256": hashlib.sha256(args.file.read_bytes()).hexdigest(), "kind": args.kind,
            "source": KINDS[args.kind].source, "unused": unused,
            "random": KINDS[args.kind].covers and f"all but the encoder, seed {args.seed}"}}
        identity = checkpoint.save(args.out, model, labels, encodings, card, image_size=tuple(args.image_size),
                                   half=False)
    except (ValueError, OSError) as error:
        print(f"error: {args.file}: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {model.architecture}, model_id {identity}")
    if unused:
        print(f"of no use in it: {', '.join(unused)}")
    return 0


def _read_encodings(path: Path) -> dict[str, Encoding]:
    try:
        return {name: Encoding.from_dict(one) for name, one in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError, RecursionError) as error:  # no JSON, no UTF-8, no encoding; no mapping
        raise ImportingError(f"{path}: a JSON object {{modality: encoding}} is needed ({error})") from error


def _setting(text: str) -> tuple[str, Any]:
    """'key=value' -> (key, value), the value read as JSON where it is, else as text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise ImportingError(f"--set {text}: KEY=VALUE is needed")
    if key in ELSEWHERE:
        raise ImportingError(f"--set {text}: {ELSEWHERE[key]} says that")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


if __name__ == "__main__":
    sys.exit(main())
