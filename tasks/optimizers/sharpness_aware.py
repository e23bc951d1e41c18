"""Sharpness-aware minimisation: step along a gradient taken at a perturbed point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from ..batchnorm import frozen_statistics
from ..errors import InvalidValue
from ..minibatch import Minibatch
from ..schedules import Constant, Schedule
from ..spec import AtLeast, Below, MoreThan
from .averaging import Averaging
from .optimizer import START, Gradients, Optimizer, Progress, Stepper
from .sgd import SGD

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["SharpnessAware", "SharpnessAwareStepper", "length_factor"]

SGD_FIELDS = ("lr", "momentum", "nesterov", "weight_decay")


@dataclass(frozen=True)
class SharpnessAware(Optimizer):
    """The SAM family: from g = ∇L(w) a perturbation ε, from g and g⁺ = ∇L(w + ε) the gradient to step along.

    A member overrides `perturbation`, `combination`, or both. g and g⁺ come from the same batch and hold no
    weight decay; decay, momentum and clipping act on the combination, at w, in the base optimizer. BatchNorm's
    running statistics move at w only.

    Attributes:
        lr, momentum, nesterov, weight_decay: those of SGD, the base optimizer unless `base` says another;
            None is SGD's own default.
        base: the optimizer that steps along the combination; None is SGD with the four fields above, which
            otherwise are the base's own business and must be left out.
        rho: size of the perturbation ε; 0 is the base optimizer, bit for bit and at its cost.
        rho_schedule: factor on rho over the training.
    """

    lr: Annotated[float, MoreThan(0)] | None = None
    momentum: Annotated[float, AtLeast(0), Below(1)] | None = None
    nesterov: bool | None = None
    weight_decay: Annotated[float, AtLeast(0)] | None = None
    rho: Annotated[float, AtLeast(0)] = 0.05
    rho_schedule: Schedule = Constant()
    base: Optimizer | None = None

    def validate(self) -> None:
        name = type(self).__name__
        if isinstance(self.base, SharpnessAware):
            raise InvalidValue(f"{name}: base is {type(self.base).__name__}, which is of the SAM family itself.")
        if isinstance(self.base, Averaging):
            base = type(self.base).__name__
            raise InvalidValue(f"{name}: base is {base}, which averages weights: put it outside, {base}({name}(…)).")
        if self.base is None:
            if self.nesterov and not self.momentum:
                raise InvalidValue(f"{name}: nesterov needs a momentum above 0.")
            return
        for field in SGD_FIELDS:
            if (value := getattr(self, field)) is not None:
                base = type(self.base).__name__
                raise InvalidValue(
                    f"{name}: {field}={value!r} is SGD's, but the base is {base}: say it in {base}(…), or leave it out."
                )

    def base_optimizer(self) -> Optimizer:
        """The optimizer that steps along the combination."""
        said = {name: getattr(self, name) for name in SGD_FIELDS}
        return self.base or SGD(**{name: value for name, value in said.items() if value is not None})

    def perturbation(self, names: list[str], w: list[Tensor], g: list[Tensor], rho: float) -> list[Tensor]:
        """ε = ρ g/‖g‖ with the norm over all parameters, and 0 where ‖g‖ = 0 (Foret et al. 2021).

        Args:
            names: of the parameters with a gradient, as in `network.named_parameters()`.
            w, g: one tensor for each of them; not to be written to.
            rho: its size at this step, above 0.

        Returns:
            new tensors of the same shapes.
        """
        import torch

        return list(torch._foreach_mul(g, length_factor(g, rho)))

    def refinement(
        self, names: list[str], w: list[Tensor], g: list[Tensor], g_plus: list[Tensor], rho: float
    ) -> list[Tensor] | None:
        """Another perturbation ε′, found with g⁺ too: ∇L(w + ε′) then takes the place of g⁺. None for no such thing.

        May write into `g_plus`, not into `g`.
        """
        return None

    def combination(self, g: list[Tensor], g_plus: list[Tensor]) -> list[Tensor]:
        """The gradient to step along: g⁺. May write into `g` and `g_plus`."""
        return g_plus

    def build(self, network: nn.Module) -> Stepper:
        inner = self.base_optimizer().build(network)
        return inner if self.rho == 0 else self.stepper(inner)

    def stepper(self, inner: Stepper) -> SharpnessAwareStepper:
        """The stepper that finds the combination and lets `inner`, the base optimizer's, step along it."""
        return SharpnessAwareStepper(self, inner)


