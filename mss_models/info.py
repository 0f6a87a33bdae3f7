"""`python -m mss_models.info`: size, work and origin of every system.

GFLOPs follow the published tables: multiply-adds of one 512 x 512 frame with all modalities present, the attention
products included, the layers taken in the published order. `gflops_executed` counts what runs here; it is lower where
layers are merged (heads/segformer.py).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mss_models.backbones import BACKBONES
from mss_models.modality import MODALITIES
from mss_models.system import System, create
from mss_models.systems import SYSTEMS

SIZE = 512
TABLE_MODALITIES = ("rgb", "depth", "event", "lidar")  # those of the published tables


def describe(system: str, backbone: str = "B2", head_width: int = 256, modalities: Sequence[str] = TABLE_MODALITIES,
             num_classes: int = 25, **options: Any) -> dict[str, Any]:
    """One row: what the options were, the parameters (numbers), the GFLOPs, and where the system comes from.

    `options` are the system's own. `ours` says what is not the source's, where it is silent.
    """
    with torch.device("meta"):  # shapes only: nothing is allocated or computed
        model = create(system=system, backbone=backbone, head_width=head_width, modalities=modalities,
                       num_classes=num_classes, **options).eval()
    training_only = sum(count_parameters(model.get_submodule(name)) for name in model.training_only)
    total = count_parameters(model)
    return {"system": system, "backbone": backbone, "modalities": list(model.modalities), "head_width": head_width,
            "parameters": total, "parameters_inference": total - training_only,
            "gflops": gflops(model, published_order=True), "gflops_executed": gflops(model, published_order=False),
            "source": model.source, "ours": model.ours}


def count_parameters(module: nn.Module) -> int:
    return sum(one.numel() for one in module.parameters())


def gflops(model: System, published_order: bool) -> float:
    """Multiply-adds, in 1e9, of one SIZE x SIZE frame with every modality, for a model on the meta device."""
    for module in model.modules():
        if hasattr(module, "published_order"):
            module.published_order = published_order
    images = {name: torch.empty(1, 3, SIZE, SIZE, device="meta") for name in model.modalities}
    present = {name: torch.ones(1, dtype=torch.bool) for name in model.modalities}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images, present)
    return counter.get_total_flops() / 2 / 1e9  # torch counts a multiply-add as two


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mss_models.info", description="Size, work and origin of every "
                                     f"system. GFLOPs: multiply-adds at {SIZE} x {SIZE}, all modalities present.")
    parser.add_argument("--json", action="store_true", help="print the rows as a JSON list")
    parser.add_argument("--system", choices=sorted(SYSTEMS), help="only this system (default: all)")
    parser.add_argument("--backbone", choices=BACKBONES, default="B2", help="backbone (default: %(default)s)")
    parser.add_argument("--head-width", type=int, default=256, metavar="E", help="channels of the head (default: 256)")
    parser.add_argument("--modalities", nargs="+", choices=MODALITIES, default=list(TABLE_MODALITIES),
                        help="default: " + " ".join(TABLE_MODALITIES))
    parser.add_argument("--classes", type=int, default=25, help="number of classes (default: %(default)s)")
    options = parser.parse_args(arguments)
    for name, value, least in (("--classes", options.classes, 2), ("--head-width", options.head_width, 1)):
        if value < least:
            print(f"error: {name} {value}: at least {least} needed", file=sys.stderr)
            return 2
    names = [options.system] if options.system else list(SYSTEMS)
    rows, errors = [], []
    for name in names:
        try:
            rows.append(describe(name, options.backbone, options.head_width, options.modalities, options.classes))
        except ValueError as error:  # not every system works with every backbone
            errors.append(f"{name}: {error}")
    for error in errors if rows else errors[:1]:
        print(error if rows else f"error: {error}", file=sys.stderr)
    if not rows:
        return 2
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'system':<16} {'backbone':<9} {'E':>4} {'modalities':<24} {'params M':>9} {'inference M':>11} "
          f"{'GFLOPs':>7} {'executed':>8}  source")
    for row in rows:
        print(f"{row['system']:<16} {row['backbone']:<9} {row['head_width']:>4} {' '.join(row['modalities']):<24} "
              f"{row['parameters'] / 1e6:>9.3f} {row['parameters_inference'] / 1e6:>11.3f} {row['gflops']:>7.2f} "
              f"{row['gflops_executed']:>8.2f}  {row['source']}")
    for row in rows:
        if row["ours"]:
            print(f"ours in {row['system']}: {row['ours']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
