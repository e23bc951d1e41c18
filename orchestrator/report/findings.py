"""What else the seeds can and cannot tell: each finding with its sentence and the numbers behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ..study import Study
from . import marked
from .results import Cell, Head, Row, Table

if TYPE_CHECKING:
    from ..inference import Findings


@dataclass(frozen=True)
class Finding:
    """One thing that was found, or cannot be told.

    Attributes:
        parts: what it says, and the numbers behind it.
    """

    name: str
    title: str
    parts: Sequence[tuple[Markup, Sequence[Table]]]


_TITLES = {
    "winner": "The best of several",
    "power": "What this many seeds can tell",
    "fewer_seeds": "Would fewer seeds have named another winner?",
    "variance": "Where the variance comes from",
    "sharpness": "Does sharpness go with generalisation?",
}


def findings_section(study: Study, found: Findings) -> list[Finding]:
    parts: dict[str, list[Any]] = {
        "winner": [found.winner] if found.winner else [],
        "power": [found.power] if found.power else [],
        "fewer_seeds": [found.fewer_seeds] if found.fewer_seeds else [],
        "variance": list(found.variance),
        "sharpness": list(found.sharpness),
    }
    makers: dict[str, list[Callable[[Study, Any, str], Table | None]]] = {
        "winner": [_winner_table],
        "power": [_power_table],
        "fewer_seeds": [_fewer_table],
        "variance": [_variance_table],
        "sharpness": [_sharpness_table, _matched_table],
    }
    result = []
    if lost := [d for d in found.diverged if d.share.k]:
        said = Markup(" ").join(marked.sentence("diverged", d.sentence) for d in lost)
        result.append(Finding("diverged", "How often trainings diverge", [(said, [_diverged_table(study, found)])]))
    for name, title in _TITLES.items():
        told = [
            (marked.sentence(name, p.sentence), [t for make in makers[name] if (t := make(study, p, name))])
            for p in parts[name]
        ]
        if told:
            for _, tables in told[:-1]:
                for table in tables:
                    table.explained = True  # by the words below the last one
            result.append(Finding(name, title, told))
        elif name in found.omitted:
            result.append(Finding(name, title, [(marked.sentence(name, found.omitted[name]), [])]))
    return result


def _numbers(row: Mapping[str, Any]) -> list[Cell]:
    """A cell for each value: numbers marked with their name, p values as such."""
    cells = []
    for name, value in row.items():
        if isinstance(value, (str, Markup)):
            cells.append(Cell(value))
        elif name == "p" or name.endswith("_p"):
            cells.append(Cell(marked.p_value(value, name)))
        else:
            cells.append(Cell(marked.number(value, name, digits=3)))
    return cells


def _diverged_table(study: Study, found: Findings) -> Table:
    heads = [
        Head("diverged", "trainings"),
        Head("of", "trainings"),
        Head("share", "diverged"),
        Head("from", "exact 95 % interval (Clopper–Pearson)"),
        Head("to", "its other end"),
    ]
    rows = []
    for d in found.diverged:
        cells = _numbers({name: getattr(d.share, name) for name in ("k", "n", "share", "low", "high")})
        where = marked.origin(of="diverged", setting=d.setting)
        rows.append(Row(study.settings[d.setting].label, cells, where))
    note = Markup(
        "The interval is exact (Clopper–Pearson); trainings that failed, were stopped or did not run are in no n."
    )
    return Table("", "setting", heads, rows, [note])


def _winner_table(study: Study, winner: Any, name: str) -> Table | None:
    if winner.curse is None:
        return None
    heads = [
        Head("mean", "as observed"),
        Head("flattered by", "estimated bias of the best of several means"),
        Head("corrected", "the mean less that"),
        Head("coverage", "of the winner's own interval, had all settings the same true mean"),
    ]
    curse = winner.curse
    dust = abs(curse.inflation) <= 1e-12 * abs(curse.mean)
    cells = [
        Cell(marked.number(curse.mean, "mean", digits=3)),
        Cell(marked.number(curse.inflation, "inflation", text="0" if dust else "", digits=3)),
        *_numbers({"corrected": curse.corrected, "coverage": curse.coverage}),
    ]
    row = Row(study.settings[winner.setting].label, cells, marked.origin(of=name, setting=winner.setting))
    return Table("", "setting", heads, [row])


def _power_table(study: Study, finding: Any, name: str) -> Table:
    heads = [
        Head("sd", "between seeds"),
        Head("power now", "at the n there is"),
        Head("seeds for 80 %", "of each setting"),
        Head("seeds for 90 %", "of each setting"),
        Head("detectable", "the smallest effect, or margin, with a power of 80 % at the n there is"),
    ]
    rows = []
    for power in filter(None, (finding.power, finding.equivalence)):
        for which, words in (("estimate", "as estimated"), ("low", "lower end"), ("high", "upper end")):
            curve = getattr(power, which)
            told = ("sd", "present", "needed_80", "needed_90", "detectable")
            cells = _numbers({n: getattr(curve, n) for n in told})
            where = marked.origin(of=name, question=power.question, at=which)
            rows.append(Row(f"{power.question}: sd {words}", cells, where))
    return Table("", "question", heads, rows)


def _fewer_table(study: Study, finding: Any, name: str) -> Table:
    x = finding.result
    rows = []
    for i, size in enumerate(x.sizes):
        cells = _numbers(
            {"share": x.shares[i], "subsets": x.subsets[i], "how": "all there are" if x.exact[i] else "drawn"}
        )
        rows.append(
            Row(Markup("{} seeds").format(marked.number(size, "size")), cells, marked.origin(of=name, size=size))
        )
    heads = [
        Head("another winner", "share of the subsets"),
        Head("subsets", "of this size that were looked at"),
        Head("which", "all subsets there are, or so many drawn", text=True),
    ]
    return Table("", "of these", heads, rows)


def _variance_table(study: Study, finding: Any, name: str) -> Table:
    x = finding.result
    heads = [
        Head("variance", "between seeds of this stream"),
        Head("of total", "its share of the sum"),
        Head("share", "variance / (variance + rest)"),
        Head("from", "exact F interval of the share"),
        Head("to", "its other end"),
        Head("p", "F test of no variance"),
    ]
    rows = []
    for stream, part in zip(finding.streams, (x.a, x.b), strict=True):
        cells = _numbers(
            {n: getattr(part, n) for n in ("variance", "of_total", "share", "share_low", "share_high", "p")}
        )
        rows.append(Row(stream, cells, marked.origin(of=name, setting=finding.setting, stream=stream)))
    rest = _numbers({"residual": x.residual, "residual_of_total": x.residual_of_total})
    blank = [Cell("–")] * 4
    rows.append(Row("rest, interaction included", [*rest, *blank], marked.origin(of=name, setting=finding.setting)))
    title = Markup("{}: {}").format(study.settings[finding.setting].label, finding.metric.words)
    return Table(title, "stream", heads, rows)


def _sharpness_table(study: Study, finding: Any, name: str) -> Table:
    heads = [
        Head("Kendall's τ", "rank correlation"),
        Head("from", "jackknife interval over seeds"),
        Head("to", "its other end"),
        Head("n", "settings, or trials"),
        Head("p", "by permutation"),
        Head("smallest p", "that this many could give"),
    ]
    rows = []
    said = {"between": "over settings' means", "within": "within settings", "pooled": "all trials pooled"}
    measures = {"metric": finding.sharpness.path, "against": finding.generalisation.path}
    for which, words in said.items():
        x = getattr(finding.result, which)
        cells = _numbers({n: getattr(x, n) for n in ("tau", "low", "high", "n", "p", "smallest_p")})
        rows.append(Row(words, cells, marked.origin(of=name, at=which, **measures)))
    title = Markup("{} and {}").format(finding.sharpness.words, finding.generalisation.words)
    notes = [Markup("{}").format(x.note) for x in (finding.result.between, finding.result.within) if x.note]
    return Table(title, "over", heads, rows, notes)


def _matched_table(study: Study, finding: Any, name: str) -> Table | None:
    """Sharpness at one training loss, by setting; ratios to the reference where it was reckoned with logarithms."""
    import math

    matched = finding.matched
    if matched is None:
        return None
    told = math.exp if matched.log else float
    heads = [
        Head("trials", "of the setting"),
        Head("as observed", "geometric mean" if matched.log else "mean"),
        Head("at one loss", "the same at the common training loss"),
        Head("ratio" if matched.log else "difference", "to the reference setting"),
        Head("from", "95 % interval, uncorrected"),
        Head("to", "its other end"),
    ]
    rows = []
    for i, x in enumerate(matched.settings):
        setting = study.settings[i]
        values: dict[str, Any] = {"n": x.n, "mean": told(x.mean), "adjusted": told(x.adjusted)}
        if i == matched.reference:
            values |= {"difference": "reference", "low": "", "high": ""}
        else:
            values |= {n: told(getattr(x, n)) for n in ("difference", "difference_low", "difference_high")}
        where = marked.origin(of="matched", metric=finding.sharpness.path, setting=setting.index)
        rows.append(Row(setting.label, _numbers(values), where))
    title = Markup("{} at a training loss of {}").format(
        finding.sharpness.words,
        marked.number(matched.loss, "loss", digits=3, of="matched", metric=finding.sharpness.path),
    )
    return Table(title, "setting", heads, rows, [Markup("{}.").format(matched.method.rstrip("."))])
