"""The modules of a residual network; imports torch, so it is imported only when one is built."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ._layers import convolution, normalisation

__all__ = ["BasicBlock", "BottleneckBlock", "ResNet"]


class BasicBlock(nn.Module):
    """ReLU(shortcut(x) + N(conv(ReLU(N(conv(x)))))), N the normalisation; both convolutions 3×3."""

    expansion = 1  # output channels for each of the inner ones

    def __init__(self, inputs: int, width: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, width, 3, norm, stride)
        self.norm1 = normalisation(width, norm)
        self.conv2 = convolution(width, width, 3, norm)
        self.norm2 = normalisation(width, norm)
        self.shortcut = _shortcut(inputs, width, stride, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class BottleneckBlock(nn.Module):
    """ReLU(shortcut(x) + N(conv(ReLU(N(conv(ReLU(N(conv(x))))))))): 1×1, 3×3 and 1×1 to four times the width.

    The 3×3 convolution has the stride, as in torchvision and most later code; in the paper it was the first.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, width, 1, norm)
        self.norm1 = normalisation(width, norm)
        self.conv2 = convolution(width, width, 3, norm, stride)
        self.norm2 = normalisation(width, norm)
        self.conv3 = convolution(width, 4 * width, 1, norm)
        self.norm3 = normalisation(4 * width, norm)
        self.shortcut = _shortcut(inputs, 4 * width, stride, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


def _shortcut(inputs: int, outputs: int, stride: int, norm: str) -> nn.Sequential:
    """The identity, or N(1×1 convolution) where the shape changes."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(convolution(inputs, outputs, 1, norm, stride), normalisation(outputs, norm))


class ResNet(nn.Module):
    """A 3×3 stem of 64 channels, stages of blocks of width 64, 128, 256, 512, mean over pixels, dense layer."""

    def __init__(
        self,
        channels: int,
        classes: int,
        block: type[BasicBlock] | type[BottleneckBlock],
        blocks: tuple[int, ...],
        norm: str,
    ) -> None:
        super().__init__()
        self.conv = convolution(channels, 64, 3, norm)
        self.norm = normalisation(64, norm)
        stages: list[nn.Module] = []
        inputs = 64
        for stage, count in enumerate(blocks):
            for position in range(count):
                stages.append(block(inputs, 64 * 2**stage, 2 if stage > 0 and position == 0 else 1, norm))
                inputs = 64 * 2**stage * block.expansion
        self.blocks = nn.Sequential(*stages)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.blocks(F.relu(self.norm(self.conv(x))))
        return self.linear(y.mean((2, 3)))
