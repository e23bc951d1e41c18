"""Label smoothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..spec import AtLeast, Below
from .regulariser import Regulariser

if TYPE_CHECKING:
    import torch

    from ..minibatch import Minibatch

__all__ = ["LabelSmoothing"]


@dataclass(frozen=True)
class LabelSmoothing(Regulariser):
    """Targets (1 − share) · y + share / K for K classes, the true one included (Szegedy et al. 2016, section 7).

    Evaluation (train_loss, val_loss and so on) is without it; the running training loss is with it.

    Attributes:
        share: of each target that is spread evenly over all classes. 0 is none.
    """

    share: Annotated[float, AtLeast(0), Below(1)]

    def on_batch(self, batch: Minibatch, generator: torch.Generator) -> None:
        batch.label_smoothing = self.share
