"""Layers that the residual and the dense networks are made of; imports torch, so it is imported only when one is built.

`norm` is that of `normalised.NormalisedNet` throughout.
"""

from __future__ import annotations

import math

from torch import nn

__all__ = ["convolution", "normalisation"]


def convolution(inputs: int, outputs: int, size: int, norm: str, stride: int = 1) -> nn.Conv2d:
    """size × size with padding to the same size (stride 1); with biases only where no normalisation has them."""
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=norm == "none")


def normalisation(channels: int, norm: str) -> nn.Module:
    """BatchNorm, GroupNorm of gcd(32, channels) groups, or the identity."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(math.gcd(32, channels), channels)
    return nn.Identity()
