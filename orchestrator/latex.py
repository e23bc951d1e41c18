r"""Tables of a study for a paper: LaTeX with booktabs, every mean with its interval, its n and what it leaves out.

Each file holds whole `table` environments, to be taken in with `\input`. Numbers are rounded as in the report, to two
digits of the interval's half width.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .records import DONE, Metric, Summary
from .report import words
from .stats import Interval, p_value

if TYPE_CHECKING:
    from .inference import Compared
    from .study import Study

__all__ = ["escaped", "latex_tables", "mathematics"]

WIDE = 84
"""Characters in small type that fit beside one another on a page."""

LONG = 40
"""Rows that fit on a page; longer tables are set by the package longtable."""


def latex_tables(study: Study) -> dict[str, str]:
    """The files' contents by name: summary, and verdicts, pairs and groups where there are any."""
    found = {"summary": _summary(study)}
    if study.findings.family:
        found["verdicts"] = [_verdicts(study, study.findings.family)]
    for kind in ("pair", "group"):
        tables = [t for c in study.columns_of(kind) for t in _of_column(study, c.name, kind)]
        if tables:
            found[f"{kind}s"] = tables
    return {name: _head(study, tables) + "\n".join(tables) for name, tables in found.items() if tables}


def _head(study: Study, tables: Sequence[str]) -> str:
    packages = ["booktabs", *(["longtable"] if any(r"\begin{longtable}" in t for t in tables) else [])]
    needs = ", ".join(f"\\usepackage{{{p}}}" for p in packages)
    lines = [f"Needs {needs}.", f"Study: {study.sweep}."]
    if not study.findings.family:
        lines.append(
            "No comparison was declared beforehand, so there is no table of verdicts: see `baseline` of Sweep."
        )
    lines += study.remarks
    return "".join(f"% {_comment(line)}\n" for line in lines)


def _comment(text: str) -> str:
    return " ".join(text.split())


# Tables


def _summary(study: Study) -> list[str]:
    return [t for c in study.columns_of("train", "probe") for t in _of_column(study, c.name, "trial")]


def _of_column(study: Study, column: str, kind: str) -> list[str]:
    """The headline metrics of a training or probe, as many tables as it takes."""
    metrics = [m for m in study.headline("train", "probe", "pair", "group") if m.column.name == column]
    parts = _fitting(study, metrics, pairs=kind == "pair")
    make = _values if kind == "group" else _means
    return [make(study, part, f"{column}-{k + 1}" if len(parts) > 1 else column) for k, part in enumerate(parts)]


def _fitting(study: Study, metrics: Sequence[Metric], *, pairs: bool) -> list[list[Metric]]:
    """The metrics, as many together as stand beside one another on a page."""
    labels = max((len(s.label) for s in study.settings), default=0) * (2 if pairs else 1)
    parts: list[list[Metric]] = []
    room = 0
    for metric in metrics:
        width = max(len(metric.name), 19 if pairs else 15) + 2
        if width > room:
            parts.append([])
            room = WIDE - labels
        parts[-1].append(metric)
        room -= width
    return parts


def _means(study: Study, metrics: Sequence[Metric], name: str) -> str:
    pairs = metrics[0].column.kind == "pair"
    cells = [{s.settings: s for s in study.summaries(m)} for m in metrics]
    rows, missing = [], []
    shown = {s.interval.n for by_setting in cells for s in by_setting.values() if s.interval.n}
    usual = max(shown, default=0)
    units = max((s.interval.units for by_setting in cells for s in by_setting.values()), default=0)
    for settings in sorted({key for by_setting in cells for key in by_setting}):
        labels = [study.settings[i].label for i in settings]
        label = escaped(labels[0]) if len(set(labels)) == 1 else rf"{escaped(labels[0])} $\times$ {escaped(labels[1])}"
        found = [by_setting.get(settings) for by_setting in cells]
        rows.append([label, *(_mean(s, usual) for s in found)])
        missing += [(labels, s) for s in found if s is not None and s.n_missing]
    unit = "pair" if pairs else "seed"
    method = "jackknife interval over seeds" if pairs else "Student $t$ interval over seeds"
    caption = [
        f"{_about(study, name)}: mean $\\pm$ half of the 95\\,\\% {method}.",
        f"$n = {usual}$ {words.count(usual, unit).partition(' ')[2]}"
        + (f" of {words.count(units, 'seed')}" if pairs else "")
        + ("." if len(shown) <= 1 else ", where no other number stands in brackets."),
        "Two seeds hardly tell a spread." if usual == 2 and not pairs else "",
        *_left_out(missing),
        *(f"{_texttt(m.name)}: {escaped(m.words)}." for m in metrics),
    ]
    return _table(study, name, ["setting", *(_texttt(m.name) for m in metrics)], rows, caption)


def _mean(s: Summary | None, usual: int) -> str:
    if s is None:
        return "--"
    if s.censored:
        return "above range" if s.median is None else f"median {mathematics(words.number(s.median))} [{s.interval.n}]"
    n = f" [{s.interval.n}]" if s.interval.n != usual else ""
    return _interval(s.interval) + n


