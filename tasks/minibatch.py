"""One step's examples, and the loss on them as a function of the network's parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, cast

from .errors import InvalidValue

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Minibatch"]


class Minibatch:
    """The loss of one step's examples, as a function of the network's parameters.

    It is the same function however often it is evaluated within the step: what is random (dropout's masks,
    noise) is drawn once. So g = ∇L(w) and g⁺ = ∇L(w + ε) are gradients of one and the same L.

    Attributes:
        network: the module whose parameters are trained.
        x: normalised examples, float32 of shape (n, *shape).
        targets: classes, int64 of shape (n,); or probabilities of classes, float32 of shape (n, classes).
        rows: indices of the examples in the training set, int64 of shape (n,); None if they come from elsewhere.
        classes: how many there are; None if unknown.
        label_smoothing: share of each target that is spread evenly over all classes.
        penalties: terms of the loss besides the mean cross-entropy, each a function of the minibatch, or part,
            and of its logits (n, classes) that returns a scalar, a mean over its examples. They are part of g and
            g⁺. Weight decay is not one of them.
        extra: what penalties need of each example, by name: tensors of n rows.
        weight_noise: added to the parameters of these names in every forward pass: the loss is L(w + ξ).
        before_forward: called before each forward pass with `offset`, to set what is random in it to the step's
            own state.
        offset: place of the first example in the minibatch of the step; above 0 in parts of it.
        head: a layer whose input each `outputs()` leaves in `features`; None for none.
        micro: largest number of examples in one pass of `backward`; more are added up part by part. None for
            no limit. Refused for a network with BatchNorm, for which parts are another function.
        groups: the examples in groups that the step's loss is the mean over (m-sharpness), of which each is normalised
            by itself and has masks of its own; empty where it is the loss of all at once.
        recorded: whether passes are CUDA graphs, for which the parameters have to stay where they are in memory.
    """

    def __init__(
        self,
        network: nn.Module,
        x: Tensor,
        targets: Tensor,
        *,
        forward: Callable[[Tensor], Tensor] | None = None,
        rows: Tensor | None = None,
        classes: int | None = None,
        precision: str = "float32",
        micro: int | None = None,
        recorded: bool = False,
    ) -> None:
        """
        Args:
            forward: computes the network's logits; the network itself if None (a compiled one, otherwise).
            precision: "bf16" computes the forward and backward passes under autocast; anything else as it is.
        """
        self.network = network
        self.x = x
        self.targets = targets
        self.rows = rows
        self.classes = classes
        self.label_smoothing = 0.0
        self.penalties: list[Callable[[Minibatch, Tensor], Tensor]] = []
        self.extra: dict[str, Tensor] = {}
        self.weight_noise: dict[str, Tensor] = {}
        self.before_forward: list[Callable[[int], None]] = []
        self.offset = 0
        self.head: nn.Module | None = None
        self.features: Tensor | None = None
        self.micro = micro
        self.groups: list[Minibatch] = []
        self.recorded = recorded
        self._forward: Callable[[Tensor], Tensor] = network if forward is None else forward
        self._precision = precision

    def __len__(self) -> int:
        return len(self.x)

    @property
    def compiled(self) -> bool:
        """Whether something else than the network itself computes the logits."""
        return self._forward is not self.network

    def outputs(self, x: Tensor | None = None) -> Tensor:
        """Logits at the parameters as they are, float32 (float64 for such a network) of shape (n, classes).

        Args:
            x: other examples in the place of the minibatch's, under the same rules; `features` stays as it is.
        """
        import torch

        for prepare in self.before_forward:
            prepare(self.offset)
        looking = nullcontext() if self.head is None or x is not None else self._looking(self.head)
        with looking, torch.autocast(self.x.device.type, dtype=torch.bfloat16, enabled=self._precision == "bf16"):
            outputs = self._call(self.x if x is None else x)
        return outputs if outputs.dtype == torch.float64 else outputs.float()

    def _call(self, x: Tensor) -> Tensor:
        if not self.weight_noise:
            return self._forward(x)
        from torch.func import functional_call

        names = dict(self.network.named_parameters())
        moved = {name: names[name] + noise for name, noise in self.weight_noise.items()}
        if self._forward is not self.network:  # a compiled network calls the one within it so
            moved = {f"_orig_mod.{name}": parameter for name, parameter in moved.items()}
        outputs: Tensor = functional_call(cast("nn.Module", self._forward), moved, (x,))
        return outputs

    @contextmanager
    def _looking(self, head: nn.Module) -> Iterator[None]:
        """Within it a forward pass leaves the input of `head` in `features`."""

        def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.features = inputs[0]

        hook = head.register_forward_pre_hook(look)
        try:
            yield
        finally:
            hook.remove()

    def losses(self, outputs: Tensor) -> Tensor:
        """Cross-entropy of each example, shape (n,), without the penalties."""
        return self._cross_entropy(outputs, "none")

    def cross_entropy(self, outputs: Tensor) -> Tensor:
        """Mean cross-entropy, a scalar, without the penalties."""
        return self._cross_entropy(outputs, "mean")

    def loss(self, outputs: Tensor) -> Tensor:
        """The loss of the step, a scalar: mean cross-entropy and the penalties."""
        total = self.cross_entropy(outputs)
        for penalty in self.penalties:
            total = total + penalty(self, outputs)
        return total

    def _cross_entropy(self, outputs: Tensor, reduction: str) -> Tensor:
        from torch.nn import functional as F

        return F.cross_entropy(outputs, self.targets, reduction=reduction, label_smoothing=self.label_smoothing)

    def residual(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, detached, and its derivative by the logits, (n, classes).

        Raises:
            InvalidValue: a penalty depends on the parameters otherwise than through the logits, too.
        """
        import torch

        with torch.enable_grad():
            logits = outputs.detach().requires_grad_()
            loss = self.loss(logits)
            others = [p for p in self.network.parameters() if p.requires_grad] if self.penalties else []
            residual, *rest = torch.autograd.grad(loss, [logits, *others], retain_graph=True, allow_unused=True)
        if any(r is not None for r in rest):
            raise InvalidValue(
                "J-SAM and logit-SAM put the derivative of the loss by the logits and that of the logits by the "
                "weights together, so a penalty that depends on the weights in another way has no place in them: "
                "leave out that regulariser (one of the last layer's inputs, of other examples)."
            )
        return loss.detach(), residual

    def backward(self) -> tuple[Tensor, Tensor]:
        """Add the gradient of the loss, at the parameters as they are, to each parameter's .grad.

        Returns:
            the loss, a scalar, and the logits (n, classes), both detached.
        """
        import torch

        parts = self.parts()
        if len(parts) == 1:
            outputs = self.outputs()
            loss = self.loss(outputs)
            loss.backward()
            return loss.detach(), outputs.detach()
        losses, logits = [], []
        for part in parts:
            outputs = part.outputs()
            loss = part.loss(outputs) * (len(part) / len(self))
            loss.backward()
            losses.append(loss.detach())
            logits.append(outputs.detach())
        return torch.stack(losses).sum(), torch.cat(logits)

    def parts(self) -> list[Minibatch]:
        """The minibatch in parts of at most `micro` examples, each of one group; itself if there is one part."""
        if self.groups:
            return [part for group in self.groups for part in group.parts()]
        if self.micro is None or len(self) <= self.micro:
            return [self]
        return [self.part(slice(i, i + self.micro)) for i in range(0, len(self), self.micro)]

    def part(self, index: slice, forward: Callable[[Tensor], Tensor] | None = None) -> Minibatch:
        """The minibatch of some of the examples, one after the other (a step of 1), under the same rules.

        What is random in a forward pass, such as dropout's masks, is that of the part's own offset.

        Args:
            forward: computes the logits in the place of what does it here.
        """
        part = Minibatch(
            self.network,
            self.x[index],
            self.targets[index],
            forward=self._forward if forward is None else forward,
            rows=None if self.rows is None else self.rows[index],
            classes=self.classes,
            precision=self._precision,
            micro=self.micro,
            recorded=self.recorded,
        )
        part.label_smoothing, part.weight_noise, part.head = self.label_smoothing, self.weight_noise, self.head
        part.penalties, part.before_forward = self.penalties, self.before_forward
        part.extra = {name: tensor[index] for name, tensor in self.extra.items()}
        part.offset = self.offset + index.indices(len(self))[0]
        return part

    def plain(self) -> Minibatch:
        """The same minibatch by the network itself in float32: without autocast, and not compiled.

        (What is compiled cannot be differentiated twice.)
        """
        plain = copy.copy(self)
        plain._forward, plain._precision = self.network, "float32"
        plain.groups = [group.plain() for group in self.groups]
        return plain

    def grouped(self, groups: list[Minibatch]) -> Minibatch:
        """The same minibatch in these groups, parts of it in its own order; itself if there is one."""
        if len(groups) == 1:
            return self
        grouped = copy.copy(self)
        grouped.groups = groups
        return grouped
