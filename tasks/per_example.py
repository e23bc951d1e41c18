"""Gradients of each example's own loss, and passes in which each example has parameters of its own.

A network goes over all its examples at once, as it always does; only its layers are carried out otherwise
(`Layers`): the backward pass keeps their gradients apart, and the forward pass may use parameters that differ from
example to example. A network that uses a parameter in any other way goes through `torch.func.vmap` as a whole
(`Mapped`). That knows every operation, but is slow at convolutions, which it turns into grouped ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .bilinear import Bilinear, Convolution, Dense, Factors, Scale
from .errors import UserError
from .landscape import Loss

__all__ = ["Layers", "Mapped", "PerExample", "Unrolled", "per_example_gradients"]

T = TypeVar("T")
Forward = Callable[[Tensor], Tensor]


def per_example_gradients(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of every example's own loss, shape (n, size), of the parameters that require gradients.

    Args:
        loss: loss(outputs, targets, reduction=…).

    Raises:
        UserError: the model has BatchNorm layers in training mode.
    """
    with torch.enable_grad():
        done, value = PerExample(model).run(len(x), lambda forward: loss(forward(x), y, reduction="sum"))
        gradients = done.gradients(value)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.cat(
        [
            p.new_zeros(len(x), p.numel()) if g is None else g.reshape(len(x), -1)
            for p, g in zip(parameters, gradients, strict=True)
        ],
        dim=1,
    )


