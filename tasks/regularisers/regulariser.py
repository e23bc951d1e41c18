"""What every regulariser is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InvalidValue
from ..optimizers.optimizer import Optimizer
from ..spec import Spec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..minibatch import Minibatch
    from ..train import Train

__all__ = ["Regulariser", "check_regularisers", "optimizers_of", "refuse_taken_apart", "weights_of"]


@dataclass(frozen=True)
class Regulariser(Spec):
    """A change to a step of training. Subclasses override one or more of the hooks, which do nothing here.

    What it adds to the minibatch's loss is part of g and of g⁺ of the SAM family; what it adds to the
    gradient, and what it does after the step, acts at w on the family's combined gradient.
    """

    def check(self, train: Train) -> None:
        """Raise `InvalidValue` if it does not go with the other fields of a training; some may hold search spaces."""

    def on_batch(self, batch: Minibatch, generator: torch.Generator) -> None:
        """Change the examples, the targets or the loss of the step, before any gradient is taken.

        Args:
            batch: to be changed, by giving it other tensors; those that it holds may be the training set's.
            generator: on the CPU; the regulariser's own, made anew each epoch from the stream "noise".
        """

    def on_gradient(self, network: nn.Module) -> None:
        """Add to the .grad of the parameters: at w, after the optimizer has found its gradient, before clipping."""

    def on_step(self, network: nn.Module, lr: float) -> None:
        """Change the parameters after the step, which had the step size `lr`."""


def check_regularisers(train: Train) -> None:
    """
    Raises:
        InvalidValue: a training's regularisers do not go together, or not with its other fields.
    """
    names = [type(r).__name__ for r in train.regularisers]
    for regulariser, name in zip(train.regularisers, names, strict=True):
        if names.count(name) > 1:
            raise InvalidValue(f"Train: regularisers holds {name} {names.count(name)} times; it takes one of a class.")
        regulariser.check(train)


def optimizers_of(train: Train) -> list[Optimizer]:
    """A training's optimizer and those that it is over, from the outermost on."""
    found: list[Any] = [train.optimizer]
    while isinstance(inner := getattr(found[-1], "base", None), Optimizer):
        found.append(inner)
    return [optimizer for optimizer in found if isinstance(optimizer, Optimizer)]


def refuse_taken_apart(train: Train, name: str) -> None:
    """
    Raises:
        InvalidValue: the optimizer takes the loss apart at the logits (J-SAM, logit-SAM), so that a penalty which
            depends on the weights in another way has no place in it.
    """
    for optimizer in optimizers_of(train):
        whole = getattr(optimizer, "residual_above", True) and getattr(optimizer, "jacobian_above", True)
        if not whole and getattr(optimizer, "rho", None) != 0:
            raise InvalidValue(
                f"Train: {name} does not go with {type(optimizer).__name__}, for which the weights act through the "
                f"logits of the examples alone: leave one of them out."
            )


def weights_of(network: nn.Module, everywhere: bool = False) -> list[nn.Parameter]:
    """The parameters of two or more dimensions that are trained: matrices of dense layers, filters of convolutions.

    Args:
        everywhere: those of one dimension too, which are biases and the scales and shifts of normalisations.
    """
    return [p for p in network.parameters() if p.requires_grad and (everywhere or p.ndim >= 2)]
