"""Two runs side by side: every kind of difference is named, and of two equal runs none."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from builders import carry_out, grid, toy_sweep
from cli import orchestrate
from stored import STUDY, unload
from toys import Brittle, Curvature, Fit, Points

from orchestrator.compare import compare_runs
from orchestrator.plan import make_plan
from orchestrator.stats import compare_paired, compare_unpaired
from orchestrator.store import Store
from orchestrator.study import Study
from orchestrator.sweep_file import load_sweep
from orchestrator.tables import all_tables


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")  # so that no line is folded
    monkeypatch.setattr(sys, "path", list(sys.path))


def made(place: str, name: str = "toy", **changes) -> Study:
    """A toy study, saved as the newest run of its sweep."""
    store = Store(place)
    plan = make_plan(toy_sweep(name=name, **changes), store)
    study = Study.from_plan(plan, store, carry_out(plan, store))
    study.save(store, f"runs/{name}/2026-01-01")
    return study


def values(study: Study, setting: str) -> dict[int, float]:
    rows = all_tables(study)["trials"].to_pylist()
    return {r["seed"]: r["Fit.val_accuracy"] for r in rows if r["setting"] == setting}


def test_two_runs_of_one_thing_do_not_differ(capsys):
    for place in ("a", "b"):
        study = made(place, train=Fit(rho=grid(0.0, 0.2), diverge_above=0.1))
    found = compare_runs(study, Study.load(Store("a"), "runs/toy/2026-01-01"))
    assert found.differs == []
    code, out, _ = orchestrate(capsys, "compare", "a#toy", "b#toy")
    total = sum(t.state == "done" and bool(t.trials) for t in study.tasks.values())
    assert code == 0 and out[-1] == f"Nothing differs: {total} tasks in both, of which {total} are the same artifacts."
    code, out, _ = orchestrate(capsys, "compare", "a#toy", "a#toy/2026")
    assert out[-1] == "Nothing differs: they are one and the same run."
    assert json.loads("\n".join(orchestrate(capsys, "compare", "a#toy", "b#toy", "--json")[1]))["differs"] == []


def test_settings_seeds_fields_probes_and_data_that_differ_are_named(capsys):
    made("s", "one", train=Fit(rho=grid(0.0, 0.05)), probes=[Curvature(k=3)])
    made("s", "two", train=Fit(rho=grid(0.05, 0.2), epochs=9, dataset=Points(n=16)), seeds=range(1, 4),
         probes=[Curvature(k=5), Brittle(seed=9)])  # fmt: skip
    code, out, _ = orchestrate(capsys, "compare", "one", "two", "--store", "s")
    assert code == 0
    rows = {line[:11].strip(): line[11:] for line in out if line[:1].islower()}
    assert rows["settings"] == "rho=0.05 in both; only in A: rho=0; only in B: rho=0.2"
    assert rows["seeds"] == "1, 2 in both; only in A: 0; only in B: 3"
    assert rows["training"] == "dataset.n: 8 → 16; epochs: 6 → 9"
    assert rows["probes"].startswith("Curvature.k: 3 → 5; Curvature, Ensemble, Line in both; only in B: Brittle")
    assert rows["code"] == "the same (2 modules)" and rows["versions"] == rows["machines"] == "the same"
    assert rows["tasks"] == "none in both"
    found = json.loads("\n".join(orchestrate(capsys, "compare", "one", "two", "--store", "s", "--json")[1]))
    assert found["differs"] == ["settings", "seeds", "training", "probes"]
    assert {"name": "train.epochs", "values": [[6], [9]]} in found["training"]


def test_what_another_code_made_of_the_same_trials(capsys):
    """The sweep's training is edited; its dataset and probes are not. One result stays the same, the other moves."""
    for name, text in (("before", STUDY), ("after", STUDY.replace("random() / 100", "random() / 50"))):
        Path("study.py").write_text(text)
        plan = make_plan(load_sweep("study.py"), store := Store(name))
        Study.from_plan(plan, store, carry_out(plan, store)).save(store, "runs/study/r")
        unload(Path.cwd())
    runs = [Study.load(Store(name), "runs/study/r") for name in ("before", "after")]
    found = compare_runs(*runs)
    assert [d.name.rpartition(":")[2] for d in found.code] == ["Fit"]
    assert found.differs == ["code", "results"]
    by_column = {t.column: (t.same, t.identical, t.different) for t in found.tasks}
    assert by_column == {"Fit": (0, 0, 4), "Look": (0, 4, 0), "Both": (0, 0, 2), "All": (0, 2, 0)}
    a, b = ({t.trials: r for t in s.of_column("Fit") for r in [s.results(t.key)["val_accuracy"]]} for s in runs)
    (fit,) = [t for t in found.tasks if t.column == "Fit"]
    assert fit.largest == {"val_accuracy": pytest.approx(max(abs(a[t] - b[t]) for t in a), rel=1e-12)}
    for result, setting in zip(found.results, (0, 1), strict=True):
        x, y = ([v[((setting, seed),)] for seed in ("0", "1")] for v in (a, b))
        expected = compare_paired(y, x, mode="max")
        assert result.comparison is not None and result.comparison.design == "paired"
        for name in ("difference", "low", "high", "p", "p_exact"):
            assert getattr(result.comparison, name) == getattr(expected, name), "b − a"
    out = orchestrate(capsys, "compare", "before#", "after#")[1]
    assert any(line.startswith("code       differs: ") and "Fit" in line for line in out)
    assert any(line.strip().startswith("Fit: 4 of 4 differ: val_accuracy by up to 0.00") for line in out)
    assert "Exploratory: nothing of this was declared beforehand" in out[-1]


