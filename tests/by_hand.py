"""What the tests of the systems write a paper's equations out with, in plain Python."""

from __future__ import annotations

import math

import torch


def shaken(module):
    """All weights random, so that none hides what it is multiplied with."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    return module.eval()


def cosine(a, b):
    a, b = a.flatten().tolist(), b.flatten().tolist()
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def softmax(values):
    exponentials = [math.exp(one) for one in values]
    return [one / sum(exponentials) for one in exponentials]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
