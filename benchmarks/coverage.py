"""How often the intervals hold the truth, and how often the tests reject a true hypothesis, by simulation.

Every interval and test of `orchestrator.stats` on data of which the truth is known, at n = 3, 5, 10 and 20 seeds:

- normal;
- contaminated: 9 of 10 values from N(0, 1), the tenth from N(0, 3²);
- lognormal: exp of N(0, 1), skewed, mean e^½.

Intervals claim 95 %, tests 5 %. Prints tables in Markdown; with 10,000 draws the Monte Carlo error (two standard
errors) is 0.4 percentage points, and 1.0 where a fifth of them is drawn (marked *). Exits with 1 if the t interval
covers less than 94 or more than 96 % of normal data (with few draws: if it is off by more than three standard errors).

    python benchmarks/coverage.py [--draws 10000] [--only WORD]… [--n 3 5 10 20]
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.special import ndtr, ndtri

from orchestrator import stats
from orchestrator.stats import Refused, comparisons
from orchestrator.stats.exact import ExactTest

N = (3, 5, 10, 20)
SETTINGS = 5  # of a family, or of an association

Sample = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
Draw = Callable[["Law", int, np.random.Generator], bool | None]


@dataclass(frozen=True)
class Law:
    """A distribution of which everything is known that an interval may be about."""

    name: str
    sample: Sample
    mean: float
    sd: float
    median: float
    quartile_mean: float

    def standard(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Values with mean 0 and variance 1."""
        return (self.sample(rng, shape) - self.mean) / self.sd


def contaminated(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape) * np.where(rng.random(shape) < 0.1, 3.0, 1.0)


def lognormal_quartile_mean() -> float:
    """E[X | between its quartiles]."""
    z = float(ndtri(0.75))
    return 2 * math.exp(0.5) * float(ndtr(z - 1) - ndtr(-z - 1))


LAWS = (
    Law("normal", lambda rng, shape: rng.normal(size=shape), 0, 1, 0, 0),
    Law("contaminated", contaminated, 0, math.sqrt(0.9 + 0.1 * 9), 0, 0),
    Law(
        "lognormal",
        lambda rng, shape: np.exp(rng.normal(size=shape)),
        math.exp(0.5),
        math.sqrt((math.e - 1) * math.e),
        1,
        lognormal_quartile_mean(),
    ),
)


def holds(low: float | None, high: float | None, truth: float) -> bool | None:
    return None if low is None or high is None else low <= truth <= high


# Intervals of one sample


def one_sample(
    interval: Callable[[np.ndarray], stats.Interval | stats.Location],
    truth: str,
    law: Law,
    n: int,
    rng: np.random.Generator,
) -> bool | None:
    found = interval(law.sample(rng, (n,)))
    return holds(found.low, found.high, getattr(law, truth))


def share(p: float, law: Law, n: int, rng: np.random.Generator) -> bool | None:
    """Does not depend on the law: of n seeds each diverges with probability p."""
    found = stats.share_interval(int(rng.binomial(n, p)), n)
    return holds(found.low, found.high, p)


def jackknife(law: Law, n: int, rng: np.random.Generator) -> bool | None:
    """All pairs of n seeds; a pair's value is the sum of both seeds' luck and of its own."""
    luck, pairs = law.standard(rng, (n,)), [(i, j) for i in range(n) for j in range(i)]
    values = [luck[i] + luck[j] + 0.5 * rng.normal() for i, j in pairs]
    found = stats.pair_interval(values, pairs)
    return holds(found.low, found.high, 0)


def naive_pairs(law: Law, n: int, rng: np.random.Generator) -> bool | None:
    """What not to do: a t interval over the same pairs."""
    luck = law.standard(rng, (n,))
    values = [luck[i] + luck[j] + 0.5 * rng.normal() for i in range(n) for j in range(i)]
    found = stats.mean_interval(values)
    return holds(found.low, found.high, 0)


