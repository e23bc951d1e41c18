"""AdaGrad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..spec import AtLeast, MoreThan
from .optimizer import Optimizer

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["AdaGrad"]


@dataclass(frozen=True)
class AdaGrad(Optimizer):
    """AdaGrad with a diagonal matrix (Duchi et al. 2011), as `torch.optim.Adagrad`.

    With d = gradient + weight_decay · w and s ← s + d², the t-th step (t = 1, 2, …) is
    w ← w − lr / (1 + (t − 1) lr_decay) · d / (√s + eps).

    Attributes:
        lr: step size.
        lr_decay: how fast the step size falls besides.
        initial: s before the first step.
        eps: added to the root of the sum.
        weight_decay: coefficient of ½‖w‖² in the objective, on all parameters; part of the gradient, so
            √s divides it too.
    """

    lr: Annotated[float, MoreThan(0)] = 0.01
    lr_decay: Annotated[float, AtLeast(0)] = 0.0
    initial: Annotated[float, AtLeast(0)] = 0.0
    eps: Annotated[float, MoreThan(0)] = 1e-10
    weight_decay: Annotated[float, AtLeast(0)] = 0.0

    def torch_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        import torch

        return torch.optim.Adagrad(
            parameters,
            lr=self.lr,
            lr_decay=self.lr_decay,
            initial_accumulator_value=self.initial,
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
        )
