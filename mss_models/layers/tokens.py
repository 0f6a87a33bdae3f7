"""What works on tokens, maps in (B, H, W, C) order.

Linear layers and norms work on the last axis, and the same memory seen as (B, C, H, W) is what convolutions call
channels-last, so nothing is ever copied to change the layout.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def to_tokens(images: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), contiguous."""
    return images.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)


def convolve(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module that wants channels first (convolution, batch norm) to tokens: (B, H, W, C) -> (B, H', W', C')."""
    return module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention: q (B, heads, N, D), k and v (B, heads, M, D) -> (B, heads, N, D).

    `mask`, broadcast to (B, heads, N, M): bool (True: may be looked at) or float (added before the soft-max).
    """
    if q.dtype == torch.bfloat16 and q.device.type == "cpu" and torch.is_grad_enabled():
        # The backward pass of torch's fused CPU kernel is about ten times slower in bf16 than in fp32.
        with torch.autocast("cpu", enabled=False):
            mask = mask.float() if mask is not None and mask.is_floating_point() else mask
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), mask).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, mask)


class MixFFN(nn.Module):
    """MLP with a 3x3 depth-wise convolution inside, which also tells the tokens their position (SegFormer, eq. 3)."""

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        hidden = ratio * channels
        self.fc1 = nn.Linear(channels, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(convolve(self.dwconv, self.fc1(x))))


class DropPath(nn.Module):
    """In training, drop a sample's residual branch with the given probability, 0 to below 1, and scale up the kept."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"drop_path = {probability}; 0 to below 1 is possible")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep).div_(keep)


def drop_path_rates(depths: tuple[int, ...], highest: float) -> list[list[float]]:
    """The rate of every block, per stage: linear over the whole depth from 0 to `highest`."""
    rates = torch.linspace(0, highest, sum(depths), device="cpu").tolist()
    return [rates[sum(depths[:i]) : sum(depths[: i + 1])] for i in range(len(depths))]
