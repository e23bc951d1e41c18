"""The record of a run and its tables, on toy studies carried out in process."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from builders import COMMAND, carry_out, grid, toy_study, toy_sweep
from toys import Brittle, Choosy, Curvature, Downhill, Fit, Line, Sideways, Threshold

from orchestrator import study as study_module
from orchestrator import tables
from orchestrator.errors import DamagedArtifact, StoreError, UserError
from orchestrator.plan import make_plan
from orchestrator.stats import mean_interval, pair_interval
from orchestrator.store import Store
from orchestrator.study import Outcome, Study, code_files
from orchestrator.sweep import same_setting

RUN = "runs/toy/r1"


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def test_one_row_a_trial_with_every_number_from_the_manifests(store):
    study = toy_study(store)
    rows = tables.trials(study).to_pylist()
    assert len(rows) == 15
    assert list(rows[0])[:3] == ["setting", "config.train.rho", "seed"]
    for row in rows:
        manifest = store.manifest("Fit", row["key"])
        assert row["Fit.val_accuracy"] == manifest["results"]["val_accuracy"]
        assert row["seed"] == manifest["seeds"]["init"]
        assert row["config.train.rho"] == manifest["fields"]["rho"]
        assert (row["setting"], row["status"], row["notes"]) == (f"rho={row['config.train.rho']:g}", "done", "")
        probe = next(m for m in study.manifests() if m["task"] == "Curvature" and m["inputs"] == [row["key"]])
        assert row["Curvature.lambda_max"] == probe["results"]["lambda_max"]


def test_probes_of_one_class_have_columns_of_their_own(store):
    study = toy_study(store, probes=[Curvature(), Curvature(k=5)], train=Fit(), pairs=[], groups=[])
    assert {"Curvature.lambda_max", "Curvature(k=5).lambda_max"} <= set(tables.trials(study).column_names)


def test_a_diverged_trial_keeps_its_row_and_enters_no_mean(store):
    study = toy_study(store, train=Fit(rho=grid(0.0, 0.2), diverge_above=0.1))
    rows = tables.trials(study).to_pylist()
    (lost,) = [r for r in rows if r["status"] == "diverged"]
    assert (lost["setting"], lost["seed"], lost["Fit.val_accuracy"]) == ("rho=0.2", 1, None)
    assert "Curvature skipped: Fit · rho=0.2 · seed 1 diverged" in lost["notes"]
    good = [r["Fit.val_accuracy"] for r in rows if r["setting"] == "rho=0.2" and r["status"] == "done"]
    accuracy = {(r["setting"], r["metric"]): r for r in tables.summary(study).to_pylist()}
    cell = accuracy["rho=0.2", "Fit.val_accuracy"]
    assert (cell["n"], cell["n_missing"], cell["missing"]) == (2, 1, "1 diverged")
    assert (cell["low"], cell["high"]) == pytest.approx((mean_interval(good).low, mean_interval(good).high))
    # Even a number that the diverged training did return is not averaged.
    assert accuracy["rho=0.2", "Fit.epochs"]["mean"] == 6
    assert accuracy["rho=0.2", "Curvature.lambda_max"]["missing"] == "1 skipped (Fit diverged)"


def test_a_failed_probe_is_counted_and_values_that_are_not_finite_are_too(store):
    study = toy_study(store, train=Fit(), probes=[Brittle()], pairs=[], groups=[])
    summary = {r["metric"]: r for r in tables.summary(study).to_pylist()}
    assert summary["Brittle.strength"]["missing"] == "1 failed"
    assert (summary["Brittle.ratio"]["n"], summary["Brittle.ratio"]["mean"]) == (0, None)
    assert summary["Brittle.ratio"]["missing"] == "1 failed, 2 not finite"
    assert "Brittle.remark" not in summary
    rows = tables.trials(study).to_pylist()
    assert [r["Brittle.remark"] for r in rows] == ["fine", None, "fine"]
    assert math.isinf(rows[0]["Brittle.ratio"])
    assert rows[1]["notes"] == "Brittle failed: ValueError: the toy broke"
    assert study.counts() == {"done": 6, "failed": 1}


@pytest.mark.parametrize(("above", "median"), [(3, 11.0), (2, 11.0), (1, None), (0, None)])
def test_censored_values_have_a_median_but_no_mean(store, above, median):
    study = toy_study(store, train=Fit(), probes=[Threshold(above=above)], pairs=[], groups=[])
    cells = [r for r in tables.summary(study).to_pylist() if r["metric"] == "Threshold.d"]
    (cell,) = cells
    assert (cell["n"], cell["median"]) == (above, median)
    if above == 3:
        assert (cell["mean"], cell["missing"]) == (11.0, "")
    else:
        assert (cell["mean"], cell["low"], cell["missing"]) == (None, None, f"{3 - above} censored")
        assert not above or "a mean would be too small" in cell["note"]


def test_a_headline_metric_that_no_task_measured_is_not_dropped(store):
    study = toy_study(store, train=Fit(rho=0.2, diverge_above=0.1), seeds=[1, 3], pairs=[], groups=[])
    missing = {r["metric"]: r["missing"] for r in tables.summary(study).to_pylist()}
    assert missing["Fit.val_accuracy"] == "2 diverged"
    assert missing["Curvature.lambda_max"] == "2 skipped (Fit diverged)"


@pytest.mark.parametrize("below", [0, 1])
def test_a_metric_that_no_task_measured_has_no_column_unless_it_is_a_headline(store, below):
    study = toy_study(store, train=Fit(), probes=[Choosy(below=below)], pairs=[], groups=[])
    for table in ("trials", "summary"):
        found = tables.all_tables(study)[table]
        names = found.column_names if table == "trials" else found.column("metric").to_pylist()
        assert "Choosy.always" in names and ("Choosy.sometimes" in names) == (below > 0)


def test_pairs_and_their_jackknife(store):
    study = toy_study(store, train=Fit(rho=grid(0.0, 0.2)))
    rows = tables.pairs(study).to_pylist()
    assert len(rows) == 3 + 3 + 3
    for row in rows:
        assert row["Line.barrier"] == store.manifest("Line", row["Line.key"])["results"]["barrier"]
    across = [r for r in rows if r["setting_a"] != r["setting_b"]]
    assert all(r["seed_a"] == r["seed_b"] for r in across)
    cells = {(r["setting_a"], r["setting_b"], r["metric"]): r for r in tables.pair_summary(study).to_pylist()}
    for (a, b, metric), cell in cells.items():
        mine = [r for r in rows if (r["setting_a"], r["setting_b"]) == (a, b)]
        expected = pair_interval([r[metric] for r in mine], [(r["seed_a"], r["seed_b"]) for r in mine])
        assert (cell["low"], cell["high"]) == pytest.approx((expected.low, expected.high))
        assert (cell["n"], cell["n_seeds"], cell["method"]) == (3, 3, "jackknife over seeds")


def test_groups(store):
    study = toy_study(store, pairs=[])
    rows = tables.groups(study).to_pylist()
    assert [r["seeds"] for r in rows] == [3] * 5
    assert all(
        r["Ensemble.accuracy"] == store.manifest("Ensemble", r["Ensemble.key"])["results"]["accuracy"] for r in rows
    )
    assert set(study.tables()) == {"trials", "summary", "groups", "comparisons"}


def test_one_seed_has_no_interval_and_says_so(store):
    study = toy_study(store, seeds=[7], pairs=[], groups=[])
    for row in tables.summary(study).to_pylist():
        assert (row["n"], row["sd"], row["low"], row["high"]) == (1, None, None, None)
        assert "one seed" in row["note"]
    assert set(study.tables()) == {"trials", "summary", "comparisons"}


def test_a_setting_may_hold_specs(store):
    study = toy_study(store, train=Fit(optimizer=grid(Downhill(), Sideways(lr=0.2))), pairs=[], groups=[])
    (shown,) = [tables.trials(study).column(c) for c in tables.trials(study).column_names if c.startswith("config.")]
    assert shown.unique().to_pylist() == ["Downhill", "Sideways"]


def test_settings_with_the_same_label_are_told_apart(store):
    study = toy_study(store, train=Fit(rho=grid(0.100001, 0.100002)), pairs=[], groups=[], probes=[])
    assert len(set(tables.trials(study).column("setting").to_pylist())) == 2


def test_seeds_of_one_stream_keep_their_names(store):
    seeds = [{"init": 3, "*": 0}, {"init": 4, "*": 0}]
    study = toy_study(store, seeds=seeds, train=Fit(), pairs=[Line()], groups=[], pair_when=same_setting)
    assert tables.trials(study).column("seed").to_pylist() == ["init=3", "init=4"]


@pytest.mark.parametrize(("mode", "best"), [("max", 4), ("min", 0)])
def test_the_best_setting_is_by_the_mean_of_the_metric(store, mode, best):
    assert toy_study(store, mode=mode).best() == best


def test_a_setting_that_lost_a_seed_is_not_the_best(store):
    """rho = 0.2 has the highest mean, but of its three seeds one diverges here."""
    study = toy_study(store, train=Fit(rho=grid(0.0, 0.02, 0.05, 0.1, 0.2), diverge_above=0.15))
    assert study.best() == 3


def test_a_single_setting_is_not_the_best_of_anything(store):
    assert toy_study(store, train=Fit()).best() is None


def test_stopped_trainings_are_told_from_those_the_run_did_not_reach(store):
    plan = make_plan(toy_sweep(train=Fit(), probes=[Curvature()], pairs=[], groups=[]), store)
    stop = lambda node: node.kind == "train" and node.seeds["init"] == 2  # noqa: E731
    outcome = carry_out(plan, store, stop=stop)
    study = Study.from_plan(plan, store, outcome)
    assert study.counts() == {"done": 5, "stopped": 1, "skipped": 1}
    assert tables.trials(study).to_pylist()[2]["notes"].startswith("Fit stopped: the scheduler ended it early")
    cut = Study.from_plan(plan, store, Outcome(states={}, interrupted=True))
    assert cut.counts() == {"not run": 7}
    assert tables.trials(cut).column("status").to_pylist() == ["not run"] * 3


# The record


def test_a_saved_study_is_read_back_as_it_was(store):
    study = toy_study(store, train=Fit(rho=grid(0.0, 0.2), diverge_above=0.1), probes=[Brittle(), Curvature()])
    study.save(store, RUN)
    again = Study.load(store, RUN)
    assert again.run["command"] == COMMAND
    assert again.digest() == study.digest()
    for name, table in study.tables().items():
        assert again.tables()[name].equals(table), name


def test_reading_needs_neither_the_classes_nor_torch_nor_ray(store):
    toy_study(store).save(store, RUN)
    code = (
        "import sys; from orchestrator.study import Study; from orchestrator.store import Store\n"
        f"s = Study.load(Store({str(store)!r}), {RUN!r}); s.tables()\n"
        "print(sorted({'torch', 'ray', 'matplotlib', 'toys'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_digest_knows_what_changes_a_report(store):
    first = toy_study(store, train=Fit())
    plan = make_plan(toy_sweep(train=Fit()), store)
    assert plan.stored == set(plan.nodes)
    second = Study.from_plan(plan, store, Outcome(states=dict.fromkeys(plan.nodes, "stored"), started=1.0))
    assert second.digest() == first.digest()
    assert toy_study(store, train=Fit(), seeds=range(4)).digest() != first.digest()
    assert toy_study(store, train=Fit(), question="Another?").digest() != first.digest()
    states = {**dict.fromkeys(plan.nodes, "stored"), next(iter(plan.nodes)): "failed"}
    assert Study.from_plan(plan, store, Outcome(states=states)).digest() != first.digest()


def test_the_digest_covers_the_code_of_tables_and_reports():
    covered = set(code_files())
    package = Path(study_module.__file__).parent
    inside = {package / name for name in ("study.py", "records.py", "tables.py")}
    assert {*inside, package / "stats" / "intervals.py"} <= covered
    assert {*(package / "report").rglob("*.py"), package / "report" / "report.html"} <= covered
    assert package / "report" / "pictures" / "curves.py" in covered


def test_a_report_is_used_again_only_if_it_is_there_and_says_the_same(store):
    study = toy_study(store, train=Fit())
    assert not study.is_saved(store, RUN)
    study.save(store, RUN)
    assert not study.is_saved(store, RUN)  # no page yet
    store.write(f"{RUN}/report.html", b"page")
    assert study.is_saved(store, RUN)
    assert not toy_study(store, train=Fit(), seeds=[5]).is_saved(store, RUN)
    store.write(f"{RUN}/study.json", b"{")
    assert not study.is_saved(store, RUN)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "did not reach its end"),
        (b"{", "damaged"),
        (b'{"format": 1}', "damaged"),
        (b'{"format": 99}', "newer version"),
    ],
)
def test_a_record_that_cannot_be_read_is_a_sentence(store, content, says):
    if content is not None:
        store.write(f"{RUN}/study.json", content)
    with pytest.raises(StoreError, match=says):
        Study.load(store, RUN)


def test_the_record_is_plain_json(store):
    toy_study(store, train=Fit(optimizer=grid(Downhill(), Sideways()))).save(store, RUN)
    record = json.loads(store.read(f"{RUN}/study.json"))
    assert record["settings"][1]["config"] == {"train.optimizer": "Sideways"}
    assert {c["name"] for c in record["columns"]} == {"Points", "Fit", "Curvature", "Line", "Ensemble"}


# Files


def test_tables_are_written_into_the_run(store):
    study = toy_study(store)
    paths = study.write_tables(store, RUN)
    names = ["trials", "summary", "pairs", "pair_summary", "groups", "comparisons"]
    assert paths == [f"{RUN}/{n}.parquet" for n in names]
    assert pq.read_table(store.path(paths[0])).equals(tables.trials(study))


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_export(store, tmp_path, format):
    study = toy_study(store, train=Fit())
    files = study.export(tmp_path / "out", format)
    assert [f.name for f in files] == [
        f"{n}.{format}" for n in ("trials", "summary", "pairs", "pair_summary", "groups")
    ]
    if format == "csv":
        assert len(files[0].read_text().splitlines()) == 4


def test_export_refuses_what_it_cannot_do(store, tmp_path):
    study = toy_study(store, train=Fit())
    with pytest.raises(UserError, match="did you mean 'csv'"):
        study.export(tmp_path, "cvs")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        study.export(tmp_path / "file" / "x")


def test_a_file_that_cannot_be_used_is_remembered(store: Store) -> None:
    study = toy_study(store)
    task = next(t for t in study.tasks.values() if t.name == "Curvature")
    place = store.path(f"artifacts/Curvature/{task.key}/spectrum.npz")
    place.write_bytes(b"damaged")
    with pytest.raises(DamagedArtifact), study.file(task.key, "spectrum.npz"):
        pass
    assert list(study.damaged) == [task.key]
    assert "spectrum.npz" in study.damaged[task.key]