def _interval(i: Interval) -> str:
    if i.mean is None:
        return "--"
    if i.n > 1 and i.min == i.max:
        return f"{mathematics(words.number(i.mean))} (all equal)"
    return mathematics(words.interval(i))


def _left_out(missing: Sequence[tuple[Sequence[str], Summary]]) -> list[str]:
    """What the means leave out, each setting and reason once."""
    told = dict.fromkeys(
        f"{escaped(' × '.join(dict.fromkeys(labels)))}, {_texttt(s.metric.name)}: {escaped(s.missing_words)}"
        for labels, s in missing
    )
    return [f"Not in the means: {'; '.join(told)}."] if told else []


def _values(study: Study, metrics: Sequence[Metric], name: str) -> str:
    """One value a setting, measured on all its seeds together."""
    rows = []
    for task in study.of_column(metrics[0].column.name):
        status = study.statuses[task.key]
        results = study.results(task.key) if status == DONE else {}
        cells = [mathematics(words.number(results.get(m.name))) if results else escaped(status) for m in metrics]
        rows.append([escaped(study.settings[task.trials[0][0]].label), str(len(task.trials)), *cells])
    caption = [
        f"{_about(study, name)}: one value from all seeds of a setting together, which has no interval over seeds.",
        *(f"{_texttt(m.name)}: {escaped(m.words)}." for m in metrics),
    ]
    return _table(study, name, ["setting", "seeds", *(_texttt(m.name) for m in metrics)], rows, caption)


def _verdicts(study: Study, family: Sequence[Compared]) -> str:
    """The declared family: difference with its simultaneous interval, corrected p, verdict."""
    declared, metric = study.declared, family[0].metric
    rows = []
    for c in family:
        v = c.verdict
        assert v is not None
        d = c.comparison
        a, b = (escaped(study.settings[i].label) for i in (c.a, c.b))
        bounds = "--" if v.low is None or v.high is None else _bounds(v.low, v.high, v.open_at_zero)
        n = str(d.n_a) if d.design == "paired" else f"{d.n_a} + {d.n_b}"
        lost = d.diverged_a + d.diverged_b
        n += f" ({lost} diverged)" if lost else ""
        decision = v.decision + (r"$^{*}$" if v.test == "exact" else "")
        p = "--" if v.p is None else mathematics(p_value(v.p))
        rows.append([f"{a} $-$ {b}", n, mathematics(words.with_sign(d.difference)), bounds, p, decision])
    designs = {c.comparison.design for c in family}
    how = {"paired": "paired by seed", "unpaired": "unpaired (Welch)"}
    test = "; ".join(how[d] for d in sorted(designs))
    left_out = dict.fromkeys(
        f"{escaped(study.settings[c.a].label)} $-$ {escaped(study.settings[c.b].label)}: "
        + ", ".join(f"{n} {escaped(reason)}" for reason, n in c.left_out.items())
        for c in family
        if c.left_out
    )
    better = "larger" if declared.mode == "max" else "smaller"
    level = f"{100 * study.findings.level:g}\\,\\%"
    caption = [
        f"{_about(study, 'verdicts')}: the comparisons declared beforehand, on {escaped(metric.words)} "
        f"({_texttt(metric.path)}; {better} is better). Difference with its simultaneous {level} interval, and $p$ of "
        f"the $t$ test corrected by Holm's method for {words.count(len(family), 'comparison')}; {test}.",
        f"Differences within $\\pm{declared.margin:g}$ count as none."
        if declared.margin is not None
        else "No margin was declared, so no two settings can be found equivalent.",
        f"``Equivalent'' is decided by two one-sided $t$ tests, each at {100 * (1 - study.findings.level):.0f}\\,\\%, "
        "after Holm's correction; $p$ and interval are those of a difference from 0, so the interval may reach further."
        if any(c.verdict is not None and c.verdict.decision == "equivalent" for c in family)
        else "",
        "$^{*}$\\,By the exact test, since a run diverged or the values have no spread."
        if any(c.verdict is not None and c.verdict.test == "exact" for c in family)
        else "",
        f"Left out: {'; '.join(left_out)}." if left_out else "",
        "``No decision'' does not mean that two settings are equal.",
    ]
    return _table(study, "verdicts", ["contrast", "$n$", "difference", "interval", "$p$", "verdict"], rows, caption)


def _bounds(low: float, high: float, open_at_zero: bool) -> str:
    """An interval; a bound that is 0 but not in it has its bracket turned outwards, as mathematicians write it."""
    left, right = ("]" if low == 0 and open_at_zero else "["), ("[" if high == 0 and open_at_zero else "]")
    return f"{left}{mathematics(words.with_sign(low))}, {mathematics(words.with_sign(high))}{right}"


def _about(study: Study, name: str) -> str:
    return f"{escaped(study.sweep)}, {escaped(name)}"