class PerExample:
    """Passes of a network over examples that each have a gradient, and maybe parameters, of their own.

    No operation of the network may mix examples. In the lists below there is one tensor for each parameter that
    requires gradients.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._layers = True

    def run(
        self,
        examples: int,
        call: Callable[[Forward], T],
        each: Sequence[Tensor | Factors] | None = None,
        shifts: Iterable[Tensor] = (),
    ) -> tuple[Layers | Mapped, T]:
        """The pass, and call(forward) with the forward pass that belongs to it; `call` may be called twice.

        Args:
            examples: n; the network is to be called on as many.
            each: the parameters of each example, of shapes (n, …), or factors of what they are more than the
                network's; None: the network's for all.
            shifts: tensors that `call` adds to parameters before it uses them.
        """
        if self._layers:
            layers = Layers(self.network, examples, each, shifts)
            try:
                return layers, layers.run(call)
            except NotALayer:
                self._layers = False
        mapped = Mapped(self.network, examples, each)
        return mapped, mapped.run(call)


class NotALayer(Exception):
    """A parameter is used in an operation that `Layers` does not know."""


class Place(NamedTuple):
    """What a tensor is: parameter `number`, with `shift` added."""

    tensor: Tensor
    number: int
    shift: Tensor | None


class Layers(TorchFunctionMode):
    """One pass, in which dense layers, convolutions and what scales and shifts after a normalisation are replaced."""

    def __init__(
        self,
        network: nn.Module,
        examples: int,
        each: Sequence[Tensor | Factors] | None = None,
        shifts: Iterable[Tensor] = (),
    ) -> None:
        super().__init__()
        self._network = network
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        self._examples = examples
        self._each = each
        # By identity, with the tensor beside it, so that no other takes its place in memory.
        self._places = {id(p): Place(p, i, None) for i, p in enumerate(self._parameters)}
        self._shifts = {id(t): t for t in shifts}
        self._gradients: list[Tensor | Factors | None] | None = None  # while they are kept apart
        self._low = False  # whether they are then kept in factors

    def run(self, call: Callable[[Forward], T]) -> T:
        """
        Raises:
            NotALayer: a parameter is used otherwise.
        """
        with self:
            return call(self._network)

    def gradients(self, value: Tensor, *, keep: bool = False) -> list[Tensor | None]:
        """Each example's gradient of its own term of `value`, a sum over the examples: shapes (n, …), None if unused.

        Args:
            keep: keep the graph for another backward pass.
        """
        return [g.formed() if isinstance(g, Factors) else g for g in self._kept(value, keep, low=False)]

    def low_gradients(self, value: Tensor, *, keep: bool = False) -> list[Tensor | Factors | None]:
        """The same, of layers with few positions in factors."""
        return self._kept(value, keep, low=True)

    def _kept(self, value: Tensor, keep: bool, low: bool) -> list[Tensor | Factors | None]:
        self._gradients, self._low = [None] * len(self._parameters), low
        try:
            value.backward(retain_graph=keep)
            return self._gradients
        finally:
            self._gradients = None

    def backward(self, value: Tensor) -> None:
        """Add the gradients of `value` with respect to the parameters, summed over the examples, to .grad."""
        value.backward()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if (layer := _LAYERS.get(func)) is not None:
            return layer(self, *args, **kwargs)
        result = func(*args, **kwargs)
        given = list(_tensors((args, kwargs)))
        places = [self._places[id(t)] for t in given if id(t) in self._places]
        if places and any(True for _ in _tensors(result)):
            name = getattr(func, "__name__", repr(func))
            if name not in ("add", "__add__") or len(given) != 2 or id(given[1]) not in self._shifts:
                raise NotALayer(name)
            self._places[id(result)] = Place(result, places[0].number, given[1])
        return result

    def _layer(self, layer: Bilinear, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        w_place, b_place = self._places.get(id(w)), self._places.get(id(b))
        if isinstance(layer, (Dense, Convolution)) and torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, w, b = x.to(dtype), w.to(dtype), None if b is None else b.to(dtype)
        if w_place is None and b_place is None:
            return layer.output(x, w, b)
        if x.dim() < 2 or len(x) != self._examples:
            raise NotALayer(f"a layer on an input of shape {tuple(x.shape)}")
        out: Tensor = _Use.apply(x, w, b, self, layer, w_place, b_place)
        return out

    def value(self, place: Place | None, like: Tensor) -> Tensor | Factors | None:
        """The parameter for each example, in the type of `like`, or what it is more; None if it is the same for all."""
        if self._each is None or place is None:
            return None
        each = self._each[place.number]
        if isinstance(each, Factors):
            return each._replace(left=each.left.to(like.dtype), right=each.right.to(like.dtype))
        return (each if place.shift is None else each + place.shift).to(like.dtype)

    def keep(
        self, place: Place | None, gradient: Callable[[], Tensor], factors: Callable[[], Factors | None] = lambda: None
    ) -> bool:
        """Keep the examples' gradients of a parameter apart, if that is wanted now."""
        if self._gradients is None:
            return False
        if place is None:
            return True
        dtype = self._parameters[place.number].dtype
        old, low = self._gradients[place.number], factors() if self._low else None
        if low is not None and not isinstance(old, Tensor):
            low = low._replace(left=low.left.to(dtype), right=low.right.to(dtype))
            self._gradients[place.number] = low if old is None else old.joined(low)
        else:
            new = gradient().to(dtype)
            old = old.formed() if isinstance(old, Factors) else old
            self._gradients[place.number] = new if old is None else old + new
        return True

    # The functions that are replaced, with their signatures.

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self._layer(Dense(), input, weight, bias)

    def _conv2d(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        if isinstance(padding, str) or groups != 1 or input.dim() != 4:
            raise NotALayer("conv2d")
        return self._layer(Convolution(_pair(stride), _pair(padding), _pair(dilation)), input, weight, bias)

    def _group_norm(
        self, input: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor:
        return self._scaled(F.group_norm(input, groups, None, None, eps), weight, bias, channels=True)

    def _layer_norm(
        self,
        input: Tensor,
        normalized_shape: list[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        return self._scaled(F.layer_norm(input, normalized_shape, None, None, eps), weight, bias, channels=False)

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if training:
            raise UserError("BatchNorm in training mode mixes the examples: they have no gradients of their own.")
        normalised = F.batch_norm(input, running_mean, running_var, None, None, False, momentum, eps)
        return self._scaled(normalised, weight, bias, channels=True)

    def _scaled(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, *, channels: bool) -> Tensor:
        if weight is None and bias is None:
            return x
        if weight is None:
            raise NotALayer("a normalisation with biases alone")
        return self._layer(Scale(channels), x, weight, bias)


_LAYERS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.linear: Layers._linear,
    F.conv2d: Layers._conv2d,
    F.group_norm: Layers._group_norm,
    F.layer_norm: Layers._layer_norm,
    F.batch_norm: Layers._batch_norm,
}


class _Use(Function):
    """A layer's output; its backward pass keeps the examples' gradients apart while the pass wants that."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w: Tensor,
        b: Tensor | None,
        layers: Layers,
        layer: Bilinear,
        w_place: Place | None,
        b_place: Place | None,
    ) -> Tensor:
        w_each = layers.value(w_place, w)
        b_each = None if b is None else layers.value(b_place, b)
        assert not isinstance(b_each, Factors)
        ctx.save_for_backward(x, w, b)
        ctx.layers, ctx.layer, ctx.w_place, ctx.b_place, ctx.w_each = layers, layer, w_place, b_place, w_each
        if w_each is None and b_each is None:
            return layer.output(x, w, b)
        if w_each is None:
            out = layer.output(x, w, None)
        elif isinstance(w_each, Factors):
            out = layer.output_low(x, w, w_each)
        else:
            out = layer.output_each(x, w_each)
        if b is not None:
            out += layer.spread(b[None] if b_each is None else b_each, out.dim())
        return out

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> Any:
        x, w, b = ctx.saved_tensors
        layers, layer, w_each = ctx.layers, ctx.layer, ctx.w_each
        to_x = to_w = to_b = None
        if ctx.needs_input_grad[0]:
            if w_each is None:
                to_x = layer.to_input(d, x, w)
            elif isinstance(w_each, Factors):
                to_x = layer.to_input_low(d, x, w, w_each)
            else:
                to_x = layer.to_input_each(d, x, w_each)
        if ctx.needs_input_grad[1] and not layers.keep(
            ctx.w_place, lambda: layer.to_weight_each(d, x, w), lambda: layer.factors(d, x, w)
        ):
            to_w = layer.to_weight(d, x, w)
        if ctx.needs_input_grad[2] and not layers.keep(ctx.b_place, lambda: _to_bias(layer, d, b, len(x))):
            to_b = _to_bias(layer, d, b, 1)[0]
        return to_x, to_w, to_b, None, None, None, None


def _to_bias(layer: Bilinear, d: Tensor, b: Tensor, k: int) -> Tensor:
    """The gradient of biases, of shape (k, *b.shape): of each example (k = n), or summed over them (k = 1)."""
    shape = layer.spread(b[None], d.dim()).shape[1:]
    return d.sum_to_size(k, *shape).view(k, *b.shape)


class Mapped:
    """One pass through `torch.func.vmap`."""

    def __init__(self, network: nn.Module, examples: int, each: Sequence[Tensor | Factors] | None = None) -> None:
        self._network = network
        free = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._parameters = list(free.values())
        self._free: dict[str, Tensor] = {}
        for i, (name, parameter) in enumerate(free.items()):
            value = parameter.detach().expand(examples, *parameter.shape) if each is None else each[i]
            value = parameter.detach() + value.formed() if isinstance(value, Factors) else value
            self._free[name] = value.detach().requires_grad_()
        self._fixed = {n: p for n, p in network.named_parameters() if n not in free} | dict(network.named_buffers())

    def run(self, call: Callable[[Forward], T]) -> T:
        return call(self._forward)

    def gradients(self, value: Tensor, *, keep: bool = False) -> list[Tensor | None]:
        """As `Layers.gradients`."""
        return list(torch.autograd.grad(value, list(self._free.values()), retain_graph=keep, allow_unused=True))

    def low_gradients(self, value: Tensor, *, keep: bool = False) -> list[Tensor | None]:
        """As `gradients`: there are no factors here."""
        return self.gradients(value, keep=keep)

    def backward(self, value: Tensor) -> None:
        """As `Layers.backward`."""
        for parameter, gradient in zip(self._parameters, self.gradients(value), strict=True):
            if gradient is not None:
                total = gradient.sum(0)
                parameter.grad = total if parameter.grad is None else parameter.grad + total

    def _forward(self, x: Tensor) -> Tensor:
        def one(free: dict[str, Tensor], x: Tensor) -> Tensor:
            outputs: Tensor = functional_call(self._network, {**self._fixed, **free}, (x[None],))
            return outputs[0]

        return vmap(one, randomness="different")(self._free, x)


class Unrolled(TorchFunctionMode):
    """Carries out the `torch._foreach_…` functions tensor by tensor: `torch.func.vmap` does not know them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if not name.startswith("_foreach_"):
            return func(*args, **kwargs)
        name = name.removeprefix("_foreach_")

        def single(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not name.endswith("_"):
                return getattr(torch, name)(tensor, *args, **kwargs)
            if name in ("addcdiv_", "addcmul_", "lerp_", "maximum_", "minimum_"):
                # These do not exist, or vmap has no rule for them, but for those not in place it has.
                return tensor.copy_(getattr(torch, name.removesuffix("_"))(tensor, *args, **kwargs))
            return getattr(torch.Tensor, name)(tensor, *args, **kwargs)

        def at(i: int, value: Any) -> Any:
            return value[i] if isinstance(value, (list, tuple)) else value

        return [
            single(*(at(i, a) for a in args), **{k: at(i, v) for k, v in kwargs.items()}) for i in range(len(args[0]))
        ]


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _tensors(v)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    values = tuple(value)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])
