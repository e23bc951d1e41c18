"""Random numbers for tensors on any device, from a generator on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["drawn_seed", "on_device"]


def drawn_seed(generator: torch.Generator) -> int:
    """A seed of 62 bits, drawn from `generator`."""
    import torch

    return int(torch.randint(1 << 62, (), generator=generator))


def on_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """A generator on `device`, with a seed that is drawn from `generator`.

    Noise for a whole batch of images or for all weights is drawn where it is needed: on the CPU that would take a
    GPU's step several times over. So the numbers of a GPU are others than those of a CPU, as dropout's masks are.
    """
    import torch

    return torch.Generator(device).manual_seed(drawn_seed(generator))
