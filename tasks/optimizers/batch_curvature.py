"""Products with the second derivatives of the loss on one step's batch, in training mode; imports torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..convolutions import TwiceDifferentiable
from ..landscape import flatten
from ..minibatch import Minibatch

__all__ = ["curvature_product"]

Product = Callable[[list[Tensor]], list[Tensor]]


def curvature_product(batch: Minibatch, parameters: list[nn.Parameter], kind: str) -> Callable[[Tensor], Tensor]:
    """v ↦ B v at the parameters as they are, for vectors of all their numbers, one parameter after the other.

    In float32 whatever the precision of training, and by the network itself if that is compiled. The graph
    of the gradient is built once and kept; for a batch in parts it is built anew for each part and product.

    Args:
        kind: "hessian": B is the Hessian of the batch's loss. "gauss-newton": B = Jᵀ H J with J the Jacobian
            of the logits and H the Hessian of the loss in these, penalties included as far as they are
            functions of the logits (Schraudolph 2002); positive semi-definite for cross-entropy.
    """
    shapes = [p.shape for p in parameters]
    build = {"hessian": _hessian, "gauss-newton": _gauss_newton}[kind]
    parts = batch.plain().parts()
    kept = build(parts[0], 1.0, parameters) if len(parts) == 1 else None

    def product(v: Tensor) -> Tensor:
        pieces = [p.view(s) for p, s in zip(v.split([s.numel() for s in shapes]), shapes, strict=True)]
        if kept is not None:
            return flatten(kept(pieces))
        total = torch.zeros_like(v)
        for part in parts:
            total += flatten(build(part, len(part) / len(batch), parameters)(pieces))
        return total

    return product


def _hessian(part: Minibatch, share: float, parameters: list[nn.Parameter]) -> Product:
    with torch.enable_grad():
        with TwiceDifferentiable():
            loss = part.loss(part.outputs()) * share
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    curved = [i for i, g in enumerate(gradients) if g.requires_grad]

    def product(v: list[Tensor]) -> list[Tensor]:
        if not curved:
            return [torch.zeros_like(p) for p in v]
        return list(
            torch.autograd.grad(
                [gradients[i] for i in curved],
                parameters,
                [v[i] for i in curved],
                retain_graph=True,
                materialize_grads=True,
            )
        )

    return product


def _gauss_newton(part: Minibatch, share: float, parameters: list[nn.Parameter]) -> Product:
    with torch.enable_grad():
        with TwiceDifferentiable():
            outputs = part.outputs()
        logits = outputs.detach().requires_grad_()
        (slope,) = torch.autograd.grad(part.loss(logits) * share, logits, create_graph=True)
        # u ↦ Jᵀu is linear, so its own derivative is J, whatever u is.
        u = torch.zeros_like(outputs, requires_grad=True)
        pulled = torch.autograd.grad(outputs, parameters, u, create_graph=True, materialize_grads=True)
    used = [i for i, p in enumerate(pulled) if p.requires_grad]

    def product(v: list[Tensor]) -> list[Tensor]:
        if not slope.requires_grad:
            return [torch.zeros_like(p) for p in v]
        (pushed,) = torch.autograd.grad([pulled[i] for i in used], u, [v[i] for i in used], retain_graph=True)
        (bent,) = torch.autograd.grad(slope, logits, pushed, retain_graph=True)
        return list(torch.autograd.grad(outputs, parameters, bent, retain_graph=True, materialize_grads=True))

    return product
