"""Attention windows: maps cut into squares, also shifted ones (Swin Transformer, arXiv 2103.14030, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor


def round_up(length: int, multiple: int) -> int:
    """The next multiple. As a product, so that an exporter sees what it is divisible by; in n + -n % m it does not."""
    return (length + multiple - 1) // multiple * multiple


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
    """Who may look at whom in a map padded to whole windows and then rolled by -shift: (nW, size^2, size^2) bool.

    Rolling brings the map's first `shift` rows and columns next to its last ones; they stay apart. Pixels and padding
    (at the right and bottom) stay apart too, but everyone sees at least itself.
    """
    def region(length: int) -> Tensor:  # along one axis: 0, or 1 where the rolled axis has come around, or 2 in padding
        padded = round_up(length, size)
        at = torch.arange(shift, padded + shift, device=device)
        at = torch.where(at < padded, at, at - padded)
        return torch.where(at >= length, 2, (at < shift).int())

    regions = 3 * region(height)[:, None] + region(width)  # (H, W), padded
    windows = partition(regions[None, :, :, None], size).squeeze(-1)  # (nW, size^2)
    return windows[:, :, None] == windows[:, None, :]


def relative_positions(size: int, device: torch.device) -> Tensor:
    """How the pixels of a window lie to each other: (size^2, size^2) in 0 .. (2 size - 1)^2 - 1, equal where the offset
    (row, column) is equal."""
    at = torch.arange(size, device=device)
    delta = at[:, None] - at + size - 1  # (size, size), 0 .. 2 size - 2
    index = delta[:, None, :, None] * (2 * size - 1) + delta[:, None, :]  # (row, column, row', column')
    return index.view(size**2, size**2)
