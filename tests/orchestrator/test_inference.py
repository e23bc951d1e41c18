"""What a study finds, against the same figures computed from its tables by other means."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from builders import carry_out, grid, toy_sweep
from rich.console import Console
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from toys import Curvature, Fit, Points, Threshold

from orchestrator.inference import findings
from orchestrator.plan import make_plan
from orchestrator.records import checked, record_of
from orchestrator.report import print_verdicts
from orchestrator.report.pictures.verdicts import verdict_pictures
from orchestrator.stats import crossed_error, crossed_interval
from orchestrator.store import Store
from orchestrator.study import Study
from orchestrator.sweep import crossed
from tasks.task import Task

VERDICT_WORDS = re.compile(r"better|worse|equivalent|significan|no decision|cannot decide", re.IGNORECASE)


@dataclass(frozen=True)
class Noisy(Task):
    """A toy training: a seed's luck, part of it shared by all settings, part of it of each rho."""

    dataset: Points = Points()
    rho: float = 0.0
    gain: float = 0.1
    own: float = 0.005
    diverges: tuple[tuple[float, int], ...] = ()
    fails: tuple[tuple[float, int], ...] = ()

    streams: ClassVar = ("init", "order")
    metrics: ClassVar = {
        "val_accuracy": "validation accuracy",
        "train_loss": "training loss",
        "generalisation_gap": "generalisation gap (test loss − training loss)",
        "diverged": "ended in a non-finite loss",
    }
    headline: ClassVar = ("val_accuracy", "train_loss", "generalisation_gap")

    def run(self, ctx: Any, dataset: Any) -> Any:
        here = (self.rho, ctx.seeds["init"])
        if here in self.fails:
            raise ValueError("the toy broke")
        if here in self.diverges:
            return {"val_accuracy": None, "train_loss": None, "generalisation_gap": None, "diverged": True}
        place = 1 + round(100 * self.rho)
        init, order = ctx.rng("init").normal(size=100), ctx.rng("order").normal(size=100)
        noise = 0.01 * (init[0] + 0.5 * order[0]) + self.own * (init[place] + order[place] + init[place] * order[place])
        return {
            "val_accuracy": 0.9 + self.gain * self.rho + noise,
            "train_loss": 0.1 + 0.01 * init[50] + 0.001 * order[place],
            "generalisation_gap": 0.2 - 0.3 * self.rho + 0.02 * order[51 + place % 40],
            "diverged": False,
        }


def study_of(folder: Path, rhos: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3), **changes: Any) -> Study:
    train = changes.pop("train", Noisy())
    stop = changes.pop("stop", lambda node: False)
    fields = {"probes": [], "pairs": [], "groups": [], "baseline": {"rho": 0.0}, **changes}
    store = Store(str(folder))
    plan = make_plan(toy_sweep(train=dataclasses.replace(train, rho=grid(*rhos)), **fields), store)
    return Study.from_plan(plan, store, carry_out(plan, store, stop=stop))


def table_of(study: Study, column: str) -> pd.DataFrame:
    """Values by seed (rows) and setting (columns), from the table of trials."""
    return study.tables()["trials"].to_pandas().pivot(index="seed", columns="setting", values=column)


# The family


def test_verdicts_are_those_of_paired_t_tests_with_holms_correction(tmp_path: Path) -> None:
    study = study_of(tmp_path, (0.0, 0.02, 0.1, 0.3), seeds=range(8), margin=0.02)
    table = table_of(study, "Noisy.val_accuracy")
    others = [c for c in table.columns if c != "rho=0"]
    tests = [scipy_stats.ttest_rel(table[c], table["rho=0"]) for c in others]
    holm = multipletests([t.pvalue for t in tests], method="holm")[1]
    found = study.findings
    assert [study.settings[c.a].label for c in found.family] == others
    decided = 0
    for c, name, test, p in zip(found.family, others, tests, holm, strict=True):
        assert c.verdict is not None
        difference = table[name] - table["rho=0"]
        assert (c.b, c.comparison.design, c.comparison.n_a, c.seeds) == (0, "paired", 8, tuple("01234567"))
        assert c.comparison.difference == pytest.approx(difference.mean(), rel=1e-9)
        assert c.comparison.p == pytest.approx(test.pvalue, rel=1e-6)
        assert c.verdict.p_holm == pytest.approx(p, rel=1e-6)
        assert (c.verdict.decision in ("better", "worse")) == (p < 0.05)
        assert c.verdict.low is not None and c.verdict.high is not None
        assert (c.verdict.low < 0 < c.verdict.high) == (p >= 0.05)
        observed = f"{name} against rho=0 on validation accuracy, observed difference {difference.mean():+.3g}"
        assert c.sentence.replace("−", "-").startswith(observed)
        assert c.verdict.reasons[0] in c.sentence and c.verdict.decision in c.sentence.lower()
        assert c.improvement is not None and c.improvement.wins == (difference > 0).sum()
        decided += p < 0.05
    assert 0 < decided < 3
    assert found.answer.startswith("3 declared contrasts on validation accuracy against the baseline rho=0: better")
    assert found.primary is not None and found.primary.path == "Noisy.val_accuracy"


