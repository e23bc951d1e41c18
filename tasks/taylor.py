"""The second derivative of a loss along one direction in the space of weights, by forward differentiation alone.

Every tensor x that depends on the weights is carried along w + t d with its first two derivatives in t,
x′ and x″, at t = 0 (Taylor mode, Griewank and Walther 2008, ch. 13). A bilinear operation costs five of
itself (B(x, w); B(x′, w), B(x, w′); B(x″, w), B(x′, w′), as w″ = 0), which for a network is less than two
gradients, and no graph is kept. Finite differences would be wrong where the network has kinks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["Untraceable", "derivatives"]

Derivative = Tensor | None
"""None is zero."""


class Untraceable(Exception):
    """An operation changes a tensor in place in a way that is not followed here."""


def derivatives(
    f: Callable[[], Tensor], parameters: Iterable[Tensor], direction: Iterable[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """f, df/dt and d²f/dt² at t = 0 along parameters + t · direction.

    What f computes under `torch.no_grad`, or in a `torch.autograd.Function`, is not treated as autograd treats
    it: then df/dt is not the gradient times the direction.

    Args:
        f: a scalar function of the parameters, which it finds itself: they are recognised by identity. Nothing is
            written to them. Operations known below are fast; for others PyTorch's forward mode is applied twice,
            which takes longer and is silently wrong where it treats as constant what is not (as it does in its
            fused normalisations): compare with two backward passes once.

    Raises:
        Untraceable: f changes tensors in place otherwise than by relu, + or a constant factor.
        NotImplementedError, RuntimeError: an operation has no forward-mode derivative.
    """
    with torch.no_grad(), _Taylor() as taylor:
        for parameter, d in zip(parameters, direction, strict=True):
            taylor.carry(parameter, d, None)
        value = f()
        first, second = taylor.of(value)
    zero = torch.zeros_like(value)
    return value, zero if first is None else first, zero if second is None else second


class _Taylor(TorchFunctionMode):
    """Within it, what is computed from tensors that are carried is carried too."""

    def __init__(self) -> None:
        super().__init__()
        self._carried: Any = WeakIdKeyDictionary()

    def carry(self, x: Tensor, first: Derivative, second: Derivative) -> Tensor:
        if first is not None or second is not None:
            self._carried[x] = (first, second, x._version)
        return x

    def of(self, x: Any) -> tuple[Derivative, Derivative]:
        """The derivatives of x."""
        if not isinstance(x, Tensor) or x not in self._carried:
            return None, None
        first, second, version = self._carried[x]
        if version != x._version:
            raise Untraceable("a tensor was changed in place through another name")
        return first, second

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if _is_constant(func):
            return func(*args, **kwargs)
        leaves, tree = tree_flatten((args, kwargs))
        if not any(isinstance(leaf, Tensor) and leaf in self._carried for leaf in leaves):
            return func(*args, **kwargs)
        rule = RULES.get(func)
        if rule is not None and (func in BY_NAME or not any(isinstance(a, Tensor) for a in tree_flatten(kwargs)[0])):
            known = rule(self, func, *args, **kwargs)
            if known is not NotImplemented:
                return known
        return self._by_forward_mode(func, leaves, tree)

    def _by_forward_mode(self, func: Callable[..., Any], leaves: list[Any], tree: Any) -> Any:
        """Any operation: its two derivatives are the first one of (x, x′) ↦ (f(x), f′(x) x′) along (x′, x″)."""
        inputs = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf in self._carried]
        carried = [self.of(leaves[i]) for i in inputs]
        versions = [leaves[i]._version for i in inputs]
        args, kwargs = tree_unflatten(leaves, tree)
        result = func(*args, **kwargs)
        if versions != [leaves[i]._version for i in inputs]:
            raise Untraceable(f"{getattr(func, '__name__', func)} changes a tensor in place")
        results, form = tree_flatten(result)
        smooth = [
            i
            for i, r in enumerate(results)
            if isinstance(r, Tensor) and r.is_floating_point() and not any(r is leaf for leaf in leaves)
        ]
        if not smooth:
            return result

        def f(*x: Tensor) -> tuple[Tensor, ...]:
            given = list(leaves)
            for i, tensor in zip(inputs, x, strict=True):
                given[i] = tensor
            args, kwargs = tree_unflatten(given, tree)
            out = tree_flatten(func(*args, **kwargs))[0]
            return tuple(out[i] for i in smooth)

        def tangent(x: tuple[Tensor, ...], v: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return torch.func.jvp(f, x, v)[1]

        x = tuple(leaves[i].detach() for i in inputs)
        v, a = (
            tuple(torch.zeros_like(t) if c[k] is None else c[k] for t, c in zip(x, carried, strict=True))
            for k in (0, 1)
        )
        first, second = torch.func.jvp(tangent, (x, v), (v, a))[:2]
        for i, y1, y2 in zip(smooth, first, second, strict=True):
            self.carry(results[i], y1, y2)
        return tree_unflatten(results, form)


def _is_constant(func: Callable[..., Any]) -> bool:
    """Whether what the function returns does not depend on the values of its arguments, or is not to be derived."""
    name = getattr(func, "__name__", "")
    if name == "__get__":  # of an attribute
        return getattr(getattr(func, "__self__", None), "__name__", "") not in ("T", "mT", "H", "mH", "real", "imag")
    return name == "detach" or name.startswith("new_") or name.endswith("_like")


def _sum(*terms: Derivative) -> Derivative:
    """The sum; the memory of the first term is used."""
    total: Derivative = None
    for term in terms:
        if term is not None:
            total = term if total is None else total.add_(term)
    return total


def _bilinear(taylor: _Taylor, func: Any, input: Any, weight: Any, bias: Any = None, *rest: Any, **options: Any) -> Any:
    """conv(input, weight) + bias and its like."""
    a, b = input, weight
    (a1, a2), (b1, b2), (c1, c2) = taylor.of(a), taylor.of(b), taylor.of(bias)

    def apply(x: Derivative, y: Derivative, add: Derivative = None) -> Derivative:
        return None if x is None or y is None else func(x, y, add, *rest, **options)

    first = _sum(apply(a, b1, c1), apply(a1, b))
    if b1 is None and c1 is not None:
        return NotImplemented  # a bias alone is carried
    twice = apply(a1, b1)
    second = _sum(apply(a2, b), None if twice is None else twice.mul_(2), apply(a, b2))
    if c2 is not None:
        return NotImplemented
    return taylor.carry(func(a, b, bias, *rest, **options), first, second)


def _product(taylor: _Taylor, func: Any, a: Any, b: Any) -> Any:
    """a · b, also in place if b is a constant; a @ b."""
    (a1, a2), (b1, b2) = taylor.of(a), taylor.of(b)
    if func in (torch.Tensor.mul_, torch.Tensor.__imul__) and (b1 is not None or b2 is not None):
        return NotImplemented

    def apply(x: Any, y: Any) -> Derivative:
        if x is None or y is None:
            return None
        return x @ y if func in MATMUL else x * y

    twice = apply(a1, b1)
    first = _sum(apply(a1, b), apply(a, b1))
    second = _sum(apply(a2, b), None if twice is None else twice.mul_(2), apply(a, b2))
    return taylor.carry(func(a, b), first, second)


def _add(taylor: _Taylor, func: Any, a: Any, b: Any, **options: Any) -> Any:
    """a + b, also in place."""
    if options:
        return NotImplemented
    carried = taylor.of(a), taylor.of(b)
    y = func(a, b)
    parts = [[c[k].expand(y.shape) for c in carried if c[k] is not None] for k in (0, 1)]  # type: ignore[union-attr]
    first, second = (None if not p else p[0] if len(p) == 1 else p[0] + p[1] for p in parts)
    return taylor.carry(y, first, second)


def _linear(taylor: _Taylor, func: Any, x: Any, *rest: Any, **options: Any) -> Any:
    """A linear operation on its first argument."""
    x1, x2 = taylor.of(x)
    y = func(x, *rest, **options)
    return taylor.carry(y, *(None if d is None else func(d, *rest, **options) for d in (x1, x2)))


def _cat(taylor: _Taylor, func: Any, tensors: Any, *rest: Any, **options: Any) -> Any:
    carried = [taylor.of(t) for t in tensors]

    def joined(k: int) -> Derivative:
        if all(c[k] is None for c in carried):
            return None
        pieces = [torch.zeros_like(t) if c[k] is None else c[k] for t, c in zip(tensors, carried, strict=True)]
        return func(pieces, *rest, **options)

    return taylor.carry(func(tensors, *rest, **options), joined(0), joined(1))


def _relu(taylor: _Taylor, func: Any, x: Any, *rest: Any, **options: Any) -> Any:
    """relu, also in place."""
    x1, x2 = taylor.of(x)
    y = func(x, *rest, **options)
    first, second = (None if d is None else torch.ops.aten.threshold_backward(d, y, 0) for d in (x1, x2))
    return taylor.carry(y, first, second)


def _max_pool(taylor: _Taylor, func: Any, x: Any, *rest: Any, **options: Any) -> Any:
    """The derivatives are those at the places of the maxima."""
    if options.pop("return_indices", False):
        return NotImplemented
    x1, x2 = taylor.of(x)
    y, places = F.max_pool2d_with_indices(x, *rest, **options)
    if x.dim() != 4:
        return NotImplemented
    flat = places.flatten(2)
    first, second = (None if d is None else d.flatten(2).gather(2, flat).view(y.shape) for d in (x1, x2))
    return taylor.carry(y, first, second)


def _normalise(
    taylor: _Taylor, x: Tensor, dims: list[int], eps: float, weight: Any, bias: Any, shape: list[int]
) -> Tensor:
    """y · weight + bias with y = (x − mean) · s, s = (variance + eps)^(−1/2), mean and biased variance over `dims`.

    With m₁ and m₂ the means of x′ and x″, q the variance of x′, a = mean(y x′), b = mean(y x″):
    y′ = s (x′ − m₁) − s a y and y″ = s (x″ − m₂) − 2 s² a (x′ − m₁) + (3 s² a² − s² q − s b) y.

    Args:
        weight, bias: tensors or None, to be viewed in `shape`.
    """
    x1, x2 = taylor.of(x)
    (w1, w2), (b1, b2) = taylor.of(weight), taylor.of(bias)
    if w2 is not None or b2 is not None:
        return NotImplemented
    w, shift, w1, b1 = (None if t is None else t.view(shape) for t in (weight, bias, w1, b1))
    y = x - x.mean(dims, keepdim=True)
    s = (y.square().mean(dims, keepdim=True) + eps).rsqrt_()
    y.mul_(s)
    out = y * (1 if w is None else w)
    if shift is not None:
        out += shift
    if x1 is None:
        first = None if w1 is None else y * w1
        if b1 is not None:
            first = b1.expand(out.shape) if first is None else first.add_(b1)
        return taylor.carry(out, first, None)

    # The factors have one number for all of `dims`, so that what goes over whole activations is few operations.
    m1, a = x1.mean(dims, keepdim=True), (y * x1).mean(dims, keepdim=True)
    q = (x1 - m1).square_().mean(dims, keepdim=True)
    scale = s if w is None else s * w
    turn = -s * a if w is None else -s * a * w
    constant = -m1 * scale if b1 is None else b1 - m1 * scale
    first = torch.addcmul(constant, x1, scale).addcmul_(y, turn if w1 is None else turn + w1)
    along = 2 * s * turn if w1 is None else 2 * s * (turn + w1)
    rest = s.square() * (3 * a.square() - q)
    constant = -m1 * along
    if x2 is not None:
        m2 = x2.mean(dims, keepdim=True)
        rest = rest - s * (y * x2).mean(dims, keepdim=True)
        constant = constant - m2 * scale
    if w is not None:
        rest = rest * w
    if w1 is not None:
        rest = rest - 2 * s * a * w1
    second = torch.addcmul(constant, x1, along).addcmul_(y, rest)
    if x2 is not None:
        second.addcmul_(x2, scale)
    return taylor.carry(out, first, second)


def _batch_norm(
    taylor: _Taylor, func: Any, input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    if not training or running_mean is not None:
        return NotImplemented  # running statistics are used, or to move
    return _normalise(taylor, input, [0, *range(2, input.dim())], eps, weight, bias, [1, -1, *[1] * (input.dim() - 2)])


def _group_norm(
    taylor: _Taylor, func: Any, input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Any:
    parts = _linear(taylor, torch.reshape, input, (len(input), num_groups, input.shape[1] // num_groups, -1))
    out = _normalise(taylor, parts, [2, 3], eps, weight, bias, [1, num_groups, -1, 1])
    return NotImplemented if out is NotImplemented else _linear(taylor, torch.reshape, out, input.shape)


def _layer_norm(
    taylor: _Taylor, func: Any, input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None,
    eps: float = 1e-5,
) -> Any:  # fmt: skip
    return _normalise(taylor, input, list(range(-len(normalized_shape), 0)), eps, weight, bias, list(normalized_shape))


def _cross_entropy(
    taylor: _Taylor, func: Any, input: Any, target: Any, weight: Any = None, size_average: Any = None,
    ignore_index: int = -100, reduce: Any = None, reduction: str = "mean", label_smoothing: float = 0.0,
) -> Any:  # fmt: skip
    """Of logits (n, classes): ℓ′ = (p − t)·z′ and ℓ″ = Var_p(z′) + (p − t)·z″, with p the softmax and t the targets."""
    z = input
    z1, z2 = taylor.of(z)
    if z1 is None or z.dim() != 2 or weight is not None or size_average is not None or reduce is not None:
        return NotImplemented
    if target.is_floating_point():
        return NotImplemented
    p = z.softmax(1)
    t = torch.zeros_like(p).scatter_(1, target[:, None], 1.0)
    rest = p - t.lerp(torch.full_like(t, 1 / t.shape[1]), label_smoothing)
    mean = (p * z1).sum(1, keepdim=True)
    second = (p * (z1 - mean).square()).sum(1)
    if z2 is not None:
        second += (rest * z2).sum(1)
    both = (rest * z1).sum(1), second
    if reduction != "none":
        both = both[0].sum(), both[1].sum()
    if reduction == "mean":
        both = both[0] / len(z), both[1] / len(z)
    return taylor.carry(F.cross_entropy(z, target, reduction=reduction, label_smoothing=label_smoothing), *both)


MATMUL = {torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.Tensor.mm, torch.bmm}

RULES: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys([torch.conv1d, torch.conv2d, torch.conv3d, F.linear], _bilinear),
    **dict.fromkeys([torch.mul, torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.__rmul__], _product),
    **dict.fromkeys([torch.Tensor.mul_, torch.Tensor.__imul__, *MATMUL], _product),
    **dict.fromkeys([torch.add, torch.Tensor.add, torch.Tensor.add_], _add),
    **dict.fromkeys([torch.Tensor.__add__, torch.Tensor.__radd__, torch.Tensor.__iadd__], _add),
    **dict.fromkeys([torch.flatten, torch.Tensor.flatten, torch.reshape, torch.Tensor.reshape], _linear),
    **dict.fromkeys([torch.Tensor.view, torch.Tensor.contiguous, torch.permute, torch.Tensor.permute], _linear),
    **dict.fromkeys(
        [torch.transpose, torch.Tensor.transpose, torch.mean, torch.Tensor.mean, torch.sum, torch.Tensor.sum], _linear
    ),
    **dict.fromkeys([F.avg_pool2d, F.adaptive_avg_pool2d, torch.Tensor.float], _linear),
    **dict.fromkeys([torch.cat, torch.concat, torch.concatenate], _cat),
    **dict.fromkeys([F.relu, torch.relu, torch.Tensor.relu, torch.relu_, torch.Tensor.relu_], _relu),
    F.max_pool2d: _max_pool,
    F.batch_norm: _batch_norm,
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    F.cross_entropy: _cross_entropy,
}
"""What is known about operations, by the function that is called; a rule may answer NotImplemented."""

BY_NAME = {
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    F.linear,
    F.batch_norm,
    F.group_norm,
    F.layer_norm,
    F.cross_entropy,
}
"""Those whose rules have the arguments' own names, so that tensors may be given by name."""
