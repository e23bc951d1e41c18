"""Adaptive sharpness-aware minimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..spec import AtLeast
from .sharpness_aware import SharpnessAware, fraction

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ASAM"]

ETA = 0.01


@dataclass(frozen=True)
class ASAM(SharpnessAware):
    """Adaptive SAM (Kwon et al. 2021, algorithm 1): ε = ρ T²g/‖Tg‖, with a diagonal T of the weights' sizes.

    As published, and in its authors' code, T is |w| + η on weights, those of BatchNorm among them, and 1 on biases:
    the parameters whose name ends in "bias". Its ρ is in units of the weights: the paper's best were 0.5 and above.

    Attributes:
        eta: η; None is 0.01, the paper's, or 0 with `everywhere`.
        everywhere: T is |w| + η on all parameters, biases too; with η = 0 the form of most reimplementations.
    """

    eta: Annotated[float, AtLeast(0)] | None = None
    everywhere: bool = False

    def perturbation(self, names: list[str], w: list[Tensor], g: list[Tensor], rho: float) -> list[Tensor]:
        import torch

        eta = self.eta if self.eta is not None else (0.0 if self.everywhere else ETA)
        weights = [i for i, name in enumerate(names) if self.everywhere or not name.endswith("bias")]
        biases = sorted(set(range(len(names))) - set(weights))
        if not weights:
            return super().perturbation(names, w, g, rho)
        t = torch._foreach_abs([w[i] for i in weights])
        if eta > 0:
            torch._foreach_add_(t, eta)
        scaled, plain = torch._foreach_mul(t, [g[i] for i in weights]), [g[i] for i in biases]
        factor = fraction(rho, torch.nn.utils.get_total_norm([*scaled, *plain]))
        torch._foreach_mul_(scaled, t)
        torch._foreach_mul_(scaled, factor)
        epsilon = dict(zip(weights, scaled, strict=True))
        if biases:
            epsilon |= zip(biases, torch._foreach_mul(plain, factor), strict=True)
        return [epsilon[i] for i in range(len(names))]
