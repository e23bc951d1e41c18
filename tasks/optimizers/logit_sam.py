"""SAM taken apart into its two changes: what the loss asks of the logits, and what the logits ask of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .sam import SAM

__all__ = ["JSAM", "LogitSAM"]


@dataclass(frozen=True)
class JSAM(SAM):
    """SAM in the network's Jacobian alone (Baek et al. 2024): steps along (∂f/∂w at w + ε)ᵀ c, with c of w.

    f are the logits and c = ∂L/∂f, with labels softmax(f) − e_t for each example over their number; what regularisers
    make of targets or add to the loss as a function of the logits is part of it. `m=1` is the paper's form, with an
    ε for each example.
    """

    residual_above: ClassVar[bool] = False


@dataclass(frozen=True)
class LogitSAM(SAM):
    """SAM in the loss's derivative by the logits alone (Baek et al. 2024): steps along (∂f/∂w at w)ᵀ c, c of w + ε.

    f and c are as in `JSAM`. `m=1` is the paper's form, with an ε for each example.
    """

    jacobian_above: ClassVar[bool] = False
