"""Initial weights for training from scratch, as SegFormer sets them."""

from __future__ import annotations

import math

from torch import nn


def initialise(module: nn.Module) -> None:
    """Linear: truncated normal, std .02; convolution: normal by fan-out; biases 0. For `Module.apply`.

    Norm layers keep torch's own weight 1 and bias 0.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def initialise_reading(convolution: nn.Conv2d) -> None:
    """Bias of the convolution that reads the images: normal, std .02 (ours; SegFormer's is 0). After `initialise`.

    With biases of 0, all tokens of a blank image (zeros after normalisation: what an absent modality is in the systems
    that fill in zeros) stay 0 in all blocks of an untrained encoder. The slope of every layer norm is 1 / sqrt(eps) =
    1000 there, and the gradients overflow.
    """
    nn.init.normal_(convolution.bias, std=0.02)
