"""Wide residual networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..errors import InvalidValue
from ..spec import AtLeast, Below
from .normalised import NormalisedNet

if TYPE_CHECKING:
    from torch import nn

__all__ = ["WideResNet"]


@dataclass(frozen=True)
class WideResNet(NormalisedNet):
    """WRN-depth-width (Zagoruyko and Komodakis 2016): three stages of wide blocks that normalise before they convolve.

    WRN-28-10 has 36,479,194 parameters for 3 channels and 10 classes.

    Attributes:
        depth: 6n + 4 for n blocks a stage.
        width: the stages have 16, 32 and 64 times as many channels.
        dropout: probability with which each input of a block's second convolution is zero in a training step
            (0.3 in the paper's CIFAR nets with dropout); 0 adds no layer.
    """

    depth: Annotated[int, AtLeast(10)] = 28
    width: Annotated[int, AtLeast(1)] = 10
    dropout: Annotated[float, AtLeast(0), Below(1)] = 0.0

    def validate(self) -> None:
        if self.depth % 6 != 4:
            near = max(10, round((self.depth - 4) / 6) * 6 + 4)
            raise InvalidValue(f"WideResNet: depth must be 6n + 4, not {self.depth}: take {near}.")

    def module(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from ._wide_resnet import WideResNetModule

        return WideResNetModule(shape[0], classes, (self.depth - 4) // 6, self.width, self.dropout, self.norm)
