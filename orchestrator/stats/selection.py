"""The best of many settings: how much its mean flatters it, and how often fewer seeds would have named another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from .comparisons import Mode
from .intervals import t_quantile
from .quadrature import chi2_nodes, normal_nodes
from .refusal import Refused

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FEWEST_SEEDS", "FewerSeeds", "WinnersCurse", "fewer_seeds", "winner_coverage", "winners_curse"]

FEWEST_SEEDS = 10  # below it, subsamples of half the seeds say nothing
MOST_SUBSETS = 10_000  # more than these are not all looked at, but drawn
SPLITS = 1_000  # the same, where subsets only serve an average


@dataclass(frozen=True)
class WinnersCurse:
    """How much the mean of the best of k settings is flattered by being picked for it.

    Attributes:
        settings: how many were compared.
        n: seeds of each.
        winner: index of the best mean.
        tied: whether another setting has exactly the same mean.
        mean: of the winner, as observed.
        inflation: estimated bias of that mean, ≥ 0, in the units of the metric: too high for max, too low for min.
        corrected: the mean less its inflation (plus it, for min).
        coverage: of the winner's own t interval, had all settings the same true mean.
        correlation: between settings over seeds, which that reckons with; estimated, 0 if negative.
        level: what that interval claims.
        left_out: indices of settings that were not compared, since a seed has no value.
    """

    settings: int
    n: int
    winner: int
    tied: bool
    mean: float
    inflation: float
    corrected: float
    coverage: float
    correlation: float
    level: float
    left_out: tuple[int, ...]


@dataclass(frozen=True)
class FewerSeeds:
    """How often m of the n seeds would have named another winner.

    The subsets are drawn from the n seeds that named the winner, so with m near n they must agree with it: this is how
    stable the choice is, not how likely it is to be right.

    Attributes:
        n: seeds.
        winners: indices of the best mean over all n (several if tied).
        sizes: each m.
        shares: of the subsets of that size, those of which the best setting is not among `winners`.
        subsets: how many were looked at.
        exact: whether those are all there are; otherwise they were drawn.
        left_out: indices of settings that were not compared, since a seed has no value.
    """

    n: int
    winners: tuple[int, ...]
    sizes: tuple[int, ...]
    shares: tuple[float, ...]
    subsets: tuple[int, ...]
    exact: tuple[bool, ...]
    left_out: tuple[int, ...]


def winner_coverage(settings: int, n: int, level: float = 0.95, correlation: float = 0.0) -> float:
    """Coverage of the winner's own t interval if all settings have the same true mean (normal values).

    The largest of k independent normal means has the distribution Φᵏ, and its sd is independent of it. Correlated
    means are √ρ·Z + √(1 − ρ) times independent ones with a Z that all share. Integrated over Z, and over V ~ χ²(n − 1)
    for the sd. Independent, at 5 seeds: 90 % for 5 settings and 75 % for 20; at 10 seeds 89 and 68 %.

    Args:
        correlation: ρ, between the values that two settings have for the same seed.
    """
    import numpy as np
    from scipy.special import ndtr

    v, weights = chi2_nodes(n - 1, 64)
    bound = t_quantile(level, n - 1) * np.sqrt(v / (n - 1))[:, None]
    z, weights_z = normal_nodes(64)
    shared, own = math.sqrt(correlation), math.sqrt(max(1 - correlation, 1e-6))
    inside = ndtr((bound - shared * z) / own) ** settings - ndtr((-bound - shared * z) / own) ** settings
    return float(weights @ inside @ weights_z)


def winners_curse(values: Any, *, mode: Mode = "max", level: float = 0.95, seed: int = 0) -> WinnersCurse:
    """The bias of the best setting's mean, by choosing on just over half of the seeds and judging on the others.

    The seeds left out had no part in the choice, so the winner's mean on those that chose it, less that on the others,
    is an unbiased estimate of the bias of choosing on m = ⌊n/2⌋ + 1 seeds; it is averaged over all subsets of m
    (1,000 drawn, if there are more), and √(m/n) of it is the bias for n seeds, if the settings are equal. By simulation
    (benchmarks/coverage.py) it is right for equal settings and too large, never too small, where one of them clearly
    wins. Leaving out one seed at a time has less of that, but twice the spread. Values are taken relative to their
    seed's mean over settings: that changes no choice, and takes out what all settings share.

    Args:
        values: shape (settings, seeds); a setting with a missing value (nan) is left out.
        seed: of the draws.

    Raises:
        Refused: fewer than 2 settings without missing values, or fewer than 3 seeds.
    """
    import numpy as np

    x, kept, left_out = _complete(values)
    k, n = x.shape
    if k < 2:
        raise Refused(f"{k} setting with a value for every seed: there is nothing to choose from")
    if n < 3:
        raise Refused(f"{_seeds(n)} too few to choose on some and judge on others: take at least 3")
    sign = 1.0 if mode == "max" else -1.0
    relative = sign * (x - x.mean(axis=0))
    m = n // 2 + 1
    subsets, _ = _subsets(n, m, SPLITS, np.random.default_rng((seed, m)))
    chosen_on = np.zeros((len(subsets), n))
    np.put_along_axis(chosen_on, subsets, 1.0, axis=1)
    ours, others = relative @ chosen_on.T / m, relative @ (1 - chosen_on).T / (n - m)
    best = ours.argmax(axis=0)[None]
    flattery = np.take_along_axis(ours, best, 0) - np.take_along_axis(others, best, 0)
    inflation = max(float(flattery.mean()), 0.0) * math.sqrt(m / n)
    means = x.mean(axis=1)
    correlation = _correlation(x)
    winners = _winners(sign * means[None])[0]
    winner = int(winners.argmax())
    return WinnersCurse(
        settings=k,
        n=n,
        winner=kept[winner],
        tied=bool(winners.sum() > 1),
        mean=float(means[winner]),
        inflation=inflation,
        corrected=float(means[winner]) - sign * inflation,
        coverage=winner_coverage(k, n, level, correlation),
        correlation=correlation,
        level=level,
        left_out=left_out,
    )


def fewer_seeds(
    values: Any, sizes: Sequence[int] | None = None, *, mode: Mode = "max", paired: bool = True, seed: int = 0
) -> FewerSeeds:
    """How often m < n of the seeds would have named another setting the best, by subsampling without replacement.

    Paired, the same seeds are taken of all settings: all subsets if there are at most 10,000, else as many draws.
    Unpaired, each setting has its own subset, and 10,000 are drawn. A subset agrees if one of its best settings is
    among the best on all seeds.

    Args:
        values: shape (settings, seeds); a setting with a missing value (nan) is left out.
        sizes: each from 1 to n − 1; 1, 2, 3, 5, 7, 10, … below n if not given.
        seed: of the draws.

    Raises:
        Refused: fewer than 10 seeds, or fewer than 2 settings without missing values.
    """
    import numpy as np

    x, kept, left_out = _complete(values)
    k, n = x.shape
    if n < FEWEST_SEEDS:
        raise Refused(
            f"{_seeds(n)} too few to tell how often fewer would have named another winner: take at least {FEWEST_SEEDS}"
        )
    if k < 2:
        raise Refused(f"{k} setting with a value for every seed: there is no other to be named the best")
    of = tuple(m for m in (1, 2, 3, 5, 7, 10, 15, 20, 30, 50) if m < n) if sizes is None else tuple(sizes)
    if any(not 1 <= m < n for m in of):
        raise ValueError(f"sizes must be from 1 to {n - 1}, not {of}")
    y = x if mode == "max" else -x
    winners = _winners(y.mean(axis=1)[None])[0]
    shares, subsets, exact = [], [], []
    for m in of:
        rng = np.random.default_rng((seed, m))
        if paired:
            taken, every = _subsets(n, m, MOST_SUBSETS, rng)
            means = y[:, taken].mean(axis=2).T
        else:
            every = False
            drawn = [rng.permuted(np.tile(row, (MOST_SUBSETS, 1)), axis=1)[:, :m] for row in y]
            means = np.stack([own.mean(axis=1) for own in drawn], axis=1)
        agrees = (_winners(means) & winners).any(axis=1)
        shares.append(float(1 - agrees.mean()))
        subsets.append(len(means))
        exact.append(every)
    named = tuple(kept[i] for i in np.flatnonzero(winners))
    return FewerSeeds(n, named, of, tuple(shares), tuple(subsets), tuple(exact), left_out)


def _seeds(n: int) -> str:
    return "1 seed is" if n == 1 else f"{n} seeds are"


def _correlation(x: np.ndarray) -> float:
    """Intraclass correlation of the settings over seeds: the seeds' share of the variance inside settings, ≥ 0."""
    import numpy as np

    k, n = x.shape
    inside = x - x.mean(axis=1, keepdims=True)
    luck = inside.mean(axis=0)
    rest = float(((inside - luck) ** 2).sum()) / ((k - 1) * (n - 1))
    seeds = (k * float((luck**2).sum()) / (n - 1) - rest) / k
    return float(np.clip(seeds / (seeds + rest), 0, 1)) if seeds > 0 else 0.0


def _subsets(n: int, m: int, most: int, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """All subsets of m of n, shape (subsets, m), or `most` that are drawn if there are more; and whether it is all."""
    import numpy as np

    if math.comb(n, m) <= most:
        return np.array(list(combinations(range(n), m))), True
    return rng.permuted(np.tile(np.arange(n), (most, 1)), axis=1)[:, :m], False


def _winners(means: np.ndarray) -> np.ndarray:
    """Which settings are best in each row, shape (rows, settings): all that are equal up to rounding."""
    import numpy as np

    best = means.max(axis=1, keepdims=True)
    return means >= best - 1e-12 * np.maximum(np.abs(best), np.abs(means).max(axis=1, keepdims=True))


def _complete(values: Any) -> tuple[np.ndarray, tuple[int, ...], tuple[int, ...]]:
    """The settings without missing values, their indices, and those of the others."""
    import numpy as np

    x = np.asarray(values, dtype=float)
    if x.ndim != 2:
        raise ValueError(f"values must have shape (settings, seeds), not {x.shape}")
    whole = np.isfinite(x).all(axis=1)
    return x[whole], tuple(map(int, np.flatnonzero(whole))), tuple(map(int, np.flatnonzero(~whole)))
