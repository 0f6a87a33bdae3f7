"""Distillation of a frozen teacher's maps into a student's (AnySeg, RobustSeg): which modalities are compared, and how.

P counts pairs (student's modality, teacher's modality, sample); the maps of the pairs are compared one by one.
Every Kullback-Leibler divergence (KL) is from teacher to student, at temperature 1, and the mean over all elements of
t (log t - log s), as torch's `kl_div` with `reduction="mean"`: the sum over a distribution's N entries is divided by N
too. The losses are float32, whatever the maps are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PAIRINGS = ("matched", "hybrid", "published")
Pairs = tuple[Tensor, Tensor, Tensor]
"""Each (P,) int64: the student's modality, the teacher's modality, the sample."""


def draw_partners(kind: str, present: Sequence[str], modalities: Sequence[str]) -> dict[str, str]:
    """Which of the teacher's modalities each of one sample's `present` modalities is compared with.

    'matched': its own. 'hybrid': pi(its own), pi a uniform permutation of all `modalities`. 'published': as RobustSeg's
    released PCUMD_random, the present ones in random order with the teacher's first, second, ...
    """
    if kind == "matched":
        return {name: name for name in present}
    if kind == "hybrid":
        pi = dict(zip(modalities, torch.randperm(len(modalities)).tolist(), strict=True))
        return {name: modalities[pi[name]] for name in present}
    return {present[k]: modalities[t] for t, k in enumerate(torch.randperm(len(present)).tolist())}


def draw_pairs(kind: str, student: tuple[Sequence[str], Tensor], teacher: tuple[Sequence[str], Tensor],
               modalities: Sequence[str]) -> Pairs:
    """The pairs of a batch; `draw_partners` once per sample. Pairs whose half the teacher lacks are left out.

    student, teacher: names of the modalities, (M',), and which samples have them, bool (M', B).
    """
    (names, mask), (teacher_names, teacher_mask) = student, teacher
    there = teacher_mask.tolist()
    pairs = []
    for b, has in enumerate(mask.T.tolist()):
        present = [name for name, one in zip(names, has, strict=True) if one]
        for name, partner in draw_partners(kind, present, modalities).items():
            if partner in teacher_names and there[t := teacher_names.index(partner)][b]:
                pairs.append((names.index(name), t, b))
    return tuple(torch.tensor(pairs, dtype=torch.long, device=mask.device).reshape(-1, 3).T)


def kl_mean(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) over `dim` of scores (N, ...), the mean over all elements: (N,)."""
    log_s, log_t = student.float().log_softmax(dim), teacher.float().log_softmax(dim)
    return (log_t.exp() * (log_t - log_s)).flatten(1).mean(dim=1)


def labels_at(labels: Tensor, size: Sequence[int]) -> Tensor:
    """(B, H, W) int64 -> (B, *size), nearest neighbour."""
    return F.interpolate(labels[:, None].float(), tuple(size), mode="nearest")[:, 0].long()  # ids < 2^24 are exact


def prototypes(maps: Tensor, labels: Tensor, num_classes: int, published: bool = False) -> Tensor:
    """The mean of maps (P, C, h, w) over the pixels of each class, 0 for a class that is not there: (P, K, C).

    labels (P, h, w) int64; ids outside 0..K-1 belong to no class. `published`: divided by the count once more, as in
    RobustSeg's released code.
    """
    classes = torch.arange(num_classes, device=labels.device)
    one_hot = (labels.flatten(1)[:, :, None] == classes).float()  # (P, h w, K)
    count = one_hot.sum(dim=1).clamp(min=1)[:, :, None]  # (P, K, 1)
    means = torch.einsum("pxk,pcx->pkc", one_hot, maps.float().flatten(2)) / count
    return means / count if published else means


def cosine_matrices(maps: Tensor) -> Tensor:
    """Cosine of every two of (M, B, C, h, w) of a sample, the mean over the channels of that over pixels: (B, M, M)."""
    unit = F.normalize(maps.float().flatten(3), dim=-1)
    return torch.einsum("mbcx,nbcx->bmn", unit, unit) / maps.shape[2]


def cross_modal(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of the two cosine matrices over a sample's M' x M' entries of mask (M, B): (B,).

    student, teacher: (M, B, C, h, w) of the same modalities. The M' ones of the diagonal count in the mean.
    """
    both = (mask[:, None] & mask[None]).permute(2, 0, 1).float()  # (B, M, M)
    squares = (cosine_matrices(student) - cosine_matrices(teacher)).square()
    return (both * squares).sum(dim=(1, 2)) / both.sum(dim=(1, 2)).clamp(min=1)


def cross_modal_published(student: Tensor, teacher: Tensor) -> Tensor:
    """The form of AnySeg's and RobustSeg's released code, of the maps (P, C, h, w) of a whole batch: a scalar.

    The cosines are of the student's log-softmax and of the teacher's softmax, both over the rows (h); one matrix holds
    the maps of all samples, so that different samples are compared too.
    """
    if not len(student):
        return student.float().sum()
    rows_s, rows_t = student.float().log_softmax(2), teacher.float().softmax(2)
    return (cosine_matrices(rows_s[:, None]) - cosine_matrices(rows_t[:, None])).square().mean()


def perturb(maps: Tensor, draws: int) -> Tensor:
    """Gaussian draws around maps (P, C, h, w), with each pixel's own standard deviation over its channels.

    Returns (P, draws, C, h, w). The deviation is that of all draws' C unperturbed values, without bias, as the released
    code takes it.
    """
    maps = maps.float()
    variance = maps.var(dim=1, keepdim=True, correction=1 / draws)  # (P, 1, h, w)
    sigma = variance.clamp(min=1e-12).sqrt()  # its slope at 0, where blank images can be, is infinite
    return torch.addcmul(maps[:, None], torch.randn(len(maps), draws, *maps.shape[1:], device=maps.device),
                         sigma[:, None])


def fisher_penalty(student: Tensor, teacher: Tensor, dim: int = 2, of_mean: bool = False) -> Tensor:
    """||(1 / I_s, 1 / I_t)||_2 of perturbed maps (P, draws, C, h, w), one value per pair: (P,).

    a = log_softmax(student), b = softmax(teacher) over `dim`; f = sum_dim b (log b - a), the KL of one distribution.
    I_x = E ||df/dx||^2 / E f, the functional Fisher information, which bounds the functional entropy of f (Gat et al.,
    NeurIPS 2020, arXiv 2010.10802): E is the mean over the distributions. The gradients are known,

        df/da = -b,    df/db = log b + 1 - a,

    and as functions of the maps they can be differentiated again, which `autograd.grad(create_graph=True)` would do.

    of_mean: I_x = E ||dl/dx||^2 / l, l the mean of b (log b - a) over all N elements. It is I_x / N^2 times the
    distribution's length, and the penalty is that much larger.
    """
    a, log_b = student.float().log_softmax(dim), teacher.float().log_softmax(dim)
    b = log_b.exp()
    f = (b * (log_b - a)).sum(dim).flatten(1).mean(dim=1)  # (P,)
    squares = [gradient.square().sum(dim).flatten(1).mean(dim=1) for gradient in (b, log_b + 1 - a)]  # (P,) each
    penalty = torch.linalg.vector_norm(torch.stack([f / one for one in squares]), dim=0)
    return penalty * (a[0].numel() ** 2 / a.shape[dim]) if of_mean else penalty
