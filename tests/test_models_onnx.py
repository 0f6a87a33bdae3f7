"""Every system as an ONNX graph: ONNX Runtime gives what PyTorch gives, for every subset of the modalities.

To trace a network takes long, so that the backbones have as few blocks as show every kind, and most systems four
modalities, for one shared encoder serves any number. `ONNX_WHOLE=1 pytest -n0 -rP tests/test_models_onnx.py` takes
whole backbones and 2, 3 and 4 modalities, and prints the largest difference of each.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import torch
from test_models_systems import CASES, LABELS, build, masks, subsets_of

from mss_models.backbones import MIT_FORMS, SWIN_VARIANTS
from mss_models.checkpoint import Checkpoint
from mss_models.export import to_onnx
from mss_models.modality import DEFAULT_ENCODINGS
from mss_models.runtime.onnx import OnnxRuntime

SIZE = (50, 70)
SYSTEMS = {case.system: case for case in reversed(CASES)}  # the first case of each
BACKBONES = [("segformer_mean", "PVTv2-B0"), ("segformer_mean", "Swin-T")]
NETWORKS = [*((name, "B0") for name in reversed(SYSTEMS)), *BACKBONES]
WHOLE = bool(os.environ.get("ONNX_WHOLE"))
SLOW = ("cmnext", "stitchfusion", "equiseg", "geminifusion")  # to trace: three modalities show all they have


def counts(system):
    return (2, 3, 4) if WHOLE else (3,) if system in SLOW else (4,)


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    if WHOLE:
        return
    for forms, name, depths in ((MIT_FORMS, "B0", (1, 1, 1, 1)), (MIT_FORMS, "PVTv2-B0", (1, 1, 1, 1)),
                                (SWIN_VARIANTS, "Swin-T", (2, 1, 1, 1))):
        monkeypatch.setitem(forms, name, dataclasses.replace(forms[name], depths=depths))


@pytest.mark.parametrize(("system", "backbone", "count"),
                         [(*network, count) for network in NETWORKS for count in counts(network[0])])
@torch.no_grad()
def test_onnx_runtime_equals_torch_for_every_subset(system, backbone, count):
    model = build(SYSTEMS[system], count, backbone=backbone)
    encodings = {name: DEFAULT_ENCODINGS[name] for name in model.modalities}
    content, _ = to_onnx(Checkpoint(model, LABELS, encodings, SIZE, {}, "0" * 12), SIZE)
    runtime = OnnxRuntime(content, device="cpu", threads=1)
    subsets = subsets_of(model.modalities)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (len(subsets), len(model.modalities), *SIZE, 3), dtype=np.uint8)
    present = masks(model, *subsets)
    (found,) = runtime.run(images, torch.stack(list(present.values()), dim=1).numpy(), ("logits",))
    normalised = {name: torch.from_numpy((images[:, i] / 255 - encodings[name].mean) / encodings[name].std).float()
                  .permute(0, 3, 1, 2) for i, name in enumerate(model.modalities)}
    alone = torch.cat([model({name: normalised[name][i : i + 1] for name in subset}, masks(model, subset))
                       for i, subset in enumerate(subsets)])
    print(f"{system}-{backbone}, {count} modalities: at most {(found - alone).abs().max():.1e} of "
          f"{alone.abs().max():.1f}")
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-3)


@pytest.mark.skipif(not WHOLE, reason="takes minutes: the long form alone. The windows: test_models_export.py")
@pytest.mark.parametrize(("system", "backbone"), [("charm", "B0"), ("segformer_mean", "Swin-T")])
def test_attention_windows_and_a_free_size(system, backbone):
    model = build(SYSTEMS[system], 4, backbone=backbone)
    encodings = {name: DEFAULT_ENCODINGS[name] for name in model.modalities}
    _, check = to_onnx(Checkpoint(model, LABELS, encodings, SIZE, {}, "0" * 12), None)  # it compares, at three sizes
    print(f"{system}-{backbone}, free size: at most {check.largest:.1e} in {check.cases} cases")
    assert check.largest < 1e-3
