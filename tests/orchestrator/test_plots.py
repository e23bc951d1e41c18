"""Pictures on axes of one's own: what is drawn is what the artifacts say, computed here once more."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np
import pytest
from builders import carry_out, grid, toy_study, toy_sweep
from matplotlib import rc_context, rcParams
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from toys import Brittle, Curvature, Downhill, Fit, Line, Sideways, Threshold

from orchestrator import plots
from orchestrator.errors import InvalidValue
from orchestrator.plan import make_plan
from orchestrator.report import style, words, write_report
from orchestrator.report.pictures import pictures
from orchestrator.report.pictures.groups import GROUPS
from orchestrator.report.pictures.metrics import metric_pictures
from orchestrator.store import Store
from orchestrator.study import Study
from orchestrator.sweep import crossed, same_seed, same_setting
from tasks.task import Probe

T2 = 4.302652729911275
"""0.975 quantile of Student's t with 2 degrees of freedom (tables)."""


@dataclass(frozen=True)
class Noisy(Fit):
    """A training whose settings differ from seed to seed, and that records shares of groups of coordinates."""

    spread: float = 0.006

    metrics: ClassVar[Mapping[str, str]] = {**Fit.metrics, "generalisation_gap": "generalisation gap"}
    headline: ClassVar[tuple[str, ...]] = (*Fit.headline, "generalisation_gap")

    def run(self, ctx: Any, dataset: Any) -> Any:
        results = yield from super().run(ctx, dataset)
        seed = ctx.seeds["init"]
        rng = np.random.default_rng([seed, ctx.seeds["order"], round(1000 * self.rho), self.width])
        shares = rng.dirichlet(np.ones(5), size=4)
        ctx.save_arrays("record", epoch=np.arange(4) / 2, group_share=shares)
        if results["val_accuracy"] is not None:
            results["val_accuracy"] += self.spread * rng.normal() + 0.01 * np.random.default_rng(seed).normal()
        return {**results, "generalisation_gap": 0.1 - 0.2 * self.rho + 0.01 * rng.normal()}


@dataclass(frozen=True)
class Sharp(Probe):
    metrics: ClassVar[Mapping[str, str]] = {"lambda_max": "largest eigenvalue", "train_loss": "training loss"}
    headline: ClassVar[tuple[str, ...]] = ("lambda_max",)

    def run(self, ctx: Any, trained: Any) -> Mapping[str, Any]:
        value = 40 / (1 + 20 * trained.task.rho) * np.exp(0.2 * ctx.rng("toy").normal())
        return {"lambda_max": float(value), "train_loss": trained.results["train_loss"]}


@dataclass(frozen=True)
class Apart(Line):
    """An interpolation that names its barrier as one of an error."""

    metrics: ClassVar[Mapping[str, str]] = {"test_error_barrier": "barrier of the test error"}
    headline: ClassVar[tuple[str, ...]] = ("test_error_barrier",)

    def run(self, ctx: Any, a: Any, b: Any) -> Any:
        apart = abs(a.task.rho - b.task.rho) + 0.01 * abs(a.seeds["init"] - b.seeds["init"])
        return {"test_error_barrier": apart}


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Five values of rho, three seeds, every kind of task."""
    return toy_study(Store(str(tmp_path_factory.mktemp("all"))))


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Four settings against a baseline over six seeds, with a margin."""
    return toy_study(
        Store(str(tmp_path_factory.mktemp("family"))), train=Noisy(rho=grid(0.0, 0.02, 0.05, 0.1)), seeds=range(6),
        baseline={"rho": 0.0}, margin=0.01, probes=[Sharp()], pairs=[Apart()], groups=[],
        pair_when=same_setting | same_seed,
    )  # fmt: skip


def results_of(study: Study, task: str) -> dict[tuple[tuple[int, str], ...], dict[str, Any]]:
    """Results by trials, from the manifests."""
    return {study.tasks[m["key"]].trials: m["results"] for m in study.manifests() if m["task"] == task}


def by_setting(study: Study, task: str, name: str) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for trials, results in results_of(study, task).items():
        found.setdefault(trials[0][0], []).append(results[name])
    return found


def marked(ax: Any, gid: str) -> list[Any]:
    return [artist for artist in (*ax.lines, *ax.collections) if artist.get_gid() == gid]


