"""What a probe of the whole landscape saw: densities of spectra, surfaces over a plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import InvalidValue
from ...study import DONE, Column, Study, TaskRecord
from .. import style, words
from ..views import chosen_settings, in_order, name_of, ordered
from .canvas import (
    MAX_PANELS,
    Picture,
    caption,
    note,
    note_missing,
    own_axes,
    own_legend,
    panels,
    rendered,
    shape,
    slug,
    titled,
)
from .lines import arrays_of
from .names import find_column, find_setting

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KERNEL = 0.01
"""Width of the Gaussian that a node of a spectral density is spread over, as a share of the nodes' range."""

POINTS = 800
LEVELS = 14


def landscape_pictures(study: Study, column: Column, curve: Mapping[str, Any], index: int) -> Iterator[Picture]:
    """The picture of a curve of kind "density" or "surface"; none if no task has its arrays."""
    make = {"density": _density_figure, "surface": _surface_figure}[curve["kind"]]
    fig = make(study, column, curve)
    if fig is not None:
        title = titled(study, column, curve)
        name = f"{slug(column.name)}-{index + 1}-{slug(curve['file'])}"
        yield Picture(name, title, caption(fig), column.kind, column.name, *rendered(fig, title))


# Densities


def draw_density(
    ax: Axes, trials: Sequence[tuple[np.ndarray, np.ndarray]], *, kernel: float, x: np.ndarray, **line: Any
) -> np.ndarray:
    """Draw the mean over trials of the spectral density at x; returns it, shape (len(x),).

    Args:
        trials: nodes and weights of each, (vectors, steps); see `tasks.probes.SpectralDensity`.
        kernel: standard deviation of the Gaussian that stands for each node.
        line: options of `Axes.plot`.
    """
    import numpy as np

    mean: np.ndarray = np.mean([smoothed(nodes, weights, x, kernel) for nodes, weights in trials], axis=0)
    ax.plot(x, mean, **line)
    return mean


def smoothed(nodes: np.ndarray, weights: np.ndarray, x: np.ndarray, kernel: float) -> np.ndarray:
    """The density at x, shape (n,): every node as a Gaussian of its weight, averaged over random vectors."""
    import numpy as np

    theta, share = nodes.reshape(-1), weights.reshape(-1) / len(nodes)
    gauss = np.exp(-0.5 * ((x[:, None] - theta) / kernel) ** 2) / (kernel * np.sqrt(2 * np.pi))
    density: np.ndarray = gauss @ share
    return density


def density(
    study: Study,
    column: str | Column = "SpectralDensity",
    *,
    settings: Sequence[int | str] | None = None,
    ax: Axes | None = None,
    legend: bool = True,
) -> Axes:
    """How the eigenvalues of the Hessian are spread: for every setting the mean over its seeds.

    Args:
        settings: which, by label or index; left out, up to 8.

    Raises:
        InvalidValue: there is no such probe or setting, or it left no density.
    """
    found = find_column(study, column, ("probe",))
    curve = _curve_of(found, "density")
    asked = None if settings is None else [find_setting(study, s) for s in settings]
    data = _nodes(study, found, curve, asked)
    if not data:
        raise InvalidValue(f"{found.name} left no density for {'these settings' if asked else 'any setting'}.")
    ax = own_axes(ax)
    _draw_densities(ax, study, found, curve, data)
    own_legend(ax, legend)
    return ax


def _density_figure(study: Study, column: Column, curve: Mapping[str, Any]) -> Figure | None:
    data = _nodes(study, column, curve, None)
    if not data:
        return None
    fig, (ax,) = panels(1, 1, height=3.2)
    _draw_densities(ax, study, column, curve, data)
    own_legend(ax, True)
    return fig


def _nodes(
    study: Study, column: Column, curve: Mapping[str, Any], asked: Sequence[int] | None
) -> dict[int, list[tuple[np.ndarray, np.ndarray]]]:
    """Nodes and weights of every trial, by setting."""
    settings = chosen_settings(study, style.MAX_SERIES, asked)
    data: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    for task in _done(study, column):
        setting = study.cell(task)[0]
        arrays = arrays_of(study, task, curve["file"], (curve["x"], *curve["y"])) if setting in settings else None
        if arrays is not None and arrays[0].ndim == 2 and arrays[0].shape == arrays[1].shape:
            data.setdefault(setting, []).append((arrays[0], arrays[1]))
    return data


