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
CPU_STEP, CUDA_STEP = 1 << 19, 1 << 25
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
    mix = _mix_gathered if logits.is_cuda else _mix_runs
    rows = logits.new_empty(count, few, width)
    for start in range(0, height, many):
        end = min(start + many, height)
        top = int(above[start])
        band = logits[None, :, top : int(below[end - 1]) + 1]
        band = F.interpolate(band, (band.shape[2], width), mode="bilinear", align_corners=False)[0]  # rows stay
        for first in range(start, end, few):
            here = slice(first, min(first + few, end))
            mixed = rows[:, : here.stop - first]
            mix(band, above[here] - top, below[here] - top, share[here], mixed)
            yield first, mixed


def _mix_runs(band: Tensor, above: Tensor, below: Tensor, share: Tensor, out: Tensor) -> None:
    """out (K, r, W): rows between two of the band (K, n, W) each, where above, below (r,) int64 and share (r, 1) say.

    Rows between the same two at a time: nothing is gathered, which suits a cache.
    """
    first = 0
    for between, run in itertools.groupby(zip(above.tolist(), below.tolist(), strict=True)):
        last = first + len(list(run))
        upper, lower = (band[:, row, None] for row in between)  # (K, 1, W)
        torch.mul(lower - upper, share[first:last], out=out[:, first:last]).add_(upper)
        first = last


def _mix_gathered(band: Tensor, above: Tensor, below: Tensor, share: Tensor, out: Tensor) -> None:
    """The same, bit by bit, in a handful of operations, which suits a GPU: every one costs it a launch."""
    upper, lower = (band.index_select(1, at.to(band.device)) for at in (above, below))  # (K, r, W)
    torch.mul(lower - upper, share.to(band.device), out=out).add_(upper)


def _taps(source: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `target` rows: the two of `source` rows that it lies between, and the second's share (target, 1)."""
    at = ((torch.arange(target, dtype=torch.float64) + 0.5) * (source / target) - 0.5).clamp(0, source - 1)
    above = at.long()
    return above, (above + 1).clamp(max=source - 1), (at - above).float().unsqueeze(1)