# A metric against the swept parameter


def test_means_intervals_and_seeds_of_a_metric_are_where_the_artifacts_say(study, ax):
    plots.metric(study, "val_accuracy", ax=ax)
    values = by_setting(study, "Fit", "val_accuracy")
    rhos = [s.config["train.rho"] for s in study.settings]
    (container,) = ax.containers
    x, y = container.lines[0].get_data(orig=False)
    np.testing.assert_allclose(x, rhos)
    np.testing.assert_allclose(y, [statistics.fmean(values[i]) for i in range(5)])
    halves = [T2 * statistics.stdev(values[i]) / math.sqrt(3) for i in range(5)]
    ends = np.array([segment[:, 1] for segment in container.lines[2][0].get_segments()])
    np.testing.assert_allclose(ends, [[m - h, m + h] for m, h in zip(y, halves, strict=True)])
    singles = [(x, y) for line in marked(ax, "single") for x, y in zip(*line.get_data(), strict=True)]
    assert Counter(singles) == Counter((rhos[s], v) for s, own in values.items() for v in own)
    assert ax.get_xlabel() == "rho"
    assert ax.get_ylabel() == "validation accuracy"
    assert "95 % intervals (Student t over seeds)" in plots.caption(ax)
    assert "Exploratory" in plots.caption(ax)


def test_pairs_have_the_interval_of_a_jackknife_over_seeds(study, ax):
    plots.metric(study, "Line.barrier", ax=ax)
    own = {
        tuple(r for _, r in t): v["barrier"] for t, v in results_of(study, "Line").items() if {s for s, _ in t} == {2}
    }
    assert len(own) == 3
    mean = statistics.fmean(own.values())
    pseudo = [3 * mean - 2 * statistics.fmean(v for pair, v in own.items() if seed not in pair) for seed in "012"]
    half = T2 * statistics.stdev(pseudo) / math.sqrt(3)
    segment = ax.containers[0].lines[2][0].get_segments()[2]
    np.testing.assert_allclose(segment[:, 1], [mean - half, mean + half])
    assert "jackknife over seeds" in plots.caption(ax)


def test_one_seed_is_a_hollow_mark_without_interval(store, ax):
    study = toy_study(store, train=Fit(rho=grid(0.0, 0.1)), seeds=[4], probes=[], pairs=[], groups=[])
    plots.metric(study, "val_accuracy", ax=ax)
    assert ax.containers == []
    (single,) = marked(ax, "single")
    assert single.get_markerfacecolor() == "none"
    assert len(single.get_xdata()) == 2
    assert "one seed each; so there are no intervals" in plots.caption(ax)


def test_wide_intervals_leave_the_panel_and_the_caption_says_so(store, ax):
    study = toy_study(store, train=Fit(rho=grid(0.0, 0.001)), seeds=range(2), probes=[], pairs=[], groups=[])
    plots.metric(study, "val_accuracy", ax=ax)
    values = [v for own in by_setting(study, "Fit", "val_accuracy").values() for v in own]
    low, high = ax.get_ylim()
    assert low < min(values) < max(values) < high
    assert high - low < 5 * (max(values) - min(values)) < 12.7 * (max(values) - min(values))
    assert "cut off at its edge" in plots.caption(ax)


def test_a_setting_without_the_parameter_is_a_level_line(store, ax):
    train = Fit(optimizer=grid(Downhill(), Sideways(angle=grid(1.0, 2.0, 3.0))))
    study = toy_study(store, train=train, probes=[], pairs=[], groups=[])
    plots.metric(study, "val_accuracy", ax=ax)
    values = by_setting(study, "Fit", "val_accuracy")
    (level,) = [line for line in ax.lines if line.get_label() == "Downhill"]
    assert list(level.get_ydata()) == pytest.approx([statistics.fmean(values[0])] * 2)
    assert list(ax.containers[0].lines[0].get_xdata()) == [1, 2, 3]
    assert "Level lines: settings without angle" in plots.caption(ax)


def test_what_is_equal_in_all_seeds_is_called_no_certainty(store, ax):
    study = toy_study(store, probes=[], pairs=[], groups=[])
    plots.metric(study, "epochs", ax=ax)
    assert "whose values are all equal" in plots.caption(ax)


