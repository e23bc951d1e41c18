"""Sharpness-aware minimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .sharpness_aware import SharpnessAware

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SAM"]


@dataclass(frozen=True)
class SAM(SharpnessAware):
    """Sharpness-aware minimisation (Foret et al. 2021): ε = ρ g/‖g‖, step along ∇L(w + ε).

    `SAM(lr=0.05, momentum=0.9, rho=0.05)` is over SGD, `SAM(base=AdamW(lr=1e-3), rho=0.05)` over any other.

    Attributes:
        normalise: False is ε = ρ g, as in much of the theory (Andriushchenko and Flammarion 2022).
    """

    normalise: bool = True

    def multiple(self, norm: Tensor, rho: float) -> Tensor:
        import torch

        return super().multiple(norm, rho) if self.normalise else torch.full_like(norm, rho)
