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
    """A path as it stands after a cycle.

    Attributes:
        cycle: 0 is the path before the first step.
        path: its nodes, shape (n, size), end points included.
        fractions: where on the path each node is kept, shape (n,), from 0 to 1.
        sampled: fractions of the path's length at which it was sampled, and
        losses: the loss there; the nodes are among them. Shapes (m,).
        saddle: the largest of the losses.
        inserted: nodes that were added since the cycle before.
        failed: the cycle's steps were too large; this is the path as it was before.
    """

    cycle: int
    path: Tensor
    fractions: np.ndarray
    sampled: np.ndarray
    losses: np.ndarray
    saddle: float
    inserted: int
    failed: bool = False


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
        generator: of the perturbation's direction (drawn on the CPU).

    Yields:
        the band before the first cycle (the straight line itself, not perturbed) and after each one. A
        cycle whose steps leave the finite numbers, or end far above the straight line (by more than the
        range of losses on it), is taken back: the next one, of smaller steps, starts where it did.
    """
    fractions = np.linspace(0, 1, pivots + 2)
    line = end - start
    path = torch.stack([start + float(t) * line for t in fractions[:-1]] + [end])
    band = _sample(0, path, fractions, loss, samples)
    yield band

    span = torch.linalg.vector_norm(line)
    across = torch.randn(line.numel(), generator=generator, dtype=torch.float64).to(line)
    across -= (across @ line) / (line @ line).clamp_min(1e-30) * line
    across /= torch.linalg.vector_norm(across).clamp_min(1e-30)
    for i, t in enumerate(fractions):
        path[i] += perturbation * math.sin(math.pi * t) * span * across if 0 < t < 1 else 0

    ceiling = band.saddle + float(np.ptp(band.losses)) + absolute
    ends = band.losses[0], band.losses[-1]
    step = 0
    for cycle, size in enumerate(step_sizes, start=1):
        kept, kept_fractions = path, fractions
        path, fractions, inserted = _insert(path, fractions, band, absolute, relative * 0.5 ** (cycle - 1), max_pivots)
        losses = np.array([ends[0], *[math.nan] * (len(path) - 2), ends[1]])
        velocity = torch.zeros_like(path[1:-1])
        finite = True
        for _ in range(steps):
            gradients = []
            for i in range(1, len(path) - 1):
                losses[i], g = gradient(path[i], step)
                gradients.append(g)
            step += 1
            for i, g in enumerate(gradients, start=1):
                tangent = _tangent(path[i - 1], path[i], path[i + 1], losses[i - 1 : i + 2])
                g -= (g @ tangent) * tangent
                velocity[i - 1].mul_(momentum).sub_(g, alpha=size)
            path = path.clone()
            path[1:-1] += velocity
            finite = bool(np.isfinite(lengths(path).sum()))
            if not finite:
                break
            path = torch.stack(list(along(path, fractions)))
        after = _sample(cycle, path, fractions, loss, samples, inserted) if finite else None
        if after is None or not after.saddle <= ceiling:  # NaN too
            path, fractions = kept, kept_fractions
            band = replace(band, cycle=cycle, inserted=0, failed=True)
        else:
            band = after
        yield band


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


def _sample(
    cycle: int, path: Tensor, fractions: np.ndarray, loss: Callable[[Tensor], float], samples: int, inserted: int = 0
) -> Band:
    """The path's losses at the nodes and at `samples` points between each two."""
    stretch = lengths(path)
    nodes = np.concatenate([[0.0], np.cumsum(stretch)]) / max(float(stretch.sum()), 1e-300)
    nodes[-1] = 1.0
    where, values = [0.0], [loss(path[0])]
    for i in range(len(path) - 1):
        for j in range(1, samples + 2):
            t = j / (samples + 1)
            where.append(float((1 - t) * nodes[i] + t * nodes[i + 1]))
            values.append(loss(path[i + 1] if j == samples + 1 else (1 - t) * path[i] + t * path[i + 1]))
    losses = np.array(values)
    return Band(cycle, path.clone(), fractions.copy(), np.array(where), losses, float(losses.max()), inserted)


def _insert(
    path: Tensor, fractions: np.ndarray, band: Band, absolute: float, relative: float, most: int
) -> tuple[Tensor, np.ndarray, int]:
    """Insert a node into the gaps that need one, those with the largest excess first."""
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
