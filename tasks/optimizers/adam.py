"""Adam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..spec import AtLeast, Below, MoreThan
from .optimizer import Optimizer

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Adam"]


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), as `torch.optim.Adam`.

    With d = gradient + weight_decay · w, m ← β₁ m + (1 − β₁) d and v ← β₂ v + (1 − β₂) d², both 0 at
    first, the t-th step is w ← w − lr · m̂ / (√v̂ + eps) with m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ).

    Attributes:
        lr: step size.
        betas: β₁ and β₂.
        eps: added to the root of the mean square.
        weight_decay: coefficient of ½‖w‖² in the objective, on all parameters. It is part of the gradient,
            so v divides it too; `AdamW` keeps it out of both.
    """

    lr: Annotated[float, MoreThan(0)] = 1e-3
    betas: tuple[Annotated[float, AtLeast(0), Below(1)], Annotated[float, AtLeast(0), Below(1)]] = (0.9, 0.999)
    eps: Annotated[float, MoreThan(0)] = 1e-8
    weight_decay: Annotated[float, AtLeast(0)] = 0.0

    def torch_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        import torch

        return torch.optim.Adam(
            parameters, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=True
        )
