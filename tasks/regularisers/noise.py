"""Noise on the inputs or on the weights of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..spec import AtLeast
from .randomness import on_device
from .regulariser import Regulariser

if TYPE_CHECKING:
    import torch

    from ..minibatch import Minibatch

__all__ = ["InputNoise", "WeightNoise"]


@dataclass(frozen=True)
class InputNoise(Regulariser):
    """x + N(0, sd²) for each pixel or feature of each example, independently.

    On a least-squares linear model that is L2 with the strength sd² (Bishop 1995).

    Attributes:
        sd: in units of the normalised inputs: 1 is the standard deviation of a channel or feature over the
            training set. 0 is no noise.
    """

    sd: Annotated[float, AtLeast(0)]

    def on_batch(self, batch: Minibatch, generator: torch.Generator) -> None:
        import torch

        if self.sd > 0:
            x = batch.x
            draws = on_device(generator, x.device)
            batch.x = x.add(torch.randn(x.shape, generator=draws, device=x.device, dtype=x.dtype), alpha=self.sd)


@dataclass(frozen=True)
class WeightNoise(Regulariser):
    """The loss of a step is L(w + ξ), with ξ ~ N(0, sd²) drawn once a step for every parameter.

    Its gradient at w is that of L at w + ξ; the step is taken from w. In the mean over ξ a least-squares
    loss ½(ŷ − y)² gains ½sd²‖∇ŷ‖² + ½sd²(ŷ − y)·tr ∇²ŷ, up to O(sd⁴) (An 1996; Goodfellow et al. 2016,
    section 7.5, whose loss is without the ½). The SAM family's ε is found, and added, on top of the same ξ.

    Attributes:
        sd: of each parameter's noise, in its own units; biases and the scales and shifts of normalisations
            included. 0 is no noise.
    """

    sd: Annotated[float, AtLeast(0)]

    def on_batch(self, batch: Minibatch, generator: torch.Generator) -> None:
        import torch

        if self.sd > 0:
            trained = {name: p for name, p in batch.network.named_parameters() if p.requires_grad}
            device, sizes = batch.x.device, [p.numel() for p in trained.values()]
            noise = torch.randn(sum(sizes), generator=on_device(generator, device), device=device).mul_(self.sd)
            pieces = zip(trained.items(), noise.split(sizes), strict=True)
            batch.weight_noise = {name: piece.view(p.shape).to(p.dtype) for (name, p), piece in pieces}
