"""Losses whose gradients are known, in the form that a stepper takes them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tasks.minibatch import Minibatch

A = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)
W = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


class Objective(Minibatch):
    """Any loss of a network's parameters, without examples."""

    def __init__(self, network: nn.Module, loss: Callable[[], Tensor]) -> None:
        super().__init__(network, torch.zeros(1), torch.zeros(1, dtype=torch.int64))
        self._loss = loss

    def outputs(self) -> Tensor:
        return self._loss()

    def loss(self, outputs: Tensor) -> Tensor:
        return outputs


class Quadratic(nn.Module):
    """L(w) = ½ Σ aᵢ wᵢ², whose gradient is a ⊙ w; w in two tensors, since norms go over both."""

    def __init__(self, w: Tensor = W) -> None:
        super().__init__()
        self.first = nn.Parameter(w[:1].clone())
        self.rest = nn.Parameter(w[1:].clone())
        self.seen: list[Tensor] = []  # where the loss was evaluated
        self.batch = Objective(self, self.loss)

    @property
    def w(self) -> Tensor:
        return torch.cat([self.first, self.rest]).detach()

    def loss(self) -> Tensor:
        self.seen.append(self.w)
        return (A * torch.cat([self.first, self.rest]) ** 2).sum() / 2
