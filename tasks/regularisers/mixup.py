"""Mixup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..errors import InvalidValue
from ..spec import AtLeast
from .randomness import drawn_seed
from .regulariser import Regulariser

if TYPE_CHECKING:
    import torch

    from ..minibatch import Minibatch

__all__ = ["Mixup"]


@dataclass(frozen=True)
class Mixup(Regulariser):
    """Each example is mixed with another one of its batch, and so are their targets (Zhang et al. 2018).

    λx + (1 − λ)x′ and λy + (1 − λ)y′, with one λ ~ Beta(alpha, alpha) for the batch and x′, y′ the batch in a
    random order, as in the authors' own code. The running training accuracy counts the label of x.

    Attributes:
        alpha: 0.1 to 0.4 for ImageNet in the paper, 1 (λ uniform) for CIFAR. 0 mixes nothing.
    """

    alpha: Annotated[float, AtLeast(0)]

    def on_batch(self, batch: Minibatch, generator: torch.Generator) -> None:
        import numpy as np
        import torch
        from torch.nn import functional as F

        if self.alpha == 0:
            return
        if batch.classes is None:
            raise InvalidValue("Mixup: the minibatch does not say how many classes there are: give it classes=….")
        kept = float(np.random.default_rng(drawn_seed(generator)).beta(self.alpha, self.alpha))
        order = torch.randperm(len(batch), generator=generator).to(batch.x.device)
        targets = batch.targets
        if targets.ndim == 1:
            targets = F.one_hot(targets, batch.classes).to(batch.x.dtype)
        batch.x = (batch.x * kept).add_(batch.x.index_select(0, order), alpha=1 - kept)
        batch.targets = (targets * kept).add_(targets.index_select(0, order), alpha=1 - kept)
