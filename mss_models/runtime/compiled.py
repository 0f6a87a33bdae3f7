"""The torch runtime with torch.compile."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from mss_models.backbones import mit, swin
from mss_models.checkpoint import Checkpoint
from mss_models.files import cache_folder, private_folder
from mss_models.heads.segformer import SegFormerHead
from mss_models.layers.ppx import PPX
from mss_models.runtime.torch import OptionError, TorchRuntime

UNITS = (mit.Stage, mit.Attention, mit.MixFFN, swin.Stage, SegFormerHead, PPX)
"""What is compiled: the bulk of the work, the outermost of these that a system calls. The rest stays eager, and with it
the choice by mask, so that one compilation serves every subset of the modalities."""
COMPILATIONS = 64  # of one function


class CompiledRuntime(TorchRuntime):
    """As TorchRuntime, but the first call at an image size takes minutes: `warmup` makes them, before the robot moves.

    What is compiled is kept in mss_models/inductor of the user's cache, unless TORCHINDUCTOR_CACHE_DIR names a folder.
    Raises OptionError where torch.compile does not work, with torch's reason, or others may write to that folder.
    """

    compiler = "inductor"

    def __init__(self, checkpoint: Checkpoint, device: str = "auto", precision: str = "auto",
                 threads: int | None = None) -> None:
        super().__init__(checkpoint, device, precision, threads)
        # By default it is in /tmp under a name that anybody may take first, and torch runs what it finds there.
        folder = os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder("inductor")))
        try:
            private_folder(Path(folder))
        except OSError as error:
            raise OptionError(f"backend 'torch-compile' keeps code in TORCHINDUCTOR_CACHE_DIR: {error}") from error
        from torch._dynamo import config  # takes a second: only who compiles waits for it

        # Past its limit Dynamo goes on in eager mode. It counts per function: 4 stages, for 1 and for more images, ...
        limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # torch before 2.6
        setattr(config, limit, max(COMPILATIONS, getattr(config, limit)))
        self._try_out()
        compile_units(self._model, self.compiler)

    def _try_out(self) -> None:
        """Compile something small: that tells whether there is a compiler, its headers, and what else it needs."""
        try:
            torch.compile(lambda x: x.sin() + 1, backend=self.compiler)(torch.zeros(64, device=self.device))
        except Exception as error:  # of Dynamo, Inductor, Triton or the compiler: each has its own
            reason = str(error).strip().splitlines() or [type(error).__name__]
            need = ("triton and a C compiler" if self.device.type == "cuda"
                    else "a C++ compiler (g++, or what $CXX names) and Python's headers")
            raise OptionError(f"backend 'torch-compile' needs {need}; install them or use backend 'torch'. "
                              f"torch.compile says: {reason[0]}") from error


def compile_units(model: nn.Module, compiler: str) -> None:
    """Let every one of UNITS in a model be compiled when it is first called; inside another one, as part of that."""
    for module in model.modules():
        if isinstance(module, UNITS):
            module.compile(backend=compiler)
