"""Which examples a probe measures on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    import torch

    from ..trained import Trained

__all__ = ["check_pairs", "check_same", "fixed_set"]


def fixed_set(trained: Trained, split: str, examples: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """At most `examples` of a split (None: all), the same for every trial on the dataset: normalised x, and y.

    The whole split comes in its own order, in which the training's own losses were computed.
    """
    part = trained.data.split(split)
    if examples is None or examples >= len(part.y):
        return trained.data.normalise(part.x), part.y
    return trained.evaluation_set(split, examples)


def check_pairs(k: int, size: int) -> None:
    """Raises: UserError: more eigenpairs are asked for than the network has parameters."""
    if k > size:
        raise UserError(f"k={k} eigenpairs were asked for, but the network has only {size} parameters.")


def check_same(a: Trained, b: Trained) -> None:
    """Raises: UserError: the two networks do not have the same parameters, so no path leads from one to the other."""
    shapes = [[(name, tuple(p.shape)) for name, p in t.model.named_parameters()] for t in (a, b)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"The two networks ({a.train.model} and {b.train.model}) have different parameters: "
            f"only trials of one architecture on data of one shape can be joined by a path."
        )
