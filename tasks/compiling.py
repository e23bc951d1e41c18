"""Networks compiled with `torch.compile`, and recorded as CUDA graphs: what a training has to do for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import InvalidValue
from .optimizers.lbfgs import LBFGS
from .optimizers.newton_cg import NewtonCG
from .regularisers.noise import WeightNoise
from .regularisers.regulariser import optimizers_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .train import Train

__all__ = ["RECORDED", "check_compile", "compiled"]

RECORDED = "reduce-overhead"
"""PyTorch's word for the mode in which what is compiled is recorded as CUDA graphs.

A graph reads the parameters where they lay when it was recorded. Where PyTorch finds them elsewhere it records
another graph, at every step if need be, and without a limit: so nothing may give a parameter other memory during
training (`Minibatch.recorded`). What a graph returns, gradients included, lies in the graph's own memory, which
PyTorch takes back when the next step begins; what is to be kept longer has to be copied.
"""


def check_compile(train: Train) -> None:
    """
    Raises:
        InvalidValue: the optimizer or a regulariser evaluates the loss at parameters that lie elsewhere in memory,
            or has to see the layers.
    """
    if train.compile in (True, RECORDED) and any(getattr(o, "m", None) == 1 for o in optimizers_of(train)):
        raise InvalidValue(
            f"Train: m=1 does not go with compile={train.compile!r}, which hides the layers: leave one of them out."
        )
    if train.compile != RECORDED:
        return
    for part in (*optimizers_of(train), *train.regularisers):
        if isinstance(part, (LBFGS, NewtonCG, WeightNoise)):
            raise InvalidValue(
                f"Train: {type(part).__name__} does not go with compile={RECORDED!r}, for which the parameters have "
                f"to stay where they are in memory: take compile=True."
            )


def compiled(network: nn.Module, how: bool | str) -> tuple[Callable[[Tensor], Tensor], Callable[[], None]]:
    """The network as `Train.compile` asks for it, and what to call before each step."""
    import torch

    if not how:
        return network, _nothing
    # Otherwise what this process has compiled before would decide which sizes are left open, hold memory, and count
    # towards a limit beyond which torch.compile leaves code as it is, with no more than a warning.
    torch.compiler.reset()
    options: dict[str, Any] = {"mode": RECORDED} if how == RECORDED else {}
    return torch.compile(network, **options), torch.compiler.cudagraph_mark_step_begin if options else _nothing


def _nothing() -> None:
    pass
