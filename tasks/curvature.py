"""Second derivatives of a network's mean loss, and the covariance of its per-example gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .convolutions import TwiceDifferentiable
from .errors import UserError
from .landscape import Loss, flatten
from .per_example import per_example_gradients

__all__ = ["GradientCovariance", "Hessian"]

KEEP = {"cpu": 2 << 30, "cuda": 16 << 30}  # bytes of graph that a Hessian may keep, by type of device


class Hessian:
    """v ↦ H v, with H the Hessian of the mean loss on fixed examples, at the model's weights.

    The gradient's graph is built once and kept, so that one product costs one more backward pass
    (Pearlmutter 1994). When the graphs of all micro-batches would not fit into `keep` bytes (measured
    on a few examples), or the device runs out of memory, they are built anew for every product; the
    numbers are the same. Micro-batches are added up in float64.

    Args:
        model: in eval mode; its weights are left as they are.
        loss: loss(outputs, targets, reduction=…).
        x, y: the examples, shapes (m, …) and (m,).
        batch_size: examples in one micro-batch; fewer if the graph of one would not fit into `keep`.
        keep: bytes of graph to keep; None: 2 GiB on the CPU; on a GPU 16 GiB, but at most half of
            what is free.

    Attributes:
        size: number of parameters.
        loss: mean loss on the examples.
        gradient: its gradient, shape (size,).
        keeps_graph: whether the graph is kept.

    Raises:
        UserError: the model has BatchNorm layers in training mode.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, x: Tensor, y: Tensor, *, batch_size: int = 1024, keep: int | None = None
    ) -> None:
        refuse_batch_statistics(model)
        self._model, self._loss = model, loss
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._shapes = [p.shape for p in self._parameters]
        self._batches = list(zip(x.split(batch_size), y.split(batch_size), strict=True))
        self._examples = len(x)
        self.size = sum(s.numel() for s in self._shapes)
        self._kept: list[_Graph] | None = None
        if keep is None:
            keep = KEEP.get(x.device.type, KEEP["cpu"])
            if x.device.type == "cuda":
                keep = min(keep, torch.cuda.mem_get_info(x.device)[0] // 2)
        needed = self._bytes_per_example()
        if batch_size * needed > keep > 0:
            batch_size = max(1, int(keep // needed))
            self._batches = list(zip(x.split(batch_size), y.split(batch_size), strict=True))
        if self._examples * needed <= keep:
            with contextlib.suppress(torch.OutOfMemoryError):
                self._kept = [self._graph(xs, ys) for xs, ys in self._batches]
        self.loss, self.gradient = self._gradient()

    @property
    def keeps_graph(self) -> bool:
        return self._kept is not None

    def __call__(self, v: Tensor) -> Tensor:
        """H v for v of shape (size,), in the dtype of v."""
        if self._kept is not None:
            try:
                return self._sum(v, self._kept, keep=True)
            except torch.OutOfMemoryError:
                self._kept = None
        return self._sum(v, (self._graph(xs, ys) for xs, ys in self._batches), keep=False)

    def start(self, generator: torch.Generator | None = None) -> Tensor:
        """A random vector, shape (size,), to start a search for the largest eigenvalues from.

        The gradient of Σ εᵢ ℓᵢ with Gaussian εᵢ, and a tenth of isotropic noise. Gradients of examples lie
        mostly along the top eigenvectors (Gur-Ari et al. 2018), so this saves products; the noise sees to
        it that no direction is left out.
        """
        eps = torch.randn(self._examples, generator=generator, dtype=torch.float64)
        noise = torch.randn(self.size, generator=generator, dtype=torch.float64).to(self.gradient)
        total = torch.zeros_like(self.gradient)
        done = 0
        for xs, ys in self._batches:
            part = eps[done : done + len(xs)].to(self.gradient)
            done += len(xs)
            with torch.enable_grad():
                value = (self._loss(self._model(xs), ys, reduction="none") * part).sum()
            total += flatten(list(torch.autograd.grad(value, self._parameters, materialize_grads=True)))
        length = torch.linalg.vector_norm(total)
        noise /= torch.linalg.vector_norm(noise)
        return noise if not length > 0 else total / length + 0.1 * noise

    def _graph(self, xs: Tensor, ys: Tensor) -> _Graph:
        with torch.enable_grad():
            with TwiceDifferentiable():
                outputs = self._model(xs)
            value = self._loss(outputs, ys, reduction="sum")
            gradients = torch.autograd.grad(
                value / self._examples, self._parameters, create_graph=True, materialize_grads=True
            )
        return _Graph(float(value.detach()), list(gradients), [i for i, g in enumerate(gradients) if g.requires_grad])

    def _sum(self, v: Tensor, graphs: Iterable[_Graph], *, keep: bool) -> Tensor:
        pieces = [p.view(s) for p, s in zip(v.split([s.numel() for s in self._shapes]), self._shapes, strict=True)]
        total: Tensor | None = None
        for graph in graphs:
            if graph.curved:
                parts = torch.autograd.grad(
                    [graph.gradients[i] for i in graph.curved],
                    self._parameters,
                    grad_outputs=[pieces[i] for i in graph.curved],
                    retain_graph=keep,
                    materialize_grads=True,
                )
                part = flatten(list(parts))
            else:
                part = torch.zeros_like(v)
            if len(self._batches) == 1:
                return part.detach()
            total = part.double() if total is None else total.add_(part)
        assert total is not None
        return total.to(v.dtype)

    def _gradient(self) -> tuple[float, Tensor]:
        value, total = 0.0, torch.zeros(self.size, dtype=torch.float64, device=self._parameters[0].device)
        for graph in self._kept or []:
            value += graph.value
            total += flatten([g.detach() for g in graph.gradients])
        for xs, ys in [] if self._kept else self._batches:
            with torch.enable_grad():
                part = self._loss(self._model(xs), ys, reduction="sum")
            gradients = torch.autograd.grad(part / self._examples, self._parameters, materialize_grads=True)
            value += float(part.detach())
            total += flatten(list(gradients))
        return value / self._examples, total.to(self._parameters[0].dtype)

    def _bytes_per_example(self) -> float:
        """Bytes that the gradient's graph holds for one example, from graphs of a few."""
        xs, ys = self._batches[0]
        few = min(8, len(xs))
        known = {p.untyped_storage().data_ptr() for p in self._model.parameters()}
        alive: list[Tensor] = []
        seen: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            pointer = t.untyped_storage().data_ptr()
            if pointer not in known and pointer not in seen:
                seen[pointer] = t.untyped_storage().nbytes()
                alive.append(t.detach())  # so that no other tensor takes its place
            return t.detach()

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            self._graph(xs[:few], ys[:few])
        gradients = self.size * self._parameters[0].element_size() * len(self._batches)
        return sum(seen.values()) / few + gradients / self._examples


class _Graph(NamedTuple):
    """A micro-batch's summed loss, its share of the gradient, and which parts of that depend on the weights."""

    value: float
    gradients: list[Tensor]
    curved: list[int]


class GradientCovariance:
    """The centred covariance of per-example gradients at the model's weights: C = Σ (gᵢ−ḡ)(gᵢ−ḡ)ᵀ / (m−1).

    The matrix, of the size of the weights squared, is never formed. Its non-zero eigenvalues are those
    of the Gram matrix K = (gᵢ−ḡ)·(gⱼ−ḡ) / (m−1), shape (m, m), which is built in blocks: as many
    per-example gradients as fit into `memory` bytes are held, the others are computed again.

    Args:
        model: in eval mode.
        loss: loss(outputs, targets, reduction=…).
        x, y: the m examples.
        memory: bytes for per-example gradients.
        directions: shape (p, size); gᵢ·v is recorded for each row v.

    Attributes:
        gram: (gᵢ−ḡ)·(gⱼ−ḡ) for all pairs, ḡ over all m; float64, shape (m, m), on the CPU.
        along: (gᵢ−ḡ)·v, float64, shape (m, p), on the CPU.
        mean: ḡ, shape (size,).

    Raises:
        UserError: the model has BatchNorm layers in training mode (an example has no gradient of its own
            then), or there are fewer than two examples.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        x: Tensor,
        y: Tensor,
        *,
        directions: Tensor | None = None,
        memory: int = 1 << 30,
    ) -> None:
        refuse_batch_statistics(model)
        if len(x) < 2:
            raise UserError(f"A covariance of gradients needs at least 2 examples, not {len(x)}.")
        self._model, self._loss, self._x, self._y = model, loss, x, y
        parameters = [p for p in model.parameters() if p.requires_grad]
        size = sum(p.numel() for p in parameters)
        m = len(x)
        # One block is held, one streams past it, and computing one takes about twice its size besides.
        block = int(max(1, min(m, memory // (4 * size * parameters[0].element_size()))))
        self._chunk = min(block, 256)
        total = torch.zeros(size, dtype=torch.float64, device=x.device)
        held: Tensor | None = None
        for i in range(0, m, block):
            held = self._block(i, block)
            total += held.sum(0, dtype=torch.float64)
        if block < m:
            held = None
        self.mean = (total / m).to(parameters[0].dtype)
        self.gram = torch.empty(m, m, dtype=torch.float64)
        along = []
        for i in range(0, m, block):
            mine = (self._block(i, block) if held is None else held) - self.mean
            if directions is not None:
                along.append((mine @ directions.T).double().cpu())
            for j in range(i, m, block):
                theirs = mine if j == i else self._block(j, block) - self.mean
                part = (mine @ theirs.T).double().cpu()
                self.gram[i : i + block, j : j + block] = part
                self.gram[j : j + block, i : i + block] = part.T
        self.along = torch.cat(along) if along else torch.zeros(m, 0, dtype=torch.float64)

    def _block(self, start: int, count: int) -> Tensor:
        stop = min(start + count, len(self._x))
        return torch.cat(
            [
                per_example_gradients(self._model, self._loss, self._x[i:end], self._y[i:end])
                for i in range(start, stop, self._chunk)
                for end in [min(i + self._chunk, stop)]
            ]
        )

    def spectrum(self, examples: int | None = None) -> tuple[Tensor, Tensor]:
        """Eigenvalues of the covariance of the first `examples` examples, and coefficients of its top eigenvector.

        Centred on these examples' own mean, divided by examples − 1.

        Returns:
            values: descending, float64, shape (examples,); those of the covariance that are not zero, and zeros.
            weights: shape (examples,), sum zero: v_C = Σ weights[i] gᵢ has unit norm.
        """
        m = examples or len(self.gram)
        k = self.gram[:m, :m]
        k = (k - k.mean(0, keepdim=True) - k.mean(1, keepdim=True) + k.mean()) / (m - 1)
        values, vectors = torch.linalg.eigh(k)
        u = vectors[:, -1] - vectors[:, -1].mean()
        length = ((m - 1) * values[-1]).clamp_min(0).sqrt()
        return values.flip(0).clamp_min(0), u / length if length > 0 else torch.zeros_like(u)

    def combine(self, weights: Tensor) -> Tensor:
        """Σ weights[i] gᵢ over the first examples, shape (size,)."""
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        total = torch.zeros(self.mean.numel(), dtype=torch.float64, device=self._x.device)
        for i in range(0, len(weights), 1024):
            part = weights[i : i + 1024].to(device=self._x.device, dtype=self.mean.dtype)
            with torch.enable_grad():
                losses = self._loss(
                    self._model(self._x[i : i + len(part)]), self._y[i : i + len(part)], reduction="none"
                )
                value = (losses * part).sum()
            total += flatten(list(torch.autograd.grad(value, parameters, materialize_grads=True)))
        return total.to(self.mean.dtype)


def refuse_batch_statistics(model: nn.Module) -> None:
    """Raise UserError if the model would normalise by its batch: its examples are not separate then."""
    if any(_uses_batch(m) for m in model.modules()):
        raise UserError(f"{type(model).__name__} has BatchNorm in training mode: put it into eval mode first.")


def _uses_batch(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats)