def _table(study: Study, name: str, heads: Sequence[str], rows: Sequence[Sequence[str]], caption: Sequence[str]) -> str:
    columns = "l" + "r" * (len(heads) - 1) if heads[-1] != "verdict" else "l" + "r" * (len(heads) - 2) + "l"
    label = re.sub(r"[^A-Za-z0-9]+", "-", f"{study.sweep}-{name}").strip("-").lower()
    told = f"\\caption{{{' '.join(part for part in caption if part)}}}\\label{{tab:{label}}}"
    head = f"{' & '.join(heads)} \\\\"
    body = "\n".join(f"{' & '.join(row)} \\\\" for row in rows)
    if len(rows) > LONG:
        return (
            f"{{\\small\n\\begin{{longtable}}{{@{{}}{columns}@{{}}}}\n{told}\\\\\n\\toprule\n{head}\n\\midrule\n\\endhead\n"
            f"\\bottomrule\n\\endfoot\n{body}\n\\end{{longtable}}}}\n"
        )
    return (
        f"\\begin{{table}}\n\\centering\\small\n{told}\n\\begin{{tabular}}{{@{{}}{columns}@{{}}}}\n\\toprule\n{head}\n"
        f"\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


# Words and numbers


def _texttt(name: str) -> str:
    return f"\\texttt{{{escaped(name)}}}"


_SUPERSCRIPTS = {ord(c): p for c, p in zip("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789", strict=True)}


def mathematics(number: str) -> str:
    """A number as `report.words` writes it ("(1.30 ± 0.20) × 10⁻⁵", "−3.1", "∞") in LaTeX's mathematics."""
    if not re.fullmatch(r"[-−+<()0-9.±×∞ ⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", number):
        return escaped(number)
    text = re.sub("10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: f"10^{{{m[1].translate(_SUPERSCRIPTS)}}}", number)
    for sign, command in (("−", "-"), ("±", r"\pm"), ("×", r"\times"), ("∞", r"\infty")):
        text = text.replace(sign, command)
    return f"${text}$"


_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", '"': "''",
    "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "·": r"$\cdot$", "→": r"$\to$", "≤": r"$\le$", "≥": r"$\ge$",
    "≠": r"$\ne$", "≈": r"$\approx$", "∞": r"$\infty$", "√": r"$\surd$", "‖": r"$\Vert$", "∇": r"$\nabla$",
    "∂": r"$\partial$", "½": r"$\frac12$", "¼": r"$\frac14$", "–": "--", "—": "---", "…": r"\ldots{}", "“": "``",
    "”": "''", "„": "``", "‘": "`", "’": "'", "°": r"$^\circ$", "★": r"$\star$", "⟨": r"$\langle$", "⟩": r"$\rangle$",
    "\N{NO-BREAK SPACE}": "~",
}  # fmt: skip


def escaped(text: str) -> str:
    """Text for LaTeX: its own characters escaped, Greek letters and signs as commands, in one line."""
    parts = re.split(r"\b([^\W\d_])_([^\W_]+)(?![\w])", " ".join(text.split()))
    found = ["".join(_character(c) for c in part) for part in parts]
    for k in range(1, len(parts), 3):  # a quantity with an index: λ_max
        letter = found[k].strip("$")
        found[k], found[k + 1] = f"${letter}_{{\\mathrm{{{found[k + 1].strip('$')}}}}}$", ""
    return "".join(found)


def _character(c: str) -> str:
    if c in _SPECIAL:
        return _SPECIAL[c]
    if c.isascii():
        return c if c.isprintable() else ""
    if greek := re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (?:FINAL )?(\w+)", unicodedata.name(c, "")):
        return _greek(greek[2].lower(), capital=greek[1] == "CAPITAL")
    kind, _, plain = unicodedata.decomposition(c).partition(" ")
    if kind in ("<super>", "<sub>"):
        inner = "".join(chr(int(code, 16)) for code in plain.split())
        inner = inner.replace("\N{MINUS SIGN}", "-")
        return f"$^{{{inner}}}$" if kind == "<super>" else f"$_{{{inner}}}$"
    if c.isalpha() and ord(c) <= 0x17F:
        return c  # accented letters, which LaTeX reads as they are
    known = unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode()
    return escaped(known) if known else f"[U+{ord(c):04X}]"


_GREEK = {"lamda": "lambda"}
_LATIN = {"omicron": "o", "alpha": "A", "beta": "B", "epsilon": "E", "zeta": "Z", "eta": "H", "iota": "I", "kappa": "K",
          "mu": "M", "nu": "N", "rho": "P", "tau": "T", "chi": "X"}  # fmt: skip


def _greek(name: str, *, capital: bool) -> str:
    name = _GREEK.get(name, name)
    if name == "omicron" or (capital and name in _LATIN):
        return _LATIN[name].upper() if capital else _LATIN[name]
    return f"$\\{name.capitalize() if capital else name}$"
