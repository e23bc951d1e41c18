"""Sharpness-aware minimisation: step along a gradient taken at a perturbed point."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

from ..spec import AtLeast
from .optimizer import Optimizer, Stepper

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["SharpnessAware"]

T = TypeVar("T")


@dataclass(frozen=True)
class SharpnessAware(Optimizer):
    """The SAM family: from g = ∇L(w) a perturbation ε, from g and g⁺ = ∇L(w + ε) the gradient to step along.

    Combine it with a base optimizer by inheritance, `class SAM(SharpnessAware, SGD)`; a variant overrides
    `perturbation` or `combination`. g and g⁺ come from the same batch and hold no weight decay; decay,
    momentum and clipping act on the combination, at w. BatchNorm's running statistics move at w only.

    Attributes:
        rho: length of the perturbation ‖ε‖₂; 0 is the base optimizer, bit for bit and at its cost.
    """

    rho: Annotated[float, AtLeast(0)] = 0.05

    def perturbation(self, w: list[torch.Tensor], g: list[torch.Tensor]) -> list[torch.Tensor]:
        """ε = ρ g/‖g‖ with the norm over all parameters, and 0 where ‖g‖ = 0 (Foret et al. 2021).

        Args:
            w, g: one tensor for each parameter with a gradient; not to be written to.

        Returns:
            new tensors of the same shapes.
        """
        import torch

        norm = torch.nn.utils.get_total_norm(g)
        scale = torch.where(norm > 0, self.rho / norm, torch.zeros_like(norm))
        return list(torch._foreach_mul(g, scale))

    def combination(self, g: list[torch.Tensor], g_plus: list[torch.Tensor]) -> list[torch.Tensor]:
        """The gradient to step along: g⁺. May write into `g_plus`."""
        return g_plus

    def build(self, network: nn.Module) -> Stepper:
        plain = super().build(network)
        return plain if self.rho == 0 else _SharpnessAwareStepper(self, plain)


class _SharpnessAwareStepper(Stepper):
    """The first half of a step with two gradients; all state is the base optimizer's."""

    def __init__(self, rule: SharpnessAware, plain: Stepper) -> None:
        super().__init__(plain.network, plain.base)
        self.rule = rule

    def gradient(self, backward: Callable[[], T]) -> T:
        import torch

        result = super().gradient(backward)
        used = [p for p in self.parameters if p.grad is not None]
        g = _gradients(used)
        w = [p.data for p in used]
        with torch.no_grad():
            moved = self.rule.perturbation(w, g)
            torch._foreach_add_(moved, w)  # w + ε, in the memory of ε
        # The parameters look at w + ε for the second pass, then at w again, which nothing has touched:
        # (w + ε) − ε would differ from w in the last bits.
        try:
            for parameter, tensor in zip(used, moved, strict=True):
                parameter.data = tensor
            with _frozen_statistics(self.network):
                super().gradient(backward)
        finally:
            for parameter, tensor in zip(used, w, strict=True):
                parameter.data = tensor
        with torch.no_grad():
            for parameter, gradient in zip(used, self.rule.combination(g, _gradients(used)), strict=True):
                parameter.grad = gradient
        return result


def _gradients(parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


@contextmanager
def _frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Forward passes still use the batch's statistics, but leave the running ones alone."""
    from torch.nn.modules.batchnorm import _NormBase

    tracking = [m for m in network.modules() if isinstance(m, _NormBase) and m.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True
