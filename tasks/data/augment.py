"""Augmentation of images, on the device for a whole batch at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..errors import InvalidValue
from ..spec import AtLeast, Spec

if TYPE_CHECKING:
    import torch

__all__ = ["Augment"]


@dataclass(frozen=True)
class Augment(Spec):
    """Random crop after padding, then random horizontal flip, for each image on its own.

    Attributes:
        padding: pixels of value 0 added on each side; the crop has the original size. 0: no crop.
        flip: mirror each image left to right with probability ½.
    """

    padding: Annotated[int, AtLeast(0)] = 4
    flip: bool = True

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """The random numbers for `count` images: int64 of shape (count, 3), on the generator's device.

        Columns: top and left corner of the crop in the padded image, 0 … 2·padding; 1 to flip, else 0.
        """
        import torch

        corners = torch.randint(0, 2 * self.padding + 1, (count, 2), generator=generator)
        flips = torch.randint(0, 2, (count, 1), generator=generator) * int(self.flip)
        return torch.cat([corners, flips], dim=1)

    def apply(self, x: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """The images x, (batch, channels, height, width), cropped and flipped as `drawn`, (batch, 3), says."""
        import torch
        from torch.nn import functional as F

        if x.ndim != 4:
            raise InvalidValue(f"Augment takes images, not examples of shape {tuple(x.shape[1:])}.")
        batch, channels, height, width = x.shape
        top, left, flip = drawn[:, 0:1], drawn[:, 1:2], drawn[:, 2:3]
        rows = top + torch.arange(height, device=x.device)
        columns = torch.arange(width, device=x.device).expand(batch, width)
        columns = left + torch.where(flip > 0, width - 1 - columns, columns)
        padded = F.pad(x, (self.padding,) * 4)
        pixels = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
        index = pixels.view(batch, 1, -1).expand(batch, channels, -1)
        return padded.flatten(2).gather(2, index).view(x.shape)
