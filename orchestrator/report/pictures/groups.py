"""Shares of the coordinates in each group of r = g⁺/g, through a training that records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import InvalidValue
from ...study import DONE, Column, Study
from .. import style, words
from ..views import chosen_settings, held, name_of, names_of
from .canvas import Picture, caption, legend, note, note_missing, own_axes, own_legend, panels, rendered, shape, slug
from .lines import arrays_of
from .names import find_setting

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

MOST_PANELS = 9
FILE = "record"

GROUPS = (
    (1, "1: r ≥ 1", "#0072B2", ""),
    (2, "2: 0 ≤ r < 1", "#A9D4EF", ""),
    (3, "3: r ≤ −1", "#C04F00", ""),
    (4, "4: −1 < r < 0", "#F0B27A", "...."),
    (0, "0: g = 0", "#FFFFFF", "////"),
)
"""Group, name, colour and hatching, from the bottom up: dark and light in turn, for greyscale."""

Shares = tuple["np.ndarray", "np.ndarray"]
"""Epochs, (n,), and the shares in groups 0 to 4, (n, 5), of a training."""


def group_pictures(study: Study, column: Column) -> Iterator[Picture]:
    """Shares over time, a panel a setting, if the trainings recorded them."""
    tasks = [t for t in study.of_column(column.name) if study.statuses[t.key] == DONE]
    with_shares = {
        study.cell(t)[0] for t in tasks if f"{FILE}.npz" in study.manifest(t.key).get("files", {}) and t.trials
    }
    if column.kind != "train" or not with_shares:
        return
    shown = chosen_settings(study, MOST_PANELS, sorted(with_shares))
    data = {s: found for s in shown if (found := _load(study, s))}
    if not data:
        return
    names = names_of(study, list(data))
    rows, columns_ = shape(len(data), 3)
    fig, axes = panels(rows, columns_, height=2.0, share="both")
    for i, (ax, setting) in enumerate(zip(axes, data, strict=False)):
        _draw(ax, study, setting, data[setting])
        if i + columns_ < len(data):
            ax.set_xlabel("")
        else:
            ax.tick_params(labelbottom=True)
        if i % columns_:
            ax.set_ylabel("")
        ax.set_title(style.wrapped(names[setting], int(84 / columns_)), loc="left", fontsize="small")
    for ax in axes[len(data) :]:
        ax.remove()
    legend(fig, *axes[0].get_legend_handles_labels(), 5)
    if len(data) < len(study.settings):
        text = f"{len(data)} of {len(study.settings)} settings are drawn"
        if same := held(study, list(data)):
            text += ", with " + words.listed([f"{name}={value}" for name, value in same.items()])
        note(axes[0], text + ".")
    title = "Groups of coordinates during training, by r = g⁺/g"
    name = f"{slug(column.name)}-group-shares"
    yield Picture(name, title, caption(fig), column.kind, column.name, *rendered(fig, title))


def group_shares(
    study: Study, setting: int | str | None = None, *, ax: Axes | None = None, legend: bool = True
) -> Axes:
    """The shares of coordinates whose gradient grows, shrinks or turns round on the way up, stacked over epochs.

    Args:
        setting: by label or index; left out, the best, or the first that recorded.

    Raises:
        InvalidValue: there is no such setting, or its trainings recorded no shares (`Train(record=Record())`).
    """
    if setting is not None:
        candidates = [find_setting(study, setting)]
    else:
        best = study.best()
        candidates = [*([] if best is None else [best]), *(s.index for s in study.settings)]
    for candidate in candidates:
        data = _load(study, candidate)
        if data:
            ax = own_axes(ax)
            _draw(ax, study, candidate, data)
            own_legend(ax, legend, loc="upper left", bbox_to_anchor=(1, 1))
            return ax
    of = f"of {study.settings[candidates[0]].label} " if setting is not None else ""
    raise InvalidValue(f"group_shares: no training {of}recorded them; say Train(record=Record()).")


def _load(study: Study, setting: int) -> list[Shares]:
    """The shares of every seed of the setting that recorded them."""
    found = []
    for column in study.columns_of("train"):
        for task in study.of_column(column.name):
            if task.trials[0][0] != setting or study.statuses[task.key] != DONE:
                continue
            arrays = arrays_of(study, task, FILE, ("epoch", "group_share"))
            if arrays is None:
                continue
            epoch, share = arrays
            if share.ndim == 2 and share.shape == (len(epoch), 5) and len(epoch):
                found.append((epoch, share))
    return found


def _draw(ax: Axes, study: Study, setting: int, data: Sequence[Shares]) -> None:
    import numpy as np

    epoch = data[0][0]
    alike = [share for at, share in data if len(at) == len(epoch) and np.allclose(at, epoch)]
    mean = np.mean(alike, axis=0)
    below: Any = np.zeros(len(epoch))
    for group, name, colour, hatch in GROUPS:
        above = below + mean[:, group]
        ax.fill_between(epoch, below, above, fc=colour, ec="#888888" if hatch else "none", hatch=hatch, lw=0,
                        label=name, gid=f"group {group}")  # fmt: skip
        below = above
    for share in alike[:20] if len(alike) > 1 else []:
        edge = np.zeros(len(epoch))
        for group, *_ in GROUPS[:-1]:
            edge = edge + share[:, group]
            ax.plot(epoch, edge, color="black", lw=style.line(0.2), alpha=0.35, gid="seed",
                    rasterized=len(epoch) > 400)  # fmt: skip
    ax.set_ylim(0, 1)
    if len(epoch) > 1:
        ax.set_xlim(float(epoch[0]), float(epoch[-1]))
    ax.set_xlabel("epoch")
    ax.set_ylabel("share of coordinates")
    ax.set_title(name_of(study, setting), loc="left", fontsize="medium")
    seeds = f"means over the seeds of a setting (up to {words.count(len(study.replicates), 'seed')})"
    singles = "; thin lines: the borders of single seeds" if len(alike) > 1 else ""
    note(ax, f"Areas: {seeds}{singles}. r is the ratio of a coordinate's gradient at w + ε to that at w, for the batch "
             "of the step. Exploratory.")  # fmt: skip
    if len(alike) < len(data):
        note(ax, f"{len(data) - len(alike)} of {len(data)} trainings recorded at other epochs and are left out.")
    for column in study.columns_of("train"):
        note_missing(ax, study, column)
