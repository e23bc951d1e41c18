"""Pictures on axes of one's own: what is drawn is what the artifacts say, computed here once more."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import toy_study
from matplotlib.figure import Figure
from toys import Curvature

from orchestrator import plots
from orchestrator.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@pytest.fixture
def ax():
    return Figure().subplots()


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
