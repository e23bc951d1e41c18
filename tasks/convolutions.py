"""Convolutions whose second derivatives are cheap.

PyTorch's double backward of a convolution computes one of its terms as a convolution whose kernel is as
large as the image, the batch standing in for the channels; that alone can cost as much as all the other
terms together. A convolution is bilinear in its input and its weights, and so are its two gradients: the
three maps below are closed under differentiation and each is one fast kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

__all__ = ["TwiceDifferentiable"]

Geometry = tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]  # stride, padding, dilation, groups


class TwiceDifferentiable(TorchFunctionMode):
    """Within this context the calls of `conv2d` are recorded for cheap repeated differentiation.

    The values are the same; `padding="same"` and other types than float are left to PyTorch.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.conv2d:
            return func(*args, **(kwargs or {}))
        return _conv2d(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if isinstance(padding, str) or input.dim() != 4 or torch.is_autocast_enabled(input.device.type):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    out: Tensor = _Output.apply(input, weight, (_pair(stride), _pair(padding), _pair(dilation), groups))
    return out if bias is None else out + bias.view(-1, 1, 1)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    values = tuple(value)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def _backward(g: Tensor, x: Tensor, w: Tensor, geometry: Geometry, which: int) -> Tensor:
    """The gradient of sum(g · (x * w)) with respect to x (which = 0) or w (which = 1)."""
    stride, padding, dilation, groups = geometry
    mask = [which == 0, which == 1, False]
    return torch.ops.aten.convolution_backward(
        g, x, w, None, stride, padding, dilation, False, (0, 0), groups, mask
    )[which]  # fmt: skip


class _Output(Function):
    """(x, w) ↦ x * w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry = geometry
        stride, padding, dilation, groups = geometry
        return torch.ops.aten.convolution(x, w, None, stride, padding, dilation, False, (0, 0), groups)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        to_x, to_w, _ = ctx.needs_input_grad
        return (
            _ToInput.apply(g, w, x.detach(), ctx.geometry) if to_x else None,
            _ToWeight.apply(g, x, w.detach(), ctx.geometry) if to_w else None,
            None,
        )


class _ToInput(Function):
    """(g, w) ↦ gradient with respect to the input; `x` only gives its shape."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, w: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(g, w)
        ctx.geometry = geometry
        return _backward(g, x, w, geometry, 0)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        g, w = ctx.saved_tensors
        to_g, to_w = ctx.needs_input_grad[:2]
        return (
            _Output.apply(v, w, ctx.geometry) if to_g else None,
            _ToWeight.apply(g, v, w.detach(), ctx.geometry) if to_w else None,
            None,
            None,
        )


class _ToWeight(Function):
    """(g, x) ↦ gradient with respect to the weights; `w` only gives their shape."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(g, x)
        ctx.geometry = geometry
        return _backward(g, x, w, geometry, 1)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        g, x = ctx.saved_tensors
        to_g, to_x = ctx.needs_input_grad[:2]
        return (
            _Output.apply(x, v, ctx.geometry) if to_g else None,
            _ToInput.apply(g, v, x.detach(), ctx.geometry) if to_x else None,
            None,
            None,
        )
