"""L2 on what goes into the last layer, and on its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..errors import InvalidValue
from ..spec import AtLeast
from .regulariser import Regulariser, optimizers_of, refuse_taken_apart

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..minibatch import Minibatch
    from ..train import Train

__all__ = ["LastLayerL2", "last_dense"]


@dataclass(frozen=True)
class LastLayerL2(Regulariser):
    """The penalty ½·activations·mean‖z‖² + ½·weights·‖V‖², z the input of the last dense layer, V its matrix.

    Baek et al. 2024 ("Why is SAM robust to label noise?") show for a two-layer linear net that SAM's effect on the
    Jacobian adds a multiple of z xᵀ to the gradient of the first layer and one of V to that of the second,
    which are the gradients of ½‖z‖² and ½‖V‖², and take these two penalties as SAM's cheap substitute. The
    mean is over the batch; the bias does not count. It is part of the loss, so of g and of g⁺.

    Attributes:
        activations, weights: the factors; 0 is no penalty.
    """

    activations: Annotated[float, AtLeast(0)]
    weights: Annotated[float, AtLeast(0)]

    def check(self, train: Train) -> None:
        if train.compile in (True, "reduce-overhead"):  # a compiled network does not show what goes into its layers
            raise InvalidValue(f"Train: LastLayerL2 does not go with compile={train.compile!r}: leave one of them out.")
        refuse_taken_apart(train, "LastLayerL2")
        for optimizer in optimizers_of(train):
            if getattr(optimizer, "m", None) == 1 and getattr(optimizer, "rho", None) != 0:
                name = type(optimizer).__name__
                raise InvalidValue(f"Train: LastLayerL2 does not go with {name}(m=1): leave one of them out.")

    def on_batch(self, batch: Minibatch, generator: torch.Generator) -> None:
        if self.activations == 0 and self.weights == 0:
            return
        batch.head = last_dense(batch.network)
        batch.penalties.append(self._penalty)

    def _penalty(self, part: Minibatch, outputs: Tensor) -> Tensor:
        assert part.head is not None and part.features is not None
        features = part.features.to(outputs.dtype).flatten(1)
        matrix: Tensor = part.head.weight  # type: ignore[assignment]
        return self.activations / 2 * features.square().sum(1).mean() + self.weights / 2 * matrix.square().sum()


def last_dense(network: nn.Module) -> nn.Linear:
    """The last dense layer of a network, in the order in which they were put in.

    Raises:
        InvalidValue: it has none.
    """
    from torch import nn

    found = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not found:
        raise InvalidValue(f"LastLayerL2: {type(network).__name__} has no dense layer (torch's Linear): leave it out.")
    return found[-1]
