"""Training on examples that an attack has changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..batchnorm import frozen_statistics
from ..errors import InvalidValue
from ..spec import AtLeast, AtMost
from .mixup import Mixup
from .regulariser import Regulariser, refuse_taken_apart

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..minibatch import Minibatch
    from ..train import Train

__all__ = ["AdversarialTraining"]


@dataclass(frozen=True)
class AdversarialTraining(Regulariser):
    """(1 − share)·L(x) + share·L(x + ε·sign ∇ₓL(x)), with L the mean cross-entropy (Goodfellow et al. 2015, section 6).

    The attack is the fast gradient sign method. Its examples are found once a step, at w, from the batch as
    the regulariser finds it (with the labels as trained on), and held fixed: g and g⁺ of the SAM family are
    gradients of one loss, and no gradient goes through the attack. The examples are not clipped to the
    range of pixels. BatchNorm normalises them by statistics of their own batch; its running statistics are
    those of the clean examples alone. A step costs three to four times as much.

    Attributes:
        epsilon: ε, in units of the normalised inputs: 1 is the standard deviation of a channel or feature
            over the training set, so that 8/255 of CIFAR-10's pixels are about 0.127. 0 is no attack.
        share: of the loss on the attacked examples; the paper takes ½. 0 is no attack.
    """

    epsilon: Annotated[float, AtLeast(0)]
    share: Annotated[float, AtLeast(0), AtMost(1)] = 0.5

    def check(self, train: Train) -> None:
        refuse_taken_apart(train, "AdversarialTraining")
        if any(isinstance(r, Mixup) for r in train.regularisers[train.regularisers.index(self) :]):
            raise InvalidValue(
                "Train: regularisers has Mixup after AdversarialTraining, whose attacked examples would keep to one "
                "image while their targets get mixed: put Mixup first."
            )

    def on_batch(self, batch: Minibatch, generator: torch.Generator) -> None:
        import torch

        if self.epsilon == 0 or self.share == 0:
            return
        with frozen_statistics(batch.network):
            gradients = torch.cat([_gradient(part) for part in batch.parts()])
        batch.extra["attacked"] = batch.x.add(gradients.sign_(), alpha=self.epsilon)
        batch.penalties.append(self._difference)

    def _difference(self, part: Minibatch, outputs: Tensor) -> Tensor:
        """What the loss has more than the mean cross-entropy of the clean examples."""
        with frozen_statistics(part.network):
            attacked = part.outputs(part.extra["attacked"])
        return self.share * (part.cross_entropy(attacked) - part.cross_entropy(outputs))


def _gradient(part: Minibatch) -> Tensor:
    """∇ₓ of the mean cross-entropy, in the shape of x."""
    import torch

    x = part.x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(part.cross_entropy(part.outputs(x)), x)
    return gradient
