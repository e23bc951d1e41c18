"""The objective of one step, for optimizers that evaluate it at several points."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..batchnorm import frozen_statistics
from .optimizer import START, Gradients, Progress, Stepper

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..minibatch import Minibatch

__all__ = ["ReevaluatingStepper", "StepObjective"]

TINY = 1e-20  # what a loss of 0 counts for, where it divides


class StepObjective:
    """F(v) = L(v) + ½ λ ‖v‖² + ⟨c, v − w⟩ + ½ μ ‖v − w‖², for one step that starts at w.

    L is the loss on the step's batch and λ the weight decay. c = ĝ − ∇L(w), with ĝ the gradient that was left in
    .grad: ∇L(w) clipped, or combined by a member of the SAM family, or with what regularisers add to it. So
    ∇F(w) = ĝ + λ w, and F is one function whose value, gradient and curvature agree, however ĝ was found (Nash
    2000 corrects models of another fidelity by such a term). Where nothing has changed the gradient, c = 0.

    The linear term alone would fall without end, and a line search follow it. With μ = ‖c‖² / (2 L(w)) both
    terms together lower F by L(w) at most: at w − 2 L(w) c / ‖c‖², twice as far as Polyak's step for a loss
    whose smallest value is 0. For a quadratic L with the Hessian H, F is smallest at
    w − (H + λ + μ)⁻¹ (ĝ + λ w).

    Forward passes leave BatchNorm's running statistics alone: these move at w only, once a step.

    Attributes:
        parameters: those with a gradient; the lists below have one tensor for each.
        w: where the step starts; copies.
        gradient: ∇F(w).
        value: F(w).
        bound: μ.
    """

    def __init__(
        self,
        batch: Minibatch,
        parameters: list[nn.Parameter],
        loss: Tensor,
        raw: list[Tensor],
        weight_decay: float,
    ) -> None:
        """
        Args:
            parameters: at w, with ĝ in .grad.
            loss: L(w).
            raw: ∇L(w); its memory is used.
        """
        import torch

        self.parameters = parameters
        self._batch, self._decay = batch, weight_decay
        with torch.no_grad():
            self.w = [p.detach().clone() for p in parameters]
            self.gradient = [p.grad.clone() for p in parameters if p.grad is not None]
            torch._foreach_sub_(raw, self.gradient)
            self._bent = raw  # −c
            self.bound = float(torch.nn.utils.get_total_norm(raw)) ** 2 / (2 * max(float(loss), TINY))
            if weight_decay > 0:
                torch._foreach_add_(self.gradient, self.w, alpha=weight_decay)
        self.value = float(loss) + self._terms()

    def backward(self) -> float:
        """F at the parameters as they are; its gradient takes the place of what is in .grad."""
        import torch

        for parameter in self.parameters:
            parameter.grad = None
        with frozen_statistics(self._batch.network), torch.enable_grad():
            loss, _ = self._batch.backward()
        with torch.no_grad():
            for p, w, bent in zip(self.parameters, self.w, self._bent, strict=True):
                gradient = torch.zeros_like(p) if p.grad is None else p.grad
                gradient -= bent
                if self.bound > 0:
                    gradient.add_(p - w, alpha=self.bound)
                if self._decay > 0:
                    gradient.add_(p, alpha=self._decay)
                p.grad = gradient
        return float(loss) + self._terms()

    def at(self, direction: list[Tensor], length: float) -> float:
        """F(w + length · direction); the parameters are then at w again, bit for bit."""
        import torch

        w = [p.data for p in self.parameters]
        try:
            with frozen_statistics(self._batch.network), torch.no_grad():
                for p, at, d in zip(self.parameters, self.w, direction, strict=True):
                    p.data = torch.add(at, d, alpha=length)
                loss = sum(part.loss(part.outputs()) * (len(part) / len(self._batch)) for part in self._batch.parts())
                return float(loss) + self._terms()
        finally:
            for p, tensor in zip(self.parameters, w, strict=True):
                p.data = tensor

    def _terms(self) -> float:
        """F − L at the parameters as they are."""
        import torch

        with torch.no_grad():
            total = torch.zeros((), dtype=torch.float64, device=self.w[0].device)
            for p, w, bent in zip(self.parameters, self.w, self._bent, strict=True):
                total -= (bent * (p - w)).sum(dtype=torch.float64)
                if self.bound > 0:
                    total += (p - w).square().sum(dtype=torch.float64) * (self.bound / 2)
                if self._decay > 0:
                    total += p.square().sum(dtype=torch.float64) * (self._decay / 2)
            return float(total)


class ReevaluatingStepper(Stepper):
    """A stepper whose second half evaluates the loss again: it keeps what the first half has found."""

    def __init__(self, network: nn.Module, base: torch.optim.Optimizer, weight_decay: float) -> None:
        super().__init__(network, base)
        self.weight_decay = weight_decay
        self._found: tuple[Tensor, list[Tensor | None]] | None = None  # L(w) and ∇L(w) of all parameters

    def begin(self, batch: Minibatch, progress: Progress) -> None:
        super().begin(batch, progress)
        self._found = None

    def gradient(
        self,
        batch: Minibatch,
        progress: Progress = START,
        observe: Callable[[Gradients], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        loss, outputs = super().gradient(batch, progress, observe)
        self._found = loss, [None if p.grad is None else p.grad.clone() for p in self.parameters]
        return loss, outputs

    def objective(self) -> StepObjective:
        """That of the step whose gradient is in .grad; the loss is evaluated if whoever found that has not done it."""
        import torch

        used = self.used()
        if self._found is None:
            changed = [p.grad for p in used]
            for p in used:
                p.grad = None
            with frozen_statistics(self.network):
                loss, _ = self.batch.backward()
            self._found = loss, [p.grad for p in self.parameters]
            for p, gradient in zip(used, changed, strict=True):
                p.grad = gradient
        loss, found = self._found
        self._found = None
        raw = [
            torch.zeros_like(p) if g is None else g
            for p, g in zip(self.parameters, found, strict=True)
            if p.grad is not None
        ]
        return StepObjective(self.batch, used, loss, raw, self.weight_decay)
