"""Does one measure go with another: sharpness with the generalisation gap, say, over settings and within them?

Three different questions with three answers. Between settings: do sharper settings generalise worse? Within settings:
of two trainings that differ in their seed alone, does the sharper one? Pooled: both mixed, as in a scatter plot of all
trials; its p-value would take trials of one setting for independent, so it is given none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Any

from .refusal import Refused

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Association", "Concordance", "associate"]

DRAWS = 9_999
MOST_ENUMERATED = 5_040  # permutations: those of 7 seeds


@dataclass(frozen=True)
class Concordance:
    """Kendall's τ-b: concordant less discordant pairs over those that are tied in neither, as a geometric mean.

    Attributes:
        tau: between −1 and 1; None if all values of a measure are tied.
        concordant, discordant: pairs.
        n: what was ranked: settings, or trials.
        p: two-sided, by permutation; None where there is no sound one (`note` says why).
        smallest_p: the smallest that this many could give.
        exact: whether all permutations were counted; otherwise 9,999 were drawn.
        low, high: jackknife interval over seeds; None where there is none.
        note: why p is missing; empty if it is not.
    """

    tau: float | None
    concordant: int
    discordant: int
    n: int
    p: float | None
    smallest_p: float | None
    exact: bool
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Association:
    """Three numbers.

    Attributes:
        between: over the settings' means.
        within: pairs of trials of the same setting, pooled over settings.
        pooled: over all trials, without a p-value.
        settings: with at least one complete trial.
        trials: that have both measures.
        missing: that do not.
        paired: whether seed j is the same streams in every setting.
        level: of the intervals.
    """

    between: Concordance
    within: Concordance
    pooled: Concordance
    settings: int
    trials: int
    missing: int
    paired: bool
    level: float


def associate(x: Any, y: Any, *, paired: bool, level: float = 0.95, seed: int = 0) -> Association:
    """Kendall's τ between two measures: on setting means, within settings, and pooled (Kendall 1938, 1945).

    Between: exact over all orders of the settings, also with ties. Within: values of y are permuted among the seeds of
    a setting. Unpaired, each setting by itself: the sum of independent scores, of which the exact distribution
    is the convolution of theirs. Paired, the same permutation in all settings, since a seed's luck may be shared
    by all of them and then independent permutations find too much; only seeds with a value in every setting take part.

    Args:
        x, y: shape (settings, seeds); nan where a trial has no value.
        paired: whether column j is the same seed, with the same streams, in every setting.

    Raises:
        Refused: no setting has 2 trials and there are not 3 settings either.
    """
    import numpy as np

    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"both measures must have the same shape (settings, seeds), not {a.shape} and {b.shape}")
    there = np.isfinite(a) & np.isfinite(b)
    rows = np.flatnonzero(there.any(axis=1))
    trials, missing = int(there.sum()), int((~there).sum())
    if trials < 3:
        raise Refused(f"{trials} trials with both measures are too few to compare orders")
    groups = [(a[i][there[i]], b[i][there[i]]) for i in rows]
    between = _one_group(
        np.array([u.mean() for u, _ in groups]), np.array([v.mean() for _, v in groups]), "setting", seed
    )
    if paired and len(rows):
        whole = there[rows].all(axis=0)
        within = _joint(a[np.ix_(rows, whole)], b[np.ix_(rows, whole)], level, seed)
    else:
        within = _independent(groups, seed)
    score, size_x, size_y, plus, minus = _score(a[there], b[there])
    pooled = Concordance(
        _tau(score, size_x, size_y),
        plus,
        minus,
        trials,
        None,
        None,
        False,
        note="trials of a setting are not independent",
    )
    return Association(between, within, pooled, len(rows), trials, missing, paired, level)


def _score(x: np.ndarray, y: np.ndarray) -> tuple[int, int, int, int, int]:
    """Concordant less discordant pairs, pairs untied in x, in y, concordant, discordant."""
    import numpy as np

    first, second = np.triu_indices(len(x), 1)
    dx, dy = np.sign(x[first] - x[second]), np.sign(y[first] - y[second])
    product = dx * dy
    plus, minus = int((product > 0).sum()), int((product < 0).sum())
    return plus - minus, int(np.abs(dx).sum()), int(np.abs(dy).sum()), plus, minus


def _tau(score: int, untied_x: int, untied_y: int) -> float | None:
    return score / math.sqrt(untied_x * untied_y) if untied_x and untied_y else None


def _null(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """Probabilities of the scores −m … m, m = n(n−1)/2, under permutation of y, and whether they are exact.

    Without ties by Kendall's recursion; with ties by counting up to 7 values, and by drawing above.
    """
    import numpy as np

    n = len(x)
    most = n * (n - 1) // 2
    _, untied_x, untied_y, _, _ = _score(x, y)
    if untied_x == untied_y == most:
        counts = np.ones(1)
        for i in range(2, n + 1):  # inversions of i values: those of i − 1, plus 0 … i − 1
            counts = np.convolve(counts, np.full(i, 1 / i))
        chances = np.zeros(2 * most + 1)
        chances[::2] = counts
        return chances, True
    exact = math.factorial(n) <= MOST_ENUMERATED
    orders = _orders(n, rng)
    first, second = np.triu_indices(n, 1)
    dx = np.sign(x[first] - x[second])
    scores = (np.sign(y[orders[:, first]] - y[orders[:, second]]) @ dx).astype(int)
    return np.bincount(scores + most, minlength=2 * most + 1) / len(orders), exact


def _orders(n: int, rng: np.random.Generator) -> np.ndarray:
    """All permutations if there are few, else the identity and 9,999 that are drawn."""
    import numpy as np

    if math.factorial(n) <= MOST_ENUMERATED:
        return np.array(list(permutations(range(n))))
    drawn = rng.permuted(np.tile(np.arange(n), (DRAWS, 1)), axis=1)
    return np.vstack([np.arange(n)[None], drawn])


def _tail(chances: np.ndarray, score: int) -> tuple[float, float]:
    """P(|S| ≥ |score|), and the smallest such probability there is."""
    import numpy as np

    distance = np.abs(np.arange(len(chances)) - (len(chances) - 1) // 2)
    largest = int(distance[chances > 0].max())
    return min(float(chances[distance >= abs(score)].sum()), 1.0), float(chances[distance >= largest].sum())


def _one_group(x: np.ndarray, y: np.ndarray, what: str, seed: int) -> Concordance:
    import numpy as np

    score, untied_x, untied_y, plus, minus = _score(x, y)
    tau = _tau(score, untied_x, untied_y)
    if tau is None or len(x) < 3:
        note = f"{len(x)} {what}s" if len(x) < 3 else f"all {what}s are equal in one measure"
        return Concordance(tau if len(x) > 2 else None, plus, minus, len(x), None, None, False, note=note)
    chances, exact = _null(x, y, np.random.default_rng((seed, 0)))
    p, smallest = _tail(chances, score)
    return Concordance(tau, plus, minus, len(x), p, smallest, exact)


def _independent(groups: list[tuple[np.ndarray, np.ndarray]], seed: int) -> Concordance:
    """Within settings, each permuted by itself."""
    import numpy as np

    groups = [g for g in groups if len(g[0]) > 1]
    parts = [_score(*g) for g in groups]
    score, untied_x, untied_y, plus, minus = (sum(part[i] for part in parts) for i in range(5))
    n = sum(len(g[0]) for g in groups)
    tau = _tau(score, untied_x, untied_y)
    if tau is None:
        return Concordance(
            None, plus, minus, n, None, None, False, note="no two trials of a setting differ in both measures"
        )
    chances, exact = np.ones(1), True
    for i, group in enumerate(groups):
        own, whole = _null(*group, np.random.default_rng((seed, 1, i)))
        chances, exact = np.convolve(chances, own), exact and whole
    p, smallest = _tail(chances, score)
    return Concordance(tau, plus, minus, n, p, smallest, exact)


def _joint(x: np.ndarray, y: np.ndarray, level: float, seed: int) -> Concordance:
    """Within settings, seeds permuted together in all of them."""
    import numpy as np

    _, n = x.shape
    parts = [_score(u, v) for u, v in zip(x, y, strict=True)]
    score, untied_x, untied_y, plus, minus = (sum(part[i] for part in parts) for i in range(5))
    tau = _tau(score, untied_x, untied_y)
    if tau is None:
        note = "no two trials of a setting differ in both measures"
        return Concordance(None, plus, minus, x.size, None, None, False, note=note)
    orders = _orders(n, np.random.default_rng((seed, 1)))
    first, second = np.triu_indices(n, 1)
    dx = np.sign(x[:, first] - x[:, second])
    scores = np.zeros(len(orders))
    for u, v in zip(dx, y, strict=True):
        scores += np.sign(v[orders[:, first]] - v[orders[:, second]]) @ u
    size = np.abs(scores)
    return Concordance(
        tau,
        plus,
        minus,
        x.size,
        float(np.mean(size >= abs(score))),
        float(np.mean(size >= size.max())),
        math.factorial(n) <= MOST_ENUMERATED,
    )
