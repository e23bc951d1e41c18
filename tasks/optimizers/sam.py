"""Sharpness-aware minimisation."""

from __future__ import annotations

from dataclasses import dataclass

from .sharpness_aware import SharpnessAware

__all__ = ["SAM"]


@dataclass(frozen=True)
class SAM(SharpnessAware):
    """Sharpness-aware minimisation (Foret et al. 2021): ε = ρ g/‖g‖, step along ∇L(w + ε).

    `SAM(lr=0.05, momentum=0.9, rho=0.05)` is over SGD, `SAM(base=AdamW(lr=1e-3), rho=0.05)` over any other.
    """
