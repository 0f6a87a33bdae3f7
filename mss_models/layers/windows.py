"""Attention windows: maps cut into squares, also shifted ones (Swin Transformer, arXiv 2103.14030, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor


def partition(x: Tensor, size: int) -> Tensor:
    """(B, H, W, C), H and W multiples of `size` -> windows (B nW, size^2, C), both row by row, nW = H W / size^2."""
    B, H, W, C = x.shape
    x = x.view(B, H // size, size, W // size, size, C).transpose(2, 3)  # (B, rows, columns, size, size, C)
    return x.reshape(-1, size * size, C)


def merge(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    """The inverse of `partition`: (B nW, size^2, C) -> (B, height, width, C)."""
    x = windows.view(-1, height // size, width // size, size, size, windows.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])


def shift_mask(height: int, width: int, size: int, shift: int, device: torch.device) -> Tensor:
    """Who may look at whom after rolling a map by -shift: (nW, size^2, size^2) bool.

    Rolling brings the map's first `shift` rows and columns next to its last ones; they stay apart.
    """
    def wrapped(length: int) -> Tensor:  # 1 where the rolled axis has come around
        return (torch.arange(length, device=device) >= length - shift).to(torch.int32)

    region = 2 * wrapped(height)[:, None] + wrapped(width)  # (height, width)
    windows = partition(region[None, :, :, None], size).squeeze(-1)  # (nW, size^2)
    return windows[:, :, None] == windows[:, None, :]
