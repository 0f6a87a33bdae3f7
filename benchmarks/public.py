"""The published code of others beside which ours is measured, from a clone of the user's own."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path

import torch
from torch import nn

from benchmarks.rows import Skipped
from mss_models.importing import import_weights
from mss_models.modality import DELIVER_MODALITIES
from mss_models.system import System

DELIVER = "https://github.com/jamycheung/DELIVER"
NOT_NEEDED = {"timm", "mmcv", "fvcore", "torchvision", "einops", "tabulate"}
USED = {"trunc_normal_": nn.init.trunc_normal_,
        "build_norm_layer": lambda config, features: ("bn", nn.BatchNorm2d(features))}  # mmcv's


def cmnext(clone: str | Path | None) -> tuple[nn.Module, System]:
    """The public CMNeXt-B2 for DELIVER's four modalities and 25 classes, and ours with the same random weights.

    Both in eval mode, on the CPU, in float32. clone: a checkout of DELIVER. Raises Skipped.
    """
    if not clone:
        raise Skipped(f"needs --deliver PATH, a clone of {DELIVER}")
    source = Path(clone).expanduser() / "semseg"
    if not (source / "models" / "cmnext.py").is_file():
        raise Skipped(f"--deliver {clone}: there is no semseg/models/cmnext.py; a clone of {DELIVER} is needed")
    package = types.ModuleType("semseg")
    package.__path__ = [str(source)]  # instead of its own __init__, which reads data sets
    sys.modules["semseg"] = package
    finder = StandIns()
    sys.meta_path.append(finder)
    try:
        published = importlib.import_module("semseg.models.cmnext").CMNeXt
    except (ImportError, SyntaxError) as error:
        raise Skipped(f"--deliver {clone} cannot be imported: {error}") from error
    finally:  # so that nobody else finds what is not installed
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, StandIn)]:
            del sys.modules[name]
    torch.manual_seed(0)
    theirs = published("CMNeXt-B2", 25, list(DELIVER_MODALITIES)).eval().requires_grad_(False)
    ours, _ = import_weights(theirs.state_dict(), "cmnext", DELIVER_MODALITIES)
    return theirs, ours.eval().requires_grad_(False)


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules for the packages that the public code imports and that are not installed.

    Of these, CMNeXt uses what USED holds and timm's DropPath, the identity in inference.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] in NOT_NEEDED:  # last of the finders: nothing else has found it
            return importlib.util.spec_from_loader(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class StandIn(types.ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return USED.get(name) or type(name, (nn.Identity,), {})
