"""Groups of examples, and the gradients of their loss at w and at w + ε: one ε for all of them, or one for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from ..batchnorm import frozen_statistics
from ..errors import InvalidValue
from ..minibatch import Minibatch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..per_example import PerExample

__all__ = ["Each", "Group", "Mean", "Split", "Together", "at_once"]

SET = {"cpu": 16 << 20, "cuda": 1 << 30}  # bytes of parameters for each example at once, by type of device
MOST = 512  # examples at once, however few their parameters


class Group(Protocol):
    """Some examples of a step. Lists have one tensor for each of `used`, the parameters with a gradient at w."""

    used: list[nn.Parameter]

    def __len__(self) -> int: ...

    def first(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Mean loss, logits, and g, at w."""
        ...

    def second(self, epsilon: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Mean loss at w + ε, and g⁺. The memory of `epsilon` is used up."""
        ...

    def apply(self, rule: Callable[..., list[Tensor]], *lists: list[Tensor]) -> list[Tensor]:
        """rule(*lists), separately for each ε."""
        ...

    def mean(self, tensors: list[Tensor]) -> list[Tensor]:
        """The mean over the group, of the shapes of the parameters."""
        ...


class Together:
    """Examples with one ε: the gradients are those of their mean loss."""

    def __init__(self, batch: Minibatch, parameters: list[nn.Parameter]) -> None:
        self.batch, self.parameters = batch, parameters
        self.used: list[nn.Parameter] = []

    def __len__(self) -> int:
        return len(self.batch)

    def first(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        loss, outputs = self.batch.backward()
        self.used = [p for p in self.parameters if p.grad is not None]
        return loss, outputs, taken(self.used)

    def second(self, epsilon: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        with moved(self.batch.network, self.used, epsilon):
            loss, _ = self.batch.backward()
        return loss, taken(self.used)

    def apply(self, rule: Callable[..., list[Tensor]], *lists: list[Tensor]) -> list[Tensor]:
        return rule(*lists)

    def mean(self, tensors: list[Tensor]) -> list[Tensor]:
        return tensors


class Split(Together):
    """Examples with one ε, whose g⁺ is c = ∂L/∂f from one place carried back through ∂f/∂w from another.

    Args:
        residual_above: c is that at w + ε, and ∂f/∂w that at w; otherwise the other way round.
    """

    def __init__(self, batch: Minibatch, parameters: list[nn.Parameter], *, residual_above: bool) -> None:
        super().__init__(batch, parameters)
        self.residual_above = residual_above
        self.parts = batch.parts()
        self._residuals: list[Tensor] = []  # of each part at w, of the loss of the whole batch
        self._graph: Tensor | None = None  # logits at w

    def first(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        import torch

        losses, logits = [], []
        # Of several parts no graph is kept, as it would take the memory that parts are to save; of a compiled
        # network none can be.
        keep = self.residual_above and len(self.parts) == 1 and not self.batch.compiled
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
        if not self.residual_above:
            with moved(self.batch.network, self.used, epsilon):
                for part, residual in zip(self.parts, self._residuals, strict=True):
                    outputs = part.outputs()
                    outputs.backward(residual)
                    losses.append(part.loss(outputs.detach()) * (len(part) / len(self)))
        else:
            residuals = []
            with moved(self.batch.network, self.used, epsilon), torch.no_grad():
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


class Each:
    """Examples that each have an ε of their own: the gradients are those of each one's loss, of shapes (n, …).

    Args:
        passes: what carries the network's passes out.
        split: None, or which way round g⁺ is put together, as `residual_above` of `Split`.
        apart: whether g⁺ is wanted for each example; otherwise `second` returns its mean, which costs less.
    """

    def __init__(
        self,
        batch: Minibatch,
        parameters: list[nn.Parameter],
        passes: PerExample,
        *,
        split: bool | None,
        apart: bool,
    ) -> None:
        self.batch, self.parameters, self.passes = batch, parameters, passes
        self.split, self.apart = split, apart
        self.used: list[nn.Parameter] = []
        self._first: Any = None

    def __len__(self) -> int:
        return len(self.batch)

    def first(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        done, (outputs, value, loss, residual) = self._run()
        gradients = done.gradients(value, keep=self.split is True)
        self.used = [p for p, g in zip(self.parameters, gradients, strict=True) if g is not None]
        self._first = done, outputs, residual
        return loss, outputs.detach(), [g for g in gradients if g is not None]

    def second(self, epsilon: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        import torch

        w = dict(zip(self.used, epsilon, strict=True))
        with torch.no_grad():
            torch._foreach_add_(epsilon, [p.data for p in self.used])
            each = [w[p] if p in w else p.detach().expand(len(self), *p.shape) for p in self.parameters]
        first, outputs, residual = self._first
        if self.split is None:
            done, (_, value, loss, _) = self._run(each)
        elif self.split:
            with torch.no_grad():
                _, (_, _, loss, residual) = self._run(each)
            done, value = first, (outputs * residual).sum()
        else:
            done, (above, _, loss, _) = self._run(each)
            value = (above * residual).sum()
        if self.apart:
            gradients = dict(zip(self.parameters, done.gradients(value), strict=True))
            return loss, [e.zero_() if (g := gradients[p]) is None else g for p, e in w.items()]
        done.backward(value / len(self))
        return loss, taken(self.used)

    def apply(self, rule: Callable[..., list[Tensor]], *lists: list[Tensor]) -> list[Tensor]:
        import torch

        from ..per_example import Unrolled

        with Unrolled():
            mapped: list[Tensor] = torch.func.vmap(rule)(*lists)
        return mapped

    def mean(self, tensors: list[Tensor]) -> list[Tensor]:
        return [t if t.shape == p.shape else t.mean(0) for p, t in zip(self.used, tensors, strict=True)]

    def _run(self, each: list[Tensor] | None = None) -> tuple[Any, tuple[Tensor, Tensor, Tensor, Tensor | None]]:
        """The pass; logits, sum of the losses (as a function of the logits alone if split), mean, and residuals."""
        n = len(self)

        def call(forward: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
            if forward is not self.batch.network and self.batch.weight_noise:
                raise InvalidValue(
                    f"m=1 with noise on the weights needs a network all of whose parameters are those of dense layers, "
                    f"2-D convolutions without groups, or normalisations, which {type(self.batch.network).__name__} "
                    f"is not: leave the noise out, or take another m."
                )
            part = self.batch.part(slice(None), forward=forward)
            outputs = part.outputs()
            if self.split is None:
                loss = part.loss(outputs)
                return outputs, loss * n, loss.detach(), None
            loss, residual = part.residual(outputs)
            return outputs, (outputs * (residual * n)).sum(), loss, residual * n

        return self.passes.run(n, call, each, self.batch.weight_noise.values())


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


def at_once(parameters: list[nn.Parameter]) -> int:
    """How many examples can have parameters of their own at a time."""
    size = sum(p.numel() * p.element_size() for p in parameters)
    return max(1, min(MOST, SET.get(parameters[0].device.type, SET["cuda"]) // size))


@contextmanager
def moved(network: nn.Module, parameters: list[nn.Parameter], epsilon: list[Tensor]) -> Iterator[None]:
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
        with frozen_statistics(network):
            yield
    finally:
        for parameter, tensor in zip(parameters, w, strict=True):
            parameter.data = tensor


def taken(parameters: list[nn.Parameter]) -> list[Tensor]:
    """The gradients of the parameters, which have none afterwards (the same places, where one has none, stay 0)."""
    import torch

    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return gradients
