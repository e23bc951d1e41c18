"""Several runs as one study: what merges, what is kept apart, and that nothing is dropped silently."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import carry_out, grid, toy_sweep
from cli import orchestrate
from stored import STUDY, unload
from toys import Curvature, Fit, Points

from orchestrator import vary
from orchestrator.combine import combine, names_of
from orchestrator.plan import make_plan
from orchestrator.records import checked
from orchestrator.stats import mean_interval
from orchestrator.store import Store
from orchestrator.study import Study
from orchestrator.sweep_file import load_sweep
from orchestrator.tables import all_tables


def made(place: Path, run: str = "2026-01-01", **changes) -> Study:
    """A toy study in the store at this place, saved as a run."""
    store = Store(str(place))
    plan = make_plan(toy_sweep(**changes), store)
    study = Study.from_plan(plan, store, carry_out(plan, store))
    study.save(store, f"runs/{study.sweep}/{run}")
    store.write(f"runs/{study.sweep}/latest", run.encode())
    return study


def cells(study: Study, name: str) -> list[dict]:
    return all_tables(study)[name].to_pylist()


def test_equal_settings_take_the_seeds_of_all_runs_and_an_artifact_counts_once(tmp_path):
    """Seeds 0-2 in one store, 2-5 in another: rho=0.05 is over six, seed 2 is one and the same artifact."""
    a = made(tmp_path / "a", train=Fit(rho=grid(0.0, 0.05)))
    b = made(tmp_path / "b", train=Fit(rho=grid(0.05, 0.2)), seeds=range(2, 6))
    both = combine([a, b], ["a", "b"])
    assert [s.label for s in both.settings] == ["rho=0", "rho=0.05", "rho=0.2"]
    assert both.replicates == ["0", "1", "2", "3", "4", "5"]
    trials = cells(both, "trials")
    assert len(trials) == 3 + 6 + 4 == len({t["key"] for t in trials})
    own = {t["key"]: t["Fit.val_accuracy"] for s in (a, b) for t in cells(s, "trials")}
    assert {t["key"]: t["Fit.val_accuracy"] for t in trials} == own
    (cell,) = [c for c in cells(both, "summary") if (c["setting"], c["metric"]) == ("rho=0.05", "Fit.val_accuracy")]
    expected = mean_interval([t["Fit.val_accuracy"] for t in trials if t["setting"] == "rho=0.05"])
    assert (cell["n"], cell["mean"], cell["low"]) == (6, expected.mean, expected.low)
    assert {k for s in (a, b) for k in s.tasks} == set(both.tasks)
    assert both.counts() == {"done": len(both.tasks)}
    assert "2 runs taken together: a (2 settings × 3 seeds" in both.remarks[0]
    assert f" {len(a.tasks) + len(b.tasks) - len(both.tasks)} tasks are in more than one" in both.remarks[0]
    # What only the other store has is read from there.
    with both.file(next(t["key"] for t in trials if t["seed"] == 5), "history.npz") as path:
        assert len(np.load(path)["epoch"]) == 6 and (tmp_path / "b") in path.parents


def test_all_seeds_of_a_setting_differ_between_runs_so_group_probes_stay_apart(tmp_path):
    a = made(tmp_path / "a", train=Fit())
    b = made(tmp_path / "b", train=Fit(), seeds=range(5))
    both = combine([a, b], ["few", "many"])
    rows = cells(both, "groups")
    assert sorted(r["seeds"] for r in rows) == [3, 5]
    values = {k: v for r in rows for k, v in r.items() if k.endswith(".accuracy") and v is not None}
    assert set(values) == {"Ensemble(few).accuracy", "Ensemble(many).accuracy"}
    assert {k for s in (a, b) for k in s.tasks} == set(both.tasks)


def test_what_differs_besides_swept_parameters_keeps_settings_apart_and_is_said(tmp_path):
    a = made(tmp_path / "s", name="short", train=Fit(rho=grid(0.0, 0.05)), probes=[Curvature(k=3)])
    b = made(tmp_path / "s", name="long", train=Fit(rho=0.05, epochs=9, dataset=Points(n=16)), probes=[Curvature(k=5)])
    both = combine([a, b])
    assert [s.label for s in both.settings] == ["short: rho=0", "short: rho=0.05", "long: rho=0.05"]
    assert [s.config for s in both.settings][2] == {"train.rho": 0.05, "study": "long"}
    assert {"Curvature(k=3)", "Curvature(k=5)"} <= set(both.columns)
    text = "\n".join(both.remarks)
    assert "fields of the training: train.dataset.n 8 (short), 16 (long); train.epochs 6 (short), 9 (long)" in text
    assert "fields of probes: Curvature.k 3 (short), 5 (long)" in text
    assert "A difference between such settings may come from anything named here." in text
    assert "train.rho" not in text


def test_a_parameter_that_one_run_varies_and_another_fixes_is_told_of_both(tmp_path):
    a = made(tmp_path / "s", name="rho", train=Fit(rho=grid(0.0, 0.05)))
    b = made(tmp_path / "s", name="width", train=Fit(rho=0.05, width=grid(16, 32)))
    both = combine([a, b])
    configs = [(s.config["train.rho"], s.config["train.width"]) for s in both.settings]
    assert configs == [(0.0, 16), (0.05, 16), (0.05, 32)]
    assert [s.label for s in both.settings] == ["rho=0, width=16", "rho=0.05, width=16", "width=32, rho=0.05"]
    assert "study" not in both.settings[0].config


def test_other_code_is_another_setting(tmp_path, monkeypatch):
    """The sweep's own training is edited between two runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    studies = []
    for name, text in (("before", STUDY), ("after", STUDY.replace("random() / 100", "random() / 50"))):
        Path("study.py").write_text(text)
        plan = make_plan(load_sweep("study.py"), store := Store(name))
        studies.append(Study.from_plan(plan, store, carry_out(plan, store)))
        unload(tmp_path)
    both = combine(studies, ["before", "after"])
    labels = ["before: lr=0.1", "before: lr=0.2", "after: lr=0.1", "after: lr=0.2"]
    assert [s.label for s in both.settings] == labels
    (said,) = [r for r in both.remarks if r.startswith("The runs differ in code:")]
    assert "study:Fit" in said and "tasks.streams" not in said
    assert set(both.columns) == {"Points", "Fit", "Look", "Both", "All"}, "the probes are the same measurements"


