"""Max-norm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..spec import MoreThan
from .regulariser import Regulariser, weights_of

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MaxNorm"]


@dataclass(frozen=True)
class MaxNorm(Regulariser):
    """No unit's incoming weights are longer than `limit`: after each step those that are get scaled back to it.

    A unit's weights are a row of a dense layer's matrix or a filter of a convolution, over all its input
    channels; biases do not count. That is the projection onto the ball of each unit (Srebro and Shraibman
    2005; with dropout, limits of 3 to 4: Srivastava et al. 2014, section 5.1).

    Attributes:
        limit: the largest Euclidean norm; infinity is no limit.
    """

    limit: Annotated[float, MoreThan(0)]

    def on_step(self, network: nn.Module, lr: float) -> None:
        import torch

        if self.limit == math.inf:
            return
        for parameter in weights_of(network):
            weights = parameter.detach()
            norms = torch.linalg.vector_norm(weights, dim=tuple(range(1, weights.ndim)), keepdim=True)
            weights.mul_((self.limit / norms).clamp_(max=1))  # 1 changes no bit; a norm of 0 gives 1
