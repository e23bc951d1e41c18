"""Limited-memory BFGS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from ..batchnorm import frozen_statistics
from ..spec import AtLeast, MoreThan
from .optimizer import Optimizer, Stepper
from .reevaluation import ReevaluatingStepper, StepObjective

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["LBFGS"]


@dataclass(frozen=True)
class LBFGS(Optimizer):
    """Limited-memory BFGS (Nocedal and Wright 2006, algorithm 7.4), as `torch.optim.LBFGS`.

    A step of the training is up to `max_iter` iterations w ← w − t H ∇F(w) on one and the same batch, each
    with at least one more evaluation of loss and gradient. F is the loss with ½ weight_decay ‖w‖², and
    with terms that make its gradient where the step starts the one that clipping, the SAM family or a
    regulariser has left (`reevaluation.StepObjective`): over SAM, a step goes along SAM's gradient with the
    curvature of the loss, and never as far as the loss itself would have to fall below 0 for it.

    H comes from the last `history_size` pairs of a move s and the change y of the gradient along it, and
    carries over from step to step. The change along the last move of the step before is measured with the new
    step's F, by one more evaluation, so that both gradients of every pair are of one function (Schraudolph et
    al. 2007). torch.optim.LBFGS alone takes the difference between the gradients of two batches, with
    which trainings without a line search blew up where these do not.

    Full batches (`batch_size=None`) are where it is at home; a schedule other than Constant and large
    `max_iter` on small minibatches fit a batch rather than the data.

    Attributes:
        lr: step length t; with a line search where it begins. The very first iteration has
            t = min(1, 1/‖∇F‖₁) lr.
        max_iter: iterations a step.
        max_eval: evaluations a step after which no further iteration begins, and its line search ends; None is
            1.25 max_iter + 10 (torch's 1.25 max_iter leaves none for a line search where max_iter is small).
        history_size: pairs that are kept, each of twice the size of the parameters.
        line_search: "strong_wolfe" looks for a t that meets the strong Wolfe conditions (c₁ = 1e-4, c₂ = 0.9);
            None takes t as it is.
        tolerance_grad: a step ends where no coordinate of the gradient is larger.
        tolerance_change: a step ends where neither the loss nor a parameter changes by more.
        weight_decay: coefficient of ½‖w‖² in the objective, on all parameters.
    """

    lr: Annotated[float, MoreThan(0)] = 1.0
    max_iter: Annotated[int, AtLeast(1)] = 20
    max_eval: Annotated[int, AtLeast(1)] | None = None
    history_size: Annotated[int, AtLeast(1)] = 10
    line_search: Literal["strong_wolfe"] | None = "strong_wolfe"
    tolerance_grad: Annotated[float, AtLeast(0)] = 1e-7
    tolerance_change: Annotated[float, AtLeast(0)] = 1e-9
    weight_decay: Annotated[float, AtLeast(0)] = 0.0

    has_step_size: ClassVar[bool] = False

    def torch_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        import torch

        return torch.optim.LBFGS(
            parameters,
            lr=self.lr,
            max_iter=self.max_iter,
            max_eval=self.max_eval or self.max_iter * 5 // 4 + 10,
            history_size=self.history_size,
            line_search_fn=self.line_search,
            tolerance_grad=self.tolerance_grad,
            tolerance_change=self.tolerance_change,
        )

    def build(self, network: nn.Module) -> Stepper:
        parameters = [p for p in network.parameters() if p.requires_grad]
        return LBFGSStepper(network, self.torch_optimizer(parameters), self.weight_decay)


class LBFGSStepper(ReevaluatingStepper):
    """Hands torch's optimizer the gradient that is there as its first evaluation, and makes the others."""

    def step(self, lr_factor: float = 1.0) -> None:
        self.set_lr(lr_factor)
        objective = self.objective()
        if not math.isfinite(objective.value):
            return  # the training has diverged, and no step leads back
        self._measure_last_pair(objective)
        first = [objective]

        def closure() -> float:
            if first:
                start = first.pop()
                for p, gradient in zip(start.parameters, start.gradient, strict=True):
                    p.grad = gradient
                value = start.value
            else:
                value = objective.backward()
                value = value if math.isfinite(value) else math.inf  # too far; torch goes further on nan
            for p in objective.parameters:  # torch takes them for contiguous
                p.grad = p.grad.contiguous() if p.grad is not None else None
            return value

        with frozen_statistics(self.network):
            self.base.step(closure)

    def _measure_last_pair(self, objective: StepObjective) -> None:
        """Put ∇F at the point before the last iteration in the place of that batch's own gradient there."""
        import torch

        state = self.base.state[self.parameters[0]]
        if "prev_flat_grad" not in state:
            return
        w = [p.data for p in self.parameters]
        back = (state["d"] * -state["t"]).split([p.numel() for p in self.parameters])
        try:
            for p, d in zip(self.parameters, back, strict=True):
                p.data = p.data + d.view(p.shape)
            objective.backward()
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
            state["prev_flat_grad"] = torch.cat([g.reshape(-1) for g in gradients])
        finally:
            for p, tensor in zip(self.parameters, w, strict=True):
                p.data = tensor
