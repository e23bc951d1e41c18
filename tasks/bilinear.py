"""What a layer does with its weights, for weights that all examples share and for weights of each example's own.

A layer's output is linear in its input and in its weights. Each map here gives it, and its two gradients, for
shared weights `w` and for weights of each example's own: `each` of shape (n, …), of which example i has each[i]; or
w + E with E in `Factors`, since the gradient of an example is of low rank where it has few positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Bilinear", "Convolution", "Dense", "Factors", "Scale"]

PATCHES = {"cpu": 8 << 20, "cuda": 256 << 20}  # bytes of patches held at a time; on a CPU they should stay in a cache


class Factors(NamedTuple):
    """Tensors in the shape of a layer's weights, one for each of n examples: left[i] @ right[i].

    Attributes:
        left: (n, outputs, rank).
        right: (n, rank, columns); the columns are the weights' further dimensions, of filters the channels last.
        shape: of the weights.
    """

    left: Tensor
    right: Tensor
    shape: torch.Size

    def squares(self) -> Tensor:
        """The squared length of each, (n,)."""
        left, right = torch.bmm(self.left.mT, self.left), torch.bmm(self.right, self.right.mT)
        return (left * right).sum((1, 2)).clamp_min(0)

    def times(self, factors: Tensor) -> Factors:
        """Each multiplied by its number in `factors`, (n,)."""
        return self._replace(left=self.left * factors[:, None, None])

    def joined(self, other: Factors) -> Factors:
        """The sum of both."""
        left, right = torch.cat([self.left, other.left], 2), torch.cat([self.right, other.right], 1)
        return self._replace(left=left, right=right)

    def mean(self) -> Tensor:
        """Over the examples, in the shape of the weights."""
        left = self.left.transpose(0, 1).flatten(1) / len(self.left)
        return self._shaped((left @ self.right.flatten(0, 1))[None])[0]

    def formed(self) -> Tensor:
        """Multiplied out, (n, *shape)."""
        return self._shaped(torch.bmm(self.left, self.right))

    def _shaped(self, matrices: Tensor) -> Tensor:
        if len(self.shape) == 2:
            return matrices
        outputs, channels, kh, kw = self.shape
        return matrices.view(len(matrices), outputs, kh, kw, channels).permute(0, 1, 4, 2, 3)


class Bilinear(Protocol):
    """(x, w) ↦ output; in the gradients `d` is the derivative of some value by the output."""

    def output(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        """For shared weights and biases."""
        ...

    def output_each(self, x: Tensor, each: Tensor) -> Tensor: ...

    def to_input(self, d: Tensor, x: Tensor, w: Tensor) -> Tensor: ...

    def to_input_each(self, d: Tensor, x: Tensor, each: Tensor) -> Tensor: ...

    def to_weight(self, d: Tensor, x: Tensor, w: Tensor) -> Tensor:
        """Summed over the examples: the shape of w, whether the output was made with w or with each."""
        ...

    def to_weight_each(self, d: Tensor, x: Tensor, w: Tensor) -> Tensor:
        """Of shape (n, *w.shape)."""
        ...

    def factors(self, d: Tensor, x: Tensor, w: Tensor) -> Factors | None:
        """`to_weight_each` in factors, if they are smaller."""
        ...

    def output_low(self, x: Tensor, w: Tensor, low: Factors) -> Tensor:
        """For the weights w + low of each example."""
        ...

    def to_input_low(self, d: Tensor, x: Tensor, w: Tensor, low: Factors) -> Tensor: ...

    def spread(self, biases: Tensor, dim: int) -> Tensor:
        """Biases (k, …), k = 1 or n, as a view that broadcasts against an output of `dim` dimensions."""
        ...


class Dense:
    """x wᵀ for x of shape (n, …, inputs) and w of shape (outputs, inputs)."""

    def output(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, w, bias)

    def output_each(self, x: Tensor, each: Tensor) -> Tensor:
        return torch.bmm(_rows(x), each.mT).view(*x.shape[:-1], each.shape[1])

    def to_input(self, d: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return d @ w

    def to_input_each(self, d: Tensor, x: Tensor, each: Tensor) -> Tensor:
        return torch.bmm(_rows(d), each).view(x.shape)

    def to_weight(self, d: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return d.reshape(-1, d.shape[-1]).T @ x.reshape(-1, x.shape[-1])

    def to_weight_each(self, d: Tensor, x: Tensor, w: Tensor) -> Tensor:
        if x.dim() == 2:
            return d[:, :, None] * x[:, None, :]
        return torch.bmm(_rows(d).mT, _rows(x))

    def factors(self, d: Tensor, x: Tensor, w: Tensor) -> Factors | None:
        left, right = _rows(d).mT, _rows(x)
        return Factors(left, right, w.shape) if _smaller(left, right) else None

    def output_low(self, x: Tensor, w: Tensor, low: Factors) -> Tensor:
        added = torch.bmm(torch.bmm(_rows(x), low.right.mT), low.left.mT)
        return F.linear(x, w) + added.view(*x.shape[:-1], len(w))

    def to_input_low(self, d: Tensor, x: Tensor, w: Tensor, low: Factors) -> Tensor:
        return d @ w + torch.bmm(torch.bmm(_rows(d), low.left), low.right).view(x.shape)

    def spread(self, biases: Tensor, dim: int) -> Tensor:
        return biases.view(len(biases), *[1] * (dim - 2), biases.shape[1])


def _smaller(left: Tensor, right: Tensor) -> bool:
    """Whether the factors are smaller than their product."""
    outputs, rank = left.shape[1:]
    columns = right.shape[2]
    return rank * (outputs + columns) < outputs * columns


def _rows(x: Tensor) -> Tensor:
    """(n, …, k) as (n, positions, k)."""
    return x.reshape(len(x), -1, x.shape[-1])


class Convolution:
    """The convolution of images (n, channels, height, width) with filters (outputs, channels, kh, kw).

    With filters of each example's own it is the product of their matrix (kh·kw·channels, outputs) with the
    image's patches (positions, kh·kw·channels), channels innermost: a patch is then kh runs of memory.
    The patches of as many examples as fit into `PATCHES` are made at a time.
    """

    def __init__(self, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]) -> None:
        self.stride, self.padding, self.dilation = stride, padding, dilation

    def output(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, w, bias, self.stride, self.padding, self.dilation)

    def output_each(self, x: Tensor, each: Tensor) -> Tensor:
        height, width = self._size(x, each)
        w = _filters(each)
        out = x.new_empty(len(x), height * width, w.shape[1])
        for part, patches in self._patches(x, each):
            torch.bmm(patches, w[part].mT, out=out[part])
        return out.view(len(x), height, width, -1).permute(0, 3, 1, 2)

    def to_input(self, d: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return self._backward(d, x, w, 0)

    def to_input_each(self, d: Tensor, x: Tensor, each: Tensor) -> Tensor:
        return self._images(d, x, each.shape[-2:], lambda rows, part: torch.bmm(rows, _filters(each[part])))

    def _images(
        self, d: Tensor, x: Tensor, size: tuple[int, ...], to_patches: Callable[[Tensor, slice], Tensor]
    ) -> Tensor:
        """The gradient by the input, from what makes its patches of d in rows (examples, positions, outputs)."""
        n, channels, height, width = x.shape
        (kh, kw), (sh, sw), (ph, pw), (dh, dw) = size, self.stride, self.padding, self.dilation
        d = d.permute(0, 2, 3, 1)
        rows, columns, outputs = d.shape[1:]
        padded = x.new_zeros(n, height + 2 * ph, width + 2 * pw, channels)
        for part in _parts(n, rows * columns * kh * kw * channels * x.element_size(), x.device.type):
            patches = to_patches(d[part].reshape(-1, rows * columns, outputs), part)
            patches = patches.view(-1, rows, columns, kh, kw, channels)
            image = padded[part]
            for i in range(kh):
                for j in range(kw):
                    image[
                        :,
                        i * dh : i * dh + sh * (rows - 1) + 1 : sh,
                        j * dw : j * dw + sw * (columns - 1) + 1 : sw,
                    ] += patches[:, :, :, i, j]
        return padded[:, ph : ph + height, pw : pw + width].permute(0, 3, 1, 2)

    def to_weight(self, d: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return self._backward(d, x, w, 1)

    def to_weight_each(self, d: Tensor, x: Tensor, w: Tensor) -> Tensor:
        outputs, channels, kh, kw = w.shape
        rows = d.permute(0, 2, 3, 1).reshape(len(d), -1, outputs)
        out = x.new_empty(len(x), outputs, kh * kw * channels)
        for part, patches in self._patches(x, w):
            torch.bmm(rows[part].mT, patches, out=out[part])
        return out.view(len(x), outputs, kh, kw, channels).permute(0, 1, 4, 2, 3)

    def factors(self, d: Tensor, x: Tensor, w: Tensor) -> Factors | None:
        left = d.flatten(2)
        if left.shape[2] * (len(w) + w[0].numel()) >= w.numel():
            return None
        return Factors(left, torch.cat([patches for _, patches in self._patches(x, w)]), w.shape)

    def output_low(self, x: Tensor, w: Tensor, low: Factors) -> Tensor:
        height, width = self._size(x, w)
        out = x.new_empty(len(x), height * width, len(w))
        for part, patches in self._patches(x, w):
            torch.bmm(torch.bmm(patches, low.right[part].mT), low.left[part].mT, out=out[part])
        return self.output(x, w, None).add_(out.view(len(x), height, width, -1).permute(0, 3, 1, 2))

    def to_input_low(self, d: Tensor, x: Tensor, w: Tensor, low: Factors) -> Tensor:
        added = self._images(
            d, x, w.shape[-2:], lambda rows, part: torch.bmm(torch.bmm(rows, low.left[part]), low.right[part])
        )
        return self.to_input(d, x, w).add_(added)

    def spread(self, biases: Tensor, dim: int) -> Tensor:
        return biases[:, :, None, None]

    def _size(self, x: Tensor, w: Tensor) -> tuple[int, int]:
        """Height and width of the output."""
        sizes = [
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(
                x.shape[2:], w.shape[-2:], self.stride, self.padding, self.dilation, strict=True
            )
        ]
        return sizes[0], sizes[1]

    def _patches(self, x: Tensor, w: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Some examples and their patches (examples, positions, kh·kw·channels), until all examples are through."""
        (sh, sw), (ph, pw), (dh, dw) = self.stride, self.padding, self.dilation
        (height, width), (kh, kw), channels = self._size(x, w), w.shape[-2:], x.shape[1]
        for part in _parts(len(x), height * width * kh * kw * channels * x.element_size(), x.device.type):
            image = F.pad(x[part].permute(0, 2, 3, 1), (0, 0, pw, pw, ph, ph)).contiguous()
            n, r, c, _ = image.stride()
            windows = image.as_strided(
                (len(image), height, width, kh, kw, channels), (n, r * sh, c * sw, r * dh, c * dw, 1)
            )
            yield part, windows.reshape(len(image), height * width, -1)

    def _backward(self, d: Tensor, x: Tensor, w: Tensor, which: int) -> Tensor:
        gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
            d, x, w, None, self.stride, self.padding, self.dilation, False, (0, 0), 1, [which == 0, which == 1, False]
        )
        return gradients[which]


