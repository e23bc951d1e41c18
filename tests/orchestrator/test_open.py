"""A study opened in Python: DataFrames, arrays, weights and networks of real stores."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
from builders import carry_out, grid, toy_sweep
from pandas.testing import assert_frame_equal
from toys import Brittle, Curvature, Fit

import orchestrator
from orchestrator import tables
from orchestrator.errors import InvalidValue, StoreError
from orchestrator.events import Events
from orchestrator.plan import make_plan
from orchestrator.runs import note_begun, run_name
from orchestrator.store import Store
from orchestrator.study import Study
from tasks.data import Spirals
from tasks.models import MLP
from tasks.optimizers import SGD
from tasks.train import Train

RUN = "runs/toy/2026-01-01T00-00-00.000000"


def saved(store: Store, run: str = RUN, **changes) -> Study:
    """A toy study, carried out and saved as a run."""
    plan = make_plan(toy_sweep(**changes), store)
    study = Study.from_plan(plan, store, carry_out(plan, store))
    study.save(store, run)
    store.write("runs/toy/latest", run.rpartition("/")[2].encode())
    return study


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    place = tmp_path_factory.mktemp("open") / "store"
    saved(Store(str(place)), train=Fit(rho=grid(0.0, 0.02, 0.2), diverge_above=0.1), probes=[Curvature(), Brittle()])
    return str(place)


@pytest.fixture
def study(uri):
    return orchestrator.open(uri, "toy")


def test_importing_orchestrator_stays_light_and_opening_needs_no_torch(uri):
    code = (
        "import sys, orchestrator; before = set(sys.modules)\n"
        f"s = orchestrator.open({uri!r}, 'toy'); s.trials, s.summary, s.pairs, s.curves('Fit'), s._repr_html_()\n"
        "heavy = ('torch', 'ray', 'pandas', 'pyarrow', 'numpy', 'matplotlib', 'scipy')\n"
        "print([m for m in heavy if m in before], [m for m in ('torch', 'ray', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


def test_the_frames_are_the_tables(study):
    for name in ("trials", "summary", "pairs", "pair_summary", "groups"):
        assert_frame_equal(getattr(study, name), getattr(tables, name)(study).to_pandas())
    assert len(study.trials) == 9 and len(study.pairs) and len(study.groups) == 3


def test_verdicts_and_comparisons_are_those_of_the_findings(study, tmp_path):
    assert len(study.verdicts) == 0 and set(study.comparisons.setting_b) == {"rho=0.02"}, "the best setting"
    found = {(c.a, c.metric.path): c for c in study.findings.exploratory}
    for row in study.comparisons.itertuples():
        c = found[[s.label for s in study.settings].index(row.setting_a), row.metric]
        difference = c.comparison.difference
        assert np.isnan(row.difference) if difference is None else row.difference == difference
        assert (row.sentence, row.design) == (c.sentence, c.comparison.design)
    saved(Store(str(tmp_path / "s")), train=Fit(rho=grid(0.0, 0.2)), pairs=[], groups=[], baseline={"rho": 0.0})
    declared = orchestrator.open(str(tmp_path / "s"))
    (row,) = declared.verdicts.to_dict("records")
    (family,) = declared.findings.family
    assert (row["setting_a"], row["setting_b"], row["metric"]) == ("rho=0.2", "rho=0", "Fit.val_accuracy")
    assert (row["decision"], row["p_holm"]) == (family.verdict.decision, family.verdict.p_holm)
    assert row["decision"] in declared._repr_html_() and declared.findings.answer in declared._repr_html_()


def test_curves_hold_what_the_files_do_also_of_what_diverged(study):
    frame = study.curves("Fit")
    assert list(frame)[:5] == ["setting", "config.train.rho", "seed", "status", "key"]
    assert len(frame) == 9 * 6 and set(frame.status) == {"done", "diverged"}
    for key, part in frame.groupby("key"):
        with np.load(study.store.local / f"artifacts/Fit/{key}/history.npz") as file:
            for name in file.files:
                assert np.array_equal(part[name], file[name])
    slices = study.curves("Curvature", "slices")
    one = slices[slices.key == slices.key[0]]
    assert list(one.curve) == [0] * 21 + [1] * 21 + [2] * 21
    with np.load(study.store.local / f"artifacts/Curvature/{slices.key[0]}/slices.npz") as file:
        assert np.array_equal(one.loss.to_numpy().reshape(3, 21), file["loss"])
    assert {"setting_a", "seed_b", "alpha"} <= set(study.curves("Line"))


def test_selection_by_values_and_by_key(study):
    (row,) = study.select(rho=0.02, seed=2).to_dict("records")
    assert (row["config.train.rho"], row["seed"]) == (0.02, 2)
    assert len(study.select(**{"train.rho": 0})) == 3 == len(study.select(setting="rho=0.2"))
    probe = study.artifact("Curvature", rho=0.02, seed=2)
    assert probe.manifest["inputs"] == [row["key"]]
    assert study.artifact(row["key"][:12]).results == study.artifact("Fit", rho=0.02, seed=2).results
    pair = study.artifact("Line", setting=("rho=0", "rho=0.02"), seed=1)
    (same,) = study.pairs.query("setting_a == 'rho=0' and setting_b == 'rho=0.02' and seed_a == 1").to_dict("records")
    assert pair.key == same["Line.key"] and pair.results["barrier"] == same["Line.barrier"]


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda s: s.select(roh=0.1), "varies no 'roh' (did you mean 'rho'?)"),
        (lambda s: s.select(rho=0.3), "No setting has rho=0.3; there is 0.0, 0.02, 0.2."),
        (lambda s: s.select(seed=9), "The study has no seed 9; it has 0, 1, 2."),
        (lambda s: s.artifact("Curvatur", seed=0), "neither a key nor a column of this study (did you mean 'Curv"),
        (lambda s: s.artifact("Curvature", seed=0), "There are 3 artifacts of Curvature with seed=0"),
        (lambda s: s.artifact("Curvature", rho=0.2, seed=1), "left no artifact: Fit · rho=0.2 · seed 1 diverged."),
        (lambda s: s.artifact("Brittle", rho=0, seed=1), "left no artifact: ValueError: the toy broke."),
        (lambda s: s.artifact("Fit", rho=0, seed=0).array("histery"), "(did you mean 'history.npz'?)"),
        (lambda s: s.artifact("Fit", rho=0, seed=0).array("history"), "holds several arrays; it has epoch"),
        (lambda s: s.artifact("Fit", rho=0, seed=0).weights(), "left no weights."),
        (lambda s: s.curves("Curvature", "slice"), "has no curves 'slice' (did you mean 'slices'?)"),
        (lambda s: s.curves("Brittle"), "Brittle has recorded no curves."),
    ],
)
def test_what_is_not_there_is_said_with_the_nearest(study, ask, words):
    with pytest.raises((InvalidValue, StoreError)) as error:
        ask(study)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sweep", "run", "words"),
    [
        ("tyo", None, "holds no run of 'tyo' (did you mean 'toy'?)"),
        ("toy", "2025", "There is no run '2025' of toy"),
        (None, None, ""),
        ("toy", "2026-01", ""),
    ],
)
def test_a_misspelt_sweep_or_run_is_answered_with_the_nearest(uri, sweep, run, words):
    if not words:
        assert orchestrator.open(uri, sweep, run).sweep == "toy"
        return
    with pytest.raises(StoreError) as error:
        orchestrator.open(uri, sweep, run)
    assert words in str(error.value)


def test_several_runs_are_opened_together(uri, tmp_path):
    other = Store(str(tmp_path / "other"))
    saved(other, train=Fit(rho=0.02), seeds=range(3, 5), probes=[], pairs=[], groups=[])
    both = orchestrator.open(uri, ["toy", f"{other.local}#toy/2026"])
    assert len(both.trials) == 9 + 2 and len(both.select(rho=0.02)) == 5
    assert "2 runs taken together" in both._repr_html_()
    key = both.select(rho=0.02, seed=4).key.iloc[0]
    assert other.local in both.artifact(key).path("history.npz").parents
    assert len(both.curves("Fit")) == 11 * 6
    with pytest.raises(StoreError, match="did you mean 'toy'"):
        orchestrator.open(uri, ["toy", "tyo"])


def test_an_absent_store_is_one_sentence(tmp_path):
    with pytest.raises(StoreError, match="There is no store at"):
        orchestrator.open(str(tmp_path / "none"), "toy")
    assert not (tmp_path / "none").exists()


def test_arrays_are_mapped_and_never_unpickled(tmp_path):
    store = Store(str(tmp_path / "store"))
    saved(store, train=Fit(), probes=[], pairs=[], groups=[])
    study = orchestrator.open(str(store.local), "toy")
    x = study.artifact("Points").array("x")
    assert isinstance(x, np.memmap) and not x.flags.writeable and list(x) == list(range(8))
    folder = store.workspace()
    np.savez(folder / "evil.npz", evil=np.array([{}], dtype=object))
    for name in ("weights.safetensors", "table.parquet"):
        (folder / name).write_bytes(b"\xff" * 64)
    fit = study.artifact("Fit", seed=0)
    store.delete_artifact("Fit", fit.key)
    store.commit("Fit", fit.key, folder, {k: v for k, v in fit.manifest.items() if k not in ("files", "folder")})
    again = orchestrator.open(str(store.local), "toy").artifact("Fit", seed=0)
    with pytest.raises(StoreError, match=r"weights.safetensors of Fit · default · seed 0 holds no weights: "):
        again.weights()
    with pytest.raises(InvalidValue, match=r"table.parquet of Fit · default · seed 0 holds no table: "):
        again.table("table")
    with pytest.raises(InvalidValue, match="holds no plain arrays"):
        again.array("evil")


def test_a_run_without_an_end_shows_what_is_there(tmp_path):
    """As a driver that is killed leaves it: some artifacts, one failure in the events, no study.json."""
    store = Store(str(tmp_path / "store"))
    plan = make_plan(toy_sweep(probes=[Curvature(), Brittle()], pairs=[], groups=[]), store)
    note_begun(plan, store, RUN, 1.0, "python -m orchestrator sweep toy.py")
    assert orchestrator.open(str(store.local), "toy").counts() == {"not run": len(plan.nodes)}
    outcome = carry_out(plan, store)
    gone = [n for n in plan.nodes.values() if n.name == "Curvature" and n.trials[0].setting.index == 4]
    for node in gone:
        store.delete_artifact(node.name, node.key)
    events = Events(store, RUN)
    for key, why in outcome.errors.items():
        events.emit("failed", key=key, label=plan.nodes[key].label, error=why)
    events.close()
    study = orchestrator.open(str(store.local), "toy")
    assert study.counts() == {"done": len(plan.nodes) - len(gone) - 5, "failed": 5, "not run": len(gone)}
    missing = study.summary.set_index(["setting", "metric"]).missing
    assert missing["rho=0.2", "Curvature.lambda_max"] == "3 not run"
    assert "had no end yet" in study.remarks[0] and study.remarks[0] in study._repr_html_()
    study.save(store, RUN)
    assert "plan.json" not in store.names(RUN)


def test_the_network_is_that_which_was_trained(tmp_path, monkeypatch):
    import torch

    store = Store(str(tmp_path / "store"))
    train = Train(dataset=Spirals(), model=MLP(widths=(8,)), optimizer=SGD(lr=0.1), epochs=2)
    saved(store, train=train, seeds=range(2), probes=[], pairs=[], groups=[])
    trained = orchestrator.open(str(store.local), "toy").artifact("Train", seed=1)
    weights = trained.weights()
    model = trained.model()
    assert {k: v.tolist() for k, v in model.state_dict().items()} == {k: v.tolist() for k, v in weights.items()}
    whole = trained.trained()
    x, y = whole.evaluation_set("validation")
    with torch.no_grad():
        accuracy = float((model(x).argmax(1) == y).double().mean())
    assert accuracy == pytest.approx(trained.results["val_accuracy"], abs=1e-6)
    assert isinstance(trained.task(), Train) and list(trained.table("history").epoch) == [1, 2]
    store.drop_weights("Train", trained.key)
    with pytest.raises(StoreError, match=r"deleted to save space: run the sweep again with --keep-weights last\."):
        orchestrator.open(str(store.local), "toy").artifact("Train", seed=1).model()


def test_a_study_on_s3(tmp_path, s3):
    """Tables and arrays from a real S3 server; of an artifact only the file that is asked for is copied."""
    here = Store(str(tmp_path / "store"))
    saved(here, train=Fit(rho=grid(0.0, 0.2)), pairs=[], groups=[])
    there = Store(s3.uri("open"))
    there.check_writable()
    for path in sorted(p for p in here.local.rglob("*") if p.is_file()):
        there.write(path.relative_to(here.local).as_posix(), path.read_bytes())
    study = orchestrator.open(s3.uri("open"), "toy")
    assert_frame_equal(study.trials, orchestrator.open(str(here.local), "toy").trials)
    probe = study.artifact("Curvature", rho=0.2, seed=1)
    values = probe.array("spectrum", "eigenvalues")
    assert values[0] == probe.results["lambda_max"]
    assert {p.name for p in (tmp_path / "node").rglob("*.npz")} == {"spectrum.npz"}
    shutil.rmtree(here.local)
    assert len(study.curves("Fit")) == 2 * 3 * 6
    with pytest.raises(StoreError, match="there is no bucket"):
        orchestrator.open(s3.uri("open", bucket="nowhere"), "toy")


def test_names_of_runs():
    for text, parts in {
        "sam_rho": ("sam_rho", None, None),
        "sam_rho/2026-11": ("sam_rho", "2026-11", None),
        "runs/sam_rho/2026-11": ("sam_rho", "2026-11", None),
        "sweeps/sam_rho.py": ("sweeps/sam_rho.py", None, None),
        "sweeps/sam_rho.py/2026-11": ("sweeps/sam_rho.py", "2026-11", None),
        "s3://bucket/prefix?region=eu#sam_rho/2026": ("sam_rho", "2026", "s3://bucket/prefix?region=eu"),
        "../other#": (None, None, "../other"),
    }.items():
        name = run_name(text)
        assert (name.sweep, name.run, name.store) == parts, text
