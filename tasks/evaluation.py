"""A network's loss and accuracy on a split, and the arithmetic that is done in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .data.dataset import Data, Split

if TYPE_CHECKING:
    from torch import nn

__all__ = ["arithmetic", "evaluate"]


def evaluate(network: nn.Module, data: Data, split: Split, batch: int = 1000) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of `network` on a split, in eval mode and float32."""
    import torch
    from torch.nn import functional as F

    training = network.training
    network.eval()
    total = torch.zeros((), dtype=torch.float64, device=split.y.device)
    hits = torch.zeros((), dtype=torch.int64, device=split.y.device)
    with torch.no_grad(), arithmetic("float32", deterministic=True):
        for x, y in zip(split.x.split(batch), split.y.split(batch), strict=True):
            outputs = network(data.normalise(x))
            total += F.cross_entropy(outputs, y, reduction="sum")
            hits += (outputs.argmax(1) == y).sum()
    network.train(training)
    return total.item() / len(split.y), hits.item() / len(split.y)


@contextmanager
def arithmetic(precision: str, deterministic: bool) -> Iterator[None]:
    """Set how GPUs compute products and pick kernels, and set it back afterwards."""
    import torch

    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark
    cudnn.allow_tf32 = matmul.allow_tf32 = precision == "tf32"
    cudnn.deterministic, cudnn.benchmark = deterministic, not deterministic
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark = before
