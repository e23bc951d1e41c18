"""Examples that each have a perturbation of their own, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InvalidValue
from ..minibatch import Minibatch
from .groups import taken

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..bilinear import Factors
    from ..per_example import PerExample

__all__ = ["Each", "Separately"]

# How many examples at once, by type of device. Their gradients are to have no more than so many bytes in all.
GRADIENTS = {"cpu": 128 << 20, "cuda": 4 << 30}
# What their forward pass keeps is to have about so many, so that it stays in a cache, but PASSES times the bytes of the
# parameters at least, which are read and added to for each part of the batch: both measured, on an MLP and two
# convolutional nets.
KEPT = {"cpu": 32 << 20, "cuda": 4 << 30}
PASSES = 8


class Separately:
    """Cuts a batch into parts whose examples each get an ε of their own at the same time.

    How many that are depends on the size of an example's gradient, and so on network and examples alone.
    """

    def __init__(self, rule: Any, network: nn.Module, parameters: list[nn.Parameter]) -> None:
        from ..per_example import PerExample

        self.rule, self.parameters = rule, parameters
        self.passes = PerExample(network)
        self._most: int | None = None

    def groups(self, batch: Minibatch) -> list[Each]:
        """
        Raises:
            InvalidValue: examples cannot be told apart in this minibatch.
        """
        name = type(self.rule).__name__
        if batch.compiled:
            raise InvalidValue(
                f"{name}: m=1 carries out the layers of the network in its own way, which a compiled one does not "
                f"show: leave compile out, or take another m."
            )
        if batch.head is not None:
            raise InvalidValue(
                f"{name}: m=1 does not go with a penalty on the last layer's inputs and weights: leave one of them out."
            )
        if self._most is None:
            self._most = self._try(batch)
        parts = -(-len(batch) // min(self._most, batch.micro or len(batch)))
        size = -(-len(batch) // parts)  # about equal
        return [self._each(batch.part(slice(i, i + size))) for i in range(0, len(batch), size)]

    def _each(self, batch: Minibatch) -> Each:
        return Each(self.rule, batch, self.parameters, self.passes)

    def _try(self, batch: Minibatch) -> int:
        """How many examples at once, from a try with one; the network's buffers stay as they are."""
        import torch

        buffers = list(self.passes.network.buffers())
        before = [b.clone() for b in buffers]
        others = {t.untyped_storage().data_ptr() for t in (*self.parameters, *buffers)}
        kept: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.untyped_storage().data_ptr() not in others:
                kept[tensor.untyped_storage().data_ptr()] = tensor.detach()
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            _, _, g = self._each(batch.part(slice(0, 1))).first()
        for buffer, tensor in zip(buffers, before, strict=True):
            buffer.copy_(tensor)
        device = batch.x.device.type
        gradients = _bytes(t for entry in g for t in (entry[:2] if isinstance(entry, tuple) else [entry]))
        wanted = max(KEPT.get(device, KEPT["cuda"]), PASSES * _bytes(self.parameters))
        most = min(GRADIENTS.get(device, GRADIENTS["cuda"]) // gradients, wanted // max(1, _bytes(kept.values())))
        return max(1, most)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


class Each:
    """Examples with an ε each: the gradients are those of each one's loss, of shapes (n, …), or in factors."""

    def __init__(self, rule: Any, batch: Minibatch, parameters: list[nn.Parameter], passes: PerExample) -> None:
        self.rule, self.batch, self.parameters, self.passes = rule, batch, parameters, passes
        self.used: list[nn.Parameter] = []
        # Whether g⁺ is wanted of each example; otherwise `second` returns its mean, which costs less.
        self.apart = rule.overrides("combination") or rule.overrides("refinement")
        # Whether ε is a multiple of g, so that both may stay in factors.
        self.low = not self.apart and not rule.overrides("perturbation")
        self._first: Any = None

    def __len__(self) -> int:
        return len(self.batch)

    def first(self) -> tuple[Tensor, Tensor, list[Tensor | Factors]]:
        done, (outputs, value, loss, residual) = self._run()
        keep = not self.rule.jacobian_above
        gradients = done.low_gradients(value, keep=keep) if self.low else done.gradients(value, keep=keep)
        self.used = [p for p, g in zip(self.parameters, gradients, strict=True) if g is not None]
        self._first = done, outputs, residual
        return loss, outputs.detach(), [g for g in gradients if g is not None]

    def perturbation(self, names: list[str], g: list[Any], rho: float) -> list[Any]:
        import torch

        from ..bilinear import Factors

        if not self.low:
            w = [p.data for p in self.used]
            return self.apply(lambda g: self.rule.perturbation(names, w, g, rho), g)
        squares = [t.squares() if isinstance(t, Factors) else t.reshape(len(t), -1).square().sum(1) for t in g]
        multiple = self.rule.multiple(torch.stack(squares).sum(0).sqrt(), rho)
        return [t.times(multiple) if isinstance(t, Factors) else t * multiple.view(-1, *[1] * (t.dim() - 1)) for t in g]

    def second(self, epsilon: list[Any]) -> tuple[Tensor, list[Tensor]]:
        import torch

        from ..bilinear import Factors

        with torch.no_grad():
            for e, p in zip(epsilon, self.used, strict=True):
                if not isinstance(e, Factors):
                    e += p
        at = dict(zip(self.used, epsilon, strict=True))
        each = [at[p] if p in at else p.detach().expand(len(self), *p.shape) for p in self.parameters]
        first, outputs, residual = self._first
        if not self.rule.split:
            done, (_, value, loss, _) = self._run(each)
        elif self.rule.residual_above:
            with torch.no_grad():
                _, (_, _, loss, residual) = self._run(each)
            done, value = first, (outputs * residual).sum()
        else:
            done, (above, _, loss, _) = self._run(each)
            value = (above * residual).sum()
        if self.apart:
            gradients = dict(zip(self.parameters, done.gradients(value), strict=True))
            return loss, [e.zero_() if (g := gradients[p]) is None else g for p, e in at.items()]
        done.backward(value / len(self))
        return loss, taken(self.used)

    def apply(self, rule: Callable[..., list[Tensor]], *lists: list[Any]) -> list[Tensor]:
        import torch

        from ..per_example import Unrolled

        with Unrolled():
            mapped: list[Tensor] = torch.func.vmap(rule)(*lists)
        return mapped

    def mean(self, tensors: list[Any]) -> list[Tensor]:
        from ..bilinear import Factors

        return [
            t.mean() if isinstance(t, Factors) else t if t.shape == p.shape else t.mean(0)
            for p, t in zip(self.used, tensors, strict=True)
        ]

    def _run(
        self, each: Sequence[Tensor | Factors] | None = None
    ) -> tuple[Any, tuple[Tensor, Tensor, Tensor, Tensor | None]]:
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
            if not self.rule.split:
                loss = part.loss(outputs)
                return outputs, loss * n, loss.detach(), None
            loss, residual = part.residual(outputs)
            return outputs, (outputs * (residual * n)).sum(), loss, residual * n

        return self.passes.run(n, call, each, self.batch.weight_noise.values())