def test_a_primary_metric_of_a_probe_has_its_own_direction(tmp_path: Path) -> None:
    study = study_of(tmp_path, probes=[Curvature()], primary="Curvature.lambda_max", primary_mode="min", seeds=range(6))
    table = table_of(study, "Curvature.lambda_max")
    assert (table["rho=0"] > table["rho=0.3"]).all()
    assert {c.verdict and c.verdict.decision for c in study.findings.family} == {"better"}
    assert study.findings.winner is not None
    assert study.settings[study.findings.winner.setting].label == table.mean().idxmin()


def test_settings_within_the_margin_are_equivalent(tmp_path: Path) -> None:
    study = study_of(tmp_path, (0.0, 0.1), train=Noisy(gain=0.0), seeds=range(10), margin=0.02)
    (c,) = study.findings.family
    table = table_of(study, "Noisy.val_accuracy")
    difference = table["rho=0.1"] - table["rho=0"]
    sides = [
        scipy_stats.ttest_1samp(difference, bound, alternative=side).pvalue
        for bound, side in ((-0.02, "greater"), (0.02, "less"))
    ]
    assert max(sides) < 0.05
    assert c.verdict is not None and c.verdict.decision == "equivalent"
    assert c.verdict.p_equivalence == pytest.approx(max(sides), rel=1e-6)
    assert "Equivalent at 10 seeds" in c.sentence


