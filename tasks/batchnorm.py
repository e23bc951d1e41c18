"""BatchNorm's running statistics: left alone for a while, or estimated anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["estimate_statistics", "frozen_statistics", "kept_statistics"]


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
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """Afterwards the running statistics are what they were, bit for bit."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    buffers = [b for m in network.modules() if isinstance(m, _BatchNorm) for b in m.buffers(recurse=False)]
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
