"""Sharpness-aware minimisation: step along a gradient taken at a perturbed point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from ..batchnorm import moved_together
from ..errors import InvalidValue
from ..minibatch import Minibatch
from ..schedules import Constant, Schedule
from ..spec import AtLeast, Below, MoreThan
from .averaging import Averaging
from .groups import Group, Mean, Split, Together
from .optimizer import START, Gradients, Optimizer, Progress, Stepper
from .separately import Separately
from .sgd import SGD

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["SharpnessAware", "SharpnessAwareStepper", "fraction"]

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
        m: how many examples an ε is found over (m-sharpness, Foret et al. 2021); None is the whole batch. The batch
            is cut into groups of m, in its order, the last one maybe smaller; each has its own g, ε, g⁺ and
            combination, and the step goes along their mean, weighted by the examples. With BatchNorm each group
            is normalised by itself, and the running statistics move once, towards the mean over the groups.
            1 is 1-SAM, for all examples at once; it needs a network without BatchNorm.
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
    m: Annotated[int, AtLeast(1)] | None = None

    # Where g⁺ takes the derivative of the loss by the logits from, and where it carries it back through the
    # network: at w + ε, or at w.
    residual_above: ClassVar[bool] = True
    jacobian_above: ClassVar[bool] = True

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
        """ε = multiple(‖g‖) · g with the norm over all parameters.

        Args:
            names: of the parameters with a gradient, as in `network.named_parameters()`.
            w, g: one tensor for each of them; not to be written to.
            rho: its size at this step, above 0.

        Returns:
            new tensors of the same shapes.
        """
        import torch

        return list(torch._foreach_mul(g, self.multiple(torch.nn.utils.get_total_norm(g), rho)))

    def multiple(self, norm: Tensor, rho: float) -> Tensor:
        """ρ/‖g‖, and 0 where ‖g‖ = 0 (Foret et al. 2021).

        Args:
            norm: ‖g‖, a scalar or one for each example.

        Returns:
            how many times g the perturbation is, in the shape of `norm`; of members with their own
            `perturbation` no matter.
        """
        return fraction(rho, norm)

    def refinement(
        self, names: list[str], w: list[Tensor], g: list[Tensor], g_plus: list[Tensor], rho: float
    ) -> list[Tensor]:
        """Another perturbation ε′, found with g⁺ too: ∇L(w + ε′) then takes the place of g⁺.

        Only of members that override it. May write into `g_plus`, not into `g`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no refinement.")

    def combination(self, g: list[Tensor], g_plus: list[Tensor]) -> list[Tensor]:
        """The gradient to step along: g⁺. May write into `g` and `g_plus`."""
        return g_plus

    def overrides(self, name: str) -> bool:
        """Whether the member has its own method of this name."""
        return getattr(type(self), name) is not getattr(SharpnessAware, name)

    @property
    def split(self) -> bool:
        """Whether g⁺ is put together of two places."""
        return not (self.residual_above and self.jacobian_above)

    def build(self, network: nn.Module) -> Stepper:
        from ..landscape import has_batchnorm

        inner = self.base_optimizer().build(network)
        if self.rho == 0:
            return inner
        if self.m == 1 and has_batchnorm(network):
            raise InvalidValue(
                f"{type(self).__name__}: m=1 gives each example an ε of its own, but BatchNorm mixes the examples: "
                f"take a model without it (norm='group' or 'none'), or an m above 1."
            )
        return self.stepper(inner)

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
        self._each: Separately | None = None

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
        self.inner.begin(batch, progress)
        for parameter in self.parameters:
            parameter.grad = None
        groups = self._groups(batch)
        step, seen, seen_plus = Mean(), Mean(), Mean()
        losses, losses_plus, logits = [], [], []
        with moved_together(self.network, len(groups)) as passed:
            for group in groups:
                share = len(group) / len(batch)
                loss, outputs, g, loss_plus, g_plus = self._both(group, rho)
                passed(share)
                losses.append(loss * share)
                losses_plus.append(loss_plus * share)
                logits.append(outputs)
                with torch.no_grad():
                    if observe is not None:
                        seen.add(group.used, group.mean(g), share, copy=True)
                        seen_plus.add(group.used, group.mean(g_plus), share, copy=True)
                    if self.rule.overrides("combination"):
                        g_plus = group.apply(self.rule.combination, g, g_plus)
                    step.add(group.used, group.mean(g_plus), share)
        loss, outputs = torch.stack(losses).sum(), torch.cat(logits) if len(logits) > 1 else logits[0]
        if observe is not None:
            loss_plus = torch.stack(losses_plus).sum()
            found = batch.grouped([group.batch for group in groups])
            observe(Gradients(found, seen.parameters, loss, outputs, seen.tensors, seen_plus.tensors, loss_plus))
        for parameter, gradient in zip(step.parameters, step.tensors, strict=True):
            parameter.grad = gradient
        return loss, outputs

    def _groups(self, batch: Minibatch) -> Sequence[Group]:
        """The step's examples in the groups that are gone through one after the other."""
        from ..landscape import has_batchnorm

        rule, n = self.rule, len(batch)
        if rule.m == 1:
            if self._each is None:
                self._each = Separately(rule, self.network, self.parameters)
            return self._each.groups(batch)
        m = n if rule.m is None else min(rule.m, n)
        if n > m > 1 == n % m and has_batchnorm(self.network):
            raise InvalidValue(
                f"{type(rule).__name__}: m={m} leaves a group of one example of a batch of {n}, which BatchNorm "
                f"cannot normalise: take a divisor of {n}."
            )
        kind = Split if rule.split else Together
        parts = [batch] if m == n else [batch.part(slice(i, i + m)) for i in range(0, n, m)]
        return [kind(rule, part, self.parameters) for part in parts]

    def _both(self, group: Group, rho: float) -> tuple[Tensor, Tensor, list[Any], Tensor, list[Tensor]]:
        """Loss, logits and g at w; loss and g⁺ at w + ε, or at w + ε′ if the rule has one."""
        import torch

        loss, outputs, g = group.first()
        names = [self._names[p] for p in group.used]
        with torch.no_grad():
            epsilon = group.perturbation(names, g, rho)
        loss_plus, g_plus = group.second(epsilon)
        if self.rule.overrides("refinement"):
            w = [p.data for p in group.used]
            with torch.no_grad():
                epsilon = group.apply(lambda g, g_plus: self.rule.refinement(names, w, g, g_plus, rho), g, g_plus)
            loss_plus, g_plus = group.second(epsilon)
        return loss, outputs, g, loss_plus, g_plus

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


def fraction(rho: float, norm: Tensor) -> Tensor:
    """ρ/norm, and 0 where the norm is 0."""
    import torch

    return torch.where(norm > 0, rho / norm, torch.zeros_like(norm))
