"""Several processes that train one network, one per GPU, as torchrun starts them:

    torchrun --nproc-per-node 4 -m training.train RECIPE --data DIR --out RUN
    torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m training.train ...

RUN must be on a disk that all machines share where a student's teacher is trained first or a training is resumed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mss_models.runtime import choose_device


class Group:
    """The processes, and this one's place among them. All methods are called by all of them, in the same order."""

    def __init__(self) -> None:
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes the files."""
        return self.rank == 0

    def total(self, value: Tensor) -> Tensor:
        """The sum over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def of_all(self, value: Tensor) -> list[Tensor]:
        """Every process's value, all of one shape, in the order of the ranks, on the CPU."""
        if self.size == 1:
            return [value]
        values: list = [None] * self.size
        dist.all_gather_object(values, value.cpu())
        return values

    def share_buffers(self, module: nn.Module) -> None:
        """Everybody's buffers become rank 0's, as those are what is saved."""
        for buffer in module.buffers() if self.size > 1 else ():
            dist.broadcast(buffer, 0)

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, whose backward passes then average the gradients over the processes."""
        if self.size == 1:
            return module
        # A modality that no sample has leaves its parameters unused, which is for this process to find out.
        return DistributedDataParallel(module, find_unused_parameters=True)


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Joins the processes that torchrun has started, if it has, and yields this one's device.

    device: as for choose_device; `auto` and `cuda` are a GPU of one's own. Raises OptionError.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield device
        return
    if device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    one = choose_device(device)
    if one.type == "cuda":
        torch.cuda.set_device(one)
    dist.init_process_group("nccl" if one.type == "cuda" else "gloo")
    try:
        yield str(one)
    finally:
        dist.destroy_process_group()
