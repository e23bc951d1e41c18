"""The studies in sweeps/: each runs at its smoke size, can be planned at its full size, and is explained."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cli import counts, orchestrate

from orchestrator.sweep_file import load_sweep

pytestmark = [pytest.mark.usefixtures("ray_here"), pytest.mark.slow]

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.stem for path in (ROOT / "sweeps").glob("*.py"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One store for all studies: they share the dataset."""
    return str(tmp_path_factory.mktemp("studies") / "store")


@pytest.mark.parametrize("name", [name for name in STUDIES if name != "sam_rho"])  # which test_traced.py runs
def test_the_smoke_size_runs(name: str, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines, errors = orchestrate(capsys, "sweep", f"{ROOT}/sweeps/{name}.py", "--smoke", "--store", store)
    found = counts(lines)
    assert (code, found["failed"]) == (0, 0), (lines, errors)
    run = Path(store) / "runs" / f"{name}-smoke"
    run = run / (run / "latest").read_text()
    trials = pq.read_table(run / "trials.parquet").to_pylist()
    if name != "asha":  # which stops trials, and so skips tasks
        assert found["skipped"] == 0
        assert {t["status"] for t in trials} == {"done"}
    assert any(t["Train.test_accuracy"] and t["Train.test_accuracy"] > 0.5 for t in trials)
    assert (run / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("name", STUDIES)
def test_the_full_size_is_planned_and_explained(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = f"{ROOT}/sweeps/{name}.py"
    code, lines, _ = orchestrate(capsys, "plan", file, "--json", "--store", str(tmp_path))
    assert code == 0
    plan = json.loads(lines[-1])
    assert len(load_sweep(file).replicates) == plan["seeds"]
    words = (ROOT / "docs" / "studies.md").read_text()
    assert f"sweep sweeps/{name}.py\n" in words
    if load_sweep(file).search is None:
        assert f"{plan['tasks']:,} tasks" in words.split(f"## `{name}.py`")[1].split("\n## ")[0]