def winner(settings: int, law: Law, n: int, rng: np.random.Generator) -> bool | None:
    """The t interval of the best of equal settings."""
    x = law.sample(rng, (settings, n))
    found = stats.mean_interval(x[x.mean(axis=1).argmax()])
    return holds(found.low, found.high, law.mean)


def table(law: Law, n: int, rng: np.random.Generator) -> np.ndarray:
    """n × n crossed seeds, equal variance from both streams and the rest."""
    return law.standard(rng, (n, 1)) + law.standard(rng, (1, n)) + law.standard(rng, (n, n))


def crossed_mean(law: Law, n: int, rng: np.random.Generator) -> bool | None:
    found = stats.crossed_interval(table(law, n, rng))
    return holds(found.low, found.high, 0)


def component(law: Law, n: int, rng: np.random.Generator) -> bool | None:
    part = stats.split_variance(table(law, n, rng)).a
    return holds(part.ratio_low, part.ratio_high, 1)


# Intervals of two samples. `a` is ahead by one standard deviation.


def paired_t(law: Law, n: int, rng: np.random.Generator) -> bool | None:
    """Differences that are themselves of this law."""
    found = stats.compare_paired(law.standard(rng, (n,)) + 1, np.zeros(n), mode="max")
    return holds(found.low, found.high, 1)


def welch(ratio: float, law: Law, n: int, rng: np.random.Generator) -> bool | None:
    a, b = law.standard(rng, (n,)), ratio * law.standard(rng, (n,))
    found = stats.compare_unpaired(a, b, mode="max")
    return holds(found.low, found.high, 0)


def d_z(law: Law, n: int, rng: np.random.Generator) -> bool | None:
    found = stats.compare_paired(law.standard(rng, (n,)) + 1, np.zeros(n), mode="max").effect
    return found and holds(found.low, found.high, 1)


def d_av(law: Law, n: int, rng: np.random.Generator) -> bool | None:
    """Half of each value is the seed's, shared by the pair: a correlation of ½."""
    shared, own = law.standard(rng, (1, n)), law.standard(rng, (2, n))
    a, b = (shared + own) / math.sqrt(2)
    found = stats.compare_paired(a + 1, b, mode="max").effect_av
    return found and holds(found.low, found.high, 1)


def hedges_g(law: Law, n: int, rng: np.random.Generator) -> bool | None:
    found = stats.compare_unpaired(law.standard(rng, (n,)) + 1, law.standard(rng, (n,)), mode="max").effect
    return found and holds(found.low, found.high, 1)


def improvement(ahead: float, ratio: float, law: Law, n: int, rng: np.random.Generator) -> bool | None:
    """Probability that a run of a is better, on normal values; it is the same for any monotone function of them."""
    truth = float(ndtr(ahead / math.hypot(1, ratio)))
    a, b = rng.normal(ahead, ratio, n), rng.normal(0, 1, n)
    found = stats.probability_of_improvement(a, b, design="unpaired", mode="max")
    return holds(found.low, found.high, truth)


def wins(ahead: float, law: Law, n: int, rng: np.random.Generator) -> bool | None:
    truth = float(ndtr(ahead))
    found = stats.probability_of_improvement(rng.normal(ahead, 1, n), np.zeros(n), design="paired", mode="max")
    return holds(found.low, found.high, truth)


EFFECTS = np.array([0.0, 0.0, 1.0, 2.0])
"""True differences to the baseline, in standard deviations of a setting, for the family's intervals."""


def family(law: Law, n: int, rng: np.random.Generator, effects: np.ndarray, paired: bool) -> list[stats.Verdict]:
    """Four settings against a baseline; paired, the seeds' luck is shared, as much of it as there is of their own."""
    x = law.standard(rng, (1 + len(effects), n)) + (law.standard(rng, (1, n)) if paired else 0)
    compare = stats.compare_paired if paired else stats.compare_unpaired
    return stats.decide([compare(x[i + 1] + e, x[0], mode="max") for i, e in enumerate(effects)], mode="max")


