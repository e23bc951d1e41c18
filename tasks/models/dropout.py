"""Dropout whose masks come from a seed of the study; imports torch, so it is imported only when one is built."""

from __future__ import annotations

import torch
from torch import nn

from ..streams import entropy

__all__ = ["Dropout", "has_dropout", "seed_dropout"]


class Dropout(nn.Module):
    """Each element is zero with probability p, else divided by 1 − p (Srivastava et al. 2014); in eval mode, x itself.

    Unlike `nn.Dropout`, which draws from torch's global state, a layer draws from a generator of its own,
    on the device of x. `seed_dropout` sets it; the next draw goes on from the one before. The generator is
    no part of `state_dict`: whoever seeds before each pass needs no state.

    Within `torch.compile` the mask is drawn between two graphs (so not with `fullgraph=True`) and is the one
    without compiling. `torch.func.vmap` refuses it by default; with `randomness="different"` over examples
    each has the mask that it has in the batch, with "same" all have one mask.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self._seed: int | None = None
        self._generator: torch.Generator | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """
        Raises:
            RuntimeError: in training mode, without having been seeded.
        """
        if not self.training or self.p == 0:
            return x
        return (x * self._mask(x)).mul_(1 / (1 - self.p))

    def seed(self, seed: int) -> None:
        """Draw from the beginning of the sequence that `seed` (64 bits) names."""
        self._seed = seed
        if self._generator is not None:
            self._generator.manual_seed(seed)

    # What dynamo does not trace it does not compile again for each new seed.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _mask(self, x: torch.Tensor) -> torch.Tensor:
        """Which elements of x are kept: True with probability 1 − p, to within 2⁻³¹."""
        if self._seed is None:
            raise RuntimeError(
                "Dropout is not seeded: call seed_dropout(network, seed) before a pass in training mode."
            )
        if self._generator is None or self._generator.device != x.device:
            self._generator = torch.Generator(x.device).manual_seed(self._seed)
        # Whole numbers below 2³¹: drawn four times as fast on a CPU as by bernoulli_, which takes 64 bits for each.
        numbers = torch.empty_like(x, dtype=torch.int32, requires_grad=False).random_(generator=self._generator)
        return numbers < min(round((1 - self.p) * 2**31), 2**31 - 1)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def seed_dropout(network: nn.Module, seed: int, part: int = 0) -> None:
    """Let the masks to come depend on the arguments and the layer's position among the network's dropouts alone.

    (And on the kind of device and the memory layout of the activations, as all that is drawn on a device.)
    Called before each of two passes, it gives both the same masks: they differentiate the same function.

    Args:
        part: tells passes on several parts of the same examples apart, which are to have masks of their own.
    """
    for position, layer in enumerate(_dropouts(network)):
        layer.seed(entropy(f"dropout/{position}/{part}", {"dropout": seed}) >> 65)


def has_dropout(network: nn.Module) -> bool:
    """Whether a pass in training mode draws masks, so that `seed_dropout` has to be called before."""
    return any(layer.p > 0 for layer in _dropouts(network))


def _dropouts(network: nn.Module) -> list[Dropout]:
    return [module for module in network.modules() if isinstance(module, Dropout)]
