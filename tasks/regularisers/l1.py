"""The L1 penalty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..errors import InvalidValue
from ..spec import AtLeast
from .regulariser import Regulariser, optimizers_of, weights_of

if TYPE_CHECKING:
    from torch import nn

    from ..train import Train

__all__ = ["L1"]


@dataclass(frozen=True)
class L1(Regulariser):
    """The penalty strength · Σ|wᵢ|: on a diagonal quadratic its minimum is sign(w*)·max(|w*| − strength/H, 0).

    By the subgradient strength · sign(w), added at w to the gradient that the optimizer has found (before
    clipping), or, proximal, by soft-thresholding after the step, w ← sign(w)·max(|w| − lr·strength, 0).
    Only the proximal step makes weights exactly zero; by the subgradient they rattle about zero, by up to
    lr · strength.

    After a plain gradient step the proximal one is that of ISTA (Daubechies et al. 2004), with the minimum
    above. Other optimizers' steps are not −lr · gradient, so it is decoupled from them, as AdamW's decay
    is: with momentum μ the minimum is that of (1 − μ) · strength; with Adam and its like the threshold is
    the same lr · strength for every weight, whatever its own step, which is the minimum of no penalty.
    L-BFGS and Newton-CG, whose steps have no such size, refuse it; within a step they keep to the subgradient
    where it began.
    Averages over steps (EMA, SWA) of weights that are zero at times are not zero.

    Attributes:
        strength: the factor, per example: it stands beside the mean loss. 0 is no penalty.
        proximal: soft-threshold after the step instead of adding to the gradient.
        everywhere: penalise biases and the scales and shifts of normalisations too, not only the matrices of
            dense layers and the filters of convolutions.
    """

    strength: Annotated[float, AtLeast(0)]
    proximal: bool = False
    everywhere: bool = False

    def check(self, train: Train) -> None:
        for optimizer in optimizers_of(train):
            if self.proximal is True and not optimizer.has_step_size:
                raise InvalidValue(
                    f"Train: L1(proximal=True) needs a step of a known size, which {type(optimizer).__name__} does "
                    f"not take: leave proximal out, or take another optimizer."
                )

    def on_gradient(self, network: nn.Module) -> None:
        import torch

        if self.strength == 0 or self.proximal:
            return
        used = [(p.detach(), p.grad) for p in weights_of(network, self.everywhere) if p.grad is not None]
        if used:
            weights, gradients = map(list, zip(*used, strict=True))
            torch._foreach_add_(gradients, torch._foreach_sign(weights), alpha=self.strength)

    def on_step(self, network: nn.Module, lr: float) -> None:
        import torch

        if self.strength == 0 or not self.proximal:
            return
        weights, threshold = [p.detach() for p in weights_of(network, self.everywhere)], lr * self.strength
        within = torch._foreach_clamp_min(weights, -threshold)
        torch._foreach_clamp_max_(within, threshold)
        torch._foreach_sub_(weights, within)  # w − clip(w): exactly 0 where |w| ≤ threshold