def simultaneous(paired: bool, law: Law, n: int, rng: np.random.Generator) -> bool | None:
    """All four intervals hold their truths."""
    found = family(law, n, rng, EFFECTS, paired)
    inside = [holds(v.low, v.high, e) for v, e in zip(found, EFFECTS, strict=True)]
    return None if None in inside else all(inside)


def tau_within(law: Law, n: int, rng: np.random.Generator) -> bool | None:
    """Correlation ½ inside the settings, luck of the seeds shared. Ranks are the same for all laws."""
    z, e = rng.normal(size=(2, SETTINGS, n)) + rng.normal(size=(2, 1, n))
    found = stats.associate(z, 0.5 * z + math.sqrt(0.75) * e, paired=True).within
    return holds(found.low, found.high, 2 / math.pi * math.asin(0.5))


def matched(paired: bool, law: Law, n: int, rng: np.random.Generator) -> bool | None:
    """The difference in log sharpness at equal loss between two of five settings that reach different losses."""
    luck = rng.normal(size=(2, 1, n)) if paired else np.zeros((2, 1, 1))
    x = 0.25 * np.arange(SETTINGS)[:, None] + rng.normal(size=(SETTINGS, n)) + luck[0]
    y = x + np.arange(SETTINGS)[:, None] + law.standard(rng, (SETTINGS, n)) + luck[1]
    found = stats.match_loss(np.exp(y), np.exp(x), paired=paired).settings[-1]
    return holds(found.difference_low, found.difference_high, SETTINGS - 1)


# Tests: each returns whether a true hypothesis was rejected.


def paired_test(exact: bool, skewed: bool, law: Law, n: int, rng: np.random.Generator) -> bool | None:
    """Exchangeable pairs; or differences that have mean 0 and the law's own skew."""
    d = law.standard(rng, (n,)) - (0 if skewed else law.standard(rng, (n,)))
    found = stats.compare_paired(d, np.zeros(n), mode="max")
    p = found.p_exact if exact else found.p
    return None if p is None else p <= 0.05


def unpaired_test(exact: bool, ratio: float, law: Law, n: int, rng: np.random.Generator) -> bool | None:
    found = stats.compare_unpaired(law.standard(rng, (n,)), ratio * law.standard(rng, (n,)), mode="max")
    p = found.p_exact if exact else found.p
    return None if p is None else p <= 0.05


def family_wise(paired: bool, law: Law, n: int, rng: np.random.Generator) -> bool | None:
    """Any of four settings that equal the baseline is called better or worse."""
    found = family(law, n, rng, np.zeros(4), paired)
    return any(v.decision in ("better", "worse") for v in found)


def tost(law: Law, n: int, rng: np.random.Generator) -> bool | None:
    """Called equivalent although the difference is the margin itself: two standard deviations of the differences."""
    found = stats.compare_paired(2 + law.standard(rng, (n,)), np.zeros(n), mode="max")
    p = stats.equivalence(found, 2.0).p
    return None if p is None else p <= 0.05