def _draw_densities(
    ax: Axes, study: Study, column: Column, curve: Mapping[str, Any], data: dict[int, list[Any]]
) -> None:
    import numpy as np

    everywhere = np.concatenate([nodes[weights > 1e-8] for rows in data.values() for nodes, weights in rows])
    low, high = float(everywhere.min()), float(everywhere.max())
    kernel = KERNEL * ((high - low) or abs(high) or 1.0)
    x = np.linspace(low - 4 * kernel, high + 4 * kernel, POINTS)
    palette = style.colours(len(data), bool(ordered(study, list(data))))
    floor, top = np.inf, 0.0
    for i, setting in enumerate(in_order(study, list(data))):
        rows = data[setting]
        dash = ("-", "--", "-.", ":")[i % 4]
        mean = draw_density(ax, rows, kernel=kernel, x=x, color=palette[i], ls=dash, label=name_of(study, setting))
        seen = np.concatenate([nodes[weights > 1e-8] for nodes, weights in rows])
        floor, top = min(floor, float(np.interp(seen, x, mean).min())), max(top, float(mean.max()))
        if len(data) <= 3 and len(rows) > 1:
            for nodes, weights in rows:
                ax.plot(x, smoothed(nodes, weights, x, kernel), color=palette[i], lw=style.line(0.3), alpha=0.45)
    if curve["log_y"]:
        ax.set_yscale("log")
        ax.set_ylim(0.3 * floor, 3 * top)
    ax.set_xlabel(curve["xlabel"])
    ax.set_ylabel(curve["ylabel"])
    seeds = words.count(max(map(len, data.values())), "seed")
    singles = "; thin lines: single seeds" if len(data) <= 3 and max(map(len, data.values())) > 1 else ""
    note(
        ax,
        f"How the eigenvalues of the Hessian are spread: mean over the seeds of a setting (up to {seeds}){singles}. "
        f"Each node of the quadrature is spread over a Gaussian of width {words.number(kernel, 2)} "
        f"({KERNEL:.0%} of the range shown), so nothing narrower can be told apart. Single bumps at the right are the "
        "outliers. Exploratory.",
    )
    if len(data) < len(study.settings):
        note(ax, f"{len(data)} of {len(study.settings)} settings are drawn.")
    note_missing(ax, study, column)


# Surfaces


def draw_surface(ax: Axes, a: np.ndarray, b: np.ndarray, z: np.ndarray, *, levels: Sequence[float]) -> Any:
    """Draw heights z, (len(a), len(b)), over the plane as filled contours with lines; returns the filled ones.

    a runs to the right, b upwards; a cross marks (0, 0). Where z is not finite nothing is drawn.
    """
    import numpy as np

    z = np.ma.masked_invalid(z.T)
    filled = ax.contourf(a, b, z, levels=levels, cmap="viridis_r", extend="max")
    filled.set_rasterized(True)
    ax.contour(a, b, z, levels=levels[::2], colors="black", linewidths=0.35, alpha=0.6)
    ax.plot(0, 0, marker="+", color="white", ms=8, mew=2.4)
    ax.plot(0, 0, marker="+", color="black", ms=7, mew=1.0)
    ax.grid(visible=False)
    return filled


