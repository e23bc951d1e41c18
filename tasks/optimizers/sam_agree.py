"""SAM confined to the coordinates in which both gradients point the same way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .ratio_groups import agreeing
from .sharpness_aware import SharpnessAware

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SAMAgree", "SAMAnatomy", "SGDAgree"]


@dataclass(frozen=True)
class SAMAgree(SharpnessAware):
    """SAM that leaves out the coordinates in which g⁺ has turned round: steps along g⁺ ⊙ 1[r > 0], r = g⁺/g."""

    def combination(self, g: list[Tensor], g_plus: list[Tensor]) -> list[Tensor]:
        return agreeing(g_plus, g)


@dataclass(frozen=True)
class SGDAgree(SharpnessAware):
    """The base optimizer without the coordinates in which g⁺ has turned round: steps along g ⊙ 1[r > 0], r = g⁺/g."""

    def combination(self, g: list[Tensor], g_plus: list[Tensor]) -> list[Tensor]:
        return agreeing(g, g_plus)


@dataclass(frozen=True)
class SAMAnatomy(SharpnessAware):
    """SAM whose ε is made of the coordinates that agree: with d = g ⊙ 1[r > 0], it steps along ∇L(w + ρ d/‖d‖).

    Three gradients a step: g, g⁺ = ∇L(w + ρ g/‖g‖), which gives r = g⁺/g, and the one to step along, which is what a
    recorder sees as g⁺. Where nothing agrees it is g again.
    """

    def refinement(
        self, names: list[str], w: list[Tensor], g: list[Tensor], g_plus: list[Tensor], rho: float
    ) -> list[Tensor]:
        return self.perturbation(names, w, agreeing(g, g_plus), rho)
