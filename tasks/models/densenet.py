"""Densely connected networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from ..errors import InvalidValue
from ..spec import AtLeast, AtMost, MoreThan
from .normalised import NormalisedNet

if TYPE_CHECKING:
    from torch import nn

__all__ = ["DenseNet"]


@dataclass(frozen=True)
class DenseNet(NormalisedNet):
    """DenseNet for images of about 32×32 pixels (Huang et al. 2017): three blocks of layers that each see all before.

    The two forms of the paper: `DenseNet(depth=100, growth=12)` has 6,979,642 parameters for 3 channels and
    10 classes; DenseNet-BC, `DenseNet(depth=100, growth=12, bottleneck=True, compression=0.5)`, 769,162.

    Attributes:
        depth: 3n + 4 for n layers a block, with bottlenecks 6n + 4.
        growth: channels that a layer adds (k).
        bottleneck: whether a 1×1 convolution to 4k channels stands before each 3×3 convolution. The stem has
            2k channels then, else 16.
        compression: share of the channels that the 1×1 convolution between two blocks keeps (θ).
    """

    depth: Annotated[int, AtLeast(7)] = 100
    growth: Annotated[int, AtLeast(1)] = 12
    bottleneck: bool = False
    compression: Annotated[float, MoreThan(0), AtMost(1)] = 1.0

    smallest: ClassVar[int] = 4

    def validate(self) -> None:
        step = 6 if self.bottleneck else 3
        if self.depth % step != 4 % step or self.depth < step + 4:
            near = max(1, round((self.depth - 4) / step)) * step + 4
            form = "with bottlenecks 6n + 4" if self.bottleneck else "3n + 4"
            raise InvalidValue(f"DenseNet: depth must be {form}, not {self.depth}: take {near}.")

    def module(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from ._densenet import DenseNetModule

        layers = (self.depth - 4) // (6 if self.bottleneck else 3)
        return DenseNetModule(shape[0], classes, layers, self.growth, self.bottleneck, self.compression, self.norm)
