"""Elementwise work on all parameters at once, in an order that the memory likes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BLOCK", "blocks"]

BLOCK = 1 << 15  # numbers: a few arrays of so many stay in a core's cache


def blocks(*lists: list[Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """The lists, for operations in place on all of them, one after another.

    On the CPU they come in pieces of at most BLOCK numbers, so that a dozen operations in a row read and write the
    cache and their temporaries are small. On other devices they come whole, since each operation is a launch.

    Args:
        lists: equally long; tensors at the same place have the same shape.

    Yields:
        for each list a list of tensors that share its memory; together every number once.
    """
    if not lists[0] or lists[0][0].device.type != "cpu":
        yield lists
        return
    group: list[tuple[Tensor, ...]] = []
    filled = 0
    for tensors in zip(*lists, strict=True):
        for piece in _pieces(tensors):
            if group and filled + piece[0].numel() > BLOCK:
                yield tuple(map(list, zip(*group, strict=True)))
                group, filled = [], 0
            group.append(piece)
            filled += piece[0].numel()
    if group:
        yield tuple(map(list, zip(*group, strict=True)))


def _pieces(tensors: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Parts of at most BLOCK numbers, at the same places in each tensor; whole tensors that are stored differently."""
    first, n = tensors[0], tensors[0].numel()
    if n <= BLOCK or any(t.stride() != first.stride() or not _dense(t) for t in tensors):
        return iter([tensors])
    return zip(*(t.as_strided((n,), (1,)).split(BLOCK) for t in tensors), strict=True)


def _dense(tensor: Tensor) -> bool:
    """Whether its numbers fill a stretch of memory, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