def test_a_diverged_training_is_the_worst_result(tmp_path: Path) -> None:
    lost = tuple((0.2, seed) for seed in range(8))
    study = study_of(tmp_path, (0.0, 0.1, 0.2), train=Noisy(diverges=(*lost, (0.1, 3))), seeds=range(8))
    small, large = study.findings.family
    assert large.verdict is not None and large.verdict.decision == "worse"
    assert large.comparison.p_exact == 2 / 2**8
    assert "8 of 8 runs of the first setting diverged" in large.sentence and "the exact test" in large.sentence
    table = table_of(study, "Noisy.val_accuracy")
    assert (small.comparison.n_a, small.comparison.diverged_a, small.comparison.used) == (8, 1, 7)
    assert small.comparison.difference == pytest.approx((table["rho=0.1"] - table["rho=0"]).mean(), rel=1e-9)
    assert "Among the runs that survived" in small.sentence
    for found, k in zip(study.findings.diverged, (0, 1, 8), strict=True):
        interval = scipy_stats.binomtest(k, 8).proportion_ci(method="exact")
        assert (found.share.k, found.share.n) == (k, 8)
        assert (found.share.low, found.share.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert any("9 trials diverged: means are of the others" in note for note in study.findings.notes)
    assert study.findings.winner is None  # one setting alone has lost no seed
    assert "nothing to choose from" in study.findings.omitted["winner"]


def test_a_failed_training_is_left_out_with_its_partner(tmp_path: Path) -> None:
    study = study_of(tmp_path, (0.0, 0.1), train=Noisy(fails=((0.0, 2), (0.1, 4))), seeds=range(7))
    (c,) = study.findings.family
    both = table_of(study, "Noisy.val_accuracy").dropna()
    assert c.seeds == ("0", "1", "3", "5", "6")
    assert c.left_out == {"failed": 2, "without a partner": 2}
    assert c.comparison.p == pytest.approx(scipy_stats.ttest_rel(both["rho=0.1"], both["rho=0"]).pvalue, rel=1e-6)
    assert "Left out: 2 trials failed and 2 trials without a partner." in c.sentence
    assert study.findings.diverged[0].share.n == 6
    assert "1 training that failed, were stopped or did not run are not counted" in study.findings.diverged[0].sentence


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_or_two_seeds(tmp_path: Path, seeds: int) -> None:
    found = study_of(tmp_path, seeds=range(seeds), margin=0.01).findings
    decisions = [c.verdict.decision for c in found.family if c.verdict]
    if seeds == 1:
        assert set(decisions) == {"cannot decide"}
        assert all("one run has no spread" in c.sentence for c in found.family)
    else:  # Student's t decides from 2 normal values on, and it is said what that takes
        doubts = [
            "The exact test beside it, which does not assume normal values, cannot" in c.sentence for c in found.family
        ]
        assert doubts == [d == "better" for d in decisions]
        assert True in doubts
    assert (found.power is None) == (seeds == 1)
    assert found.winner is not None and found.winner.curse is None
    assert "take at least 10" in found.omitted["fewer_seeds"]


def test_identical_settings_are_said_to_be_so(tmp_path: Path) -> None:
    study = study_of(tmp_path, (0.0, 0.1), train=Noisy(gain=0.0, own=0.0), seeds=range(5), margin=0.01)
    (c,) = study.findings.family
    assert c.verdict is not None and c.verdict.decision == "cannot decide"
    assert "each seed gave the same value in both settings" in c.sentence


def test_what_a_scheduler_stopped_enters_no_statistic(tmp_path: Path) -> None:
    stopped = {("rho=0.1", "0"), ("rho=0.3", "2"), ("rho=0.3", "4")}
    study = study_of(
        tmp_path,
        seeds=range(6),
        stop=lambda n: n.kind == "train" and (n.trials[0].setting.label, n.trials[0].replicate.label) in stopped,
    )
    by_label = {study.settings[c.a].label: c for c in study.findings.family}
    for label in ("rho=0.1", "rho=0.3"):
        c = by_label[label]
        assert c.verdict is not None and c.verdict.decision == "cannot decide"
        assert c.comparison.n_a == 0
        assert "a scheduler stopped trainings early" in c.sentence
    assert by_label["rho=0.2"].comparison.n_a == 6
    assert all(c.comparison.n_a == 0 for c in study.findings.exploratory if study.settings[c.a].label != "rho=0.2")
    assert any("3 trials stopped early by the scheduler" in note for note in study.findings.notes)
    assert [d.share.n for d in study.findings.diverged] == [6, 5, 6, 4]


def test_censored_values_are_not_compared(tmp_path: Path) -> None:
    study = study_of(
        tmp_path, probes=[Threshold(above=3)], primary="Threshold.d", primary_mode="min", seeds=range(4), margin=1.0
    )
    for c in study.findings.family:
        assert c.verdict is not None and c.verdict.decision == "cannot decide"
        assert c.comparison.difference is None
        assert c.left_out == {"censored": 2}
        assert "only known to lie above the range" in c.sentence


def test_settings_with_seeds_of_their_own_are_compared_by_welchs_test(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    plan = make_plan(
        toy_sweep(train=Noisy(rho=grid(0.0, 0.2)), probes=[], pairs=[], groups=[], seeds=range(9), baseline="rho=0"),
        store,
    )
    record = record_of(plan, carry_out(plan, store))
    mine = {0: set("0123"), 1: set("45678")}
    record["tasks"] = [t for t in record["tasks"] if all(r in mine[s] for s, r in t["trials"])]
    study = Study(store, checked(record))
    (c,) = study.findings.family
    table = table_of(study, "Noisy.val_accuracy")
    test = scipy_stats.ttest_ind(table["rho=0.2"].dropna(), table["rho=0"].dropna(), equal_var=False)
    assert (c.comparison.design, c.comparison.n_a, c.comparison.n_b, c.seeds) == ("unpaired", 5, 4, ())
    assert c.comparison.p == pytest.approx(test.pvalue, rel=1e-6)
    assert "at 5 and 4 seeds" in c.sentence


# What was not declared


def test_nothing_declared_gives_no_verdict(tmp_path: Path) -> None:
    study = study_of(tmp_path, baseline=None, seeds=range(5))
    found = study.findings
    means = table_of(study, "Noisy.val_accuracy").mean()
    assert found.family == ()
    assert "such as baseline={'rho': 0.0}" in found.answer
    assert found.omitted["family"] == found.answer
    assert found.reference is not None and study.settings[found.reference].label == means.idxmax()
    assert any("the best by these same numbers" in note for note in found.notes)
    assert len(found.exploratory) == 3 * 3  # settings × headline metrics
    for c in found.exploratory:
        assert c.verdict is None
        assert c.sentence.startswith("Exploratory: ") and not VERDICT_WORDS.search(c.sentence)


def test_exploratory_comparisons_are_those_beyond_the_family(tmp_path: Path) -> None:
    study = study_of(tmp_path, seeds=range(5), contrasts=[("rho=0.3", "rho=0")])
    found = study.findings
    pairs = {(c.metric.name, c.a) for c in found.exploratory}
    assert pairs == {(m, s) for m in Noisy.headline for s in (1, 2, 3)} - {("val_accuracy", 3)}
    table = table_of(study, "Noisy.train_loss")
    c = next(c for c in found.exploratory if c.metric.name == "train_loss" and c.a == 2)
    interval = scipy_stats.ttest_rel(table["rho=0.2"], table["rho=0"]).confidence_interval()
    assert (c.comparison.low, c.comparison.high) == pytest.approx((interval.low, interval.high), rel=1e-6)


# The rest


def test_the_winner_is_warned_of_and_can_be_confirmed(tmp_path: Path) -> None:
    study = study_of(tmp_path, seeds=range(6))
    study.run["command"] = "python -m orchestrator sweep sweeps/toy.py --seeds 6 --smoke --set 'train.rho=[0.0,0.1]'"
    winner = study.findings.winner
    means = table_of(study, "Noisy.val_accuracy").mean().sort_values(ascending=False)
    assert winner is not None and winner.curse is not None
    assert [study.settings[i].label for i in (winner.setting, winner.runner_up)] == list(means.index[:2])
    assert winner.command == "python -m orchestrator confirm sweeps/toy.py --smoke --set 'train.rho=[0.0,0.1]'"
    assert winner.command in winner.sentence and "looks better than it is" in winner.sentence
    study.run["command"] = "python analyse.py"
    assert getattr(findings(study).winner, "command", None) == ""


def test_power_is_that_of_the_declared_effect(tmp_path: Path) -> None:
    study = study_of(tmp_path, seeds=range(6), smallest_effect=0.01)
    found = study.findings.power
    table = table_of(study, "Noisy.val_accuracy")
    spreads = [(table[c] - table["rho=0"]).std() for c in table.columns if c != "rho=0"]
    sd = math.sqrt(np.mean(np.square(spreads)))
    assert found is not None and found.equivalence is None
    assert found.power.estimate.sd == pytest.approx(sd, rel=1e-9)
    needed = TTestPower().solve_power(0.01 / sd, alpha=0.05 / 3, power=0.8)
    assert found.power.estimate.needed_80 == math.ceil(needed)
    for side, quantile in ((found.power.low, 0.975), (found.power.high, 0.025)):
        assert side.sd == pytest.approx(sd * math.sqrt(5 / scipy_stats.chi2.ppf(quantile, 5)), rel=1e-6)
    assert f"a difference of 0.01 in validation accuracy in a family of 3 with a power of 80 % takes about "\
        f"{found.power.estimate.needed_80} " in found.sentence  # fmt: skip
    assert "smallest_effect" in study_of(tmp_path, seeds=range(6)).findings.omitted["power"]


def test_how_often_fewer_seeds_would_have_named_another_winner(tmp_path: Path) -> None:
    study = study_of(tmp_path, seeds=range(10), train=Noisy(gain=0.01))
    found = study.findings.fewer_seeds
    table = table_of(study, "Noisy.val_accuracy")
    best = table.mean().idxmax()
    subsets = [list(s) for s in itertools.combinations(range(10), 3)]
    other = np.mean([table.loc[s].mean().idxmax() != best for s in subsets])
    assert found is not None
    share = found.result.shares[found.result.sizes.index(3)]
    assert 0 < share == pytest.approx(other)
    assert f"3 seeds {100 * share:.0f} %" in found.sentence


def test_where_the_variance_comes_from(tmp_path: Path) -> None:
    study = study_of(tmp_path, (0.0, 0.2), seeds=crossed(init=range(6), order=range(5)))
    trials = study.tables()["trials"].to_pandas()
    places = trials["seed"].str.extract(r"init=(\d+),order=(\d+)").astype(int)
    assert [f.setting for f in study.findings.variance] == [0, 1]
    for found in study.findings.variance:
        mine = trials["setting"] == study.settings[found.setting].label
        y = trials["Noisy.val_accuracy"][mine]
        rows, columns = y.groupby(places[0][mine]), y.groupby(places[1][mine])
        squares = 5 * rows.mean().var(), 6 * columns.mean().var()
        rest = (y - rows.transform("mean") - columns.transform("mean") + y.mean()).pow(2).sum() / 20
        assert found.streams == ("init", "order")
        assert found.result.residual == pytest.approx(rest, rel=1e-9)
        assert found.result.a.variance == pytest.approx(max((squares[0] - rest) / 5, 0), rel=1e-9)
        assert found.result.b.variance == pytest.approx(max((squares[1] - rest) / 6, 0), rel=1e-9)
    square = crossed(init=range(5), order=range(5))
    lost = study_of(tmp_path, (0.0, 0.2), seeds=square, train=Noisy(diverges=((0.2, 1),)))
    (found,) = lost.findings.variance
    assert found.setting == 0
    assert "Nothing is told of rho=0.2: 5 of the 25 crossed trials have no value" in found.sentence
    assert "crossed" in study_of(tmp_path, seeds=range(3)).findings.omitted["variance"]
    small = study_of(tmp_path, seeds=crossed(init=range(3), order=range(3)))
    assert "5 × 5" in small.findings.omitted["variance"]


def test_crossed_seeds_are_not_taken_for_independent(tmp_path: Path) -> None:
    study = study_of(tmp_path, (0.0, 0.2), seeds=crossed(init=range(5), order=range(4)))
    (c,) = study.findings.family
    table = table_of(study, "Noisy.val_accuracy")
    difference = (table["rho=0.2"] - table["rho=0"]).to_numpy().reshape(5, 4)  # seeds sort as init=0,order=0; …
    error, degrees = crossed_error(difference)
    assert c.comparison.se == pytest.approx(error, rel=1e-9)
    assert c.comparison.p == pytest.approx(2 * scipy_stats.t.sf(abs(difference.mean()) / error, degrees), rel=1e-6)
    naive = scipy_stats.ttest_rel(table["rho=0.2"], table["rho=0"])
    assert c.comparison.p > naive.pvalue
    assert "exact" not in c.sentence
    assert any("Crossed seeds share streams: intervals heed" in note for note in study.findings.notes)
    part = study_of(tmp_path, (0.0, 0.2), seeds=crossed(init=range(5), order=range(4))[:7])
    (c,) = part.findings.family
    assert c.verdict is not None and c.verdict.decision == "cannot decide"
    assert (c.comparison.low, c.comparison.p) == (None, None)
    assert "Cannot decide: seeds share streams of randomness without a complete table" in c.sentence


@pytest.mark.parametrize("spread", [(0.0, 0.0), (0.5, 0.0), (3.0, 0.0), (1.0, 1.0)])
def test_the_interval_over_crossed_seeds_covers_the_mean(spread: tuple[float, float]) -> None:
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(1000):
        table = spread[0] * rng.normal(size=(5, 1)) + spread[1] * rng.normal(size=(1, 5)) + rng.normal(size=(5, 5))
        interval = crossed_interval(table)
        assert interval.low is not None and interval.high is not None
        held += interval.low <= 0 <= interval.high
    assert held >= 930  # 95 % with 3 standard errors of 0.7 %


def test_varying_one_stream_holds_for_the_others_as_they_were(tmp_path: Path) -> None:
    study = study_of(tmp_path, seeds=[{"init": i, "*": 0} for i in range(4)])
    assert any("vary init alone" in note and "one seed of order" in note for note in study.findings.notes)


def test_sharpness_and_generalisation(tmp_path: Path) -> None:
    study = study_of(tmp_path, probes=[Curvature()], seeds=range(5))
    (found,) = study.findings.sharpness
    trials = study.tables()["trials"].to_pandas()
    columns = ["Curvature.lambda_max", "Noisy.generalisation_gap"]
    means = trials.groupby("setting")[columns].mean()
    tau = scipy_stats.kendalltau(*[means[c] for c in columns], method="exact")
    assert (found.sharpness.path, found.generalisation.path) == tuple(columns)
    assert (found.result.between.tau, found.result.between.p) == pytest.approx((tau.statistic, tau.pvalue))
    pooled = scipy_stats.kendalltau(*[trials[c] for c in columns])
    assert found.result.pooled.tau == pytest.approx(pooled.statistic)
    assert found.result.pooled.p is None
    assert len(found.points) == 20
    assert found.matched is not None and "At matched training loss" in found.sentence
    assert "no probe measures sharpness" in study_of(tmp_path, seeds=range(5)).findings.omitted["sharpness"].lower()


def test_the_same_store_gives_the_same_findings(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"probes": [Curvature()], "seeds": range(10), "margin": 0.01}
    study = study_of(tmp_path, (0.0, 0.2), **changes)
    study.save(study.store, "runs/toy/r")
    assert findings(Study.load(study.store, "runs/toy/r")) == study.findings


# Tables and terminal


def test_tables_of_verdicts_and_comparisons(tmp_path: Path) -> None:
    study = study_of(tmp_path, seeds=range(5), margin=0.01)
    tables = study.tables()
    rows = tables["verdicts"].to_pylist()
    assert [r["setting_a"] for r in rows] == ["rho=0.1", "rho=0.2", "rho=0.3"]
    table = table_of(study, "Noisy.val_accuracy")
    for row, c in zip(rows, study.findings.family, strict=True):
        assert c.verdict is not None
        interval = scipy_stats.ttest_rel(table[row["setting_a"]], table["rho=0"]).confidence_interval()
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), rel=1e-6)
        assert (row["together_low"], row["together_high"]) == (c.verdict.low, c.verdict.high)
        assert (row["decision"], row["p_holm"], row["margin"]) == (c.verdict.decision, c.verdict.p_holm, 0.01)
        assert (row["seeds"], row["sentence"]) == ("0, 1, 2, 3, 4", c.sentence)
        assert row["improvement"] == (table[row["setting_a"]] > table["rho=0"]).mean()
    assert tables["comparisons"].num_rows == 6
    assert "decision" not in tables["comparisons"].column_names