def surface(
    study: Study,
    column: str | Column = "LossSurface",
    *,
    setting: int | str | None = None,
    seed: int | str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The loss over a plane around one trained network, as contours.

    Args:
        setting, seed: of the network; left out, the first that has a surface.

    Raises:
        InvalidValue: there is no such probe or setting, or it left no surface.
    """
    found = find_column(study, column, ("probe",))
    curve = _curve_of(found, "surface")
    wanted = None if setting is None else find_setting(study, setting)
    label = None if seed is None else str(seed)
    trial = next(_surfaces(study, found, curve, lambda s, r: wanted in (None, s) and label in (None, r)), None)
    if trial is None:
        raise InvalidValue(f"{found.name} left no surface of that setting and seed.")
    ax = own_axes(ax)
    _draw_surface(ax, study, curve, trial, levels_of(_heights([trial]), log=curve["log_y"]))
    assert ax.figure is not None
    _colour_bar(ax.figure, ax.collections[0], [ax], curve)
    ax.set_xlabel(curve["xlabel"])
    ax.set_ylabel(SECOND)
    return ax


Trial = tuple[int, str, Any, Any, Any]
"""Setting, seed, steps along the first direction and along the second, heights."""


def _surface_figure(study: Study, column: Column, curve: Mapping[str, Any]) -> Figure | None:
    settings = chosen_settings(study, MAX_PANELS)
    shown: dict[int, Trial] = {}
    for trial in _surfaces(study, column, curve, lambda s, _: s in settings and s not in shown):
        shown[trial[0]] = trial
    if not shown:
        return None
    levels = levels_of(_heights(list(shown.values())), log=curve["log_y"])
    rows, columns_ = shape(len(shown), 3)
    fig, axes = panels(rows, columns_, height=2.15 if columns_ > 1 else 3.8, layout="constrained", share="both")
    for i, (ax, trial) in enumerate(zip(axes, shown.values(), strict=False)):
        _draw_surface(ax, study, curve, trial, levels)
        if i % columns_ == 0:
            ax.set_ylabel(SECOND)
        if i + columns_ >= len(shown):
            ax.set_xlabel(curve["xlabel"])
            ax.tick_params(labelbottom=True)
    for ax in axes[len(shown) :]:
        ax.remove()
    _colour_bar(fig, axes[0].collections[0], fig.axes, curve)
    note(axes[0], "One network a setting, the first seed that has the surface; colours are the same in all panels.")
    if len(shown) < len(study.settings):
        note(axes[0], f"{len(shown)} of {len(study.settings)} settings are drawn.")
    note_missing(axes[0], study, column)
    return fig


SECOND = "step along the second direction"


def _surfaces(
    study: Study, column: Column, curve: Mapping[str, Any], wanted: Callable[[int, str], bool]
) -> Iterator[Trial]:
    import numpy as np

    for task in _done(study, column):
        setting, seed = task.trials[0]
        if wanted(setting, seed):
            arrays = arrays_of(study, task, curve["file"], (curve["x"], curve["across"], curve["y"][0]))
            if arrays is not None and arrays[2].shape == (len(arrays[0]), len(arrays[1])):
                a, b, z = arrays
                if np.isfinite(z).any():
                    yield setting, seed, a, b, z


def _heights(trials: Sequence[Trial]) -> np.ndarray:
    import numpy as np

    return np.concatenate([z[np.isfinite(z)] for *_, z in trials])


def _draw_surface(ax: Axes, study: Study, curve: Mapping[str, Any], trial: Trial, levels: Sequence[float]) -> None:
    import numpy as np

    setting, seed, a, b, z = trial
    draw_surface(ax, a, b, z, levels=levels)
    ax.set_aspect("equal" if np.ptp(a) == np.ptp(b) else "auto")
    ax.set_title(f"{name_of(study, setting)}, seed {seed}", loc="left", fontsize="medium")
    ratios = " Contour lines are at losses in equal ratios." if curve["log_y"] and levels[0] > 0 else ""
    note(
        ax,
        f"Single networks; the cross marks the trained one.{ratios} A plane through random directions shows the "
        "landscape's typical shape, not its sharpest directions. Exploratory.",
    )


def _colour_bar(fig: Any, filled: Any, axes: Sequence[Axes], curve: Mapping[str, Any]) -> None:
    from matplotlib.ticker import FuncFormatter

    bar = fig.colorbar(filled, ax=axes, shrink=0.85, pad=0.02, format=FuncFormatter(lambda v, _: f"{v:.3g}"))
    bar.set_label(curve["ylabel"])


def levels_of(heights: np.ndarray, *, log: bool) -> list[float]:
    """Contour levels from the lowest height to the 98th percentile: in equal ratios if log and all are positive."""
    import numpy as np

    low, high = float(heights.min()), float(np.percentile(heights, 98))
    if high <= low:
        return [low - 0.5 * (abs(low) or 1.0), low + 0.5 * (abs(low) or 1.0)]
    if log and low > 0:
        return [float(v) for v in np.geomspace(low, high, LEVELS)]
    return [float(v) for v in np.linspace(low, high, LEVELS)]


def _curve_of(column: Column, kind: str) -> Mapping[str, Any]:
    curve = next((c for c in column.curves if c["kind"] == kind), None)
    if curve is None:
        raise InvalidValue(f"{column.name} declares no {kind}.")
    return curve


def _done(study: Study, column: Column) -> list[TaskRecord]:
    return [t for t in study.of_column(column.name) if study.statuses[t.key] == DONE]
