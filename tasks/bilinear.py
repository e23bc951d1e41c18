"""What a layer does with its weights, for weights that all examples share and for weights of each example's own.

A layer's output is linear in its input and in its weights. Each map here gives it, and its two gradients, in both
cases: `w` of shape (…) for all n examples, or `each` of shape (n, …), of which example i has each[i].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Bilinear", "Convolution", "Dense", "Scale"]

PATCHES = {"cpu": 8 << 20, "cuda": 256 << 20}  # bytes of patches held at a time; on a CPU they should stay in a cache


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

    def spread(self, biases: Tensor, dim: int) -> Tensor:
        return biases.view(len(biases), *[1] * (dim - 2), biases.shape[1])


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
        n, channels, height, width = x.shape
        _, outputs, _, kh, kw = each.shape
        (sh, sw), (ph, pw), (dh, dw) = self.stride, self.padding, self.dilation
        w = _filters(each)
        d = d.permute(0, 2, 3, 1)
        rows, columns = d.shape[1:3]
        padded = x.new_zeros(n, height + 2 * ph, width + 2 * pw, channels)
        for part in _parts(n, rows * columns * w.shape[2] * w.element_size(), x.device.type):
            patches = torch.bmm(d[part].reshape(-1, rows * columns, outputs), w[part])
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

    def spread(self, biases: Tensor, dim: int) -> Tensor:
        k, *shape = biases.shape
        ones = [1] * (dim - 1 - len(shape))
        return biases.view(k, *shape, *ones) if self.channels else biases.view(k, *ones, *shape)