def test_no_mean_is_drawn_where_values_are_censored(store, ax):
    study = toy_study(store, train=Fit(), probes=[Threshold()], pairs=[], groups=[])
    plots.metric(study, "Threshold.d", ax=ax)
    assert ax.containers == []
    assert sorted(marked(ax, "single")[0].get_ydata()) == [10, 11]
    assert "Left out: 1 of 3 values (1 censored)." in plots.caption(ax)


def test_values_over_decades_have_a_logarithmic_axis(study, ax, store):
    many = toy_study(store, train=Fit(rho=grid(0.001, 0.01, 0.1)), probes=[Curvature()], pairs=[], groups=[])
    plots.metric(many, "lambda_max", ax=ax)
    assert ax.get_xscale() == "log"


def test_of_111_settings_every_one_has_its_place_in_one_picture(store):
    optimizers = grid(Downhill(lr=grid(*range(1, 13))), Sideways(lr=grid(*range(1, 6)), angle=grid(1.0, 2, 3, 4, 5)))
    train = Fit(optimizer=optimizers, rho=grid(0.0, 0.1, 0.2))
    study = toy_study(store, train=train, seeds=range(2), probes=[], pairs=[], groups=[])
    assert len(study.settings) == 111
    assert [p.name for p in metric_pictures(study, study.columns["Fit"])] == ["fit-metrics"]
    ax = Figure().subplots()
    plots.metric(study, "val_accuracy", ax=ax)
    assert len(ax.get_yticks()) == 37
    values = by_setting(study, "Fit", "val_accuracy")
    means = sorted(v for container in ax.containers for v in container.lines[0].get_xdata())
    np.testing.assert_allclose(means, sorted(map(statistics.fmean, values.values())))
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["rho=0", "rho=0.1", "rho=0.2"]


def test_a_large_random_search_is_drawn_in_bounds(store, ax):
    plan = make_plan(toy_sweep(train=Fit(), probes=[], pairs=[], groups=[], seeds=range(2)), store)
    plan.settings.clear()
    sweep = toy_sweep(train=Fit(rho=grid(0.0), width=grid(1)), probes=[], pairs=[], groups=[], seeds=range(2))
    rng = np.random.default_rng(0)
    for i in range(80):
        plan.add_setting(sweep.setting(i, {"train.rho": float(rng.uniform(0, 0.2)), "train.width": i + 1}))
    study = Study.from_plan(plan, store, carry_out(plan, store))
    assert [p.name for p in metric_pictures(study, study.columns["Fit"])] == ["fit-metrics"]
    plots.metric(study, "val_accuracy", against="width", ax=ax)
    assert len(ax.containers[0].lines[0].get_xdata()) == 80
    assert ax.containers[0].lines[2] == ()
    assert "without their intervals, since 80" in plots.caption(ax)


# Curves, matrices, graphs


def test_a_curve_is_the_mean_over_seeds_with_its_band(study, ax):
    plots.curve(study, "Fit", "val_loss", settings=["rho=0.1", "rho=0"], ax=ax)
    for setting, label in ((0, "rho=0"), (3, "rho=0.1")):
        rows = []
        for task in study.of_column("Fit"):
            if task.trials[0][0] == setting:
                with study.file(task.key, "history.npz") as path, np.load(path) as arrays:
                    rows.append(arrays["val_loss"])
        (line,) = [line for line in ax.lines if line.get_label() == label]
        np.testing.assert_allclose(line.get_ydata(), np.mean(rows, axis=0))
    assert ax.get_yscale() == "log"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["rho=0", "rho=0.1", "val loss", "running train loss"]


@pytest.mark.parametrize(
    ("each", "legend"),
    [
        ("", ["loss 1", "loss 2", "predicted 1", "predicted 2"]),
        ("eigenvector", ["eigenvector 1", "eigenvector 2", "loss", "predicted"]),
    ],
)
def test_the_legend_says_what_each_of_several_curves_is(store, ax, each, legend):
    study = toy_study(store, probes=[Curvature(k=2)], pairs=[], groups=[])
    (column,) = study.columns_of("probe")
    column = replace(column, curves=({**column.curves[1], "each": each},))
    plots.curve(study, column, settings=["rho=0.1"], ax=ax)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == legend


