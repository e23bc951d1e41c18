"""The simulation behind docs/statistics.md: it runs for every interval and test, and fails where t does not cover."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest

from orchestrator import stats

PATH = Path(__file__).resolve().parents[3] / "benchmarks" / "coverage.py"


@pytest.fixture
def coverage(monkeypatch):
    spec = importlib.util.spec_from_file_location("coverage_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_case_runs(coverage, capsys):
    code = coverage.main(["--draws", "3", "--n", "5", "20"])
    out = capsys.readouterr().out
    assert code == 0
    for case in coverage.INTERVALS + coverage.TESTS:
        (line,) = [line for line in out.splitlines() if line.startswith(f"| {case.name} ")]
        cells = line.split("|")[2:5]
        assert any(any(c.isdigit() for c in cell) for cell in cells), line


def test_t_covers_normal_data_and_the_exit_code_tells_if_it_did_not(coverage, capsys, monkeypatch):
    assert coverage.main(["--draws", "2000", "--n", "5", "20", "--only", "mean, t"]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("| mean, t |"))
    normal, contaminated, lognormal = ([float(v) for v in cell.split("/")] for cell in line.split("|")[2:5])
    assert all(abs(v - 95) < 1.6 for v in normal)
    assert all(v > 93.5 for v in contaminated) and all(80 < v < 92 for v in lognormal)

    def half_as_wide(values):
        found = stats.mean_interval(values)
        return dataclasses.replace(found, low=found.mean - found.half / 2, high=found.mean + found.half / 2)

    draw = coverage.partial(coverage.one_sample, half_as_wide, "mean")
    monkeypatch.setattr(coverage, "INTERVALS", (coverage.Case("mean, t", draw), *coverage.INTERVALS[1:]))
    assert coverage.main(["--draws", "200", "--only", "mean, t"]) == 1


def test_the_true_values_are_those_of_the_laws(coverage):
    rng = coverage.np.random.default_rng(0)
    for law in coverage.LAWS:
        x = coverage.np.sort(law.sample(rng, (400_000,)))
        middle = x[100_000:300_000]
        for truth, seen in ((law.mean, x.mean()), (law.median, x[200_000]), (law.quartile_mean, middle.mean())):
            assert seen == pytest.approx(truth, abs=0.02)
        assert x.std() == pytest.approx(law.sd, rel=0.03)
