"""What the numbers of sam_rho's report must be, from the manifests in a store, by other means than the report's.

What the trainings, probes and pairs measured is read from the manifests alone: which setting and seed an artifact is
about, too. Means, intervals, tests and effect sizes are scipy's and statsmodels', or counted by brute force.
"""

from __future__ import annotations

import bisect
import itertools
import json
import math
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import statsmodels.api as sm
from scipy import optimize, special, stats

SETTINGS = [("SAM", 0.0), ("SAM", 0.05), ("SAM", 0.2), ("ASAM", 0.5), ("ASAM", 2.0)]  # in the order of the sweep file
LABELS = ["SAM, rho=0", "SAM, rho=0.05", "SAM, rho=0.2", "ASAM, rho=0.5", "ASAM, rho=2"]
SEEDS = range(5)
BASELINE, MARGIN, PRIMARY = 0, 0.02, "Train.val_accuracy"
Trial = tuple[int, int]


class Artifacts:
    """What the manifests in a store say, by what they are about."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self._contrasts: dict[tuple[str, int, int], Contrast] = {}
        self.manifests = [json.loads(p.read_text()) for p in sorted(store.glob("artifacts/*/*/manifest.json"))]
        assert all(m["status"] == "done" for m in self.manifests)
        self.trial_of: dict[str, Trial] = {}
        for m in self.kind("train"):
            optimizer = m["fields"]["optimizer"]
            setting = SETTINGS.index((optimizer["class"].rpartition(":")[2], optimizer["rho"]))
            (seed,) = set(m["seeds"].values())
            self.trial_of[m["key"]] = (setting, seed)
        self.trials: dict[str, dict[Trial, Any]] = {}
        self.pairs: dict[str, dict[tuple[Trial, Trial], Any]] = {}
        self.groups: dict[str, dict[int, Any]] = {}
        for m in self.manifests:
            about = [self.trial_of[k] for k in m["inputs"] if k in self.trial_of]
            for name, value in m["results"].items():
                path = f"{m['task']}.{name}"
                if m["kind"] == "train":
                    self.trials.setdefault(path, {})[self.trial_of[m["key"]]] = value
                elif m["kind"] == "probe":
                    self.trials.setdefault(path, {})[about[0]] = value
                elif m["kind"] == "pair":
                    self.pairs.setdefault(path, {})[about[0], about[1]] = value
                elif m["kind"] == "group":
                    assert len({s for s, _ in about}) == 1
                    self.groups.setdefault(path, {})[about[0][0]] = value

    def kind(self, *kinds: str) -> list[dict[str, Any]]:
        return [m for m in self.manifests if m["kind"] in kinds]

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        (file,) = self.store.glob("runs/*/*/events.jsonl")
        return [json.loads(line) for line in file.read_text().splitlines()]

    def arrays(self, task: str, trial: Trial) -> list[Any]:
        """The arrays that a task on a trial has left."""
        for m in self.manifests:
            if m["task"] == task and self.trial_of.get(m["key"], self.trial_of.get((m["inputs"] or [""])[0])) == trial:
                return [np.load(f, allow_pickle=False) for f in self.store.glob(f"artifacts/{task}/{m['key']}/*.npz")]
        raise AssertionError(f"no {task} of {trial}")

    def contrast(self, metric: str, first: int, second: int) -> Contrast:
        """Kept, since each is asked for a dozen numbers."""
        return self._contrasts.setdefault((metric, first, second), Contrast(self, metric, first, second))

    def over_seeds(self, metric: str, setting: int) -> np.ndarray:
        values = [self.trials[metric][setting, seed] for seed in SEEDS]
        return np.array([float(v) for v in values if v is not None])

    def matrix(self, metric: str) -> np.ndarray:
        return np.array([self.over_seeds(metric, s) for s in range(len(SETTINGS))])

    def of_two(self, metric: str, a: int, b: int) -> dict[tuple[int, int], float]:
        """The values of pairs of trials of two settings, by their seeds."""
        found = {}
        for ((s, i), (t, j)), value in self.pairs[metric].items():
            if {s, t} == {a, b} and value is not None:
                found[i, j] = float(value)
        return found


# What a number must be, by what the page says that it is


def jackknife_half(values: dict[tuple[int, int], float]) -> float:
    """Half of the 95 % interval of a mean over pairs of seeds, leaving out one seed with all its pairs at a time."""
    seeds = sorted({s for pair in values for s in pair})
    mean = np.mean(list(values.values()))
    pseudo = []
    for left_out in seeds:
        others = [v for pair, v in values.items() if left_out not in pair]
        pseudo.append(len(seeds) * mean - (len(seeds) - 1) * np.mean(others))
    return float(stats.t.ppf(0.975, len(seeds) - 1) * np.std(pseudo, ddof=1) / np.sqrt(len(seeds)))


def summary(a: Artifacts, at: dict[str, str]) -> float:
    values = a.over_seeds(at["metric"], int(at["setting"]))
    n = len(values)
    return {
        "n": lambda: n,
        "mean": lambda: np.mean(values),
        "half": lambda: stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))[1] - values.mean(),
        "sd": lambda: np.std(values, ddof=1),
        "low": lambda: stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))[0],
        "high": lambda: stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))[1],
        "bootstrap_low": lambda: every_resample(values)[0],
        "bootstrap_high": lambda: every_resample(values)[1],
        "min": lambda: min(values),
        "max": lambda: max(values),
        "min_seed": lambda: SEEDS[list(values).index(min(values))],
        "max_seed": lambda: SEEDS[list(values).index(max(values))],
        "median": lambda: np.median(values),
        "missing": lambda: len(SEEDS) - n,
        # No training of this study diverged; what stands beside it is exact: 1 − 0.025^(1/n).
        "diverged": lambda: sum(bool(a.trials["Train.diverged"][int(at["setting"]), s]) for s in SEEDS),
        "trainings": lambda: len(SEEDS),
        "diverged_low": lambda: 0,
        "diverged_high": lambda: 1 - 0.025 ** (1 / len(SEEDS)),
    }[at["stat"]]()


def every_resample(x: np.ndarray) -> tuple[float, float]:
    """The studentised bootstrap interval over all nⁿ resamples, where the report draws some of them."""
    drawn = x[np.array(list(itertools.product(range(len(x)), repeat=len(x))))]
    shift, spread = drawn.mean(axis=1) - x.mean(), np.ptp(drawn, axis=1)
    t = np.where(
        spread > 0, shift / stats.sem(np.where(spread[:, None] > 0, drawn, x), axis=1), np.copysign(np.inf, shift)
    )
    low, high = np.quantile(t, [0.025, 0.975], method="inverted_cdf")
    return x.mean() - high * stats.sem(x), x.mean() - low * stats.sem(x)


def pair(a: Artifacts, at: dict[str, str]) -> float:
    values = a.of_two(at["metric"], *map(int, at["setting"].split()))
    planned = [
        v for (x, y), v in a.pairs[at["metric"]].items() if [x[0], y[0]] == list(map(int, at["setting"].split()))
    ]
    return {
        "n": lambda: len(values),
        "mean": lambda: np.mean(list(values.values())),
        "half": lambda: jackknife_half(values),
        "seeds": lambda: len({s for p in values for s in p}),
        "missing": lambda: len(planned) - len(values),
    }[at["stat"]]()


def group(a: Artifacts, at: dict[str, str]) -> float:
    if at["stat"] == "seeds":
        return len({seed for s, seed in a.trial_of.values() if s == int(at["setting"])})
    return a.groups[at["metric"]][int(at["setting"])]


def trial(a: Artifacts, at: dict[str, str]) -> float:
    return a.trials[at["metric"]][int(at["setting"]), int(at["seed"])]


def same(a: Artifacts, at: dict[str, str]) -> float:
    values = set((a.trials | a.pairs | a.groups)[at["metric"]].values())
    (value,) = values
    return value


def noncentral_t(t: float, degrees: int, centre: float) -> float:
    """P(T ≤ t), over the distribution of the estimated sd (scipy's own is nan where it is next to nothing)."""
    x, density = _spread(degrees)
    return float(np.trapezoid(special.ndtr(t * x - centre) * density, x))


@cache
def _spread(degrees: int) -> tuple[np.ndarray, np.ndarray]:
    """The density of estimated sd / true sd."""
    x = np.linspace(1e-9, 6, 6_001)
    return x, stats.chi.pdf(x * math.sqrt(degrees), degrees) * math.sqrt(degrees)


class Contrast:
    """Two settings on one metric, paired by seed; larger is better unless said otherwise."""

    def __init__(self, a: Artifacts, metric: str, first: int, second: int) -> None:
        self.x, self.y = a.over_seeds(metric, first), a.over_seeds(metric, second)
        self.d = self.x - self.y
        self.n, self.mean, self.sd = len(self.d), self.d.mean(), self.d.std(ddof=1)
        self.se = self.sd / math.sqrt(self.n)

    @cached_property
    def p(self) -> float:
        return float(stats.ttest_rel(self.x, self.y).pvalue)

    @cached_property
    def p_exact(self) -> float:
        """All signs of the differences: how many give a mean as far from 0."""
        sums = [abs(np.dot(s, self.d)) for s in itertools.product((-1, 1), repeat=self.n)]
        return float(np.mean(np.array(sums) >= abs(self.d.sum()) * (1 - 1e-9) - 1e-9))

    @property
    def smallest_p(self) -> float:
        return 2.0 ** (1 - np.count_nonzero(np.abs(self.d) > 1e-9))

    @cached_property
    def effect(self) -> tuple[float, float, float]:
        """d_z = J · mean / sd of the differences, J exact; bounds by inverting the noncentral t distribution."""
        m = self.n - 1
        j = math.exp(special.gammaln(m / 2) - special.gammaln((m - 1) / 2)) / math.sqrt(m / 2)
        t = self.mean / self.se
        at = [
            optimize.brentq(lambda c, q=q: noncentral_t(t, m, c) - q, t - 4 - 2 * abs(t), t + 4 + 2 * abs(t))
            for q in (0.975, 0.025)
        ]
        return j * self.mean / self.sd, *(c / math.sqrt(self.n) for c in at)  # bounds of δ itself: nothing to correct

    @cached_property
    def effect_av(self) -> tuple[float, float, float]:
        """d_av: in units of the root mean square of the settings' own sd; bounds are those of d_z in these units."""
        own = math.sqrt((self.x.var(ddof=1) + self.y.var(ddof=1)) / 2)
        r = np.corrcoef(self.x, self.y)[0, 1]
        m = 2 * (self.n - 1) / (1 + r * r)
        j = math.exp(special.gammaln(m / 2) - special.gammaln((m - 1) / 2)) / math.sqrt(m / 2)
        return j * self.mean / own, *(bound * self.sd / own for bound in self.effect[1:])

    def improvement(self, larger: bool) -> tuple[float, float, float]:
        wins = int((self.d > 0).sum() if larger else (self.d < 0).sum())
        bounds = stats.binomtest(wins, self.n).proportion_ci(0.95, method="exact")
        return wins / self.n, bounds.low, bounds.high

    def told(self, stat: str, larger: bool = True) -> float:
        half = stats.t.ppf(0.975, self.n - 1) * self.se
        return {
            "n_a": lambda: self.n,
            "n_b": lambda: self.n,
            "difference": lambda: self.mean,
            "mean_a": lambda: self.x.mean(),
            "mean_b": lambda: self.y.mean(),
            "low": lambda: self.mean - half,
            "high": lambda: self.mean + half,
            "p": lambda: self.p,
            "p_exact": lambda: self.p_exact,
            "smallest_p": lambda: self.smallest_p,
            "effect": lambda: self.effect[0],
            "effect_low": lambda: self.effect[1],
            "effect_high": lambda: self.effect[2],
            "effect_av": lambda: self.effect_av[0],
            "effect_av_low": lambda: self.effect_av[1],
            "effect_av_high": lambda: self.effect_av[2],
            "improvement": lambda: self.improvement(larger)[0],
            "improvement_low": lambda: self.improvement(larger)[1],
            "improvement_high": lambda: self.improvement(larger)[2],
        }[stat]()


def exploratory(a: Artifacts, at: dict[str, str]) -> float:
    first, second = map(int, at["setting"].split())
    return a.contrast(at["metric"], first, second).told(at["stat"], larger=not at["metric"].endswith("loss"))


class Family:
    """The declared contrasts: every setting against the baseline on the primary metric."""

    def __init__(self, a: Artifacts) -> None:
        self.contrasts = {s: a.contrast(PRIMARY, s, BASELINE) for s in range(1, len(SETTINGS))}

    def closed(self, p: dict[int, float]) -> dict[int, float]:
        """Holm's adjusted p as closed testing: the largest Bonferroni p of all subsets of the family that hold it."""
        subsets = [s for k in range(1, len(p) + 1) for s in itertools.combinations(p, k)]
        each = {s: min(1.0, len(s) * min(p[i] for i in s)) for s in subsets}
        return {i: max(value for s, value in each.items() if i in s) for i in p}

    @cached_property
    def p_holm(self) -> dict[int, float]:
        """Each direction by itself, at half the error."""
        sides = []
        for sign in (1, -1):
            tail = {i: c.p / 2 if np.sign(c.mean) == sign else 1.0 for i, c in self.contrasts.items()}
            sides.append(self.closed(tail))
        return {i: min(1.0, 2 * min(side[i] for side in sides)) for i in self.contrasts}

    def bounds(self, setting: int) -> tuple[float, float]:
        """The simultaneous interval that goes with Holm's tests (Strassburger and Bretz 2008), side by side."""
        found = []
        for sign in (1, -1):
            c, m = self.contrasts[setting], len(self.contrasts)
            rejected = [i for i, d in self.contrasts.items() if self.p_holm[i] < 0.05 and np.sign(d.mean) == sign]
            left = m if len(rejected) == m else m - len(rejected)
            bound = sign * c.mean - stats.t.ppf(1 - 0.025 / left, c.n - 1) * c.se
            if setting in rejected:
                bound = max(0.0, bound) if len(rejected) == m else 0.0
            found.append(sign * bound)
        return found[0], found[1]

    @cached_property
    def p_equivalence(self) -> dict[int, float]:
        tests = {
            i: max(
                stats.ttest_1samp(c.d, -MARGIN, alternative="greater").pvalue,
                stats.ttest_1samp(c.d, MARGIN, alternative="less").pvalue,
            )
            for i, c in self.contrasts.items()
        }
        return self.closed({i: float(p) for i, p in tests.items()})


def own_intervals(a: Artifacts, setting: int) -> list[float]:
    """The ends of a declared contrast's 90 % and 95 % intervals, not corrected for the family."""
    c = a.contrast(PRIMARY, setting, BASELINE)
    return [c.mean + side * stats.t.ppf(q, c.n - 1) * c.se for q in (0.95, 0.975) for side in (-1, 1)]


def verdict(a: Artifacts, at: dict[str, str]) -> float:
    family = Family(a)
    setting, baseline = map(int, at["setting"].split())
    assert baseline == BASELINE
    special_ones: dict[str, Callable[[], float]] = {
        "low": lambda: family.bounds(setting)[0],
        "high": lambda: family.bounds(setting)[1],
        "p_holm": lambda: family.p_holm[setting],
        "p_equivalence": lambda: family.p_equivalence[setting],
    }
    return special_ones[at["stat"]]() if at["stat"] in special_ones else family.contrasts[setting].told(at["stat"])


def declared(a: Artifacts, at: dict[str, str]) -> float:
    return {"contrasts": len(SETTINGS) - 1, "margin": MARGIN, "smallest_effect": MARGIN, "level": 0.95}[at["stat"]]


def winner(a: Artifacts, at: dict[str, str]) -> float:
    """The mean; how it is flattered by the estimate that tests/orchestrator/stats checks, from the artifacts."""
    from orchestrator.stats import winners_curse

    values = a.matrix(PRIMARY)
    assert int(at["setting"]) == values.mean(axis=1).argmax()
    if at["stat"] == "mean":
        return values.mean(axis=1).max()
    return getattr(winners_curse(values), at["stat"])


def power(a: Artifacts, at: dict[str, str]) -> float:
    """Of the paired t test, and of two one-sided ones, at the family's pooled sd; by the noncentral t distribution."""
    family = Family(a)
    n, alpha = len(SEEDS), 0.05 / len(family.contrasts)
    sd = math.sqrt(np.mean([c.sd**2 for c in family.contrasts.values()]))
    ends = stats.chi2.ppf([0.975, 0.025], n - 1)
    sd = {"estimate": sd, "low": sd * math.sqrt((n - 1) / ends[0]), "high": sd * math.sqrt((n - 1) / ends[1])}[at["at"]]

    def of(effect: float, n: int) -> float:
        if at["question"] == "difference":
            t, centre = stats.t.ppf(1 - alpha / 2, n - 1), effect / sd * math.sqrt(n)
            return 1 - noncentral_t(t, n - 1, centre) + noncentral_t(-t, n - 1, centre)
        return equivalence_power(effect, sd, n, alpha)

    def least(share: float) -> float:
        return 2 + bisect.bisect_left(range(2, 5000), share, key=lambda k: of(MARGIN, k))

    return {
        "sd": lambda: sd,
        "present": lambda: of(MARGIN, n),
        "needed_80": lambda: least(0.8),
        "needed_90": lambda: least(0.9),
        "detectable": lambda: optimize.brentq(lambda e: of(e, n) - 0.8, 1e-9 * sd, 8 * sd),
    }[at["stat"]]()


def equivalence_power(margin: float, sd: float, n: int, alpha: float) -> float:
    """The chance that both one-sided tests reject at a true difference of 0: over the distribution of the sd."""
    t = stats.t.ppf(1 - alpha, n - 1)
    s, mass = np.linspace(1e-6, 1, 20_001), None  # as shares of the largest sd that leaves room
    most = margin * math.sqrt(n) / (t * sd)
    x = most * s
    room = (margin * math.sqrt(n) / sd) - t * x
    density = stats.chi.pdf(x * math.sqrt(n - 1), n - 1) * math.sqrt(n - 1)
    mass = (2 * special.ndtr(room) - 1) * density
    return float(np.trapezoid(mass, x))


def sharpness(a: Artifacts, at: dict[str, str]) -> float:
    x, y = a.matrix(at["metric"]), a.matrix(at["against"])
    k, n = x.shape

    def within(order: Any, rows: Any) -> float:
        """Kendall's τ-b over pairs of seeds of the same setting."""
        plus = sx = sy = 0.0
        for s in range(k):
            for i, j in itertools.combinations(rows, 2):
                dx, dy = np.sign(x[s, i] - x[s, j]), np.sign(y[s, order[i]] - y[s, order[j]])
                plus, sx, sy = plus + dx * dy, sx + abs(dx), sy + abs(dy)
        return plus / math.sqrt(sx * sy)

    kendall = stats.kendalltau(x.mean(axis=1), y.mean(axis=1))
    if at["at"] == "between":
        smallest = 2 / math.factorial(k)
        return {"tau": kendall.statistic, "p": kendall.pvalue, "n": k, "smallest_p": smallest}[at["stat"]]
    if at["at"] == "pooled":
        return {"tau": stats.kendalltau(x.ravel(), y.ravel()).statistic, "n": k * n}[at["stat"]]
    tau = within(range(n), range(n))
    if at["stat"] in ("tau", "n"):
        return {"tau": tau, "n": k * n}[at["stat"]]
    if at["stat"] in ("p", "smallest_p"):
        # Ties change the scores of permutations, so scores are compared and not τ.
        scores = np.abs([_score(x, y[:, list(order)]) for order in itertools.permutations(range(n))])
        least = scores.max() if at["stat"] == "smallest_p" else abs(_score(x, y))
        return float(np.mean(scores >= least - 1e-9))
    without = [within(range(n), [i for i in range(n) if i != gone]) for gone in range(n)]
    half = stats.t.ppf(0.975, n - 1) * (n - 1) * np.std(without, ddof=1) / math.sqrt(n)
    return {"low": max(-1.0, tau - half), "high": min(1.0, tau + half)}[at["stat"]]


def _score(x: np.ndarray, y: np.ndarray) -> float:
    return sum(
        float(np.sign(u[i] - u[j]) * np.sign(v[i] - v[j]))
        for u, v in zip(x, y, strict=True)
        for i, j in itertools.combinations(range(len(u)), 2)
    )


def matched(a: Artifacts, at: dict[str, str]) -> float:
    """Means by setting at one training loss: a common slope on the logarithms, by statsmodels."""
    x, y = np.log(a.matrix(at["metric"])), np.log(a.matrix("Train.train_loss"))
    k, n = x.shape
    common = y.mean(axis=1).mean()
    if at["stat"] == "loss":
        return math.exp(common)

    def fit(columns: list[int]) -> np.ndarray:
        rows = [(s, j) for s in range(k) for j in columns]
        design = np.array([[*np.eye(k)[s], y[s, j] - common] for s, j in rows])
        return sm.OLS(np.array([x[s, j] for s, j in rows]), design).fit().params[:k]

    s, found = int(at["setting"]), fit(list(range(n)))
    return {
        "n": lambda: n,
        "mean": lambda: math.exp(x[s].mean()),
        "adjusted": lambda: math.exp(found[s]),
        "difference": lambda: math.exp(found[s] - found[BASELINE]),
    }[at["stat"]]()


def diverged(a: Artifacts, at: dict[str, str]) -> float:
    bounds = stats.binomtest(0, len(SEEDS)).proportion_ci(0.95, method="exact")
    return {"k": 0, "n": len(SEEDS), "share": 0, "low": bounds.low, "high": bounds.high}[at["stat"]]


def cost(a: Artifacts, at: dict[str, str]) -> float:
    among = [m for m in a.manifests if m["host"] == at.get("host", m["host"])]
    among = [m for m in among if m["device"] == at.get("device", m["device"])]
    return {
        "tasks": lambda: len(among),
        "seconds": lambda: sum(m["seconds"] for m in among),
        "cpu_seconds": lambda: sum(m["seconds"] * m["slot"]["cpu"] for m in among),
        "gpu_seconds": lambda: sum(m["seconds"] * m["slot"].get("gpu", 0) for m in among),
        "peak_memory_bytes": lambda: max(m["peak_memory_bytes"] for m in among),
        "artifacts": lambda: len(among),
    }[at["stat"]]()


def run(a: Artifacts, at: dict[str, str]) -> float:
    """As the run's record says; what it says lies within what the events tell."""
    (file,) = a.store.glob("runs/*/*/study.json")
    told = json.loads(file.read_text())["run"]
    first = next(e["time"] for e in a.events if e["event"] == "run_started")
    last = max(m["started"] + m["seconds"] for m in a.manifests)
    assert last - first - 1 < told["seconds"] < last - first + 120 and 0 < told["startup"] < told["seconds"]
    return told[at["stat"]]


def count(a: Artifacts, at: dict[str, str]) -> float:
    every, settings = len(a.manifests), len(SETTINGS)
    tasks = [m for m in a.manifests if at.get("column", m["task"]) == m["task"]]
    (started,) = [e for e in a.events if e["event"] == "run_started"]
    found = {
        "tasks": len(tasks),
        "tasks_done": len(tasks),
        "artifacts": every,
        "artifacts_alike": every,
        "settings": settings,
        "setting": settings,
        "seeds": len(SEEDS),
        "trials": settings * len(SEEDS),
        "ran": sum(e["event"] == "committed" for e in a.events),
        "stored": 0,
        "slots": started["slots"],
    }
    return found[at["stat"]]


EXACT = {"rel_tol": 1e-6, "abs_tol": 1e-9}
SOURCES = {
    f.__name__: f
    for f in (
        summary, pair, group, trial, same, exploratory, verdict, declared, winner, power, sharpness, matched, diverged,
        cost, run, count,
    )
}  # fmt: skip