def test_curves_of_pairs_are_those_of_the_two_settings_asked_for(study, ax):
    plots.curve(study, "Line", "train_loss", settings=["rho=0.2", "rho=0.02"], ax=ax)
    heights = [v["barrier"] for t, v in results_of(study, "Line").items() if sorted({s for s, _ in t}) == [1, 4]]
    assert len(heights) == 3
    (mean,) = [line for line in ax.lines if line.get_label() == "train loss"]
    assert max(mean.get_ydata()) == pytest.approx(0.1 + statistics.fmean(heights))
    assert ax.get_title("left") == "rho=0.02 × rho=0.2"


def test_a_matrix_holds_every_pair_twice_and_nothing_else(study, ax):
    plots.matrix(study, "Line.barrier", ax=ax)
    drawn = ax.images[0].get_array()
    measured = {t: v["barrier"] for t, v in results_of(study, "Line").items()}
    assert drawn.shape == (15, 15)
    assert drawn.count() == 2 * len(measured)
    for (a, b), value in measured.items():
        i, j = (3 * s + int(r) for s, r in (a, b))
        assert drawn[i, j] == drawn[j, i] == value
    plots.matrix(study, "barrier", by="setting", ax=(means := Figure().subplots()))
    assert means.images[0].get_array()[0, 4] == pytest.approx(
        statistics.fmean(v for (a, b), v in measured.items() if (a[0], b[0]) == (0, 4))
    )


def edges(ax: Any, gid: str) -> set[frozenset[tuple[float, float]]]:
    (found,) = marked(ax, gid)
    return {frozenset((round(x, 9), round(y, 9)) for x, y in segment) for segment in found.get_segments()}


def test_the_graph_joins_the_networks_at_or_below_the_threshold(family, ax):
    plots.connectivity(family, "test_error_barrier", ax=ax)
    values = {t: v["test_error_barrier"] for t, v in results_of(family, "Apart").items()}
    near = {t for t, v in values.items() if v <= 0.02}
    assert 0 < len(near) < len(values)
    assert len(edges(ax, "edge")) == len(near)
    assert len(edges(ax, "above")) == len(values) - len(near)
    nodes = marked(ax, "node")
    assert [len(line.get_xdata()) for line in nodes] == [6] * 4
    place = {(s, str(r)): (round(x, 9), round(y, 9)) for s, line in enumerate(nodes)
             for r, (x, y) in enumerate(zip(*line.get_data(), strict=True))}  # fmt: skip
    assert len(set(place.values())) == 24
    assert edges(ax, "edge") == {frozenset(place[trial] for trial in pair) for pair in near}
    assert f"So it is for {len(near)} of the {len(values)} pairs measured" in plots.caption(ax)
    assert "at or below 0.0200 (a rise of the error by 2 %" in plots.caption(ax)


def test_the_threshold_of_a_loss_is_stated_and_can_be_given(study):
    barriers = [v["barrier"] for v in results_of(study, "Line").values()]
    for threshold in (None, 0.27):
        ax = Figure().subplots()
        plots.connectivity(study, "Line.barrier", threshold=threshold, ax=ax)
        limit = threshold or 0.1 * max(barriers)
        assert len(edges(ax, "edge")) == sum(b <= limit for b in barriers)
        assert ("a tenth of the largest value" in plots.caption(ax)) == (threshold is None)


def test_a_large_graph_is_thinned_and_says_how(store, ax):
    study = toy_study(
        store, train=Fit(rho=grid(*(i / 100 for i in range(13))), epochs=1), seeds=range(9), probes=[], groups=[],
        pairs=[Line(steps=2)], pair_when=same_setting,
    )  # fmt: skip
    plots.connectivity(study, "barrier", ax=ax)
    assert [len(line.get_xdata()) for line in marked(ax, "node")] == [8] * 12
    assert "96 of 117 trials are drawn: 12 settings and at most the first 8 seeds of each" in plots.caption(ax)


# Findings


