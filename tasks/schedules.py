"""Schedules of the step size. Times are fractions of the training, so they hold for any number of epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from .errors import InvalidValue
from .spec import AtLeast, AtMost, Below, MoreThan, Spec

__all__ = ["Constant", "Cosine", "Schedule", "StepDecay"]


@dataclass(frozen=True)
class Schedule(Spec):
    """A factor on the optimizer's step size at each step. Subclasses define `after_warmup`.

    Attributes:
        warmup: fraction of the training over which the factor first rises linearly to 1.
    """

    warmup: Annotated[float, AtLeast(0), Below(1)] = 0.0

    def after_warmup(self, progress: float) -> float:
        """The factor when the fraction `progress`, in [0, 1), of the time after the warm-up has passed."""
        raise NotImplementedError(f"{type(self).__name__} must define after_warmup().")

    def factor(self, step: int, steps: int) -> float:
        """The factor at step 0, 1, …, steps − 1.

        The k-th of n warm-up steps, counted from 1, has the factor k/n times that after the warm-up.
        """
        warm = round(self.warmup * steps)
        if step < warm:
            return (step + 1) / warm * self.after_warmup(0.0)
        return self.after_warmup((step - warm) / (steps - warm))


@dataclass(frozen=True)
class Constant(Schedule):
    """The factor is 1."""

    def after_warmup(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class StepDecay(Schedule):
    """The factor is multiplied by `decay` at each milestone.

    Attributes:
        milestones: fractions of the time after the warm-up, increasing.
        decay: what each milestone multiplies the step size by.
    """

    milestones: tuple[Annotated[float, MoreThan(0), Below(1)], ...] = (0.5, 0.75)
    decay: Annotated[float, MoreThan(0)] = 0.1

    def validate(self) -> None:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise InvalidValue(f"StepDecay: milestones must increase, not {self.milestones}.")

    def after_warmup(self, progress: float) -> float:
        return self.decay ** sum(progress >= m for m in self.milestones)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 down to `final` (Loshchilov and Hutter 2017, without restarts).

    Attributes:
        final: the factor that the end of the training approaches.
    """

    final: Annotated[float, AtLeast(0), AtMost(1)] = 0.0

    def after_warmup(self, progress: float) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2
