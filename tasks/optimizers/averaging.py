"""Averages of the weights that training passes through, evaluated and kept in place of the last ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

from ..batchnorm import estimate_statistics, kept_statistics
from ..errors import InvalidValue
from ..evaluation import arithmetic
from ..minibatch import Minibatch
from ..spec import AtLeast, Below
from .optimizer import START, Gradients, Optimizer, Progress, Stepper

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["EMA", "SWA", "Averaging", "AveragingStepper", "PolyakAverage"]

BATCHES = 10  # of training examples, from which BatchNorm's statistics are estimated for an average


@dataclass(frozen=True)
class Averaging(Optimizer):
    """Any optimizer, and beside it an average of the weights after its steps. Subclasses define `share`.

    The steps are the base's, bit for bit. The average is over all parameters, as regularisers leave them
    after a step. Validation and the results are of the average, and it is what the training keeps; the
    running training loss is that of the weights the steps are taken from. Until the average has begun, the
    current weights are evaluated and kept.

    BatchNorm's running statistics do not belong to an average of weights. For each evaluation they are
    estimated anew on the first 10,000 training examples (10 batches of up to 1,000, each counted alike, in
    float32, without augmentation), as `torch.optim.swa_utils.update_bn` does; the training's own are
    untouched. For CIFAR-10 that is about 7 % of an epoch (10,000 examples forward beside 45,000 forward and back).

    Attributes:
        base: the optimizer whose weights are averaged.
    """

    base: Optimizer

    def validate(self) -> None:
        if isinstance(self.base, Averaging):
            outer, inner = type(self).__name__, type(self.base).__name__
            raise InvalidValue(f"{outer}: base is {inner}, an average itself, of which {outer} would see nothing.")

    def share(self, progress: Progress, count: int) -> float | None:
        """The share of the newest weights in the average from now on.

        Args:
            progress: the step that led to them.
            count: how many weights there are in the average already.

        Returns:
            it, 1 for the first weights; None leaves the average as it is.
        """
        raise NotImplementedError(f"{type(self).__name__} must define share().")

    def build(self, network: nn.Module) -> AveragingStepper:
        return AveragingStepper(self, self.base.build(network))


@dataclass(frozen=True)
class EMA(Averaging):
    """Exponential moving average of the weights.

    After t steps it is Σᵢ decayᵗ⁻ⁱ wᵢ / Σᵢ decayᵗ⁻ⁱ over i = 1 … t: it starts from nothing and is corrected
    for that as Adam's means are. So neither the initial weights are in it nor do the first ones weigh more
    than those after them, as in the form a ← decay · a + (1 − decay) · w that starts from a = w.

    Attributes:
        base: the optimizer whose weights are averaged.
        decay: what each further step multiplies the weight of an iterate by; 1 / (1 − decay) steps back, an
            iterate counts 1/e of the newest.
    """

    decay: Annotated[float, AtLeast(0), Below(1)] = 0.999

    def share(self, progress: Progress, count: int) -> float:
        return (1 - self.decay) / (1 - self.decay ** (count + 1))


@dataclass(frozen=True)
class PolyakAverage(Averaging):
    """Mean of the weights after each step of the later part of a training (Polyak and Juditsky 1992).

    Attributes:
        base: the optimizer whose weights are averaged.
        start: fraction of the training's steps before the first one that counts.
    """

    start: Annotated[float, AtLeast(0), Below(1)] = 0.5

    def share(self, progress: Progress, count: int) -> float | None:
        first = min(round(self.start * progress.steps), progress.steps - 1)
        return 1 / (count + 1) if progress.step >= first else None


@dataclass(frozen=True)
class SWA(Averaging):
    """Stochastic weight averaging: mean of the weights at the ends of the later epochs (Izmailov et al. 2018).

    The step size meanwhile is the schedule's business; the paper keeps it high, or lets it cycle with the
    epochs.

    Attributes:
        base: the optimizer whose weights are averaged.
        start: fraction of the training's epochs before the first one that counts.
    """

    start: Annotated[float, AtLeast(0), Below(1)] = 0.75

    def share(self, progress: Progress, count: int) -> float | None:
        epoch, step = divmod(progress.step, progress.per_epoch)
        epochs = progress.steps // progress.per_epoch
        first = min(round(self.start * epochs), epochs - 1)
        return 1 / (count + 1) if epoch >= first and step == progress.per_epoch - 1 else None


class AveragingStepper(Stepper):
    """The steps of `inner`, and the average of the weights they lead to."""

    def __init__(self, rule: Averaging, inner: Stepper) -> None:
        self.rule = rule
        self.inner = inner
        self.network = inner.network
        self.parameters = inner.parameters
        self.average: list[Tensor] | None = None
        self.count = 0
        self._stepped: Progress | None = None  # the step whose weights are not in the average yet

    def gradient(
        self,
        batch: Minibatch,
        progress: Progress = START,
        observe: Callable[[Gradients], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        self._take_in()
        self.progress = progress
        return self.inner.gradient(batch, progress, observe)

    def step(self, lr_factor: float = 1.0) -> None:
        self.inner.step(lr_factor)
        self._stepped = self.progress

    def _take_in(self) -> None:
        """Let the weights after the last step count; not before, because regularisers may still change them."""
        import torch

        progress, self._stepped = self._stepped, None
        share = None if progress is None else self.rule.share(progress, self.count)
        if share is None:
            return
        with torch.no_grad():
            if self.average is None:
                self.average = [p.detach().clone() for p in self.parameters]
            else:
                torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], share)
        self.count += 1

    @property
    def lr(self) -> float:
        return self.inner.lr

    @contextmanager
    def evaluating(self, inputs: Callable[[], Iterable[Tensor]]) -> Iterator[None]:
        self._take_in()
        if self.average is None:
            yield
            return
        w = [p.data for p in self.parameters]
        try:
            for parameter, tensor in zip(self.parameters, self.average, strict=True):
                parameter.data = tensor
            with kept_statistics(self.network):
                with arithmetic("float32", deterministic=True):
                    estimate_statistics(self.network, islice(inputs(), BATCHES))
                yield
        finally:
            for parameter, tensor in zip(self.parameters, w, strict=True):
                parameter.data = tensor

    def state_dict(self) -> dict[str, Any]:
        self._take_in()
        return {"inner": self.inner.state_dict(), "average": self.average, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.inner.load_state_dict(state["inner"])
        average = state["average"]
        if average is not None:
            average = [a.to(p.device, copy=True) for a, p in zip(average, self.parameters, strict=True)]
        self.average, self.count, self._stepped = average, state["count"], None