def test_verdicts_stand_at_the_differences_of_the_seeds(family, ax):
    plots.verdicts(family, ax=ax)
    values = {t[0]: v["val_accuracy"] for t, v in results_of(family, "Noisy").items()}
    differences = [statistics.fmean(values[s, r] - values[0, r] for r in map(str, range(6))) for s in (1, 2, 3)]
    assert [line.get_xdata()[0] for line in marked(ax, "difference")] == pytest.approx(differences)
    verdicts = [c.verdict for c in family.findings.family]
    drawn = [tuple(line.get_xdata()) for line in marked(ax, "interval")]
    assert drawn == [(v.low, v.high) for v in verdicts]
    assert all(low < d < high for (low, high), d in zip(drawn, differences, strict=True))
    assert ax.patches[0].get_extents().transformed(ax.transData.inverted()).x1 == pytest.approx(0.01)
    assert [t.get_text() for t in ax.get_yticklabels()] == [f"rho={r} − rho=0" for r in (0.02, 0.05, 0.1)]
    text = plots.caption(ax)
    assert "declared family of 3 contrasts" in text and "simultaneous 95%" in text and "xploratory" not in text


def test_seeds_are_joined_with_themselves(family, ax):
    plots.seeds(family, "val_accuracy", "rho=0", "rho=0.1", ax=ax)
    values = {t[0]: v["val_accuracy"] for t, v in results_of(family, "Noisy").items()}
    expected = [(values[0, str(r)], values[3, str(r)]) for r in range(6)]
    assert [tuple(line.get_ydata()) for line in marked(ax, "seed")] == expected
    assert ax.get_title("left") == f"{sum(b > a for a, b in expected)} of 6 to the better"


def test_a_scatter_has_trials_and_means_and_the_three_numbers(family, ax):
    from scipy.stats import kendalltau

    plots.scatter(family, "Sharp.lambda_max", ax=ax)
    sharp, gap = by_setting(family, "Sharp", "lambda_max"), by_setting(family, "Noisy", "generalisation_gap")
    trials = [p for line in marked(ax, "trial") for p in zip(*line.get_data(), strict=True)]
    assert sorted(trials) == sorted(p for s in sharp for p in zip(sharp[s], gap[s], strict=True))
    means = [(line.get_xdata()[0], line.get_ydata()[0]) for line in marked(ax, "mean")]
    expected = [(statistics.fmean(sharp[s]), statistics.fmean(gap[s])) for s in sharp]
    np.testing.assert_allclose(means, expected)
    tau = kendalltau(*zip(*expected, strict=True)).statistic
    pooled = kendalltau(*zip(*trials, strict=True)).statistic
    assert f"over the means of 4 settings: {words.number(tau, 2)}" in plots.caption(ax)
    assert f"no sound p: {words.number(pooled, 2)}" in plots.caption(ax)


def test_the_power_curve_is_that_of_the_t_test(family, ax):
    from statsmodels.stats.power import TTestPower

    plots.power(family, ax=ax)
    result = family.findings.power.power
    (estimate,) = marked(ax, "sd as estimated")
    n, power = np.array(estimate.get_data())
    for i in (1, 3, 6):
        expected = TTestPower().power(0.01 / result.estimate.sd, n[i], 0.05 / 3)
        assert power[i] == pytest.approx(100 * expected, abs=0.05)
    low, high = (marked(ax, f"sd at the {end} end")[0].get_ydata() for end in ("low", "high"))
    assert all(low >= power) and all(power >= high)
    assert ax.get_title("left").startswith("to find a difference of 0.01")


def test_fewer_seeds_are_all_parts_of_the_seeds(store, ax):
    study = toy_study(
        store, train=Noisy(rho=grid(0.0, 0.1), spread=0.05), seeds=range(10), probes=[], pairs=[], groups=[]
    )
    plots.fewer_seeds(study, ax=ax)
    a, b = by_setting(study, "Noisy", "val_accuracy").values()
    sign = 1 if sum(a) > sum(b) else -1
    (share,) = marked(ax, "share")
    for m, drawn in zip(*share.get_data(), strict=True):
        parts = list(itertools.combinations(range(10), int(m)))
        other = sum(sign * sum(a[i] - b[i] for i in part) < 0 for part in parts)
        assert drawn == pytest.approx(100 * other / len(parts))


def test_components_of_variance_are_those_of_a_table_of_seeds(store, ax):
    study = toy_study(
        store, train=Noisy(rho=grid(0.0, 0.1)), seeds=crossed(init=range(5), order=range(6)), probes=[], pairs=[],
        groups=[],
    )  # fmt: skip
    plots.variance_components(study, ax=ax)
    table = np.array(by_setting(study, "Noisy", "val_accuracy")[0]).reshape(5, 6)
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    residual = (rest**2).sum() / 20
    rows = max(0.0, (6 * table.mean(axis=1).var(ddof=1) - residual) / 6)
    assert ax.containers[0].lines[0].get_xdata()[0] == pytest.approx(100 * rows / (rows + residual))
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["init", "order"]


