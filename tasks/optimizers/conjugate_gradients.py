"""Conjugate gradients, stopped where the matrix turns out not to be positive definite."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Solution", "conjugate_gradients"]


class Solution(NamedTuple):
    """What conjugate gradients have found for A x = b.

    Attributes:
        x: shape (n,).
        curvature: xᵀAx.
        iterations: products with A that it took.
        negative: whether a direction d with dᵀAd ≤ 0 ended the search.
    """

    x: Tensor
    curvature: float
    iterations: int
    negative: bool


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], b: Tensor, *, tolerance: float, max_iterations: int
) -> Solution:
    """x with A x ≈ b from x = 0, for a symmetric A of which only products are known.

    Ends when ‖b − A x‖ ≤ tolerance · ‖b‖, or after `max_iterations`, or at a direction of curvature that is
    not positive. x is then what was found before that, or b itself if it was the first direction (Nocedal and
    Wright 2006, algorithm 7.1; Steihaug 1983). So bᵀx > 0 unless b = 0.

    Args:
        product: v ↦ A v.
        b: shape (n,).
    """
    import torch

    with torch.no_grad():
        x, r = torch.zeros_like(b), b.clone()
        d = r.clone()
        rr = _dot(r, r)
        target = tolerance**2 * rr
        iterations = 0
        while iterations < max_iterations and rr > target:
            ad = product(d)
            iterations += 1
            bend = _dot(d, ad)
            if not bend > 0:
                return (
                    Solution(b.clone(), bend, 1, True)
                    if iterations == 1
                    else Solution(x, _dot(x, b) - _dot(x, r), iterations, True)
                )
            length = rr / bend
            x.add_(d, alpha=length)
            r.sub_(ad, alpha=length)
            before, rr = rr, _dot(r, r)
            d.mul_(rr / before).add_(r)
        return Solution(x, _dot(x, b) - _dot(x, r), iterations, False)


def _dot(a: Tensor, b: Tensor) -> float:
    import torch

    return float((a * b).sum(dtype=torch.float64))