def test_settings_with_seeds_of_their_own_are_compared_unpaired_and_shared_artifacts_not_at_all(capsys):
    a = made("s", "first", train=Fit(rho=0.05), pairs=[], groups=[])
    b = made("s", "other", train=Fit(rho=0.05), seeds=range(3, 7), pairs=[], groups=[])
    c = made("s", "both", train=Fit(rho=0.05), seeds=range(5), pairs=[], groups=[])
    (result,) = compare_runs(a, b).results
    x, y = (list(values(s, "default").values()) for s in (a, b))
    assert result.comparison == compare_unpaired(y, x, mode="max")
    (result,) = compare_runs(a, c).results
    assert (result.comparison, result.note) == (None, "3 artifacts are in both, so there is no comparison")
    assert (result.a.n, result.b.n) == (3, 5)


def test_a_diverged_run_counts_as_the_worst_and_other_metrics_can_be_asked_for(capsys):
    a = made("s", "a", train=Fit(rho=0.2, diverge_above=0.1), pairs=[], groups=[])
    b = made("s", "b", train=Fit(rho=0.2, epochs=7), pairs=[], groups=[])
    (result,) = compare_runs(a, b).results
    assert result.comparison is not None and (result.comparison.diverged_a, result.comparison.diverged_b) == (0, 1)
    assert result.comparison.p is None, "the survivors alone make no fair contrast"
    (other,) = compare_runs(a, b, ["Curvature.lambda_max"]).results
    assert other.a.n == 2 and other.b.n == 3
    code, _, err = orchestrate(capsys, "compare", "a", "b", "--store", "s", "--metric", "Curvature.lamda_max")
    assert code == 2 and "Neither run has a metric 'Curvature.lamda_max' (did you mean 'Curvature.lambda_max'?)" in err


def test_versions_machines_and_commits_are_read_from_the_manifests(capsys):
    made("a", train=Fit(), pairs=[], groups=[], probes=[])
    made("b", train=Fit(), pairs=[], groups=[], probes=[])
    for path in Path("b/artifacts").glob("*/*/manifest.json"):
        path.write_text(
            path.read_text().replace('"python": "3.11"', '"python": "3.12"').replace('"laptop"', '"server"')
            .replace("0123456789abcdef", "fedcba9876543210")
        )  # fmt: skip
    out = orchestrate(capsys, "compare", "a#toy", "b#toy")[1]
    assert "versions   python: 3.11 → 3.12" in out and "machines   host: laptop → server" in out
    assert any("git commit: 0123456789ab → fedcba987654" in line for line in out)


@pytest.mark.parametrize(
    ("argv", "words"),
    [(["toy"], "required"), (["toy", "tyo"], "did you mean 'toy'?"), (["toy", "nowhere#toy"], "holds no runs")],
)
def test_mistakes_are_one_sentence(capsys, argv, words):
    made("artifacts", train=Fit(), seeds=[0], pairs=[], groups=[], probes=[])
    code, _, err = orchestrate(capsys, "compare", *argv)
    assert code == 2 and words in err and err.count("\n") == 1


def test_probes_that_one_run_skipped_are_no_difference_of_code():
    """All trainings of one run diverge, so its probes and pairs left no artifacts."""
    made("s", "one", train=Fit(rho=grid(0.1, 0.2)), seeds=(1, 3))
    lost = made("s", "two", train=Fit(rho=grid(0.1, 0.2), diverge_above=0.05), seeds=(1, 3))
    assert {lost.statuses[t.key] for t in lost.of_column("Curvature")} == {"skipped"}
    for path in Path("s/artifacts/Curvature").glob("*/manifest.json"):  # as if the probe had a module of its own
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps({**manifest, "code": {**manifest["code"], "curvature": "0" * 32}}))
    well = Study.load(Store("s"), "runs/one/2026-01-01")
    found = compare_runs(well, lost)
    assert not found.code and not found.modules and "code" not in found.differs
