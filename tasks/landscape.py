"""A network's loss as a function of one flat vector of weights, in its own copy of the network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .batchnorm import estimate_statistics
from .errors import UserError

__all__ = ["Landscape", "filter_normalised", "flatten", "full_precision", "has_batchnorm"]

Loss = Callable[..., Tensor]
"""loss(outputs, targets, reduction="mean" or "sum")."""


def flatten(tensors: list[Tensor]) -> Tensor:
    """The tensors, one after the other, as one vector."""
    return torch.cat([t.reshape(-1) for t in tensors])


def has_batchnorm(model: nn.Module) -> bool:
    """Whether the model has layers that normalise with statistics over a batch."""
    return any(isinstance(m, _BatchNorm) for m in model.modules())


class Landscape:
    """Loss and accuracy of a network at any weights.

    Works in a copy, so the network it is made from stays bit-identical. Weights are one vector of
    all parameters that can be trained, in the order of `model.parameters()`.

    Args:
        model: its weights are `origin`; evaluated in eval mode.
        loss: loss(outputs, targets, reduction=…).
        batch_size: examples in one forward pass.
    """

    def __init__(self, model: nn.Module, loss: Loss, *, batch_size: int = 1000) -> None:
        self.model = copy.deepcopy(model).eval()
        self.loss = loss
        self.batch_size = batch_size
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        if not self.parameters:
            raise UserError(f"{type(model).__name__} has no parameters to vary.")
        self.shapes = [p.shape for p in self.parameters]
        self.origin = flatten([p.detach() for p in self.parameters])
        self.size = self.origin.numel()
        self.has_batchnorm = has_batchnorm(model)

    def split(self, w: Tensor) -> list[Tensor]:
        """Views of the vector w, shape (size,), in the parameters' shapes."""
        pieces = w.split([s.numel() for s in self.shapes])
        return [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    @torch.no_grad()
    def move(self, w: Tensor) -> None:
        """Put the weights w, shape (size,), into the copy of the network."""
        for parameter, piece in zip(self.parameters, self.split(w), strict=True):
            parameter.copy_(piece)

    @torch.no_grad()
    def evaluate(self, w: Tensor, x: Tensor, y: Tensor) -> tuple[float, float]:
        """Mean loss and accuracy (share of examples whose largest output is the target) at w.

        Accumulated over batches in float64.
        """
        self.move(w)
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        correct = torch.zeros((), dtype=torch.int64, device=x.device)
        for xs, ys in zip(x.split(self.batch_size), y.split(self.batch_size), strict=True):
            outputs = self.model(xs)
            total += self.loss(outputs, ys, reduction="sum").double()
            correct += (outputs.argmax(1) == ys).sum()
        return float(total) / len(x), float(correct) / len(x)

    def gradient(self, w: Tensor, x: Tensor, y: Tensor, *, train_mode: bool = False) -> tuple[float, Tensor]:
        """Loss on one batch at w and its gradient, shape (size,).

        Args:
            train_mode: normalise by the batch's own statistics (BatchNorm), as in training.
        """
        self.move(w)
        self.model.train(train_mode)
        loss = self.loss(self.model(x), y, reduction="mean")
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        self.model.eval()
        return float(loss.detach()), flatten(list(gradients))

    @torch.no_grad()
    def reestimate(self, w: Tensor, x: Tensor) -> None:
        """Replace the statistics of BatchNorm by their mean over the batches of x at the weights w.

        Every other layer stays in eval mode (no dropout). Nothing happens without BatchNorm.
        """
        self.move(w)
        estimate_statistics(self.model, x.tensor_split(max(1, round(len(x) / self.batch_size))))


def filter_normalised(landscape: Landscape, generator: torch.Generator) -> Tensor:
    """A random direction, shape (size,): Gaussian, each filter rescaled to the norm of the network's.

    A filter is w[i] of a parameter with two or more dimensions (an output channel of a convolution, a
    row of a dense layer); parameters of one dimension (biases, BatchNorm) are left where they are.
    Li et al. 2018, "Visualizing the loss landscape of neural nets", section 4.
    """
    out = []
    for w in landscape.split(landscape.origin):
        d = torch.randn(w.shape, generator=generator, dtype=torch.float64).to(device=w.device, dtype=w.dtype)
        if w.dim() < 2:
            out.append(torch.zeros_like(w))
            continue
        axes = tuple(range(1, w.dim()))
        length = torch.linalg.vector_norm(d, dim=axes, keepdim=True)
        out.append(d * torch.linalg.vector_norm(w, dim=axes, keepdim=True) / length.clamp_min(1e-30))
    return flatten(out)


@contextmanager
def full_precision() -> Iterator[None]:
    """GPU products in float32 without rounding their factors to TF32, by reproducible kernels."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark = False, False, True, False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark = before
