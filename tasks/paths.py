"""Paths of low loss between two points: the nudged elastic band, and how to sample a path."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

__all__ = ["Band", "along", "autoneb", "barrier", "lengths"]


def lengths(path: Tensor) -> np.ndarray:
    """Lengths of the stretches of a polygon, shape (n − 1,) for a path of shape (n, size)."""
    norms = [torch.linalg.vector_norm(b - a) for a, b in pairwise(path)]
    return torch.stack(norms).double().cpu().numpy()


def along(path: Tensor, fractions: Sequence[float] | np.ndarray) -> Iterator[Tensor]:
    """The points at the given fractions of the polygon's length, each of shape (size,); one at a time.

    The fractions 0 and 1 give the end points exactly.
    """
    stretch = lengths(path)
    ends = np.concatenate([[0.0], np.cumsum(stretch)])
    for fraction in fractions:
        target = float(fraction) * ends[-1]
        i = min(max(int(np.searchsorted(ends, target, side="right")) - 1, 0), len(stretch) - 1)
        t = (target - ends[i]) / stretch[i] if stretch[i] > 0 else 0.0
        yield path[-1].clone() if fraction >= 1 else (1 - t) * path[i] + t * path[i + 1]


def barrier(fractions: np.ndarray, losses: np.ndarray) -> float:
    """Largest excess of the losses, shape (n,), over the straight line between the values at 0 and 1.

    max over α ∈ [0, 1] of L(α) − [(1−α) L(0) + α L(1)] (Entezari et al. 2022). The fractions contain 0
    and 1, so that it is never negative; those outside of [0, 1] do not count. NaN if a loss is NaN.
    """
    inside = (fractions >= 0) & (fractions <= 1)
    a, values = fractions[inside], np.asarray(losses, dtype=float)[inside]
    first, last = values[np.argmin(a)], values[np.argmax(a)]
    return float(np.max(values - ((1 - a) * first + a * last)))


@dataclass(frozen=True)
class Band:
    """A path as it stands after a cycle, and all that `autoneb` must know of it to go on.

    Attributes:
        cycle: 0 is the path before the first step.
        origin: the cycle that the path is from.
        path: its nodes, shape (n, size), end points included.
        fractions: where on the path each node is kept, shape (n,), from 0 to 1.
        sampled: fractions of the path's length at which it was sampled, and
        losses: the loss there; the nodes are among them. Shapes (m,).
        saddle: the largest of the losses.
        ceiling: a cycle that leaves the saddle above it is taken back.
        inserted: nodes that were added since the cycle before.
        step: gradient steps taken so far.
    """

    cycle: int
    origin: int
    path: Tensor
    fractions: np.ndarray
    sampled: np.ndarray
    losses: np.ndarray
    saddle: float
    ceiling: float
    inserted: int
    step: int

    @property
    def failed(self) -> bool:
        """The cycle's steps were too large; this is the path as it was before."""
        return self.origin < self.cycle


def autoneb(
    start: Tensor,
    end: Tensor,
    *,
    loss: Callable[[Tensor], float],
    gradient: Callable[[Tensor, int], tuple[float, Tensor]],
    step_sizes: Sequence[float],
    steps: int,
    pivots: int = 3,
    max_pivots: int = 25,
    samples: int = 5,
    relative: float = 0.2,
    absolute: float = 0.01,
    perturbation: float = 0.01,
    momentum: float = 0.0,
    generator: torch.Generator | None = None,
    after: Band | None = None,
) -> Iterator[Band]:
    """Automated nudged elastic band (Draxler et al. 2018), one cycle for every step size.

    Starts from the straight line with `pivots` equidistant nodes between the end points. Because on a
    line of symmetry the gradient has no part across the line, the nodes are first moved by
    `perturbation` · ‖end − start‖ · sin(π t) along one random direction perpendicular to it.

    A step moves every node against its gradient, projected perpendicular to the path's tangent, and then
    puts the nodes back to their fractions of the path's length (this stands for the springs). The
    tangent points to the neighbour of higher loss, at an extremum to a weighted mean of both
    (Henkelman & Jónsson 2000).

    Before each cycle the loss is sampled at `samples` points in each gap between nodes. Where it exceeds
    the straight line between the losses of the two nodes by more than
    max(absolute, relative · (highest − lowest loss of the path)), a node is inserted at the largest
    excess, at most one in a gap. `relative` is halved from cycle to cycle: with a fixed one, what is
    left between two nodes would never be refined while the path still has a high saddle.

    Args:
        start, end: shape (size,); they stay as they are.
        loss: w ↦ loss that judges the path; deterministic.
        gradient: (w, step) ↦ (loss, its gradient); may use a minibatch that depends on `step`.
        step_sizes: of the gradient steps in each cycle, decreasing.
        steps: steps a cycle.
        pivots: nodes to begin with, end points not counted; `max_pivots` is the most there may be.
        momentum: share of the last move that is kept; starts afresh in each cycle.
        generator: of the perturbation's direction (drawn on the CPU), as it was at the very beginning.
        after: go on after this band, which an earlier call with the same arguments has yielded.

    Yields:
        the band before the first cycle (the straight line itself, not perturbed) and after each one, or
        those that follow `after`. A cycle whose steps leave the finite numbers, or end far above the
        straight line (by more than the range of losses on it), is taken back: the next one, of smaller
        steps, starts where it did.
    """
    band = after
    if band is None:
        fractions = np.linspace(0, 1, pivots + 2)
        path = torch.stack([start + float(t) * (end - start) for t in fractions[:-1]] + [end])
        sampled, losses = _sample(path, loss, samples)
        saddle = float(losses.max())
        ceiling = saddle + float(np.ptp(losses)) + absolute
        band = Band(0, 0, path, fractions, sampled, losses, saddle, ceiling, inserted=0, step=0)
        yield band
    # As long as no cycle has succeeded, each begins at the same perturbed line.
    path = band.path if band.origin else _perturbed(band, perturbation, generator)
    for cycle, size in list(enumerate(step_sizes, start=1))[band.cycle :]:
        grown, fractions, inserted = _insert(path, band, absolute, relative * 0.5 ** (cycle - 1), max_pivots)
        grown, step, finite = _relax(grown, fractions, band, gradient, size, steps, momentum)
        band = replace(band, cycle=cycle, inserted=0, step=step)
        if finite:
            sampled, losses = _sample(grown, loss, samples)
            saddle = float(losses.max())
            if saddle <= band.ceiling:  # not if it is NaN
                path = grown
                band = Band(cycle, cycle, path, fractions, sampled, losses, saddle, band.ceiling, inserted, step)
        yield band


