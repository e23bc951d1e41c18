"""Optimizers: specifications, and the stepper that carries one out on a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ..spec import Spec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..minibatch import Minibatch

__all__ = ["Gradients", "Optimizer", "Progress", "Stepper"]


class Progress(NamedTuple):
    """Where a training is: at step `step` = 0, 1, …, of `steps`, of which `per_epoch` make an epoch."""

    step: int = 0
    steps: int = 1
    per_epoch: int = 1


START = Progress()


class Gradients(NamedTuple):
    """What one step has found out about the loss, for a recorder: not to be kept or written to.

    Attributes:
        batch: the step's examples; in groups, if g is the mean over gradients of groups.
        parameters: those with a gradient; the lists below have one tensor for each.
        loss: at w.
        outputs: logits at w, (n, classes).
        g: ∇L(w).
        g_plus: ∇L(w + ε) as the optimizer's combination gets it; None for an optimizer of one gradient.
        loss_plus: L(w + ε); None likewise.
    """

    batch: Minibatch
    parameters: list[nn.Parameter]
    loss: Tensor
    outputs: Tensor
    g: list[Tensor]
    g_plus: list[Tensor] | None = None
    loss_plus: Tensor | None = None


@dataclass(frozen=True)
class Optimizer(Spec):
    """How a network's parameters are updated. Subclasses define `torch_optimizer`, or `build`."""

    has_step_size: ClassVar[bool] = True
    """Whether a step is one move of the size `Stepper.lr`, as a proximal step after it takes for granted."""

    def torch_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The PyTorch optimizer that turns gradients into steps; it holds the state."""
        raise NotImplementedError(f"{type(self).__name__} must define torch_optimizer().")

    def build(self, network: nn.Module) -> Stepper:
        """A stepper for all parameters of `network` that require gradients."""
        return Stepper(network, self.torch_optimizer([p for p in network.parameters() if p.requires_grad]))


class Stepper:
    """One step of training, in two halves: find the gradient, then step along it.

    ::

        loss, outputs = stepper.gradient(batch, progress)  # leaves it in each parameter's .grad
        ...                                                # clip it, record its norm
        stepper.step(lr_factor)

    Whatever happens between the halves (clipping), and weight decay and momentum in the second, acts on
    the gradient that the first one leaves; optimizers of the SAM family change the first half only.
    """

    def __init__(self, network: nn.Module, base: torch.optim.Optimizer) -> None:
        self.network = network
        self.base = base
        self.parameters: list[nn.Parameter] = [p for group in base.param_groups for p in group["params"]]
        self._lr = [group["lr"] for group in base.param_groups]

    def gradient(
        self,
        batch: Minibatch,
        progress: Progress = START,
        observe: Callable[[Gradients], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Leave in each parameter's .grad the gradient to step along.

        Args:
            batch: the step's examples; its loss may be evaluated several times.
            progress: where the training is.
            observe: called with what the step has found, before the gradients are combined and changed.

        Returns:
            the loss and the logits at the parameters as they are, detached.
        """
        self.begin(batch, progress)
        self.base.zero_grad(set_to_none=True)
        loss, outputs = batch.backward()
        if observe is not None:
            used = self.used()
            observe(Gradients(batch, used, loss, outputs, [p.grad for p in used if p.grad is not None]))
        return loss, outputs

    def begin(self, batch: Minibatch, progress: Progress) -> None:
        """Take note of the step's examples and of where the training is; for steps that need them."""
        self.batch, self.progress = batch, progress

    def used(self) -> list[nn.Parameter]:
        """The parameters that have a gradient now."""
        return [p for p in self.parameters if p.grad is not None]

    def step(self, lr_factor: float = 1.0) -> None:
        """Update the parameters, with each step size times `lr_factor`."""
        self.set_lr(lr_factor)
        self.base.step()

    def set_lr(self, factor: float) -> None:
        """Let the step sizes be those of the specification times `factor`."""
        for group, lr in zip(self.base.param_groups, self._lr, strict=True):
            group["lr"] = lr * factor

    @property
    def lr(self) -> float:
        """The step size of the last step, that of the first group of parameters."""
        return float(self.base.param_groups[0]["lr"])

    @contextmanager
    def evaluating(self, inputs: Callable[[], Iterable[Tensor]]) -> Iterator[None]:
        """Within it the network holds the weights to be evaluated and kept: for averages others than those trained.

        Args:
            inputs: makes batches of normalised training examples in a fixed order, to estimate BatchNorm's
                statistics anew.
        """
        yield

    def state_dict(self) -> dict[str, Any]:
        """All that the steps to come depend on, beside the parameters and buffers."""
        return self.base.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned, exactly as if nothing had been between.

        PyTorch's own loading puts each tensor on the right device, but casts it to the type of its
        parameter; that is undone here.
        """
        self.base.load_state_dict(state)
        for index, saved in state["state"].items():
            held = self.base.state[self.parameters[index]]
            held.update({name: _restored(held[name], value) for name, value in saved.items()})


def _restored(held: Any, saved: Any) -> Any:
    """The saved value on the devices that `held`, which may be cast, has chosen for its tensors."""
    import torch

    if isinstance(saved, torch.Tensor):
        return saved.to(held.device)
    if isinstance(saved, dict):
        return {k: _restored(held[k], v) for k, v in saved.items()}
    if isinstance(saved, (list, tuple)):
        return type(saved)(_restored(h, s) for h, s in zip(held, saved, strict=True))
    return saved
