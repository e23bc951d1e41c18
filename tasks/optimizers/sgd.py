"""Stochastic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..errors import InvalidValue
from ..spec import AtLeast, Below, MoreThan
from .optimizer import Optimizer

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["SGD"]


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and weight decay as in `torch.optim.SGD`.

    With d = gradient + weight_decay · w and b ← momentum · b + d (the first b is d), a step is
    w ← w − lr · b, or with Nesterov's momentum w ← w − lr · (d + momentum · b).

    Attributes:
        lr: step size.
        momentum: share of b that is kept; 0 is plain descent.
        nesterov: use Nesterov's momentum (Sutskever et al. 2013); needs momentum.
        weight_decay: coefficient of ½‖w‖² in the objective, on all parameters.
    """

    lr: Annotated[float, MoreThan(0)] = 0.05
    momentum: Annotated[float, AtLeast(0), Below(1)] = 0.0
    nesterov: bool = False
    weight_decay: Annotated[float, AtLeast(0)] = 0.0

    def validate(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise InvalidValue(f"{type(self).__name__}: nesterov needs a momentum above 0.")

    def torch_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        import torch

        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=True if self.momentum > 0 else None,  # without momentum the fused one is the slower on CPUs
        )
