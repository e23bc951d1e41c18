"""gᵀHg of a step's own batch, along its gradient g, with the exact Hessian H of its loss at w.

In training mode, in float32 whatever the precision of the training, by the network itself (not compiled).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ..convolutions import TwiceDifferentiable
from ..errors import UserError
from ..minibatch import Minibatch
from ..taylor import Untraceable, derivatives

__all__ = ["by_forward_mode", "by_two_backwards", "untraceable"]

FEW = 8
"""Examples on which the two ways to the same number are compared."""

TOLERANCE = 1e-6
"""How much they may differ, relative to it or to ‖g‖², in float64."""


def by_forward_mode(batch: Minibatch, parameters: list[nn.Parameter], g: list[Tensor]) -> Tensor:
    """Where the way is sound (see `untraceable`); less than half of the time of the other."""
    parts = [
        derivatives(partial(_loss, part), parameters, g)[2] * (len(part) / len(batch)) for part in batch.plain().parts()
    ]
    return torch.stack(parts).sum()


def _loss(part: Minibatch) -> Tensor:
    return part.loss(part.outputs())


def by_two_backwards(batch: Minibatch, parameters: list[nn.Parameter], g: list[Tensor]) -> Tensor:
    """
    Raises:
        UserError: an operation has no second derivative.
    """
    total = []
    for part in batch.plain().parts():
        try:
            with TwiceDifferentiable():
                outputs = part.outputs()
            loss = part.loss(outputs) * (len(part) / len(batch))
            gradient = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
            slope = torch.stack([(a * b).sum() for a, b in zip(gradient, g, strict=True)]).sum()
            product = torch.autograd.grad(slope, parameters, materialize_grads=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise UserError(
                f"Record: gᵀHg needs second derivatives, which an operation of {type(batch.network).__name__} has not "
                f"({reason}): record with curvature=False."
            ) from error
        total.append(torch.stack([(a * b).sum() for a, b in zip(product, g, strict=True)]).sum())
    return torch.stack(total).sum()


def untraceable(batch: Minibatch, parameters: list[nn.Parameter], g: list[Tensor]) -> str | None:
    """Why `by_forward_mode` cannot be used for this network and loss; None if it can. Waits for the device.

    Both ways are gone on a few examples in float64, where they must agree.

    Raises:
        UserError: an operation has no second derivative.
    """
    with _in_float64(batch) as few:
        direction = [t.double() for t in g]
        expected = float(by_two_backwards(few, parameters, direction))
        scale = max(abs(expected), float(torch.stack([t.square().sum() for t in direction]).sum()))
        try:
            found = float(by_forward_mode(few, parameters, direction))
        except torch.OutOfMemoryError:
            raise
        except (Untraceable, NotImplementedError, RuntimeError) as error:
            return str(error).partition("\n")[0].rstrip(".")
    if not abs(found - expected) <= TOLERANCE * scale and math.isfinite(expected):
        return f"forward differentiation does not give the same ({found:.6g} and {expected:.6g} on a few examples)"
    return None


@contextmanager
def _in_float64(batch: Minibatch) -> Iterator[Minibatch]:
    """The first examples of the batch in float64; within it, so are the parameters and buffers of the network."""
    few = batch.plain().part(slice(0, FEW))
    few.x = few.x.double()
    few.targets = _double(few.targets)
    few.extra = {name: _double(tensor) for name, tensor in few.extra.items()}
    few.weight_noise = {name: _double(tensor) for name, tensor in few.weight_noise.items()}
    tensors = [(t, t.data) for t in (*batch.network.parameters(), *batch.network.buffers())]
    try:
        for tensor, data in tensors:
            tensor.data = _double(data)
        yield few
    finally:
        for tensor, data in tensors:
            tensor.data = data


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
