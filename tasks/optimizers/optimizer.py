"""Optimizers: specifications, and the stepper that carries one out on a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..spec import Spec

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Optimizer", "Stepper"]

T = TypeVar("T")


@dataclass(frozen=True)
class Optimizer(Spec):
    """How a network's parameters are updated. Subclasses define `torch_optimizer`."""

    def torch_optimizer(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The PyTorch optimizer that turns gradients into steps; it holds the state."""
        raise NotImplementedError(f"{type(self).__name__} must define torch_optimizer().")

    def build(self, network: nn.Module) -> Stepper:
        """A stepper for all parameters of `network` that require gradients."""
        return Stepper(network, self.torch_optimizer([p for p in network.parameters() if p.requires_grad]))


class Stepper:
    """One step of training, in two halves: find the gradient, then step along it.

    ::

        loss = stepper.gradient(backward)  # leaves it in each parameter's .grad
        ...                                # clip it, record its norm
        stepper.step(lr_factor)

    Whatever happens between the halves (clipping), and weight decay and momentum in the second, acts on
    the gradient that the first one leaves; optimizers of the SAM family change the first half only.
    """

    def __init__(self, network: nn.Module, base: torch.optim.Optimizer) -> None:
        self.network = network
        self.base = base
        self.parameters: list[nn.Parameter] = [p for group in base.param_groups for p in group["params"]]
        self._lr = [group["lr"] for group in base.param_groups]

    def gradient(self, backward: Callable[[], T]) -> T:
        """Leave in each parameter's .grad the gradient to step along.

        Args:
            backward: computes the loss of the step's batch at the parameters as they are and calls
                `.backward()` on it; may be called several times.

        Returns:
            what the call at the current parameters returned.
        """
        self.base.zero_grad(set_to_none=True)
        return backward()

    def step(self, lr_factor: float = 1.0) -> None:
        """Update the parameters, with each step size times `lr_factor`."""
        for group, lr in zip(self.base.param_groups, self._lr, strict=True):
            group["lr"] = lr * lr_factor
        self.base.step()

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
