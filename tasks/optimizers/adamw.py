"""Adam with decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..spec import AtLeast, Below, MoreThan
from .optimizer import Optimizer

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["AdamW"]


@dataclass(frozen=True)
class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019), as `torch.optim.AdamW`.

    Attributes:
        lr: step size.
        betas: decay rates of the running means of the gradient and of its square.
        eps: added to the root of the mean square.
        weight_decay: each step first multiplies all parameters by 1 − lr · weight_decay.
    """

    lr: Annotated[float, MoreThan(0)] = 1e-3
    betas: tuple[Annotated[float, AtLeast(0), Below(1)], Annotated[float, AtLeast(0), Below(1)]] = (0.9, 0.999)
    eps: Annotated[float, MoreThan(0)] = 1e-8
    weight_decay: Annotated[float, AtLeast(0)] = 0.01

    def torch_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        import torch

        return torch.optim.AdamW(
            parameters, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=True
        )