def _perturbed(straight: Band, perturbation: float, generator: torch.Generator | None) -> Tensor:
    """The straight line's nodes, moved along a random direction perpendicular to it."""
    path = straight.path.clone()
    line = path[-1] - path[0]
    span = torch.linalg.vector_norm(line)
    across = torch.randn(line.numel(), generator=generator, dtype=torch.float64).to(line)
    across -= (across @ line) / (line @ line).clamp_min(1e-30) * line
    across /= torch.linalg.vector_norm(across).clamp_min(1e-30)
    for i, t in enumerate(straight.fractions[1:-1], start=1):
        path[i] += perturbation * math.sin(math.pi * t) * span * across
    return path


def _relax(
    path: Tensor,
    fractions: np.ndarray,
    band: Band,
    gradient: Callable[[Tensor, int], tuple[float, Tensor]],
    size: float,
    steps: int,
    momentum: float,
) -> tuple[Tensor, int, bool]:
    """The steps of a cycle: the path after them, how many there were up to now, whether the path is finite."""
    losses = np.array([band.losses[0], *[math.nan] * (len(path) - 2), band.losses[-1]])
    velocity = torch.zeros_like(path[1:-1])
    for step in range(band.step, band.step + steps):
        gradients = []
        for i in range(1, len(path) - 1):
            losses[i], g = gradient(path[i], step)
            gradients.append(g)
        for i, g in enumerate(gradients, start=1):
            tangent = _tangent(path[i - 1], path[i], path[i + 1], losses[i - 1 : i + 2])
            g -= (g @ tangent) * tangent
            velocity[i - 1].mul_(momentum).sub_(g, alpha=size)
        path = path.clone()
        path[1:-1] += velocity
        if not np.isfinite(lengths(path).sum()):
            return path, step + 1, False
        path = torch.stack(list(along(path, fractions)))
    return path, band.step + steps, True


def _tangent(before: Tensor, here: Tensor, after: Tensor, losses: np.ndarray) -> Tensor:
    """Unit tangent at a node from its neighbours and the three losses (Henkelman & Jónsson 2000, eqs. 8–11)."""
    back, forth = here - before, after - here
    back = back / torch.linalg.vector_norm(back).clamp_min(1e-30)
    forth = forth / torch.linalg.vector_norm(forth).clamp_min(1e-30)
    low, mid, high = losses
    if low < mid < high:
        return forth
    if low > mid > high:
        return back
    sides = abs(low - mid), abs(high - mid)
    large, small = max(sides), min(sides)
    if not large > 0:
        large = small = 1.0
    tangent = forth * (large if high > low else small) + back * (small if high > low else large)
    return tangent / torch.linalg.vector_norm(tangent).clamp_min(1e-30)


def _sample(path: Tensor, loss: Callable[[Tensor], float], samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Fractions of the length and losses there: at the nodes and at `samples` points between each two."""
    stretch = lengths(path)
    nodes = np.concatenate([[0.0], np.cumsum(stretch)]) / max(float(stretch.sum()), 1e-300)
    nodes[-1] = 1.0
    where, values = [0.0], [loss(path[0])]
    for i in range(len(path) - 1):
        for j in range(1, samples + 2):
            t = j / (samples + 1)
            where.append(float((1 - t) * nodes[i] + t * nodes[i + 1]))
            values.append(loss(path[i + 1] if j == samples + 1 else (1 - t) * path[i] + t * path[i + 1]))
    return np.array(where), np.array(values)


def _insert(path: Tensor, band: Band, absolute: float, relative: float, most: int) -> tuple[Tensor, np.ndarray, int]:
    """Insert a node into the gaps that need one, those with the largest excess first; the fractions, how many."""
    fractions = band.fractions
    gaps = len(path) - 1
    per = (len(band.losses) - 1) // gaps
    threshold = max(absolute, relative * float(np.ptp(band.losses)))
    wishes = []
    for i in range(gaps):
        inside = band.losses[i * per : (i + 1) * per + 1]
        excess = inside - np.linspace(inside[0], inside[-1], per + 1)
        j = int(np.argmax(excess))
        if 0 < j < per and excess[j] > threshold:
            wishes.append((float(excess[j]), i, j / per))
    wishes = sorted(wishes, reverse=True)[: max(0, most - (len(path) - 2))]
    added = {i: t for _, i, t in wishes}
    nodes, places = [path[0]], [0.0]
    for i in range(gaps):
        if i in added:
            t = added[i]
            nodes.append((1 - t) * path[i] + t * path[i + 1])
            places.append(float((1 - t) * fractions[i] + t * fractions[i + 1]))
        nodes.append(path[i + 1])
        places.append(float(fractions[i + 1]))
    return torch.stack(nodes), np.array(places), len(added)
