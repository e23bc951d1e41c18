"""Densities of spectra and loss surfaces: what is drawn is what the artifacts hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from builders import toy_study
from matplotlib.figure import Figure

from orchestrator.report.pictures import pictures
from orchestrator.report.pictures.landscape import draw_density, draw_surface, levels_of, smoothed
from orchestrator.store import Store
from tasks.probes import LossSurface, SpectralDensity
from tasks.task import Curve, Probe


@dataclass(frozen=True)
class Spectrum(Probe):
    """Two outliers, which move with rho, and many eigenvalues at zero."""

    curves: ClassVar[tuple[Curve, ...]] = SpectralDensity.curves

    def run(self, ctx: Any, trained: Any) -> Mapping[str, Any]:
        nodes = np.tile([0.0, 5.0, 9.0 + trained.task.rho], (3, 1))
        ctx.save_arrays("density", nodes=nodes, weights=np.tile([0.98, 0.01, 0.01], (3, 1)))
        return {"trace": 1.0}


@dataclass(frozen=True)
class Bowl(Probe):
    curves: ClassVar[tuple[Curve, ...]] = LossSurface.curves

    def run(self, ctx: Any, trained: Any) -> Mapping[str, Any]:
        a, b = np.linspace(-1, 1, 7), np.linspace(-1, 1, 5)
        z = 1 + trained.task.rho + a[:, None] ** 2 + 3 * b**2
        z[0, 0] = np.inf
        ctx.save_arrays("surface", a=a, b=b, loss=z)
        return {"rise_edge": 1.0}


def test_a_density_holds_all_its_weight_where_its_nodes_are():
    nodes, weights = np.array([[0.0, 4.0], [0.0, 6.0]]), np.array([[0.75, 0.25], [0.5, 0.5]])
    x = np.linspace(-3, 9, 4001)
    fig = Figure()
    drawn = draw_density(fig.subplots(), [(nodes, weights)], kernel=0.2, x=x)
    step = x[1] - x[0]
    assert drawn.sum() * step == pytest.approx(1)
    for centre, share in ((0, (0.75 + 0.5) / 2), (4, 0.125), (6, 0.25)):
        assert drawn[np.abs(x - centre) < 1].sum() * step == pytest.approx(share, abs=1e-4)
    np.testing.assert_array_equal(fig.axes[0].lines[0].get_ydata(), smoothed(nodes, weights, x, 0.2))


def test_levels_are_in_equal_ratios_where_all_heights_are_positive():
    heights = np.geomspace(0.01, 10, 500)
    log = levels_of(heights, log=True)
    assert np.ptp(np.diff(np.log(log))) < 1e-9 and log[0] == pytest.approx(0.01) and log[-1] < 10
    assert np.ptp(np.diff(levels_of(heights - 1, log=True))) < 1e-9  # some are negative
    assert levels_of(np.full(9, 2.0), log=True) == [1.0, 3.0]


def test_a_surface_stands_the_right_way_round():
    a, b = np.linspace(-1, 1, 9), np.linspace(-2, 2, 5)
    z = (
        np.where((a[:, None] > 0.6) & (b < -1.5), 10.0, 1.0) + 0 * a[:, None] * b
    )  # high in one corner: a large, b small
    ax = Figure().subplots()
    filled = draw_surface(ax, a, b, z, levels=[0, 5, 20])
    high = np.concatenate([p.vertices for p in filled.get_paths()[1:] if len(p.vertices)])
    assert high[:, 0].min() > 0.4 and high[:, 1].max() < -0.9


def test_pictures_of_a_study_with_both(tmp_path):
    study = toy_study(Store(str(tmp_path)), probes=[Spectrum(), Bowl()], pairs=[], groups=[])
    found = {p.column: p for p in pictures(study) if p.name.endswith(("density", "surface"))}
    assert set(found) == {"Spectrum", "Bowl"}
    assert "mean over the seeds of a setting (up to 3 seeds)" in found["Spectrum"].caption
    assert "width 0.092 (1% of the range shown)" in found["Spectrum"].caption
    assert "One network a setting" in found["Bowl"].caption
    for picture in found.values():
        assert picture.png[:4] == b"\x89PNG" and b"</svg>" in picture.svg