def kendall(which: str, paired: bool, shared: float, law: Law, n: int, rng: np.random.Generator) -> bool | None:
    """Two measures that have nothing to do with each other, on five settings that differ in both."""
    x, y = (
        law.standard(rng, (SETTINGS, n)) + shared * law.standard(rng, (1, n)) + 2 * law.standard(rng, (SETTINGS, 1))
        for _ in range(2)
    )
    if which == "pooled":
        from scipy.stats import kendalltau

        return bool(kendalltau(x.ravel(), y.ravel()).pvalue <= 0.05)
    p = getattr(stats.associate(x, y, paired=paired), which).p
    return None if p is None else p <= 0.05


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        laws: that it is drawn for; what depends on none is drawn for the first.
        at: the n that it takes.
        exact: whether it asks for the exact tests, which take most of a comparison's time.
        slow: drawn a fifth as often.
    """

    name: str
    draw: Draw
    laws: tuple[str, ...] = ("normal", "contaminated", "lognormal")
    at: tuple[int, ...] = N
    exact: bool = False
    slow: bool = False


NORMAL = ("normal",)

INTERVALS = (
    Case("mean, t", partial(one_sample, stats.mean_interval, "mean")),
    Case("mean, studentised bootstrap", partial(one_sample, stats.studentised_bootstrap, "mean"), at=(5, 10, 20)),
    Case(
        "mean, percentile bootstrap (1,999 resamples)",
        partial(one_sample, partial(stats.bootstrap_interval, kind="percentile", draws=1_999), "mean"),
        at=(20,),
    ),
    Case(
        "mean, BCa bootstrap (1,999 resamples)",
        partial(one_sample, partial(stats.bootstrap_interval, kind="BCa", draws=1_999), "mean"),
        at=(20,),
    ),
    Case("median, order statistics", partial(one_sample, stats.median_interval, "median"), at=(10, 20)),
    Case(
        "inter-quartile mean, Yuen",
        partial(one_sample, stats.interquartile_mean_interval, "quartile_mean"),
        at=(10, 20),
    ),
    Case("share diverged (true share 0.2), Clopper–Pearson", partial(share, 0.2), NORMAL),
    Case("mean over pairs of seeds, jackknife", jackknife),
    Case("— the same by a t interval over pairs (not used)", naive_pairs),
    Case("mean over n × n crossed seeds", crossed_mean),
    Case("best of 5 equal settings, its own t interval", partial(winner, 5)),
    Case("best of 20 equal settings, its own t interval", partial(winner, 20)),
    Case("difference, paired t", paired_t),
    Case("difference, Welch, equal spread", partial(welch, 1.0)),
    Case("difference, Welch, one spread 3 times the other", partial(welch, 3.0)),
    Case("four differences to a baseline at once, paired", partial(simultaneous, True)),
    Case("four differences to a baseline at once, Welch", partial(simultaneous, False)),
    Case("effect size d_z, true value 1", d_z),
    Case("effect size d_av, true value 1", d_av),
    Case("effect size Hedges' g, true value 1", hedges_g),
    Case("probability of improvement, unpaired, true value 0.50", partial(improvement, 0, 1), NORMAL),
    Case("— 0.50, one spread 3 times the other", partial(improvement, 0, 3), NORMAL),
    Case("— 0.92", partial(improvement, 2, 1), NORMAL),
    Case("— 0.97, one spread 3 times the other", partial(improvement, 6, 3), NORMAL),
    Case("share of pairs won, paired, true share 0.84", partial(wins, 1.0), NORMAL),
    Case("variance ratio of one of two crossed streams, F, true value 1", component, at=(5, 10, 20)),
    Case("Kendall's τ within 5 settings, jackknife", tau_within, NORMAL, at=(5, 10, 20), slow=True),
    Case("log sharpness at matched loss, unpaired, least squares", partial(matched, False), at=(5, 10, 20)),
    Case("log sharpness at matched loss, paired, jackknife", partial(matched, True), at=(5, 10, 20), slow=True),
)

TESTS = (
    Case("paired t, exchangeable pairs", partial(paired_test, False, False)),
    Case("paired t, differences of the law's own skew", partial(paired_test, False, True)),
    Case("sign-flip, exchangeable pairs", partial(paired_test, True, False), exact=True),
    Case(
        "sign-flip, differences of the law's own skew (its hypothesis is false)",
        partial(paired_test, True, True),
        exact=True,
    ),
    Case("Welch, equal spread", partial(unpaired_test, False, 1.0)),
    Case("Welch, one spread 3 times the other", partial(unpaired_test, False, 3.0)),
    Case("permutation, equal spread", partial(unpaired_test, True, 1.0), exact=True),
    Case(
        "permutation, one spread 3 times the other (its hypothesis is false)",
        partial(unpaired_test, True, 3.0),
        exact=True,
    ),
    Case("Holm, any of 4 verdicts wrong, paired", partial(family_wise, True)),
    Case("Holm, any of 4 verdicts wrong, Welch", partial(family_wise, False)),
    Case("equivalence, true difference at the margin", tost),
    Case("Kendall between 5 settings", partial(kendall, "between", True, 1.0), at=(5,)),
    Case("Kendall within 5 settings, paired, luck of seeds shared", partial(kendall, "within", True, 1.0), slow=True),
    Case("Kendall within 5 settings, unpaired", partial(kendall, "within", False, 0.0), slow=True),
    Case("— the unpaired test where luck is shared (not used)", partial(kendall, "within", False, 1.0), slow=True),
    Case("— p-value of the pooled τ (not given)", partial(kendall, "pooled", False, 0.0), slow=True),
)


def rate(case: Case, law: Law, n: int, draws: int) -> float | None:
    """Share of the draws in which the interval held the truth, or the test rejected, of those that had one; None if
    this n is refused."""
    rng = np.random.default_rng(zlib.crc32(f"{case.name} {law.name} {n}".encode()))
    hits = answered = 0
    for draw in range(draws):
        try:
            hit = case.draw(law, n, rng)
        except Refused:
            hit = None
        answered += hit is not None
        hits += bool(hit)
        if draw == 49 and not answered:
            return None
    return hits / answered if answered else None


@contextmanager
def no_exact_tests() -> Iterator[None]:
    """Comparisons without the exact tests beside them, of which the t intervals and verdicts here do not make use."""
    kept = comparisons.permutation_test, comparisons.sign_flip_test
    comparisons.permutation_test = comparisons.sign_flip_test = lambda *_: ExactTest(1.0, 1.0, 0, "not asked for")
    try:
        yield
    finally:
        comparisons.permutation_test, comparisons.sign_flip_test = kept


def rows(
    cases: tuple[Case, ...], draws: int, sizes: tuple[int, ...]
) -> Iterator[tuple[Case, dict[str, list[float | None]]]]:
    for case in cases:
        started = time.perf_counter()
        with nullcontext() if case.exact else no_exact_tests():
            found = {
                law.name: [
                    rate(case, law, n, max(draws // 5, 1) if case.slow else draws) if n in case.at else None
                    for n in sizes
                ]
                for law in LAWS
                if law.name in case.laws
            }
        print(f"{time.perf_counter() - started:7.1f} s  {case.name}", file=sys.stderr, flush=True)
        yield case, found


def cell(values: list[float | None] | None) -> str:
    if values is None:
        return ""
    return " / ".join("–" if v is None else f"{100 * v:.1f}" for v in values)


def t_is_off(values: list[float | None], draws: int) -> list[float]:
    """Coverages of the t interval on normal data that are not 95 ± 1 %."""
    allowed = max(0.01, 3 * math.sqrt(0.95 * 0.05 / draws))
    return [v for v in values if v is not None and abs(v - 0.95) > allowed]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=10_000)
    parser.add_argument("--only", action="append", default=[], help="cases with this word in their name; repeatable")
    parser.add_argument("--n", type=int, nargs="+", default=list(N))
    options = parser.parse_args(arguments)
    return simulate(options.draws, tuple(options.n), options.only)


def simulate(draws: int, sizes: tuple[int, ...], only: list[str]) -> int:
    """Print the tables of the cases that have one of the words in their name (all, if there are none)."""
    code = 0
    for title, cases in (("Coverage of intervals that claim 95 %", INTERVALS), ("Level of tests at 5 %", TESTS)):
        chosen = tuple(c for c in cases if not only or any(w.lower() in c.name.lower() for w in only))
        if not chosen:
            continue
        print(f"### {title}, in %, at n = {' / '.join(map(str, sizes))} ({draws:,} draws)\n")
        print("| | " + " | ".join(law.name for law in LAWS) + " |\n|" + "---|" * (1 + len(LAWS)))
        for case, found in rows(chosen, draws, sizes):
            print(
                f"| {case.name}{' *' if case.slow else ''} | "
                + " | ".join(cell(found.get(law.name)) for law in LAWS)
                + " |",
                flush=True,
            )
            off = t_is_off(found["normal"], draws) if case is INTERVALS[0] else []
            if off:
                print(f"t covers {cell(list(off))} % of normal data instead of 95 ± 1", file=sys.stderr)
                code = 1
        print()
    return code


if __name__ == "__main__":
    sys.exit(main())
