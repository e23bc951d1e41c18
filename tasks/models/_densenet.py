"""The modules of a densely connected network; imports torch, so it is imported only when one is built."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ._layers import convolution, normalisation

__all__ = ["BottleneckLayer", "DenseLayer", "DenseNetModule", "Transition"]


class DenseLayer(nn.Module):
    """x beside conv(ReLU(N(x))), N the normalisation, the convolution 3×3."""

    def __init__(self, inputs: int, growth: int, norm: str) -> None:
        super().__init__()
        self.norm = normalisation(inputs, norm)
        self.conv = convolution(inputs, growth, 3, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((x, self.conv(F.relu(self.norm(x)))), 1)


class BottleneckLayer(nn.Module):
    """x beside conv(ReLU(N(conv(ReLU(N(x)))))), the convolutions 1×1 to 4 · growth channels and 3×3."""

    def __init__(self, inputs: int, growth: int, norm: str) -> None:
        super().__init__()
        self.norm1 = normalisation(inputs, norm)
        self.conv1 = convolution(inputs, 4 * growth, 1, norm)
        self.norm2 = normalisation(4 * growth, norm)
        self.conv2 = convolution(4 * growth, growth, 3, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(F.relu(self.norm1(x)))
        return torch.cat((x, self.conv2(F.relu(self.norm2(y)))), 1)


class Transition(nn.Module):
    """2×2 means of conv(ReLU(N(x))), the convolution 1×1."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__()
        self.norm = normalisation(inputs, norm)
        self.conv = convolution(inputs, outputs, 1, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class DenseNetModule(nn.Module):
    """A 3×3 stem, three blocks of `layers` layers with transitions between, N, ReLU, mean over pixels, dense layer."""

    def __init__(
        self, channels: int, classes: int, layers: int, growth: int, bottleneck: bool, compression: float, norm: str
    ) -> None:
        super().__init__()
        layer = BottleneckLayer if bottleneck else DenseLayer
        width = 2 * growth if bottleneck else 16
        self.conv = convolution(channels, width, 3, norm)
        blocks: list[nn.Module] = []
        for block in range(3):
            if block > 0:
                kept = max(1, int(compression * width))
                blocks.append(Transition(width, kept, norm))
                width = kept
            for _ in range(layers):
                blocks.append(layer(width, growth, norm))
                width += growth
        self.blocks = nn.Sequential(*blocks)
        self.norm = normalisation(width, norm)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm(self.blocks(self.conv(x))))
        return self.linear(y.mean((2, 3)))
