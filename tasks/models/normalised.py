"""What the convolutional networks with normalisation share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ..errors import InvalidValue
from .model import Model

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["NormalisedNet"]


@dataclass(frozen=True, kw_only=True)
class NormalisedNet(Model):
    """A convolutional network for images with a normalisation at each convolution.

    Attributes:
        norm: "batch": BatchNorm. "group": GroupNorm, which treats each example alone, with gcd(32, channels)
            groups: the 32 of Wu and He 2018 wherever 32 divides the channels. "none": no normalisation;
            the convolutions then have biases, which otherwise only the normalisations have.
        initialisation: "default": PyTorch's default for every layer. "he": what the papers' own code does,
            convolutions normal with variance 2/(k² · output channels) (He et al. 2015), all biases 0, the
            weights of the dense layer by default: weights about 2.4 times as long. A normalised network
            computes the same at any length, but the size of its steps, of its curvature and of a SAM ball of
            given ρ relative to its weights is another. Without normalisation take "he": by default the
            signal fades with depth, and the training hardly begins. "he" doubles its variance with each
            residual block instead.
    """

    norm: Literal["batch", "group", "none"] = "batch"
    initialisation: Literal["default", "he"] = "default"

    smallest: ClassVar[int] = 1
    """How many pixels a side an image has at least."""

    def initialise(self, network: nn.Module, generator: torch.Generator) -> None:
        from ._initialise import initialise

        initialise(network, generator, he=self.initialisation == "he")

    @property
    def has_batchnorm(self) -> bool:
        return self.norm == "batch"

    def check(self, shape: tuple[int, ...], classes: int) -> None:
        if len(shape) != 3 or min(shape[1:]) < self.smallest:
            least = f" of at least {self.smallest}×{self.smallest} pixels" if self.smallest > 1 else ""
            raise InvalidValue(f"{type(self).__name__} takes images{least}, not examples of shape {shape}.")
