"""From logits to labels and confidence at the camera's size.

The resized logits of a 4K camera would fill gigabytes. They are made, read and forgotten a few rows at a time. No
operation mixes output rows or rounds otherwise at another place in memory, so how many at a time changes no bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

# Resized logits at a time. A CPU is fast while they stay in its second-level cache, a GPU when it gets much at once.
CPU_STEP, CUDA_STEP = 1 << 19, 1 << 26
# Source rows are resized in width for so many output values at once, so that few rows at the seams are done twice.
CPU_BAND = 1 << 22
# Exceeds any number of classes when multiplied by the smallest difference of two logits that are not nearly 0.
HUGE = 1e38


def read_out(logits: Tensor, size: tuple[int, int], step: int | None = None) -> tuple[Tensor, Tensor]:
    """Labels and confidence, each uint8 (B, H, W), of logits (B, K, h, w) resized to `size` = (H, W).

    Bilinear with half-pixel centres, as torch's interpolate. The label is the largest logit's class, of equal ones the
    first; its confidence is its soft-max, 255 = 1.0. step: resized logits at a time, which changes memory and time but
    no result; None: what suits the device.
    """
    logits = logits.float()
    labels, confidence = (torch.empty(len(logits), *size, dtype=torch.uint8, device=logits.device) for _ in range(2))
    for one, *results in zip(logits, labels, confidence, strict=True):
        for first, rows in _resized(one.contiguous(), size, step):
            for result, read in zip(results, _read(rows), strict=True):
                result[first : first + rows.shape[1]] = read
    return labels, confidence


def _read(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and confidence (r, W), not yet uint8, of logits (K, r, W). Each operation is one that torch vectorises."""
    behind = logits - logits.amax(dim=0)  # 0 for the largest
    classes = torch.arange(len(logits), dtype=torch.float32, device=logits.device).view(-1, 1, 1)
    labels = -torch.add(-classes, behind, alpha=HUGE).amax(dim=0)  # the arg-max of torch takes ten times as long
    return labels, (255 / _sum(behind.exp_())).round_()


def _sum(x: Tensor) -> Tensor:
    """The sum over the first axis; overwrites x. The order in which torch's own adds depends on the place in memory."""
    while len(x) > 1:
        half = len(x) // 2
        x[:half] += x[-half:]
        x = x[:-half]
    return x[0]


def _resized(logits: Tensor, size: tuple[int, int], step: int | None) -> Iterator[tuple[int, Tensor]]:
    """Logits (K, h, w) at `size`, a few rows at a time: (first row, (K, r, W)), from top to bottom."""
    (count, h, w), (height, width) = logits.shape, size
    step = step or (CUDA_STEP if logits.is_cuda else CPU_STEP)
    few, many = (min(max(1, values // (count * width)), height) for values in (step, max(step, CPU_BAND)))
    if (h, w) == (height, width):
        for first in range(0, h, few):
            yield first, logits[:, first : first + few]
        return
    above, below, share = _taps(h, height)
    share = share.to(logits.device)
    rows = logits.new_empty(count, few, width)
    for start in range(0, height, many):
        end = min(start + many, height)
        top = above[start]
        band = logits[None, :, top : below[end - 1] + 1]
        band = F.interpolate(band, (band.shape[2], width), mode="bilinear", align_corners=False)[0]  # rows stay
        for first in range(start, end, few):
            last = min(first + few, end)
            for between, run in itertools.groupby(range(first, last), key=lambda row: (above[row], below[row])):
                run = list(run)
                upper, lower = (band[:, row - top, None] for row in between)  # (K, 1, W)
                mixed = rows[:, run[0] - first : run[-1] + 1 - first]
                torch.mul(lower - upper, share[run[0] : run[-1] + 1], out=mixed).add_(upper)
            yield first, rows[:, : last - first]


def _taps(source: int, target: int) -> tuple[list[int], list[int], Tensor]:
    """For each of `target` rows: the two of `source` rows that it lies between, and the second's share (target, 1)."""
    at = ((torch.arange(target, dtype=torch.float64) + 0.5) * (source / target) - 0.5).clamp(0, source - 1)
    above = at.long()
    return above.tolist(), (above + 1).clamp(max=source - 1).tolist(), (at - above).float().unsqueeze(1)
