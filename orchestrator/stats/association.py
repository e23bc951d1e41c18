"""Does one measure go with another: sharpness with the generalisation gap, say, over settings and within them?

Three questions with three answers. Between settings: do sharper settings generalise worse? Within settings: of two
trainings that differ in their seed alone, does the sharper one? Pooled: both mixed, as in a scatter plot of all
trials; a p-value would take trials of one setting for independent, so it is given none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import permutations
from typing import TYPE_CHECKING, Any

from .refusal import Refused

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Association", "Concordance", "associate"]

DRAWS = 9_999
MOST_ENUMERATED = 5_040  # permutations: those of 7 seeds
FEWEST_FOR_INTERVAL = 5  # seeds; the coverage from there on is in docs/statistics.md


@dataclass(frozen=True)
class Concordance:
    """Kendall's τ-b: (concordant − discordant pairs) / √(pairs untied in x · pairs untied in y).

    Attributes:
        tau: between −1 and 1; None if a measure is the same in all pairs.
        concordant, discordant: pairs.
        n: what was ranked: settings, or trials.
        p: two-sided, by permutation; None where there is no sound one.
        smallest_p: the smallest that a permutation of these values can give.
        exact: whether p counts all permutations; otherwise 9,999 were drawn.
        low, high: interval of τ; None where there is no sound one.
        note: what is missing and why; empty if nothing is.
    """

    tau: float | None
    concordant: int
    discordant: int
    n: int
    p: float | None
    smallest_p: float | None
    exact: bool
    low: float | None
    high: float | None
    note: str = ""


@dataclass(frozen=True)
class Association:
    """Three numbers.

    Attributes:
        between: over the settings' means; without interval.
        within: pairs of trials of the same setting, pooled over settings; jackknife interval over seeds.
        pooled: over all trials, without p-value or interval.
        settings: with at least one trial that has both measures.
        trials: that have both measures.
        missing: that do not.
        paired: whether seed j is the same streams in every setting; None where seeds share some.
        level: of the interval.
    """

    between: Concordance
    within: Concordance
    pooled: Concordance
    settings: int
    trials: int
    missing: int
    paired: bool | None
    level: float


@dataclass(frozen=True)
class _Signs:
    """All pairs of seeds i < j: the signs of xᵢ − xⱼ and yᵢ − yⱼ, 0 where tied or missing; shape (rows, pairs)."""

    x: np.ndarray
    y: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> _Signs:
        """From two arrays of shape (rows, n) that may hold nan."""
        import numpy as np

        first, second = np.triu_indices(x.shape[1], 1)
        dx, dy = np.sign(x[:, first] - x[:, second]), np.sign(y[:, first] - y[:, second])
        there = np.isfinite(dx) & np.isfinite(dy)
        return cls(np.where(there, dx, 0.0), np.where(there, dy, 0.0), first, second)

    def without(self, seed: int) -> _Signs:
        keep = (self.first != seed) & (self.second != seed)
        return _Signs(self.x[:, keep], self.y[:, keep], self.first[keep], self.second[keep])

    @property
    def score(self) -> int:
        return int((self.x * self.y).sum())

    @property
    def tau(self) -> float | None:
        untied = float(abs(self.x).sum()) * float(abs(self.y).sum())
        return self.score / math.sqrt(untied) if untied else None

    def concordance(self, n: int, p: float | None, smallest_p: float | None, exact: bool, note: str) -> Concordance:
        product = self.x * self.y
        plus, minus = int((product > 0).sum()), int((product < 0).sum())
        return Concordance(self.tau, plus, minus, n, p, smallest_p, exact, None, None, note)


def associate(x: Any, y: Any, *, paired: bool | None, level: float = 0.95, seed: int = 0) -> Association:
    """Kendall's τ between two measures: on setting means, within settings, and pooled (Kendall 1938, 1945).

    Between: all orders of the settings' means count alike, ties as they are. Within: values of y are
    permuted among the seeds of a setting. Unpaired, in each setting by itself: the score is a sum of independent ones,
    so its exact distribution is the convolution of theirs. Paired, by the same permutation in all settings: a seed's
    luck may show in all of them, and independent permutations then reject up to half of all true hypotheses (by
    simulation); only seeds with both measures in every setting count for that p. The interval is a jackknife
    that leaves out one seed in all settings (Arvesen 1969), from 5 seeds on.

    Args:
        x, y: shape (settings, seeds); nan where a trial has no value.
        paired: whether column j is the same seed, with the same streams, in every setting. None where seeds share
            some streams (crossed ones): within settings there is no p-value and no interval then.
        seed: of the permutations, where they are drawn.

    Raises:
        Refused: fewer than 3 trials with both measures.
    """
    import numpy as np

    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"both measures must have the same shape (settings, seeds), not {a.shape} and {b.shape}")
    there = np.isfinite(a) & np.isfinite(b)
    trials, missing = int(there.sum()), int((~there).sum())
    if trials < 3:
        raise Refused(f"{trials} trials with both measures are too few to compare orders; take at least 3")
    rows = there.any(axis=1)
    a, b, there = np.where(there, a, np.nan)[rows], np.where(there, b, np.nan)[rows], there[rows]
    note = "no p-value: trials of one setting are not independent"
    pooled = _Signs.of(a[there][None], b[there][None]).concordance(trials, None, None, False, note)
    between = _between(np.nanmean(a, axis=1), np.nanmean(b, axis=1), np.random.default_rng((seed, 0)))
    within = _within(a, b, there, paired, level, np.random.default_rng((seed, 1)))
    return Association(between, within, pooled, len(a), trials, missing, paired, level)


def _between(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Concordance:
    signs, k = _Signs.of(x[None], y[None]), len(x)
    if k < 3 or signs.tau is None:
        note = "the settings have the same mean" if k > 2 else f"no p-value: {k} settings, and an order takes 3"
        return signs.concordance(k, None, None, False, note)
    chances, exact = _null(x, y, rng)
    return signs.concordance(k, *_tail(chances, signs.score), exact, "")


def _within(
    x: np.ndarray, y: np.ndarray, there: np.ndarray, paired: bool | None, level: float, rng: np.random.Generator
) -> Concordance:
    import numpy as np

    signs, n = _Signs.of(x, y), int(there.sum())
    if signs.tau is None:
        return signs.concordance(n, None, None, False, "a measure is the same in all trials of a setting")
    if paired is None:
        return signs.concordance(n, None, None, False, "no p-value and no interval: seeds share streams of randomness")
    if paired:
        whole = there.all(axis=0)
        p, smallest, exact = _joint(x[:, whole], y[:, whole], rng)
        why = "" if p is not None else "no p-value: fewer than 3 seeds have both measures in every setting"
    else:
        chances, exact, why = np.ones(1), True, ""
        for u, v, t in zip(x, y, there, strict=True):
            own, every = _null(u[t], v[t], rng)
            chances, exact = np.convolve(chances, own), exact and every
        p, smallest = _tail(chances, signs.score)
    low, high, missing = _jackknife(signs, np.flatnonzero(there.any(axis=0)), level)
    note = "; ".join(part for part in (why, missing) if part)
    return replace(signs.concordance(n, p, smallest, exact, note), low=low, high=high)


def _jackknife(signs: _Signs, seeds: np.ndarray, level: float) -> tuple[float | None, float | None, str]:
    """Interval of the pooled τ within settings, leaving out one seed in all of them at a time; or why there is none."""
    import numpy as np

    from .intervals import t_quantile

    n, tau = len(seeds), signs.tau
    if n < FEWEST_FOR_INTERVAL:
        return None, None, f"no interval: {n} seeds, and it takes {FEWEST_FOR_INTERVAL}"
    without = [signs.without(int(seed)).tau for seed in seeds]
    if tau is None or any(t is None for t in without):
        return None, None, "no interval: without one of the seeds a measure does not vary"
    half = t_quantile(level, n - 1) * (n - 1) * float(np.std(np.array(without, dtype=float), ddof=1)) / math.sqrt(n)
    if half < 1e-9:
        return None, None, "no interval: leaving out a seed changes nothing, which says nothing of other seeds"
    return max(tau - half, -1.0), min(tau + half, 1.0), ""


def _joint(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> tuple[float | None, float | None, bool]:
    """P(|score| ≥ the observed) under the same permutation in all settings, the least there is, and whether exact."""
    import numpy as np

    n = x.shape[1]
    if n < 3:
        return None, None, False
    signs = _Signs.of(x, y)
    orders, exact = _orders(n, rng)
    of_y = np.sign(y[:, :, None] - y[:, None, :])
    scores = np.zeros(len(orders))
    for pair, (i, j) in enumerate(zip(signs.first, signs.second, strict=True)):
        over_settings = np.tensordot(signs.x[:, pair], of_y, 1)  # by the pair that takes this one's place
        scores += over_settings[orders[:, i], orders[:, j]]
    size = np.abs(scores)
    return float(np.mean(size >= abs(signs.score))), float(np.mean(size >= size.max())), exact


def _null(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """Probabilities of the scores −m … m, m = n(n−1)/2, under permutation of y, and whether they are exact.

    Without ties by the recursion of Kendall (1938), with ties by counting the orders of up to 7 values, or drawing.
    """
    import numpy as np

    signs, n = _Signs.of(x[None], y[None]), len(x)
    most = n * (n - 1) // 2
    if signs.x.all() and signs.y.all():
        chances = np.zeros(2 * most + 1)
        inversions = np.ones(1)
        for i in range(2, n + 1):  # the i-th value adds 0 to i − 1 inversions
            inversions = np.convolve(inversions, np.full(i, 1 / i))
        chances[::2] = inversions
        return chances, True
    orders, exact = _orders(n, rng)
    of_y = np.sign(y[:, None] - y[None, :])
    scores = np.zeros(len(orders))
    for i in range(n - 1):  # all pairs at once would take gigabytes for some hundred settings
        with_later = signs.first == i
        scores += of_y[orders[:, i, None], orders[:, signs.second[with_later]]] @ signs.x[0, with_later]
    return np.bincount(np.rint(scores).astype(int) + most, minlength=2 * most + 1) / len(orders), exact


def _orders(n: int, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """All permutations if there are few, else the one observed and 9,999 that are drawn (Phipson and Smyth 2010)."""
    import numpy as np

    if math.factorial(n) <= MOST_ENUMERATED:
        return np.array(list(permutations(range(n)))), True
    drawn = rng.permuted(np.tile(np.arange(n), (DRAWS, 1)), axis=1)
    return np.vstack([np.arange(n)[None], drawn]), False


def _tail(chances: np.ndarray, score: int) -> tuple[float, float]:
    """P(|S| ≥ |score|), and the smallest such probability there is."""
    import numpy as np

    distance = np.abs(np.arange(len(chances)) - len(chances) // 2)
    largest = int(distance[chances > 0].max())
    return min(float(chances[distance >= abs(score)].sum()), 1.0), float(chances[distance >= largest].sum())
