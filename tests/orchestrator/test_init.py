"""The sweep file that `init` writes, and its first run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli import counts, orchestrate

from orchestrator.plan import make_plan
from orchestrator.store import Store
from orchestrator.sweep_file import load_sweep


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that has nothing to do with the repository."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_it_writes_a_study_and_runs_it_small(capsys, ray_here):
    code, out, _ = orchestrate(capsys, "init")
    assert code == 0
    last = next(i for i, line in enumerate(out) if line == "next:")
    assert counts(out[: last - 1]) == {"tasks": 13, "ran": 13, "stored": 0, "failed": 0, "skipped": 0}
    [record] = Path("artifacts/runs/study-smoke").glob("*/study.json")
    assert json.loads(record.read_text())["run"]["command"] == "python -m orchestrator sweep study.py --smoke"
    assert "  python -m orchestrator sweep study.py               run it" in out[last:]


def test_what_it_writes_is_a_whole_study(capsys):
    code, out, _ = orchestrate(capsys, "init", "sharp-ness.py", "--no-run", "--store", "elsewhere")
    assert code == 0 and not Path("elsewhere").exists()
    assert any("sweep sharp-ness.py --smoke --store elsewhere" in line for line in out)
    text = Path("sharp-ness.py").read_text()
    assert "sweep sharp-ness.py --smoke    #" in text and "{" not in text.replace('{"', "")
    sweep = load_sweep("sharp-ness.py")
    plan = make_plan(sweep, Store("elsewhere"))
    assert len(plan.settings) == 2 and len(sweep.seeds) == 5 and sweep.question.endswith("?")
    assert None not in (sweep.primary, sweep.baseline, sweep.margin, sweep.smallest_effect)
    unexplained = [line for line in text.splitlines() if line.startswith("    ") and "=" in line and "#" not in line]
    assert unexplained == [
        "    train=Train(",
        "        batch_size=64,",
        "    seeds=range(5),",
        "    probes=[",
        '    metric="val_accuracy",',
        '    mode="max",',
        '    smoke={"train.epochs": 5, "seeds": range(2)},',
    ]  # what stands above these lines explains them


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mine.py", "'mine.py' is there already and stays as it is"),
        ("study.txt", "must end in .py, such as study.py"),
        ("my study.py", "use letters, digits, _ and -"),
        ("torch.py", "would stand in the way of the module 'torch'"),
        ("random.py", "would stand in the way of the module 'random'"),
        ("missing/study.py", "cannot be written: No such file or directory"),
    ],
)
def test_what_it_does_not_write(capsys, name, words):
    Path("mine.py").write_text("# mine")
    code, _, err = orchestrate(capsys, "init", name)
    assert code == 2 and words in err and err.count("\n") == 1
    assert Path("mine.py").read_text() == "# mine" and [p.name for p in Path().iterdir()] == ["mine.py"]