def test_the_summary_has_what_the_seeds_allow(tmp_path: Path) -> None:
    study = study_of(tmp_path, seeds=range(9), train=Noisy(diverges=((0.1, 4),)))
    rows = {(r["setting"], r["metric"]): r for r in study.tables()["summary"].to_pylist()}
    table = table_of(study, "Noisy.val_accuracy")
    row = rows["rho=0.1", "Noisy.val_accuracy"]
    values = table["rho=0.1"].dropna()
    assert (row["n"], row["best_seed"], row["worst_seed"]) == (8, values.idxmax(), values.idxmin())
    assert row["iqm"] == pytest.approx(scipy_stats.trim_mean(values, 0.25))
    ranked = sorted(values)
    assert (row["median_low"], row["median_high"]) == (ranked[0], ranked[7])  # 8 values: the extremes, 99.2 %
    assert row["bootstrap_low"] < row["mean"] < row["bootstrap_high"]
    interval = scipy_stats.binomtest(1, 9).proportion_ci(method="exact")
    assert (row["diverged"], row["trainings"]) == (1, 9)
    assert (row["diverged_low"], row["diverged_high"]) == pytest.approx((interval.low, interval.high))
    assert rows["rho=0", "Noisy.train_loss"]["best_seed"] is None  # nobody has said whether more of it is better
    small = study_of(tmp_path, seeds=range(4)).tables()["summary"].to_pylist()
    assert {(r["bootstrap_low"], r["median_low"], r["iqm"]) for r in small} == {(None, None, None)}


