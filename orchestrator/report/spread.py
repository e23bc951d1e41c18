"""Everything that is told of one metric's values over the seeds of a setting: middle, spread, ends, divergence."""

from __future__ import annotations

from markupsafe import Markup

from ..stats import Share
from ..study import Metric, Study, Summary
from . import marked
from .results import MAX_SETTINGS, Cell, Head, Row, Table

_HEADS = [
    Head("n", "values"),
    Head("mean", "of the values"),
    Head("sd", "standard deviation of the values"),
    Head("interval", "95 % interval of the mean: what the other tables have as ±"),
    Head("bootstrap", "studentised bootstrap interval of the mean, from 5 seeds"),
    Head("median", "with its 95 % interval, from 8 seeds"),
    Head(
        "middle half", "inter-quartile mean, the mean of the middle half of the values, with its interval, from 8 seeds"
    ),
    Head("lowest", "value, and its seed"),
    Head("highest", "value, and its seed"),
    Head("diverged", "trainings of those that ended well or diverged, with the exact 95 % interval of the share"),
]


def spread_table(study: Study, metric: Metric) -> Table:
    """One row a setting."""
    summaries = study.summaries(metric)[:MAX_SETTINGS]
    rows = [_row(study, metric, s) for s in summaries]
    table = Table(metric.words, "setting", _HEADS, rows)
    methods = dict.fromkeys(s.interval.method for s in summaries if s.interval.low is not None)
    table.notes += [Markup("Interval of the mean: {}.").format(method) for method in methods]
    if any(s.dependent for s in summaries):
        table.notes.append(
            Markup("Seeds share streams of randomness, which only that interval heeds: no others are given.")
        )
    table.notes.append(Markup("summary.parquet has the same of every metric and setting."))
    return table


def _row(study: Study, metric: Metric, s: Summary) -> Row:
    i = s.interval
    boot, median, middle = s.bootstrap, s.median_interval, s.interquartile_mean
    cells = [
        marked.number(i.n, "n"),
        marked.number(i.mean, "mean"),
        marked.number(i.sd, "sd", digits=2),
        _bounds(i.low, i.high, "low", "high"),
        _bounds(boot.low, boot.high, "bootstrap_low", "bootstrap_high") if boot else Markup("–"),
        marked.number(s.median, "median")
        + (_beside(_bounds(median.low, median.high, "median_low", "median_high")) if median else Markup("")),
        marked.number(middle.value, "iqm") + _beside(_bounds(middle.low, middle.high, "iqm_low", "iqm_high"))
        if middle
        else Markup("–"),
        _end(i.min, "min", s.extreme_seed(False)),
        _end(i.max, "max", s.extreme_seed(True)),
        _share(study.diverged[s.settings[0]]),
    ]
    where = marked.origin(of="summary", metric=metric.path, setting=s.settings[0])
    return Row(study.settings[s.settings[0]].label, [Cell(c) for c in cells], where)


def _bounds(low: float | None, high: float | None, stat_low: str, stat_high: str) -> Markup:
    if low is None or high is None:
        return Markup("–")
    return Markup("[{}, {}]").format(marked.number(low, stat_low), marked.number(high, stat_high))


def _beside(bounds: Markup) -> Markup:
    return Markup(' <span class="bounds">{}</span>').format(bounds)


def _end(value: float | None, stat: str, seed: str | None) -> Markup:
    text = marked.number(value, stat)
    if seed is None:
        return text
    label = marked.number(int(seed), f"{stat}_seed") if seed.isdecimal() else seed
    return text + Markup(' <span class="n">seed {}</span>').format(label)


def _share(share: Share) -> Markup:
    text = Markup("{} of {}").format(marked.number(share.k, "diverged"), marked.number(share.n, "trainings"))
    if share.low is None or share.high is None:
        return text
    bounds = Markup("{} to {} %").format(
        *(
            marked.number(value, stat, text=f"{100 * value:.0f}", form="percent")
            for value, stat in ((share.low, "diverged_low"), (share.high, "diverged_high"))
        )
    )
    return text + _beside(bounds)
