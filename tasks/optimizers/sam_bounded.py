"""SAM with a bound on each coordinate: of the perturbation, or of the gradient that it leads to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..spec import MoreThan
from .blocks import blocks
from .sharpness_aware import SharpnessAware

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ClampSAM", "ClipSAM"]


@dataclass(frozen=True)
class ClampSAM(SharpnessAware):
    """SAM with ε = ρ g/‖g‖ clamped to [−τ, τ] in each coordinate.

    Attributes:
        tau: τ, the largest |ε| of a coordinate. ρ/√D is the size of each of D equal ones.
    """

    tau: Annotated[float, MoreThan(0)] = 1e-3

    def perturbation(self, names: list[str], w: list[Tensor], g: list[Tensor], rho: float) -> list[Tensor]:
        import torch

        epsilon = super().perturbation(names, w, g, rho)
        for (e,) in blocks(epsilon):
            torch._foreach_clamp_min_(e, -self.tau)
            torch._foreach_clamp_max_(e, self.tau)
        return epsilon


@dataclass(frozen=True)
class ClipSAM(SharpnessAware):
    """SAM without coordinates that grow by more than κ on the way up: steps along min(|g⁺|, κ|g|) ⊙ sign(g⁺).

    Where g = 0 it stays.

    Attributes:
        kappa: κ, the largest |g⁺|/|g| that counts.
    """

    kappa: Annotated[float, MoreThan(0)] = 1.0

    def combination(self, g: list[Tensor], g_plus: list[Tensor]) -> list[Tensor]:
        import torch

        for a, b in blocks(g, g_plus):
            torch._foreach_abs_(a)
            torch._foreach_mul_(a, self.kappa)
            torch._foreach_minimum_(b, a)
            torch._foreach_neg_(a)
            torch._foreach_maximum_(b, a)
        return g_plus
