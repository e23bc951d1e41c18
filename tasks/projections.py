"""Random embeddings of ℝᵈ into the space of a network's weights, with columns of unit norm."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call

from .landscape import Landscape

__all__ = ["Dense", "Fastfood", "Projection", "Subspace"]


class Projection(Protocol):
    """A linear map P from ℝᵈ to ℝᴰ whose d columns have unit norm."""

    def __call__(self, z: Tensor) -> Tensor:
        """P z, shape (D,), for z of shape (d,)."""
        ...

    def transposed(self, w: Tensor) -> Tensor:
        """Pᵀ w, shape (d,), for w of shape (D,)."""
        ...


class Dense:
    """Independent Gaussian columns, each divided by its norm (so entries ≈ randn/√D; not randn/√d).

    Li et al. 2018, "Measuring the intrinsic dimension of objective landscapes". Holds D · d numbers.
    """

    def __init__(self, size: int, d: int, generator: torch.Generator, *, device: torch.device | str = "cpu") -> None:
        rows = torch.empty(d, size, device=device)  # transposed: a column is a row in memory
        for row in rows:
            drawn = torch.randn(size, generator=generator)
            row.copy_(drawn / torch.linalg.vector_norm(drawn))
        self._rows = rows

    def __call__(self, z: Tensor) -> Tensor:
        return z @ self._rows

    def transposed(self, w: Tensor) -> Tensor:
        return self._rows @ w


class Fastfood:
    """Stacked blocks H G Π H B: Hadamard matrices H, a permutation Π, random signs B and Gaussians G.

    Le, Sarlós & Smola 2013, used as in Li et al. 2018 (supplement S7). Each block is of size n × n, with
    n the power of two from d on; ⌈D/n⌉ blocks are stacked and cut to D rows. G is scaled to a mean square
    of 1 in each block, which gives every column of a block unit norm exactly; the cut of the last block
    changes the norm of whole columns by O(√(n/D)) of it at most. Holds O(D) numbers and takes
    O(D log d) operations, whatever d is.
    """

    def __init__(self, size: int, d: int, generator: torch.Generator, *, device: torch.device | str = "cpu") -> None:
        n = 1 << max(0, math.ceil(math.log2(d)))
        blocks = -(-size // n)
        signs = torch.randint(0, 2, (blocks, n), generator=generator).float() * 2 - 1
        gauss = torch.randn(blocks, n, generator=generator)
        gauss /= gauss.square().mean(1, keepdim=True).sqrt()
        order = torch.stack([torch.randperm(n, generator=generator) for _ in range(blocks)])
        self._size, self._d, self._n = size, d, n
        self._signs, self._gauss, self._order = signs.to(device), gauss.to(device), order.to(device)
        self._back = self._order.argsort(1)
        self._scale = math.sqrt(n / size)

    def __call__(self, z: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(z, (0, self._n - self._d))
        mixed = hadamard(self._signs * padded).gather(1, self._order)
        return hadamard(self._gauss * mixed).flatten()[: self._size] * self._scale

    def transposed(self, w: Tensor) -> Tensor:
        rows = torch.nn.functional.pad(w, (0, self._signs.numel() - self._size)).view_as(self._signs)
        mixed = (self._gauss * hadamard(rows)).gather(1, self._back)
        return (self._signs * hadamard(mixed)).sum(0)[: self._d] * self._scale


class Subspace(nn.Module):
    """A network in a random subspace, w = w₀ + s P z: its only parameter is z, of shape (d,), 0 at first.

    Args:
        landscape: its origin is w₀; its network, which also keeps its mode and its buffers.
        project: P.
        scale: s.
        d: dimension of the subspace.
    """

    def __init__(self, landscape: Landscape, project: Projection, scale: float, d: int) -> None:
        super().__init__()
        self.network = landscape.model.requires_grad_(False)
        self.z = nn.Parameter(torch.zeros(d))
        self._landscape = landscape
        self._names = [name for name, _ in landscape.model.named_parameters()]
        self._project = project
        self._scale = scale

    def weights(self) -> Tensor:
        """w, shape (D,)."""
        return self._landscape.origin + self._scale * _Projected.apply(self.z, self._project)

    def forward(self, x: Tensor) -> Tensor:
        weights = dict(zip(self._names, self._landscape.split(self.weights()), strict=True))
        return functional_call(self.network, weights, (x,))


class _Projected(Function):
    """z ↦ P z, with Pᵀ as its derivative rather than what autograd would make of the steps of P."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, project: Projection) -> Tensor:
        ctx.project = project
        return project(z)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        return ctx.project.transposed(v), None


def hadamard(x: Tensor) -> Tensor:
    """The orthonormal Walsh–Hadamard transform of the rows of x, shape (m, n), n a power of two."""
    m, n = x.shape
    h = 1
    while h < n:
        a, b = x.view(m, n // (2 * h), 2, h).unbind(2)
        x = torch.stack((a + b, a - b), 2).view(m, n)
        h *= 2
    return x / math.sqrt(n)
