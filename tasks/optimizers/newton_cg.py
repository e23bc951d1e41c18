"""Hessian-free Newton steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from ..batchnorm import frozen_statistics
from ..spec import AtLeast, Below, MoreThan
from .conjugate_gradients import Solution, conjugate_gradients
from .optimizer import Optimizer, Stepper
from .reevaluation import ReevaluatingStepper

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["NewtonCG"]

SUFFICIENT = 1e-4  # share of the decrease that the slope promises, which backtracking insists on


@dataclass(frozen=True)
class NewtonCG(Optimizer):
    """Hessian-free Newton steps by conjugate gradients (Martens 2010; Nocedal and Wright 2006, chapter 7).

    Each step solves (B + (weight_decay + μ + λ) I) p = −(ĝ + weight_decay · w) approximately and sets
    w ← w + α p. ĝ is the gradient as clipping or the SAM family left it; B, of the same batch, is never
    formed. μ = ‖ĝ − ∇L(w)‖² / (2 L(w)), 0 where the gradient was left alone, keeps steps along a changed
    gradient in bounds (`reevaluation.StepObjective` says how, and what F is).

    The conjugate gradients end at a relative residual of `tolerance`, after `max_iterations`, or at a
    direction of negative curvature: p is then what they had found before it, or the negative gradient
    itself.

    The damping λ follows Levenberg and Marquardt. With F the step's objective,
    q(αp) = α (ĝ + weight_decay w)ᵀp + ½ α² pᵀ(B + (weight_decay + μ) I) p its model without damping, and
    r = (F(w + αp) − F(w)) / q(αp): λ is multiplied by `damping_factor` if r < ¼ and divided by it if r > ¾
    (Martens 2010, section 4.1). λ is saved with the state.

    α is lr, halved until F(w + αp) ≤ F(w) + 10⁻⁴ α (ĝ + weight_decay w)ᵀp, at most `backtracking` times; if
    that does not do the weights stay where they are and only λ grows.

    A product with B costs 1.4 to 1.7 gradients (MLP, SimpleCNN; 3.7 on ResNet-18, for its BatchNorm; one CPU
    thread), and the graph of the gradient is held in memory.

    Attributes:
        lr: α to begin with.
        curvature: "gauss-newton": the generalised Gauss–Newton matrix (Schraudolph 2002), which has no negative
            curvature. "hessian": the Hessian itself.
        damping: λ at first. 0 stays 0.
        damping_factor: what λ is multiplied or divided by; 1 keeps it as it is.
        tolerance: relative residual ‖(B + …) p + …‖ / ‖ĝ + weight_decay · w‖ that ends the conjugate gradients.
        max_iterations: products with B a step, at most.
        backtracking: halvings of α, at most; 0 takes every step as it is.
        weight_decay: coefficient of ½‖w‖² in the objective, on all parameters.
    """

    lr: Annotated[float, MoreThan(0)] = 1.0
    curvature: Literal["gauss-newton", "hessian"] = "gauss-newton"
    damping: Annotated[float, AtLeast(0)] = 1.0
    damping_factor: Annotated[float, AtLeast(1)] = 1.5
    tolerance: Annotated[float, AtLeast(0), Below(1)] = 0.1
    max_iterations: Annotated[int, AtLeast(1)] = 50
    backtracking: Annotated[int, AtLeast(0)] = 5
    weight_decay: Annotated[float, AtLeast(0)] = 0.0

    has_step_size: ClassVar[bool] = False

    def torch_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Plain descent, which steps along −p."""
        import torch

        return torch.optim.SGD(parameters, lr=self.lr)

    def build(self, network: nn.Module) -> Stepper:
        return NewtonCGStepper(self, network)


class NewtonCGStepper(ReevaluatingStepper):
    """Puts −p in the place of the gradient, and α in that of the step size.

    Attributes:
        damping: λ of the step to come.
        iterations: products with B that the last step took.
    """

    def __init__(self, rule: NewtonCG, network: nn.Module) -> None:
        parameters = [p for p in network.parameters() if p.requires_grad]
        super().__init__(network, rule.torch_optimizer(parameters), rule.weight_decay)
        self.rule = rule
        self.damping = rule.damping
        self.iterations = 0

    def step(self, lr_factor: float = 1.0) -> None:
        import torch

        from ..landscape import flatten

        self.set_lr(lr_factor)
        objective, used = self.objective(), self.used()
        b = flatten(objective.gradient).neg_()
        solution = self._solve(b, used, self.weight_decay + objective.bound + self.damping)
        self.iterations = solution.iterations
        p = solution.x
        direction = [d.view(q.shape) for d, q in zip(p.split([q.numel() for q in used]), used, strict=True)]

        slope = -float((b * p).sum(dtype=torch.float64))
        bend = solution.curvature - self.damping * float(p.square().sum(dtype=torch.float64))
        alpha = self.lr
        if self.rule.backtracking > 0 or (self.rule.damping_factor > 1 and self.damping > 0):
            value = objective.at(direction, alpha)
            self._adapt(value - objective.value, alpha * slope + alpha**2 * bend / 2)
            halvings = self.rule.backtracking
            while halvings > 0 and not value <= objective.value + SUFFICIENT * alpha * slope:
                alpha, halvings = alpha / 2, halvings - 1
                value = objective.at(direction, alpha)
            if self.rule.backtracking > 0 and not value <= objective.value + SUFFICIENT * alpha * slope:
                alpha = 0.0
        for group in self.base.param_groups:
            group["lr"] = alpha
        if alpha > 0:
            for q, d in zip(used, direction, strict=True):
                q.grad = d.neg()
            self.base.step()

    def _solve(self, b: Tensor, parameters: list[nn.Parameter], shift: float) -> Solution:
        """p with (B + shift) p = b; the gradient's graph is freed on return."""
        from .batch_curvature import curvature_product

        with frozen_statistics(self.network):
            product = curvature_product(self.batch, parameters, self.rule.curvature)
            return conjugate_gradients(
                lambda v: product(v).add_(v, alpha=shift),
                b,
                tolerance=self.rule.tolerance,
                max_iterations=self.rule.max_iterations,
            )

    def _adapt(self, actual: float, predicted: float) -> None:
        """Change λ by how well the model has told the change of F."""
        ratio = actual / predicted if predicted < 0 else 1.0 if actual == 0 else 0.0
        if ratio > 0.75:
            self.damping /= self.rule.damping_factor
        elif not ratio >= 0.25:
            self.damping *= self.rule.damping_factor

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "damping": self.damping}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.damping = state["damping"]
