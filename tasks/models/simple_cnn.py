"""The convolutional net of the small CIFAR-10 landscape studies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..errors import InvalidValue
from ..spec import AtLeast, Below
from .model import Model

if TYPE_CHECKING:
    from torch import nn

__all__ = ["SimpleCNN"]


@dataclass(frozen=True)
class SimpleCNN(Model):
    """Convolution to 32 channels, ReLU, convolution to 64, ReLU, 2×2 max-pool, one dense layer.

    The convolutions are 3×3 with padding 1. 183,242 parameters for 3×32×32 images and 10 classes.

    Attributes:
        dropout: probability with which each input of the dense layer is zero in a training step; 0 adds no
            layer.
    """

    dropout: Annotated[float, AtLeast(0), Below(1)] = 0.0

    def check(self, shape: tuple[int, ...], classes: int) -> None:
        if len(shape) != 3 or min(shape[1:]) < 2:
            raise InvalidValue(f"SimpleCNN takes images of at least 2×2 pixels, not examples of shape {shape}.")

    def module(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        from .dropout import Dropout

        channels, height, width = shape
        return nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            *([Dropout(self.dropout)] if self.dropout > 0 else []),
            nn.Linear(64 * (height // 2) * (width // 2), classes),
        )
