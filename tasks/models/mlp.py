"""Multi-layer perceptron."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

from ..spec import AtLeast, Below, NotEmpty
from .model import Model

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MLP"]


@dataclass(frozen=True)
class MLP(Model):
    """Dense layers with an activation between each two; examples are flattened.

    Attributes:
        widths: units of each hidden layer.
        activation: "identity" makes a deep linear network.
        dropout: probability with which each hidden unit is zero in a training step; 0 adds no layer.
    """

    widths: Annotated[tuple[Annotated[int, AtLeast(1)], ...], NotEmpty()] = (64, 64)
    activation: Literal["relu", "tanh", "gelu", "silu", "sigmoid", "softplus", "identity"] = "relu"
    dropout: Annotated[float, AtLeast(0), Below(1)] = 0.0

    def module(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        from .dropout import Dropout

        activation = {
            "relu": nn.ReLU,
            "tanh": nn.Tanh,
            "gelu": nn.GELU,
            "silu": nn.SiLU,
            "sigmoid": nn.Sigmoid,
            "softplus": nn.Softplus,
            "identity": nn.Identity,
        }[self.activation]
        sizes = (math.prod(shape), *self.widths)
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), activation()]
            if self.dropout > 0:
                layers.append(Dropout(self.dropout))
        return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))
