"""The modules of a wide residual network; imports torch, so it is imported only when one is built."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ._layers import convolution, normalisation
from .dropout import Dropout

__all__ = ["PreactivationBlock", "WideResNetModule"]


class PreactivationBlock(nn.Module):
    """shortcut + conv(dropout(ReLU(N(conv(a))))) with a = ReLU(N(x)), N the normalisation.

    The shortcut is x, or a 1×1 convolution of a where the shape changes, as in the paper's code.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float, norm: str) -> None:
        super().__init__()
        self.norm1 = normalisation(inputs, norm)
        self.conv1 = convolution(inputs, outputs, 3, norm, stride)
        self.norm2 = normalisation(outputs, norm)
        self.dropout = Dropout(dropout) if dropout > 0 else nn.Identity()
        self.conv2 = convolution(outputs, outputs, 3, norm)
        changes = stride != 1 or inputs != outputs
        self.shortcut = convolution(inputs, outputs, 1, norm, stride) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = F.relu(self.norm1(x))
        y = F.relu(self.norm2(self.conv1(a)))
        y = self.conv2(self.dropout(y))
        return y + (x if self.shortcut is None else self.shortcut(a))


class WideResNetModule(nn.Module):
    """A 3×3 stem of 16 channels, three stages of blocks, N, ReLU, mean over pixels, dense layer."""

    def __init__(self, channels: int, classes: int, blocks: int, width: int, dropout: float, norm: str) -> None:
        super().__init__()
        self.conv = convolution(channels, 16, 3, norm)
        stages: list[nn.Module] = []
        inputs = 16
        for stage in range(3):
            outputs = 16 * width * 2**stage
            for position in range(blocks):
                stride = 2 if stage > 0 and position == 0 else 1
                stages.append(PreactivationBlock(inputs, outputs, stride, dropout, norm))
                inputs = outputs
        self.blocks = nn.Sequential(*stages)
        self.norm = normalisation(inputs, norm)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(self.blocks(self.conv(x))))
        return self.linear(y.mean((2, 3)))
