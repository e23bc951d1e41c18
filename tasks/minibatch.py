"""One step's examples, and the loss on them as a function of the network's parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

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
        label_smoothing: share of each target that is spread evenly over all classes.
        penalties: terms of the loss besides the mean cross-entropy, each a function of the logits (n, classes)
            that returns a scalar. They are part of g and g⁺. Weight decay is not one of them.
        before_forward: called before each forward pass, to set what is random in it to the step's own state.
        micro: largest number of examples in one pass of `backward`; more are added up part by part. None for
            no limit. Refused for a network with BatchNorm, for which parts are another function.
    """

    def __init__(
        self,
        network: nn.Module,
        x: Tensor,
        targets: Tensor,
        *,
        forward: Callable[[Tensor], Tensor] | None = None,
        rows: Tensor | None = None,
        precision: str = "float32",
        micro: int | None = None,
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
        self.label_smoothing = 0.0
        self.penalties: list[Callable[[Tensor], Tensor]] = []
        self.before_forward: list[Callable[[], None]] = []
        self.micro = micro
        self._forward: Callable[[Tensor], Tensor] = forward or network
        self._precision = precision

    def __len__(self) -> int:
        return len(self.x)

    def outputs(self) -> Tensor:
        """Logits at the parameters as they are, float32 (float64 for such a network) of shape (n, classes)."""
        import torch

        for prepare in self.before_forward:
            prepare()
        with torch.autocast(self.x.device.type, dtype=torch.bfloat16, enabled=self._precision == "bf16"):
            outputs = self._forward(self.x)
        return outputs if outputs.dtype == torch.float64 else outputs.float()

    def losses(self, outputs: Tensor) -> Tensor:
        """Cross-entropy of each example, shape (n,), without the penalties."""
        return self._cross_entropy(outputs, "none")

    def loss(self, outputs: Tensor) -> Tensor:
        """The loss of the step, a scalar: mean cross-entropy and the penalties."""
        total = self._cross_entropy(outputs, "mean")
        for penalty in self.penalties:
            total = total + penalty(outputs)
        return total

    def _cross_entropy(self, outputs: Tensor, reduction: str) -> Tensor:
        from torch.nn import functional as F

        return F.cross_entropy(outputs, self.targets, reduction=reduction, label_smoothing=self.label_smoothing)

    def backward(self) -> tuple[Tensor, Tensor]:
        """Add the gradient of the loss, at the parameters as they are, to each parameter's .grad.

        Returns:
            the loss, a scalar, and the logits (n, classes), both detached.
        """
        import torch

        if self.micro is None or len(self) <= self.micro:
            outputs = self.outputs()
            loss = self.loss(outputs)
            loss.backward()
            return loss.detach(), outputs.detach()
        parts = [self.part(rows) for rows in torch.arange(len(self), device=self.x.device).split(self.micro)]
        total, logits = torch.zeros((), device=self.x.device), []
        for part in parts:
            outputs = part.outputs()
            loss = part.loss(outputs) * (len(part) / len(self))
            loss.backward()
            total += loss.detach()
            logits.append(outputs.detach())
        return total, torch.cat(logits)

    def part(self, index: Tensor | slice) -> Minibatch:
        """The minibatch of some of the examples, under the same rules."""
        part = Minibatch(
            self.network,
            self.x[index],
            self.targets[index],
            forward=self._forward,
            rows=None if self.rows is None else self.rows[index],
            precision=self._precision,
        )
        part.label_smoothing = self.label_smoothing
        part.penalties, part.before_forward = self.penalties, self.before_forward
        return part