class SharpnessAwareStepper(Stepper):
    """The first half of a step with two gradients; the second half and all state are the base optimizer's."""

    def __init__(self, rule: Any, inner: Stepper) -> None:
        self.rule = rule
        self.inner = inner
        self.network = inner.network
        self.parameters = inner.parameters
        self._names = {parameter: name for name, parameter in self.network.named_parameters()}

    def gradient(
        self,
        batch: Minibatch,
        progress: Progress = START,
        observe: Callable[[Gradients], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        import torch

        rho = self.rule.rho * self.rule.rho_schedule.factor(progress.step, progress.steps)
        if rho == 0:
            return self.inner.gradient(batch, progress, observe)
        loss, outputs = self.inner.gradient(batch, progress)
        used = self.used()
        g = taken(used)
        loss_plus, g_plus = self.ascended(batch, used, g, rho)
        if observe is not None:
            observe(Gradients(batch, used, loss, outputs, g, g_plus, loss_plus))
        with torch.no_grad():
            for parameter, gradient in zip(used, self.rule.combination(g, g_plus), strict=True):
                parameter.grad = gradient
        return loss, outputs

    def ascended(
        self, batch: Minibatch, parameters: list[nn.Parameter], g: list[Tensor], rho: float
    ) -> tuple[Tensor, list[Tensor]]:
        """L(w + ε) and ∇L(w + ε), with the ε that the rule finds for this g."""
        import torch

        names, w = [self._names[p] for p in parameters], [p.data for p in parameters]
        with torch.no_grad():
            epsilon = self.rule.perturbation(names, w, g, rho)
        loss_plus, g_plus = self.beside(batch, parameters, epsilon)
        with torch.no_grad():
            epsilon = self.rule.refinement(names, w, g, g_plus, rho)
        return (loss_plus, g_plus) if epsilon is None else self.beside(batch, parameters, epsilon)

    def beside(
        self, batch: Minibatch, parameters: list[nn.Parameter], epsilon: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Loss and gradient at w + ε; the memory of `epsilon` is used up."""
        with self.moved(parameters, epsilon):
            loss, _ = batch.backward()
        return loss, taken(parameters)

    @contextmanager
    def moved(self, parameters: list[nn.Parameter], epsilon: list[Tensor]) -> Iterator[None]:
        """Within it the parameters are w + ε, and forward passes leave BatchNorm's running statistics alone.

        The memory of `epsilon` is used for w + ε. Afterwards the parameters look at w again, which nothing has
        touched: (w + ε) − ε would differ from w in the last bits.
        """
        import torch

        w = [p.data for p in parameters]
        with torch.no_grad():
            torch._foreach_add_(epsilon, w)
        try:
            for parameter, tensor in zip(parameters, epsilon, strict=True):
                parameter.data = tensor
            with frozen_statistics(self.network):
                yield
        finally:
            for parameter, tensor in zip(parameters, w, strict=True):
                parameter.data = tensor

    def step(self, lr_factor: float = 1.0) -> None:
        self.inner.step(lr_factor)

    @property
    def lr(self) -> float:
        return self.inner.lr

    @contextmanager
    def evaluating(self, inputs: Callable[[], Iterable[Tensor]]) -> Iterator[None]:
        with self.inner.evaluating(inputs):
            yield

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state)


def length_factor(tensors: list[Tensor], length: float) -> Tensor:
    """What brings the tensors, taken as one vector, to this length: a scalar, 0 where the vector is 0."""
    import torch

    norm = torch.nn.utils.get_total_norm(tensors)
    return torch.where(norm > 0, length / norm, torch.zeros_like(norm))


def taken(parameters: list[nn.Parameter]) -> list[Tensor]:
    """The gradients of the parameters, which have none afterwards (the same places, where one has none, stay 0)."""
    import torch

    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return gradients
