"""Coordinates told apart by the ratio r = g⁺/g of the gradients at w + ε and at w.

==========  =============  ================================================
 group       r              the gradient on the way up
==========  =============  ================================================
 1           r ≥ 1          grows
 2           0 ≤ r < 1      shrinks (g⁺ = 0 included)
 3           r ≤ −1         turns round, and is no smaller
 4           −1 < r < 0     turns round, smaller
 0           none           g = 0, whatever g⁺ is
==========  =============  ================================================

r itself is nowhere computed: its sign is that of g times that of g⁺, and |r| ≥ 1 is |g⁺| ≥ |g|. So nothing is added
to g, and nothing overflows or underflows. Both gradients are taken to be finite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .blocks import blocks

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["agreeing", "ratio_groups", "scale_groups"]


def ratio_groups(g: Sequence[Tensor], g_plus: Sequence[Tensor]) -> list[Tensor]:
    """The group of each coordinate, 0 to 4, uint8 tensors of the shapes of `g`."""
    import torch

    found = []
    for a, b in zip(g, g_plus, strict=True):
        turned = a.sign().mul_(b.sign()) < 0
        smaller = b.abs() < a.abs()
        group = torch.add(smaller.to(torch.uint8), turned.to(torch.uint8), alpha=2).add_(1)
        found.append(group.mul_(a != 0))
    return found


def scale_groups(g: list[Tensor], g_plus: list[Tensor], factors: Mapping[int, float]) -> list[Tensor]:
    """g⁺ with the coordinates of each group in `factors` (of 1 to 4) multiplied by its factor. Overwrites both."""
    import torch

    # Masks are numbers 0 and 1, since operations on lists of tensors know no others. With q = g⁺ · sign(g), which is
    # 0 in group 0, g⁺ = q · sign(g) everywhere else; q > 0 in groups 1 and 2 and q < 0 in 3 and 4.
    for a, b in blocks(g, g_plus):
        sign = torch._foreach_sign(a)
        q = torch._foreach_mul(b, sign)
        torch._foreach_abs_(a)
        torch._foreach_sub_(a, torch._foreach_abs(q))
        torch._foreach_sign_(a)
        torch._foreach_clamp_min_(a, 0.0)  # 1 where |q| < |g|
        inner = torch._foreach_mul(q, a)  # q in groups 2 and 4, 0 elsewhere
        torch._foreach_sub_(q, inner)  # q in groups 1 and 3, 0 elsewhere
        for group, factor in factors.items():
            clamp = torch._foreach_clamp_min if group in (1, 2) else torch._foreach_clamp_max
            torch._foreach_addcmul_(b, sign, clamp(q if group in (1, 3) else inner, 0.0), value=factor - 1)
    return g_plus


def agreeing(g: list[Tensor], other: list[Tensor]) -> list[Tensor]:
    """g where it has the sign of the other, neither of them 0; 0 elsewhere. Written into `other`."""
    import torch

    for a, b in blocks(g, other):
        torch._foreach_sign_(b)
        same = torch._foreach_mul(a, b)
        torch._foreach_clamp_min_(same, 0.0)
        torch._foreach_mul_(b, same)
    return other