def test_crossed_seeds_have_intervals_of_their_own_in_the_summary(tmp_path: Path) -> None:
    study = study_of(tmp_path, (0.0, 0.2), seeds=crossed(init=range(5), order=range(4)))
    row = next(r for r in study.tables()["summary"].to_pylist() if r["metric"] == "Noisy.val_accuracy")
    table = table_of(study, "Noisy.val_accuracy")["rho=0"].to_numpy().reshape(5, 4)
    error, degrees = crossed_error(table)
    half = scipy_stats.t.ppf(0.975, degrees) * error
    assert (row["low"], row["high"]) == pytest.approx((table.mean() - half, table.mean() + half))
    assert row["bootstrap_low"] is None
    assert "crossed" in row["method"]


def test_no_band_takes_crossed_seeds_for_independent(tmp_path: Path) -> None:
    from orchestrator.report.pictures.lines import load

    for seeds, dependent in ((range(3), False), (crossed(init=range(2), order=range(2)), True)):
        study = study_of(tmp_path, (0.0,), train=Fit(), seeds=seeds, baseline=None)
        (column,) = study.columns_of("train")
        arrays = load(study, column, column.curves[0], {(0,)})
        assert len(arrays) == len(study.replicates)
        assert {a.dependent for a in arrays} == {dependent}


