"""Linear networks, of one layer and of two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from ..errors import InvalidValue
from ..spec import AtLeast
from .model import Model

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Linear", "TwoLayerLinear"]


@dataclass(frozen=True)
class Linear(Model):
    """Softmax or logistic regression on flattened examples.

    Attributes:
        bias: whether there is a constant term.
        output: "softmax": a logit for each class. "logistic": of two classes, one output f and the logits
            (0, f), so that the cross-entropy is log(1 + exp(−tf)) with t = −1 for class 0, 1 for class 1.
    """

    bias: bool = True
    output: Literal["softmax", "logistic"] = "softmax"

    def check(self, shape: tuple[int, ...], classes: int) -> None:
        _check_head(self, classes)

    def module(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        outputs, logits = _head(self, classes)
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), outputs, bias=self.bias), *logits)


@dataclass(frozen=True)
class TwoLayerLinear(Model):
    """f(x) = V W x on flattened examples, without biases: the smallest net that is not convex in its weights.

    `MLP(activation="identity")` is the deep linear net of other depths, with biases.

    Attributes:
        width: rows of W.
        output: as of `Linear`; "logistic" makes V a row v and f = ⟨v, Wx⟩.
    """

    width: Annotated[int, AtLeast(1)] = 64
    output: Literal["softmax", "logistic"] = "softmax"

    def check(self, shape: tuple[int, ...], classes: int) -> None:
        _check_head(self, classes)

    def module(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        from torch import nn

        outputs, logits = _head(self, classes)
        first = nn.Linear(math.prod(shape), self.width, bias=False)
        return nn.Sequential(nn.Flatten(), first, nn.Linear(self.width, outputs, bias=False), *logits)


def _check_head(model: Linear | TwoLayerLinear, classes: int) -> None:
    if model.output == "logistic" and classes != 2:
        name = type(model).__name__
        raise InvalidValue(f"{name}: output 'logistic' is for 2 classes, not {classes}: take 'softmax'.")


def _head(model: Linear | TwoLayerLinear, classes: int) -> tuple[int, list[nn.Module]]:
    """How many outputs the last layer has, and what makes logits of them."""
    from torch import nn

    if model.output == "softmax":
        return classes, []
    return 1, [nn.ZeroPad1d((1, 0))]
