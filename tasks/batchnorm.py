"""BatchNorm's running statistics: left alone for a while, or estimated anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["estimate_statistics", "frozen_statistics", "kept_statistics", "moved_together"]


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Within it, forward passes in training mode use the batch's statistics, but leave the running ones alone."""
    from torch.nn.modules.batchnorm import _NormBase

    tracking = [m for m in network.modules() if isinstance(m, _NormBase) and m.track_running_stats]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True


@contextmanager
def moved_together(network: nn.Module, passes: int) -> Iterator[Callable[[float], None]]:
    """Within it several forward passes, one a group of examples, move the running statistics as one pass would.

    The value is to be called after each pass with the group's share of the examples. A pass moves the statistics r
    to (1 − μ) r + μ s, with the momentum μ and the group's own s; each starts from the same r, and in the end
    they are the mean over the passes, weighted by the shares: (1 − μ) r + μ Σ share · s.
    """
    import torch

    buffers = _statistics(network) if passes > 1 else []
    before = [b.clone() for b in buffers]
    means = [torch.zeros_like(b) for b in buffers]

    def passed(share: float) -> None:
        with torch.no_grad():
            for buffer, start, mean in zip(buffers, before, means, strict=True):
                if buffer.is_floating_point():
                    mean.add_(buffer, alpha=share)
                else:  # how often they were moved
                    mean.copy_(buffer)
                buffer.copy_(start)

    yield passed
    with torch.no_grad():
        for buffer, mean in zip(buffers, means, strict=True):
            buffer.copy_(mean)


@contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """Afterwards the running statistics are what they were, bit for bit."""
    import torch

    buffers = _statistics(network)
    before = [b.clone() for b in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, tensor in zip(buffers, before, strict=True):
                buffer.copy_(tensor)


def estimate_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics by their mean over `batches`, each of which weighs alike.

    As `torch.optim.swa_utils.update_bn`, but every other layer is in eval mode meanwhile (no dropout).
    Nothing happens without BatchNorm; `batches` are not even made then.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not layers:
        return
    modes = {module: module.training for module in network.modules()}
    momenta = [layer.momentum for layer in layers]
    network.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain average over the batches
        layer.train()
    with torch.no_grad():
        for x in batches:
            network(x)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    for module, mode in modes.items():
        module.training = mode


def _statistics(network: nn.Module) -> list[Tensor]:
    """The running statistics, and the counts of how often they were moved."""
    from torch.nn.modules.batchnorm import _NormBase

    return [b for m in network.modules() if isinstance(m, _NormBase) for b in m.buffers(recurse=False)]
