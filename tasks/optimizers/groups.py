"""Groups of examples that share a perturbation, and the gradients of their loss at w and at w + ε."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from ..batchnorm import frozen_statistics
from ..minibatch import Minibatch

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Group", "Mean", "Split", "Together", "taken"]


class Group(Protocol):
    """Some examples of a step. Lists have one entry for each of `used`, the parameters with a gradient at w."""

    batch: Minibatch
    used: list[nn.Parameter]

    def __len__(self) -> int: ...

    def first(self) -> tuple[Tensor, Tensor, list[Any]]:
        """Mean loss, logits, and g, at w."""
        ...

    def perturbation(self, names: list[str], g: list[Any], rho: float) -> list[Any]:
        """ε by the member's rule; `names` are those of `used`."""
        ...

    def second(self, epsilon: list[Any]) -> tuple[Tensor, list[Tensor]]:
        """Mean loss at w + ε, and g⁺. The memory of `epsilon` is used up."""
        ...

    def apply(self, rule: Callable[..., list[Tensor]], *lists: list[Any]) -> list[Tensor]:
        """rule(*lists), separately for each ε."""
        ...

    def mean(self, tensors: list[Any]) -> list[Tensor]:
        """The mean over the group, of the shapes of the parameters."""
        ...


class Together:
    """Examples with one ε: the gradients are those of their mean loss."""

    def __init__(self, rule: Any, batch: Minibatch, parameters: list[nn.Parameter]) -> None:
        self.rule, self.batch, self.parameters = rule, batch, parameters
        self.used: list[nn.Parameter] = []

    def __len__(self) -> int:
        return len(self.batch)

    def first(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        loss, outputs = self.batch.backward()
        self.used = [p for p in self.parameters if p.grad is not None]
        return loss, outputs, taken(self.used)

    def perturbation(self, names: list[str], g: list[Tensor], rho: float) -> list[Tensor]:
        epsilon: list[Tensor] = self.rule.perturbation(names, [p.data for p in self.used], g, rho)
        return epsilon

    def second(self, epsilon: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        with moved(self.batch, self.used, epsilon):
            loss, _ = self.batch.backward()
        return loss, taken(self.used)

    def apply(self, rule: Callable[..., list[Tensor]], *lists: list[Tensor]) -> list[Tensor]:
        return rule(*lists)

    def mean(self, tensors: list[Tensor]) -> list[Tensor]:
        return tensors


class Split(Together):
    """Examples with one ε, whose g⁺ is c = ∂L/∂f from one place carried back through ∂f/∂w from another."""

    def __init__(self, rule: Any, batch: Minibatch, parameters: list[nn.Parameter]) -> None:
        super().__init__(rule, batch, parameters)
        self.parts = batch.parts()
        self._residuals: list[Tensor] = []  # of each part at w, of the loss of the whole batch
        self._graph: Tensor | None = None  # logits at w

    def first(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        import torch

        losses, logits = [], []
        # Of several parts no graph is kept, as it would take the memory that parts are to save; of a compiled
        # network none can be.
        keep = self.rule.residual_above and len(self.parts) == 1 and not self.batch.compiled
        for part in self.parts:
            outputs = part.outputs()
            loss, residual = self._residual(part, outputs)
            outputs.backward(residual, retain_graph=keep)
            losses.append(loss)
            logits.append(outputs.detach())
            self._residuals.append(residual)
        self._graph = outputs if keep else None
        self.used = [p for p in self.parameters if p.grad is not None]
        outputs = torch.cat(logits) if len(logits) > 1 else logits[0]
        return torch.stack(losses).sum(), outputs, taken(self.used)

    def second(self, epsilon: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        import torch

        losses = []
        if not self.rule.residual_above:
            with moved(self.batch, self.used, epsilon):
                for part, residual in zip(self.parts, self._residuals, strict=True):
                    outputs = part.outputs()
                    outputs.backward(residual)
                    losses.append(part.loss(outputs.detach()) * (len(part) / len(self)))
        else:
            residuals = []
            with moved(self.batch, self.used, epsilon), torch.no_grad():
                for part in self.parts:
                    loss, residual = self._residual(part, part.outputs())
                    losses.append(loss)
                    residuals.append(residual)
            if self._graph is not None:
                self._graph.backward(residuals[0])
            else:
                with frozen_statistics(self.batch.network):
                    for part, residual in zip(self.parts, residuals, strict=True):
                        part.outputs().backward(residual)
            self._graph = None
        return torch.stack(losses).sum(), taken(self.used)

    def _residual(self, part: Minibatch, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """A part's share of the batch's loss, and its derivative by the part's logits."""
        loss, residual = part.residual(outputs)
        return loss * (len(part) / len(self)), residual * (len(part) / len(self))


class Mean:
    """A weighted mean over groups, for each parameter that is used in one, in the parameter's layout in memory.

    (The fused optimizers of PyTorch take a gradient's layout for the parameter's.)
    """

    def __init__(self) -> None:
        self._sums: dict[nn.Parameter, Tensor] = {}

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self._sums)

    @property
    def tensors(self) -> list[Tensor]:
        return list(self._sums.values())

    def add(self, parameters: list[nn.Parameter], tensors: list[Tensor], share: float, *, copy: bool = False) -> None:
        """Add share · tensors, where the shares of all groups make 1; if it is 1 they are kept unless to be copied."""
        import torch

        for parameter, tensor in zip(parameters, tensors, strict=True):
            total = self._sums.get(parameter)
            if total is not None:
                total.add_(tensor, alpha=share)
            elif share == 1 and not copy and tensor.stride() == parameter.stride():
                self._sums[parameter] = tensor
            else:
                self._sums[parameter] = torch.empty_like(parameter).copy_(tensor).mul_(share)


@contextmanager
def moved(batch: Minibatch, parameters: list[nn.Parameter], epsilon: list[Tensor]) -> Iterator[None]:
    """Within it the parameters are w + ε, and forward passes leave BatchNorm's running statistics alone.

    The memory of `epsilon` is used for w + ε. Afterwards the parameters look at w again, which nothing has
    touched: (w + ε) − ε would differ from w in the last bits. If the passes are recorded, for which the
    parameters have to stay in their place, w + ε is written there, and afterwards w from a copy: the same
    numbers, for two more passes over the parameters.
    """
    import torch

    w = [p.data for p in parameters]
    with torch.no_grad():
        if batch.recorded:
            kept = [tensor.clone() for tensor in w]
            torch._foreach_add_(w, epsilon)
        else:
            torch._foreach_add_(epsilon, w)
    try:
        if not batch.recorded:
            for parameter, tensor in zip(parameters, epsilon, strict=True):
                parameter.data = tensor
        with frozen_statistics(batch.network):
            yield
    finally:
        if batch.recorded:
            torch._foreach_copy_(w, kept)
        else:
            for parameter, tensor in zip(parameters, w, strict=True):
                parameter.data = tensor


def taken(parameters: list[nn.Parameter]) -> list[Tensor]:
    """The gradients of the parameters, which have none afterwards (the same places, where one has none, stay 0)."""
    import torch

    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return gradients