def shown(study: Study, width: int) -> str:
    study.run["command"] = "python -m orchestrator sweep toy.py"
    console = Console(width=width, file=io.StringIO(), highlight=False)
    print_verdicts(study, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line for line in lines if len(line) > width and "orchestrator confirm toy.py" not in line] == []
    return " ".join(" ".join(lines).split())


@pytest.mark.parametrize("all_of", [(0.1,), (0.0, 0.1, 0.2)])
def test_a_study_has_its_pictures_where_all_seeds_of_a_setting_diverged(
    tmp_path: Path, all_of: tuple[float, ...]
) -> None:
    lost = tuple((rho, seed) for rho in all_of for seed in range(3))
    study = study_of(tmp_path, (0.0, 0.1, 0.2), train=Noisy(diverges=lost), seeds=range(3))
    drawn = [picture.name for picture in verdict_pictures(study)]
    assert drawn == (["verdicts", "seeds"] if len(all_of) == 1 else [])


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_the_verdicts(tmp_path: Path, width: int) -> None:
    declared = shown(study_of(tmp_path, seeds=range(5), margin=0.02), width)
    assert re.search(r"rho=0\.1 (equivalent|better|no decision) [+−]0\.\d+ \S+ to \S+ \S+", declared)
    assert "5 seeds, paired by seed; p and intervals hold for all 3 together (Holm)" in declared
    assert "equivalent: within ±0.02 by two one-sided tests" in declared
    assert "to confirm it: python -m orchestrator confirm toy.py" in declared and "…" not in declared
    nothing = shown(study_of(tmp_path, seeds=range(5), baseline=None), width)
    assert "No comparison was declared beforehand" in nothing and "Exploratory" not in nothing
    two = shown(study_of(tmp_path, seeds=range(2)), width)
    assert "better" in two and "without assuming normal values, the exact test confirms 0 of 2 decisions" in two
    assert "with so few seeds it can confirm none: its p is never below 0.5" in two
    assert "the p beside it is theirs" not in two  # none of them is equivalent
    assert ("the p beside it is theirs" in declared) == bool(re.search(r"rho=0\.\d equivalent", declared))
    pairs = [("rho=0.1", "rho=0"), ("rho=0.2", "rho=0.1")]
    assert "rho=0.2 − rho=0.1" in shown(study_of(tmp_path, seeds=range(4), contrasts=pairs), width)


def test_trainings_that_were_run_before_anything_was_declared_are_told(tmp_path: Path) -> None:
    """The same trainings, first without a declaration, then with one; and further seeds of the declared run."""

    def run(name: str, seeds: range, **declared: Any) -> Study:
        train = dataclasses.replace(Noisy(), rho=grid(0.0, 0.1))
        plan = make_plan(toy_sweep(train=train, seeds=seeds, probes=[], pairs=[], groups=[], **declared), store)
        study = Study.from_plan(plan, store, carry_out(plan, store, run=f"runs/toy/{name}"))
        study.save(store, f"runs/toy/{name}")
        return study

    store = Store(str(tmp_path))
    what = {"baseline": {"rho": 0.0}, "margin": 0.01}
    run("r1", range(3))
    late = run("r2", range(5), **what).findings.notes
    assert any(
        "6 of 10 trainings behind the verdicts were run before these comparisons were declared" in n for n in late
    )
    store = Store(str(tmp_path / "other"))
    run("r1", range(3), **what)
    assert not any("were declared" in note for note in run("r2", range(5), **what).findings.notes)
    moved = run("r3", range(5), baseline={"rho": 0.0}, margin=0.5).findings.notes
    assert any("10 of 10 trainings" in note for note in moved)