def test_areas_of_groups_are_means_over_seeds_and_fill_the_axis(family, ax):
    plots.group_shares(family, "rho=0.05", ax=ax)
    shares = []
    for task in family.of_column("Noisy"):
        if task.trials[0][0] == 2:
            with family.file(task.key, "record.npz") as path, np.load(path) as arrays:
                shares.append(arrays["group_share"])
    below = np.zeros(4)
    for group in (1, 2, 3, 4, 0):
        (area,) = marked(ax, f"group {group}")
        vertices = area.get_paths()[0].vertices
        above = below + np.mean(shares, axis=0)[:, group]
        for x, low, high in zip(np.arange(4) / 2, below, above, strict=True):
            at = vertices[np.isclose(vertices[:, 0], x), 1]
            assert (at.min(), at.max()) == pytest.approx((low, high))
        below = above
    np.testing.assert_allclose(below, 1)


# The run


def test_bars_of_the_timeline_are_the_times_of_the_tasks(study, ax):
    plots.timeline(study, ax=ax)
    bars = [b.vertices for c in ax.collections for b in c.get_paths()]
    start = study.run["started"]
    drawn = sorted((v[:, 0].min(), v[:, 0].max()) for v in bars)
    expected = sorted((m["started"] - start, m["started"] - start + m["seconds"]) for m in study.manifests())
    np.testing.assert_allclose(drawn, expected, atol=1e-9)


def test_the_gap_before_the_first_task_is_named(store, ax):
    plan = make_plan(toy_sweep(train=Fit(), probes=[], pairs=[], groups=[]), store)
    outcome = carry_out(plan, store)
    outcome = replace(outcome, started=outcome.started - 7, seconds=outcome.seconds + 7, startup=4.0)
    plots.timeline(Study.from_plan(plan, store, outcome), ax=ax)
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert {"start-up (4.0 s)", "workers start (3.0 s)"} <= set(labels)


def test_outcomes_are_counted(store, ax):
    study = toy_study(store, train=Fit(rho=grid(0.0, 0.2), diverge_above=0.1), probes=[Brittle()], pairs=[], groups=[])
    plots.outcomes(study, ax=ax)
    drawn = {c.get_label(): [round(b.get_width()) for b in c] for c in ax.containers}
    assert drawn == {"done": [1, 5, 4], "diverged": [0, 1, 0], "failed": [0, 0, 1], "skipped": [0, 0, 1]}


