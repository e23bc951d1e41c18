"""Augmentation of images, on the device for a whole batch at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..errors import InvalidValue
from ..spec import AtLeast, Spec

if TYPE_CHECKING:
    import torch

__all__ = ["Augment"]

UNIT = 32  # a place in an image is drawn as an integer below 2^32, before the size of the image is known


@dataclass(frozen=True)
class Augment(Spec):
    """Random crop after padding, then random horizontal flip, then cutout, for each image on its own.

    Crop and flip change the stored pixels (`apply`); cutout comes after the normalisation (`cut_out`):
    each pixel of the square becomes 0 there, which is the mean of its channel over the training set.

    Cutout: T. DeVries and G. W. Taylor, Improved Regularization of Convolutional Neural Networks with
    Cutout (2017), who take squares of 16 for CIFAR-10 and of 8 for CIFAR-100. The centre is uniform over
    the pixels of the image, so a part of the square may lie outside.

    Attributes:
        padding: pixels of value 0 added on each side; the crop has the original size. 0: no crop.
        flip: mirror each image left to right with probability ½.
        cutout: side of the square, in pixels. 0: no cutout.
    """

    padding: Annotated[int, AtLeast(0)] = 4
    flip: bool = True
    cutout: Annotated[int, AtLeast(0)] = 0

    def check(self, shape: tuple[int, ...]) -> None:
        """Called before anything runs where the dataset is known to have examples of this shape.

        Raises:
            InvalidValue: they are no images, or the square is larger than they are.
        """
        if len(shape) != 3:
            raise InvalidValue(f"Augment takes images, not examples of shape {shape}.")
        if self.cutout > min(shape[1:]):
            size = "×".join(str(side) for side in shape[1:])
            raise InvalidValue(f"Augment: cutout must be at most the side of the image, {size}, not {self.cutout}.")

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """The random numbers for `count` images: int64 of shape (count, 3), on the generator's device.

        Columns: top and left corner of the crop in the padded image, 0 … 2·padding; 1 to flip, else 0.
        With cutout two more, (count, 5): row and column of the centre of the square, as fractions of the
        image's height and width in units of 2⁻³². The first three are the same with cutout and without.
        """
        import torch

        corners = torch.randint(0, 2 * self.padding + 1, (count, 2), generator=generator)
        flips = torch.randint(0, 2, (count, 1), generator=generator) * int(self.flip)
        if not self.cutout:
            return torch.cat([corners, flips], dim=1)
        centres = torch.randint(0, 1 << UNIT, (count, 2), generator=generator)
        return torch.cat([corners, flips, centres], dim=1)

    def apply(self, x: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """The images x, (batch, channels, height, width), cropped and flipped as `drawn`, (batch, 3 or 5), says.

        Raises:
            InvalidValue: x are no images, or smaller than the square of cutout.
        """
        import torch
        from torch.nn import functional as F

        self.check(tuple(x.shape[1:]))
        batch, channels, height, width = x.shape
        top, left, flip = drawn[:, 0:1], drawn[:, 1:2], drawn[:, 2:3]
        rows = top + torch.arange(height, device=x.device)
        columns = torch.arange(width, device=x.device).expand(batch, width)
        columns = left + torch.where(flip > 0, width - 1 - columns, columns)
        padded = F.pad(x, (self.padding,) * 4)
        pixels = rows[:, :, None] * padded.shape[3] + columns[:, None, :]
        index = pixels.view(batch, 1, -1).expand(batch, channels, -1)
        return padded.flatten(2).gather(2, index).view(x.shape)

    def cut_out(self, x: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """The normalised images x, (batch, channels, height, width), with the squares of `drawn`, (batch, 5), at 0.

        The square begins ⌊cutout / 2⌋ pixels above and to the left of its centre. Without cutout: x itself.

        Raises:
            InvalidValue: the square covers every image wherever its centre is.
        """
        import torch

        if not self.cutout:
            return x
        height, width = x.shape[2:]
        if self.cutout >= 2 * max(height, width) - 1:
            raise InvalidValue(
                f"Augment: cutout={self.cutout} leaves nothing of images of {height}×{width} pixels; "
                f"it must be below {2 * max(height, width) - 1}."
            )
        half = self.cutout // 2
        rows = torch.arange(height, device=x.device) - ((drawn[:, 3:4] * height >> UNIT) - half)
        columns = torch.arange(width, device=x.device) - ((drawn[:, 4:5] * width >> UNIT) - half)
        rows, columns = (rows >= 0) & (rows < self.cutout), (columns >= 0) & (columns < self.cutout)
        return x.masked_fill((rows[:, :, None] & columns[:, None, :]).unsqueeze(1), 0)
