"""Sharpness-aware minimisation over AdamW."""

from __future__ import annotations

from dataclasses import dataclass

from .adamw import AdamW
from .sharpness_aware import SharpnessAware

__all__ = ["SAMAdamW"]


@dataclass(frozen=True)
class SAMAdamW(SharpnessAware, AdamW):
    """Sharpness-aware minimisation (Foret et al. 2021) over AdamW: ε = ρ g/‖g‖, step along ∇L(w + ε)."""
