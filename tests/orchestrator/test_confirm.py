"""Confirming the best setting of a run on fresh seeds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from builders import carry_out, grid, toy_sweep
from cli import counts, orchestrate
from test_inference import Noisy
from toys import Curvature

from orchestrator.confirmation import Confirmation, confirmation, fresh_seeds
from orchestrator.decisions import Decisions
from orchestrator.garbage import confirmed
from orchestrator.plan import make_plan
from orchestrator.store import Store
from orchestrator.study import Study
from orchestrator.sweep import Sweep, crossed, vary
from orchestrator.sweep_file import load_sweep
from tasks.errors import InvalidValue, UserError

RUN = "runs/toy/2026-01-01T00-00-00.000000"


def sweep_of(**changes: Any) -> Sweep:
    train = changes.pop("train", Noisy(rho=grid(0.0, 0.1, 0.2)))
    return toy_sweep(**{"train": train, "probes": [Curvature()], "pairs": [], "groups": [], **changes})


def run(sweep: Sweep, store: Store, path: str = RUN) -> Study:
    plan = make_plan(sweep, store)
    study = Study.from_plan(plan, store, carry_out(plan, store))
    study.save(store, path)
    store.write(f"runs/{sweep.name}/latest", path.rpartition("/")[2].encode())
    return study


def confirmed_by(sweep: Sweep, store: Store, seeds: int | None = None) -> Confirmation:
    return confirmation(make_plan(sweep, None), store, seeds)


def labels(sweep: Sweep) -> list[str]:
    return [s.label for s in sweep.settings()]


def test_the_best_and_the_baseline_on_fresh_seeds(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    sweep = sweep_of(seeds=range(4), baseline={"rho": 0.0}, margin=0.01)
    run(sweep, store)
    found = confirmed_by(sweep, store)
    assert labels(found.sweep) == ["rho=0.2", "rho=0"]
    assert found.sweep.seeds == (4, 5, 6, 7)
    assert (found.sweep.name, found.sweep.probes, found.sweep.confirms) == ("toy-confirm", (), RUN)
    assert found.words[0] == (
        f"To be confirmed: rho=0.2, with the best mean validation accuracy of 3 settings in {RUN}, against the "
        "baseline rho=0, on seeds 4 to 7, which no run of toy has used."
    )
    assert re.search(
        r"difference of 0.01 in .* takes about \d+ \(\d+ to [\d,]+\) seeds; the 4 to be run", found.words[1]
    )
    assert not set(make_plan(found.sweep, None).nodes) & {
        k for k, n in make_plan(sweep, None).nodes.items() if n.kind == "train"
    }
    study = run(found.sweep, store, "runs/toy-confirm/r")
    (c,) = study.findings.family
    assert (study.settings[c.a].label, study.settings[c.b].label) == ("rho=0.2", "rho=0")
    assert c.verdict is not None and c.comparison.n_a == 4
    assert "chosen on other seeds" in study.findings.omitted["winner"]
    assert confirmed_by(sweep, store).sweep.seeds == (4, 5, 6, 7)  # the same command goes on with the same seeds


def test_the_runner_up_where_no_baseline_is_declared(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    sweep = sweep_of(
        seeds=range(3), primary="Curvature.lambda_max", primary_mode="min", probes=[Curvature(), Curvature(k=5)]
    )
    run(sweep, store)
    found = confirmed_by(sweep, store, seeds=6)
    assert labels(found.sweep) == ["rho=0.2", "rho=0.1"]
    assert found.sweep.probes == (Curvature(),)  # what measures the primary metric, and nothing else
    assert found.sweep.seeds == (3, 4, 5, 6, 7, 8)
    assert "the runner-up rho=0.1" in found.words[0] and "states smallest_effect" in found.words[1]


@pytest.mark.parametrize(
    ("changes", "before", "words"),
    [
        ({"baseline": {"rho": 0.2}}, {}, "the baseline rho=0.2 itself has the best mean validation accuracy."),
        ({"train": Noisy(rho=0.1)}, {}, "1 setting without a lost seed: there is nothing to choose from."),
        ({}, {"train": Noisy(rho=grid(0.0, 0.1, 0.2), gain=0.2)}, "does not declare the trainings of rho=0.2 as"),
        ({}, {"train": Noisy(rho=grid(0.0, 0.1, 0.2, 0.4))}, "does not declare the trainings of rho=0.4 as"),
        ({"baseline": {"rho": 0.1}}, {"train": Noisy(rho=grid(0.0, 0.2))}, "does not declare the trainings of rho=0.1"),
        ({"primary": "Curvature.lambda_max", "primary_mode": "min"}, {"probes": []}, "no trial has a value of Curv"),
    ],
)
def test_where_there_is_nothing_to_confirm(
    tmp_path: Path, changes: dict[str, Any], before: dict[str, Any], words: str
) -> None:
    store = Store(str(tmp_path))
    run(sweep_of(**({**changes, **before} if "train" in changes else before)), store)
    with pytest.raises(UserError) as error:
        confirmed_by(sweep_of(**changes), store)
    assert words in str(error.value) and str(error.value).endswith(".") and "\n" not in str(error.value)


def test_without_a_run_and_with_bad_numbers(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.check_writable()
    with pytest.raises(UserError, match="holds no runs"):
        confirmed_by(sweep_of(), store)
    run(sweep_of(), store)
    with pytest.raises(InvalidValue, match="--seeds must be at least 1, not 0"):
        confirmed_by(sweep_of(), store, seeds=0)


def test_seeds_of_every_run_count_as_used(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    sweep = sweep_of(seeds=range(3))
    run(sweep_of(seeds=range(9)), store, "runs/toy/a")
    run(sweep, store, "runs/toy/b")
    assert fresh_seeds(sweep, store, 2) == ([9, 10], "seeds 9 to 10")
    store.write(
        "runs/toy/c/plan.json", (store.read("runs/toy/a/study.json") or b"").replace(b'"init": 8', b'"init": 30')
    )
    assert fresh_seeds(sweep, store, 1) == ([31], "seed 31")
    store.write("runs/toy/d/study.json", b"{}")
    with pytest.raises(UserError, match=r"runs/toy/d in .* is damaged"):
        fresh_seeds(sweep, store, 1)


@pytest.mark.parametrize(
    ("seeds", "fresh"),
    [
        (vary("init", range(3)), [{"order": 0, "init": 3}, {"order": 0, "init": 4}]),
        (crossed(init=range(2), order=range(6)), [{"init": 6, "order": 6}, {"init": 7, "order": 7}]),
        ([{"init": 5, "*": 1}], [{"init": 6, "order": 6}, {"init": 7, "order": 7}]),
        ([4, 11], [12, 13]),
    ],
)
def test_streams_that_are_held_stay_held(tmp_path: Path, seeds: Any, fresh: list[Any]) -> None:
    assert fresh_seeds(sweep_of(seeds=seeds), Store(str(tmp_path)), 2)[0] == fresh


def test_what_a_search_has_proposed_can_be_confirmed(tmp_path: Path) -> None:
    from ray import tune
    from ray.tune.search.basic_variant import BasicVariantGenerator

    store = Store(str(tmp_path))
    sweep = sweep_of(
        train=Noisy(rho=tune.uniform(0, 1)), search=BasicVariantGenerator(), samples=3, probes=[], margin=0.01
    )
    decisions = Decisions(sweep, store)
    for number, rho in enumerate((0.1, 0.4, 0.2)):
        decisions.proposed(number, {"train.rho": rho})
    decisions.close()
    configs = Decisions(sweep, store).configs
    plan = make_plan(sweep, store, configs)
    study = Study.from_plan(plan, store, carry_out(plan, store))
    study.save(store, RUN)
    store.write("runs/toy/latest", RUN.rpartition("/")[2].encode())
    assert "BasicVariantGenerator chose the settings by their results" in study.findings.answer
    found = confirmation(make_plan(sweep, None, configs), store, None)
    assert labels(found.sweep) == ["rho=0.4", "rho=0.2"]
    assert found.sweep.search is None
    make_plan(found.sweep, store)


FILE = '''\
"""Is a larger lr better?"""

from dataclasses import dataclass
from orchestrator import Sweep
from tasks.task import Task


@dataclass(frozen=True)
class Fit(Task):
    lr: float = 0.1
    streams = ("init",)
    metrics = {"val_accuracy": "validation accuracy"}

    def run(self, ctx):
        rng = ctx.rng("init")
        return {"val_accuracy": self.lr + 0.01 * rng.random() + 0.01 * self.lr * rng.random()}


sweep = Sweep(
    train=Fit(lr={"grid_search": [0.1, 0.2, 0.3]}), seeds=range(3), baseline={"lr": 0.1}, margin=0.01
)
'''


@pytest.mark.usefixtures("ray_here")
@pytest.mark.slow
def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lr.py").write_text(FILE)
    code, lines, errors = orchestrate(capsys, "confirm", "lr.py")
    assert (code, lines) == (2, []) and "holds no runs" in errors
    assert orchestrate(capsys, "sweep", "lr.py")[0] == 0
    code, lines, errors = orchestrate(capsys, "confirm", "lr.py", "--dry-run")
    assert code == 0, errors
    assert "lr=0.3" in lines[0] and "on seeds 3 to 5, which no run of lr has used." in lines[0]
    assert "1 settings" not in " ".join(lines) and "2 settings × 3 seeds" in " ".join(lines)
    assert not Path("artifacts/runs/lr-confirm").exists()
    code, lines, errors = orchestrate(capsys, "confirm", "lr.py", "--seeds", "4")
    assert (code, counts(lines)["ran"]) == (0, 8), errors
    assert any("better" in line for line in lines)
    code, lines, errors = orchestrate(capsys, "confirm", "lr.py", "--seeds", "4")
    assert (code, counts(lines)["stored"]) == (0, 8)
    store = Store("artifacts")
    study = Study.load(store, f"runs/lr-confirm/{store.latest_run('lr-confirm')}")
    assert study.replicates == ["3", "4", "5", "6"]
    assert [c.verdict and c.verdict.decision for c in study.findings.family] == ["better"]
    assert confirmed(load_sweep("lr.py"), store) == set(study.tasks)  # gc leaves it
