"""Which half of SAM's gradient does it: its signs, or its magnitudes?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .blocks import blocks
from .optimizer import Stepper
from .sharpness_aware import SharpnessAware

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["SAMDirection", "SAMMagnitude", "SignMagnitude"]


@dataclass(frozen=True)
class SignMagnitude(SharpnessAware):
    """Steps along |magnitude_from| ⊙ sign(sign_from), each one of g = ∇L(w) and g⁺ = ∇L(w + ε).

    Both from g is the base optimizer, both from g⁺ is SAM, bit for bit and at their cost. With the signs of g, a
    coordinate where g = 0 stays.

    Attributes:
        sign_from: "g" or "g_plus".
        magnitude_from: "g" or "g_plus".
    """

    sign_from: Literal["g", "g_plus"] = "g_plus"
    magnitude_from: Literal["g", "g_plus"] = "g_plus"

    def combination(self, g: list[Tensor], g_plus: list[Tensor]) -> list[Tensor]:
        if self.sign_from == self.magnitude_from:
            return g if self.sign_from == "g" else g_plus
        return signed(g, g_plus) if self.magnitude_from == "g" else signed(g_plus, g)

    def build(self, network: nn.Module) -> Stepper:
        if self.sign_from == self.magnitude_from == "g":
            return self.base_optimizer().build(network)
        return super().build(network)


@dataclass(frozen=True)
class SAMMagnitude(SharpnessAware):
    """SAM's magnitudes with the signs of g: steps along |g⁺| ⊙ sign(g).

    The same as `SignMagnitude(sign_from="g", magnitude_from="g_plus")`.
    """

    def combination(self, g: list[Tensor], g_plus: list[Tensor]) -> list[Tensor]:
        return signed(g_plus, g)


@dataclass(frozen=True)
class SAMDirection(SharpnessAware):
    """SAM's signs with the magnitudes of g: steps along |g| ⊙ sign(g⁺).

    The same as `SignMagnitude(sign_from="g_plus", magnitude_from="g")`.
    """

    def combination(self, g: list[Tensor], g_plus: list[Tensor]) -> list[Tensor]:
        return signed(g, g_plus)


def signed(magnitude: list[Tensor], sign: list[Tensor]) -> list[Tensor]:
    """|magnitude| ⊙ sign(sign), written into `magnitude`; overwrites `sign` too."""
    import torch

    for a, b in blocks(magnitude, sign):
        torch._foreach_abs_(a)
        torch._foreach_sign_(b)
        torch._foreach_mul_(a, b)
    return magnitude
