"""Sharpness-aware minimisation over SGD."""

from __future__ import annotations

from dataclasses import dataclass

from .sgd import SGD
from .sharpness_aware import SharpnessAware

__all__ = ["SAM"]


@dataclass(frozen=True)
class SAM(SharpnessAware, SGD):
    """Sharpness-aware minimisation (Foret et al. 2021) over SGD: ε = ρ g/‖g‖, step along ∇L(w + ε)."""
