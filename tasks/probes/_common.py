"""What probes have in common: which examples they measure on, and the Hessian's eigenpairs there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ..curvature import Hessian
    from ..linalg import Eigenpairs
    from ..task import Context
    from ..trained import Trained

__all__ = ["check_pairs", "check_same", "fixed_set", "hessian_pairs", "symmetric"]


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


def hessian_pairs(
    ctx: Context, trained: Trained, x: torch.Tensor, y: torch.Tensor, batch_size: int, **search: Any
) -> tuple[Hessian, Eigenpairs]:
    """The Hessian of the trial's loss on these examples, and eigenpairs of it.

    Args:
        batch_size: examples in one micro-batch.
        search: what to look for, as in `linalg.lanczos`. Its random vectors come from the streams
            "lanczos start" and "lanczos".
    """
    from ..curvature import Hessian
    from ..linalg import lanczos

    hessian = Hessian(trained.model, trained.loss, x, y, batch_size=batch_size)
    start = hessian.start(ctx.generator("lanczos start"))
    generator = ctx.generator("lanczos")
    return hessian, lanczos(hessian, hessian.size, start=start, generator=generator, device=x.device, **search)


def check_same(a: Trained, b: Trained) -> None:
    """Raises: UserError: the two networks do not have the same parameters, so no path leads from one to the other."""
    shapes = [[(name, tuple(p.shape)) for name, p in t.model.named_parameters()] for t in (a, b)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"The two networks ({a.train.model} and {b.train.model}) have different parameters: "
            f"only trials of one architecture on data of one shape can be joined by a path."
        )


def symmetric(radius: float, steps: int) -> np.ndarray:
    """Coordinates from −radius to radius, symmetric, and 0 exactly."""
    import numpy as np

    half = np.linspace(0, radius, steps // 2 + 1)
    return np.concatenate([-half[:0:-1], half])
