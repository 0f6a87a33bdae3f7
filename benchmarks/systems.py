"""The networks' rows: read-out, CMNeXt beside the public code, and every system with one modality beside four."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks import public
from benchmarks.rows import Row
from mss_models.backbones import create_backbone
from mss_models.modality import DELIVER_MODALITIES
from mss_models.runtime.readout import read_out
from mss_models.system import create
from mss_models.systems import SYSTEMS

SIZE = 512
RUNS = 5  # each takes seconds
LEFT_OUT = ("segformer_mean", "charm", "magic", "any2seg", "anyseg", "robustseg")  # one encoder for all modalities
ENCODER, WHOLE = 0.3, 0.45  # the time with one of four modalities, at most


def rows(clone: str | Path | None, tiny: bool = False) -> dict[str, Callable[[], Row]]:
    """The rows by name; clone: of the public code, see benchmarks/public.py. tiny: small sizes, for tests."""
    size, backbone, camera = (32, "B0", (30, 40)) if tiny else (SIZE, "B2", (1080, 1920))
    return {"readout": functools.partial(reading_out, camera),
            "cmnext_public": functools.partial(cmnext_public, clone, size),
            "one_encoder": functools.partial(one_encoder, size, backbone),
            **{f"one_{name}": functools.partial(one_system, name, size, backbone) for name in SYSTEMS}}


def reading_out(camera: tuple[int, int] = (1080, 1920)) -> Row:
    """Logits of 25 classes -> labels and confidence of a camera (height, width), beside the textbook's lines."""
    coarse = torch.randn(1, 25, camera[0] // 15, camera[1] // 15, generator=torch.Generator().manual_seed(3))
    size = camera[0] * 4 // 15, camera[1] * 4 // 15
    logits = F.interpolate(coarse, size, mode="bilinear").contiguous(memory_format=torch.channels_last)

    def peer() -> tuple[torch.Tensor, torch.Tensor]:
        resized = F.interpolate(logits, camera, mode="bilinear", align_corners=False)
        confidence, labels = resized.softmax(dim=1).max(dim=1)
        return labels.to(torch.uint8), (255 * confidence).round_().to(torch.uint8)

    return Row(f"read-out: 25 x {size[0]} x {size[1]} logits -> {camera[1]} x {camera[0]}",
               "F.interpolate, softmax, max", lambda: read_out(logits, camera), peer, 1.0)


def some_images(size: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Four normalised images of noise, and masks that say they are there."""
    generator = torch.Generator().manual_seed(0)
    return ({name: torch.randn(1, 3, size, size, generator=generator) for name in DELIVER_MODALITIES},
            {name: torch.ones(1, dtype=torch.bool) for name in DELIVER_MODALITIES})


def cmnext_public(clone: str | Path | None, size: int = SIZE) -> Row:
    """The same weights in both. Ours lies channels-last in memory, as in the runtime. Raises public.Skipped."""
    theirs, ours = public.cmnext(clone)
    ours = ours.to(memory_format=torch.channels_last)
    images, present = some_images(size)
    listed = [images[name] for name in DELIVER_MODALITIES]

    return Row(f"CMNeXt-B2, four modalities, {size} x {size}, fp32", "the public code, same weights",
               inference(lambda: ours(images, present)), inference(lambda: theirs(list(listed))), 0.8, RUNS)


def one_encoder(size: int = SIZE, backbone: str = "B2") -> Row:
    """What the systems that share one encoder spend in it."""
    encoder = create_backbone(backbone).eval().to(memory_format=torch.channels_last)
    images = torch.cat(list(some_images(size)[0].values()))
    return Row(f"MiT-{backbone}, one modality, {size} x {size}, fp32", "the same with four",
               inference(lambda: encoder(images[:1])), inference(lambda: encoder(images)), ENCODER, RUNS)


def one_system(name: str, size: int = SIZE, backbone: str = "B2") -> Row:
    """The whole network with head width 256. No target where an absent modality is zeros or has its own encoder."""
    torch.manual_seed(0)
    model = create(system=name, modalities=DELIVER_MODALITIES, num_classes=25, backbone=backbone, head_width=256).eval()
    model.to(memory_format=torch.channels_last)
    images, present = some_images(size)
    one = {"rgb": images["rgb"]}, {"rgb": present["rgb"]}
    return Row(f"{name}-{backbone}, one modality, {size} x {size}, fp32", "the same with four",
               inference(lambda: model(*one)), inference(lambda: model(images, present)),
               WHOLE if name in LEFT_OUT else None, RUNS)


def inference(work: Callable[[], object]) -> Callable[[], object]:
    return torch.inference_mode()(work)