def test_seeds_of_one_name_that_are_not_the_same_stay_apart(tmp_path):
    """Seed 1 of every stream, and seed 1 of `init` alone while the others stay at 0, called "1" in an older record."""
    a = made(tmp_path / "a", train=Fit(), pairs=[], groups=[])
    b = made(tmp_path / "b", train=Fit(), pairs=[], groups=[], seeds=vary("init", range(2)))
    renamed = json.loads(json.dumps(b._record).replace("init=", ""))
    both = combine([a, Study(b.store, checked(renamed))], ["a", "b"])
    assert both.replicates == ["0", "1", "2", "init=1,order=0"]
    assert len(cells(both, "trials")) == 4
    assert both.seeds["init=1,order=0"] == {"init": 1, "order": 0}


def test_a_trial_that_failed_in_one_run_and_was_made_in_the_other_counts_as_made(tmp_path):
    a = made(tmp_path / "a", train=Fit(rho=grid(0.0, 0.2), diverge_above=0.1))
    record = json.loads(json.dumps(a._record))
    lost = next(t for t in record["tasks"] if t["kind"] == "train" and t["trials"] == [[0, "0"]])
    lost |= {"state": "failed", "error": "OSError: the disk"}
    for task in record["tasks"]:
        if [0, "0"] in task["trials"] and task["kind"] != "train":
            task |= {"state": "skipped", "because": lost["key"]}
    whole = combine([Study(a.store, checked(record)), a], ["broken", "repaired"])
    assert whole.counts() == a.counts()
    again = combine([Study(a.store, checked(record)), Study(a.store, checked(record))], ["x", "y"])
    assert again.counts()["failed"] == 1


