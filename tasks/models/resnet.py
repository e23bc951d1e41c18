"""Residual networks for small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InvalidValue
from .model import Model

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ResNet18"]


@dataclass(frozen=True)
class ResNet18(Model):
    """ResNet-18 (He et al. 2016) for images of about 32×32 pixels: 3×3 stem, no initial pooling.

    Shortcuts that change shape are 1×1 convolutions; BatchNorm throughout. 11,173,962 parameters for
    3 channels and 10 classes.
    """

    def module(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from ._resnet import ResNet

        if len(shape) != 3:
            raise InvalidValue(f"ResNet18 takes images, not examples of shape {shape}.")
        return ResNet(shape[0], classes, blocks=(2, 2, 2, 2))
