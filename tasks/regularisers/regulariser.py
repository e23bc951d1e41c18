"""What every regulariser is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..spec import Spec

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..minibatch import Minibatch

__all__ = ["Regulariser"]


@dataclass(frozen=True)
class Regulariser(Spec):
    """A change to a step of training. Subclasses override one or more of the hooks, which do nothing here."""

    def on_batch(self, batch: Minibatch, generator: torch.Generator) -> None:
        """Change the examples, the targets or the loss of the step, before any gradient is taken.

        Args:
            batch: to be changed in place; the training set it was taken from is not touched.
            generator: on the CPU; the regulariser's own, made anew each epoch from the stream "noise".
        """

    def on_gradient(self, network: nn.Module) -> None:
        """Add to the .grad of the parameters: at w, after the optimizer has found its gradient, before clipping."""

    def on_step(self, network: nn.Module, lr: float) -> None:
        """Change the parameters after the step, which had the step size `lr`."""
