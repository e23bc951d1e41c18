"""SAM with some groups of coordinates weighted more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from ..spec import MoreThan
from .ratio_groups import scale_groups
from .sharpness_aware import SharpnessAware

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SAME", "CustomSAME"]


@dataclass(frozen=True)
class SAME(SharpnessAware):
    """SAM that steps c times as far in the coordinates of one group of r = g⁺/g: along g⁺ ⊙ (1 + (c − 1)·1ₖ).

    The groups are those of `ratio_groups`: 1: r ≥ 1; 2: 0 ≤ r < 1; 3: r ≤ −1; 4: −1 < r < 0. SAME-1 with c = 2 is
    `SAME(group=1)`. At rho = 0, where every r is 1, it is still the base optimizer.

    Attributes:
        group: k, the group.
        c: what its coordinates are multiplied by; 1 is SAM.
    """

    group: Literal[1, 2, 3, 4] = 1
    c: Annotated[float, MoreThan(0)] = 2.0

    def combination(self, g: list[Tensor], g_plus: list[Tensor]) -> list[Tensor]:
        return scale_groups(g, g_plus, {self.group: self.c})


@dataclass(frozen=True)
class CustomSAME(SharpnessAware):
    """SAM with groups 1 and 4 of r = g⁺/g multiplied by c, group 3 divided by it, groups 2 and 0 left as they are.

    Attributes:
        c: the factor; 1 is SAM.
    """

    c: Annotated[float, MoreThan(0)] = 2.0

    def combination(self, g: list[Tensor], g_plus: list[Tensor]) -> list[Tensor]:
        return scale_groups(g, g_plus, {1: self.c, 3: 1 / self.c, 4: self.c})
