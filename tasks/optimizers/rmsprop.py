"""RMSProp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..spec import AtLeast, Below, MoreThan
from .optimizer import Optimizer

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["RMSProp"]


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """RMSProp (Tieleman and Hinton 2012), as `torch.optim.RMSprop`.

    With d = gradient + weight_decay · w and v ← alpha · v + (1 − alpha) d², 0 at first, a step is
    w ← w − lr · b with b ← momentum · b + d / (√v + eps), also 0 at first.

    Attributes:
        lr: step size.
        alpha: decay rate of the running mean of squares.
        eps: added to the root of the mean square.
        momentum: share of b that is kept.
        centered: take v less the square of the gradient's own running mean, an estimate of its variance
            (Graves 2013).
        weight_decay: coefficient of ½‖w‖² in the objective, on all parameters; part of the gradient, so
            √v divides it too.
    """

    lr: Annotated[float, MoreThan(0)] = 0.01
    alpha: Annotated[float, AtLeast(0), Below(1)] = 0.99
    eps: Annotated[float, MoreThan(0)] = 1e-8
    momentum: Annotated[float, AtLeast(0), Below(1)] = 0.0
    centered: bool = False
    weight_decay: Annotated[float, AtLeast(0)] = 0.0

    def torch_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        import torch

        # There is no fused one. PyTorch takes the foreach form on GPUs and a loop, which is faster there, on the CPU.
        return torch.optim.RMSprop(
            parameters,
            lr=self.lr,
            alpha=self.alpha,
            eps=self.eps,
            momentum=self.momentum,
            centered=self.centered,
            weight_decay=self.weight_decay,
        )
