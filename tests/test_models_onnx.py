"""Every system as an ONNX graph: ONNX Runtime gives what PyTorch gives, for every subset of the modalities.

To trace a network takes long, so that the backbones have as few blocks as show every kind, and most systems four
modalities, for one shared encoder serves any number.
"""

from __future__ import annotations

import dataclasses

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


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    for forms, name, depths in ((MIT_FORMS, "B0", (1, 1, 1, 1)), (MIT_FORMS, "PVTv2-B0", (1, 1, 1, 1)),
                                (SWIN_VARIANTS, "Swin-T", (2, 1, 1, 1))):
        monkeypatch.setitem(forms, name, dataclasses.replace(forms[name], depths=depths))


@pytest.mark.parametrize(("system", "backbone"), [*((name, "B0") for name in reversed(SYSTEMS)), *BACKBONES])
@torch.no_grad()
def test_onnx_runtime_equals_torch_for_every_subset(system, backbone):
    model = build(SYSTEMS[system], 3 if system in ("cmnext", "stitchfusion", "equiseg") else 4, backbone=backbone)
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
    for i, subset in enumerate(subsets):
        alone = model({name: normalised[name][i : i + 1] for name in subset}, masks(model, subset))
        torch.testing.assert_close(found[i : i + 1], alone, rtol=0, atol=1e-3)
