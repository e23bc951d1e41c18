"""Models: specifications of networks, initialised from an explicit generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..spec import Spec

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Model"]


@dataclass(frozen=True)
class Model(Spec):
    """A network's architecture. Subclasses define `module`."""

    @property
    def has_batchnorm(self) -> bool:
        """Whether the network mixes examples by BatchNorm, as far as that is known before it is built."""
        return False

    def check(self, shape: tuple[int, ...], classes: int) -> None:
        """Called before `module`, and before anything runs where the dataset is known to have such examples.

        Raises:
            InvalidValue: the model does not take examples of this shape, or of so many classes.
        """

    def module(self, shape: tuple[int, ...], classes: int) -> nn.Module:
        """The network, from normalised examples (batch, *shape) to logits (batch, classes).

        Called under torch's "meta" device: the values of the parameters are set afterwards, by
        `initialise`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define module().")

    def initialise(self, network: nn.Module, generator: torch.Generator) -> None:
        """Set every parameter and buffer of the network, in place, with random numbers from `generator`.

        The default draws each layer from PyTorch's default distribution for it.
        """
        from ._initialise import initialise

        initialise(network, generator)

    def build(self, shape: tuple[int, ...], classes: int, generator: torch.Generator) -> nn.Module:
        """A network on the CPU, in training mode, whose parameters depend on `generator` alone.

        No global random state is read or changed.

        Raises:
            InvalidValue: the model does not take examples of this shape, or of so many classes.
        """
        import torch

        self.check(tuple(shape), classes)
        with torch.device("meta"):
            network = self.module(tuple(shape), classes)
        network.to_empty(device="cpu")
        with torch.no_grad():
            self.initialise(network, generator)
        return network