def test_declarations_hold_for_the_whole_only_if_all_runs_made_them(tmp_path):
    family = {"baseline": {"rho": 0.0}, "margin": 0.01}
    a = made(tmp_path / "a", train=Fit(rho=grid(0.0, 0.05)), **family)
    b = made(tmp_path / "b", train=Fit(rho=grid(0.0, 0.05)), seeds=range(3, 6), **family)
    c = made(tmp_path / "c", train=Fit(rho=grid(0.0, 0.05)), seeds=range(6, 9))
    both = combine([a, b], ["a", "b"])
    assert (both.declared.contrasts, both.declared.margin) == (((1, 0),), 0.01) == ((a.declared.contrasts), 0.01)
    other = combine([a, c], ["a", "c"])
    assert other.declared.contrasts == () and other.findings.family == ()
    assert other.findings.answer == (
        "There are no verdicts, and all comparisons are exploratory: no comparison was declared for these runs taken "
        "together, and the verdicts on what each of them declared are in its own report."
    )
    (verdict,) = both.findings.family
    assert verdict.seeds == ("0", "1", "2", "3", "4", "5") and verdict.verdict is not None


def test_the_verb_writes_one_report_of_several_stores(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    alone = {"probes": [], "pairs": [], "groups": []}
    a = made(tmp_path / "a", train=Fit(rho=grid(0.0, 0.05)), name="rho", **alone)
    b = made(tmp_path / "b", train=Fit(rho=grid(0.05, 0.2)), seeds=range(2, 5), name="more", **alone)
    code, out, _ = orchestrate(capsys, "report", "rho", "b#more/2026", "--store", "a", "--to", "both")
    assert code == 0 and out[-1] == "report: both/report.html"
    page = Path("both/report.html").read_text(encoding="utf-8")
    assert "2 runs taken together: rho (2 settings" in page and "tasks are in more than one" in page
    rows = pq.read_table("both/trials.parquet").to_pylist()
    assert {r["key"] for r in rows} == {t.key for s in (a, b) for t in s.of_column("Fit")}
    drawn = {p.stem for p in Path("both/plots").glob("*.png")}
    assert drawn and drawn == {p.stem for p in Path("both/plots").glob("*.svg")}
    assert not Path("a/runs/several").exists() and not Path("artifacts").exists()
    first = Path("both/report.html").read_bytes()
    assert (
        orchestrate(capsys, "report", "rho", "b#more", "--store", "a")[1][-1] == "report: report-rho-more/report.html"
    )
    assert Path("report-rho-more/report.html").read_bytes() == first


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["rho", "mroe"], "holds no run of 'mroe' (did you mean 'more'?)"),
        (["rho/2025", "more"], "There is no run '2025' of rho"),
        (["rho", "more", "--run", "2026-01-01"], "write SWEEP/2026-01-01 for that one"),
        (["rho/2026-01-01", "--run", "2026-01-01"], "names a run already"),
    ],
)
def test_a_run_that_is_not_there_is_one_sentence(tmp_path, monkeypatch, capsys, argv, words):
    monkeypatch.chdir(tmp_path)
    for name in ("rho", "more"):
        made(tmp_path / "artifacts", train=Fit(), seeds=[0], probes=[], pairs=[], groups=[], name=name)
    code, _, err = orchestrate(capsys, "report", *argv)
    assert code == 2 and words in err and err.count("\n") == 1


def test_names_tell_runs_apart():
    day, hour = "2026-11-22T09-32-49.769247", "2026-11-22T10-12-19.201509"
    assert names_of(["a", "b"]) == ["a", "b"]
    assert names_of(["a", "a"], [day, hour]) == ["2026-11-22T09-32", "2026-11-22T10-12"]
    assert names_of(["a", "a", "b"], [day, hour, day]) == ["a 2026-11-22T09-32", "a 2026-11-22T10-12", "b"]
    assert names_of(["a", "a"], [day, day], ["s3://x/y", "/z"]) == ["y", "z"]
    assert names_of(["a", "a"], [day, day], ["/z", "/z"]) == ["#1", "#2"]
