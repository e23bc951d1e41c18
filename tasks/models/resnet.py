"""Residual networks for small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .normalised import NormalisedNet

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ResNet18", "ResNet34", "ResNet50"]


@dataclass(frozen=True)
class ResNet18(NormalisedNet):
    """ResNet-18 (He et al. 2016) for images of about 32×32 pixels: 3×3 stem, no initial pooling.

    Shortcuts that change shape are 1×1 convolutions. 11,173,962 parameters for 3 channels and 10 classes.
    """

    def module(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from ._resnet import BasicBlock, ResNet

        return ResNet(shape[0], classes, BasicBlock, (2, 2, 2, 2), self.norm)


@dataclass(frozen=True)
class ResNet34(NormalisedNet):
    """ResNet-34, in all else as `ResNet18`. 21,282,122 parameters for 3 channels and 10 classes."""

    def module(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from ._resnet import BasicBlock, ResNet

        return ResNet(shape[0], classes, BasicBlock, (3, 4, 6, 3), self.norm)


@dataclass(frozen=True)
class ResNet50(NormalisedNet):
    """ResNet-50, of bottleneck blocks, in all else as `ResNet18`.

    The stride of a block is in its 3×3 convolution. 23,520,842 parameters for 3 channels and 10 classes.
    """

    def module(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from ._resnet import BottleneckBlock, ResNet

        return ResNet(shape[0], classes, BottleneckBlock, (3, 4, 6, 3), self.norm)