def _filters(each: Tensor) -> Tensor:
    """Filters (n, outputs, channels, kh, kw) as matrices (n, outputs, kh·kw·channels)."""
    return each.permute(0, 1, 3, 4, 2).reshape(*each.shape[:2], -1)


def _parts(n: int, size: int, device: str) -> Iterator[slice]:
    """Equal slices of range(n), of as many examples of `size` bytes as fit into `PATCHES`, of one at least."""
    most = max(1, PATCHES.get(device, PATCHES["cuda"]) // size)
    count = -(-n // -(-n // most))
    return (slice(i, min(i + count, n)) for i in range(0, n, count))


class Scale:
    """x · w, elementwise: what follows a normalisation, with a weight for each channel or for each feature.

    Args:
        channels: w is along dimension 1 of x; otherwise along its last dimensions.
    """

    def __init__(self, channels: bool) -> None:
        self.channels = channels

    def output(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        out = self.output_each(x, w[None])
        return out if bias is None else out.add_(self.spread(bias[None], x.dim()))

    def output_each(self, x: Tensor, each: Tensor) -> Tensor:
        return (x * self.spread(each, x.dim())).to(x.dtype)

    def to_input(self, d: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return self.output_each(d, w[None])

    def to_input_each(self, d: Tensor, x: Tensor, each: Tensor) -> Tensor:
        return self.output_each(d, each)

    def to_weight(self, d: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return (d * x).sum_to_size(self.spread(w[None], x.dim()).shape).view(w.shape)

    def to_weight_each(self, d: Tensor, x: Tensor, w: Tensor) -> Tensor:
        shape = self.spread(w[None], x.dim()).shape[1:]
        return (d * x).sum_to_size(len(x), *shape).view(len(x), *w.shape)

    def factors(self, d: Tensor, x: Tensor, w: Tensor) -> None:
        return None

    def output_low(self, x: Tensor, w: Tensor, low: Factors) -> Tensor:
        raise NotImplementedError("There are no factors of this.")

    def to_input_low(self, d: Tensor, x: Tensor, w: Tensor, low: Factors) -> Tensor:
        raise NotImplementedError("There are no factors of this.")

    def spread(self, biases: Tensor, dim: int) -> Tensor:
        k, *shape = biases.shape
        ones = [1] * (dim - 1 - len(shape))
        return biases.view(k, *shape, *ones) if self.channels else biases.view(k, *ones, *shape)