# Names, style, files


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda s, ax: plots.metric(s, "val_acuracy", ax=ax), "did you mean 'val_accuracy'"),
        (lambda s, ax: plots.metric(s, "Curvatur.lambda_max", ax=ax), "did you mean 'Curvature.lambda_max'"),
        (lambda s, ax: plots.metric(s, "barrier", against="rh", ax=ax), "did you mean 'rho'"),
        (lambda s, ax: plots.curve(s, "Fit", "val_los", ax=ax), "did you mean 'val_loss'"),
        (lambda s, ax: plots.curve(s, "Fitt", ax=ax), "did you mean 'Fit'"),
        (lambda s, ax: plots.curve(s, "Fit", settings=["rho=0.3"], ax=ax), "no setting 'rho=0.3' (did you mean"),
        (lambda s, ax: plots.curve(s, "Curvature", "loss", settings=[0, 1], ax=ax), "name one setting"),
        (lambda s, ax: plots.matrix(s, "val_accuracy", ax=ax), "no metric 'val_accuracy'"),
        (lambda s, ax: plots.matrix(s, "barrier", by="seting", ax=ax), "did you mean 'setting'"),
        (lambda s, ax: plots.verdicts(s, ax=ax), "No comparison was declared"),
        (lambda s, ax: plots.power(s, ax=ax), "smallest_effect"),
        (lambda s, ax: plots.fewer_seeds(s, ax=ax), "take at least 10"),
        (lambda s, ax: plots.variance_components(s, ax=ax), "crossed"),
        (lambda s, ax: plots.group_shares(s, ax=ax), "record=Record()"),
        (lambda s, ax: plots.density(s, ax=ax), "no 'SpectralDensity'"),
        (lambda s, ax: plots.surface(s, "Curvature", ax=ax), "declares no surface"),
        (lambda s, ax: plots.seeds(s, "val_accuracy", 0, 0, ax=ax), "with itself"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_answered_in_a_sentence(study, ax, draw, said):
    with pytest.raises(InvalidValue) as error:
        draw(study, ax)
    assert said in str(error.value)
    assert not ax.lines


def test_a_metric_of_two_probes_must_be_told_apart(store, ax):
    study = toy_study(store, train=Fit(), probes=[Curvature(), Curvature(k=5)], pairs=[], groups=[])
    with pytest.raises(InvalidValue, match=r"say Curvature.lambda_max or Curvature\(k=5\).lambda_max"):
        plots.metric(study, "lambda_max", ax=ax)
    plots.metric(study, "Curvature(k=5).lambda_max", ax=ax)


def test_the_style_in_force_is_kept(study):
    before = dict(rcParams)
    with rc_context({"axes.prop_cycle": "cycler('color', ['#ff0000'])", "lines.markersize": 20, "backend": "agg"}):
        ax = plots.metric(study, "val_accuracy")
        assert ax.containers[0].lines[0].get_color() == "#ff0000"
        assert ax.containers[0].lines[0].get_markersize() == 20
        with plots.style():
            assert rcParams["lines.markersize"] == style.SETTINGS["lines.markersize"]
        from matplotlib import pyplot

        pyplot.close(ax.figure)
    assert dict(rcParams) == before


def test_the_caption_of_a_figure_says_each_thing_once_and_of_what(store):
    study = toy_study(store, train=Fit(), probes=[Brittle()], pairs=[], groups=[])
    fig = Figure()
    left, right = fig.subplots(1, 2)
    plots.metric(study, "val_accuracy", ax=left)
    plots.metric(study, "Brittle.strength", ax=right)
    assert plots.caption(fig).count("Filled marks") == 1
    assert "Left out of strength: 1 of 3 values (1 failed)." in plots.caption(fig)
    assert "Left out: 1 of 3 values (1 failed)." in plots.caption(right)
    right.clear()
    assert plots.caption(right) == ""


def test_the_same_study_gives_the_same_bytes_and_the_page_shows_every_picture(family, tmp_path):
    store = Store(str(tmp_path))
    page = store.path(write_report(family, store, "runs/toy/r1")).read_text(encoding="utf-8")
    drawn = pictures(family)
    assert {p.name for p in drawn} >= {"verdicts", "seeds", "power", "apart-connectivity", "noisy-group-shares"}
    for picture in drawn:
        assert store.read(f"runs/toy/r1/plots/{picture.name}.png") == picture.png
        assert store.read(f"runs/toy/r1/plots/{picture.name}.svg") == picture.svg
        assert picture.png[:4] == b"\x89PNG"
        assert ElementTree.fromstring(picture.svg).tag.endswith("svg")
        assert b"<text" not in picture.svg  # letters are outlines: no font has to be there
        assert b"<dc:date>" not in picture.svg
    names = re.findall(r'data-picture="([^"]+)"', page)
    assert sorted(names) == sorted(p.name for p in drawn)
    assert names[:3] == ["verdicts", "seeds", "noisy-metrics"]


def test_neighbours_differ_in_greyscale_and_no_two_series_look_alike():
    grey = [sum(w * c for w, c in zip((0.299, 0.587, 0.114), to_rgb(g[2]), strict=True)) for g in GROUPS]
    assert all(abs(a - b) > 0.25 for a, b in itertools.pairwise(grey))
    looks = {(style.colours(60)[i % 8], style.marker(i)) for i in range(60)}
    assert len(looks) == 60


def test_a_scatter_reads_each_result_once_and_not_once_a_trial(family, ax, monkeypatch):
    asked: Counter[str] = Counter()
    read = Study.values
    monkeypatch.setattr(Study, "values", lambda self, metric: asked.update([metric.path]) or read(self, metric))
    plots.scatter(family, "Sharp.lambda_max", "val_accuracy", ax=ax)
    assert asked == {"Sharp.lambda_max": 1, "Noisy.val_accuracy": 1}
