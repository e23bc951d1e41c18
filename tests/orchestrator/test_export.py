"""Tables for a paper: what stands in the LaTeX, and that it is LaTeX."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from builders import grid, toy_study
from cli import orchestrate
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import Choosy, Curvature, Fit, Threshold

from orchestrator.latex import escaped, latex_tables, mathematics
from orchestrator.report import words
from orchestrator.store import Store

COMMENT = re.compile(r"(?<!\\)%.*")


class Latex:
    """A file taken apart as far as LaTeX would: environments, braces, mathematics, rows; it raises where that fails.

    Attributes:
        tables: by label: caption, heads, rows, each a list of cells.
    """

    def __init__(self, text: str) -> None:
        body = COMMENT.sub("", text)
        assert body.isascii() or {c for c in body if not c.isascii()} <= set("éüß"), "what LaTeX reads as it is"
        self._balanced(body)
        self.tables = {}
        for kind, inner in re.findall(r"\\begin\{(table|longtable)\}(.*?)\\end\{\1\}", body, re.S):
            label = re.search(r"\\label\{(tab:[a-z0-9-]+)\}", inner)
            columns = re.search(r"\{@\{\}([lr]+)@\{\}\}", inner)
            assert label and columns and (kind == "longtable" or r"\end{tabular}" in inner)
            assert inner.count(r"\toprule") == inner.count(r"\midrule") == inner.count(r"\bottomrule") == 1
            caption = re.search(r"\\caption\{(.*)\}\\label", inner, re.S)
            lines = [line for line in inner.splitlines() if line.endswith(r"\\") and r"\caption" not in line]
            rows = [re.split(r"(?<!\\)&", line.removesuffix(r"\\")) for line in lines]
            assert {len(row) for row in rows} == {len(columns[1])}, "as many cells in each row as columns"
            cells = [[cell.strip() for cell in row] for row in rows]
            self.tables[label[1]] = {"caption": caption[1], "heads": cells[0], "rows": cells[1:]}

    @staticmethod
    def _balanced(body: str) -> None:
        open_environments: list[str] = []
        for how, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
            if how == "begin":
                open_environments.append(name)
            else:
                assert open_environments.pop() == name
        bare = re.sub(r"\\(\\|[%$#&_{}])", "", body)
        depth = 0
        for c in bare:
            depth += {"{": 1, "}": -1}.get(c, 0)
            assert depth >= 0
        assert depth == 0 and not open_environments
        assert bare.count("$") % 2 == 0
        outside = "".join(re.sub(r"\\[a-zA-Z]+(\{[^{}]*\})?", "", part) for part in bare.split("$")[::2])
        assert not set("_^#~<>|") & set(outside), f"what only mathematics may hold: {outside!r}"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("latex") / "store"))
    train = Fit(rho=grid(0.0, 0.05, 0.2), diverge_above=0.1, width=grid(16, 32))
    return toy_study(store, train=train, seeds=range(5), name="toy_rho", baseline={"rho": 0.0, "width": 16},
                     margin=0.005, probes=[Curvature(), Threshold(above=3)])  # fmt: skip


def test_means_are_those_of_the_report_with_n_and_what_is_left_out(study):
    files = latex_tables(study)
    assert set(files) == {"summary", "verdicts", "pairs", "groups"}
    table = Latex(files["summary"]).tables["tab:toy-rho-fit"]
    assert table["heads"] == ["setting", r"\texttt{val\_accuracy}", r"\texttt{train\_loss}"]
    metric = study.main_metric
    by_label = {study.settings[s.settings[0]].label: s for s in study.summaries(metric)}
    assert [row[0] for row in table["rows"]] == list(by_label)
    for label, cell, _ in table["rows"]:
        s = by_label[label]
        told = words.with_half_width(s.interval.mean, s.interval.half).replace("±", r"\pm").replace("−", "-")
        assert cell == f"${told}$" + ("" if s.interval.n == 5 else f" [{s.interval.n}]")
    assert "95\\,\\% Student $t$ interval over seeds. $n = 5$ seeds, where no other" in table["caption"]
    assert r"rho=0.2, width=16, \texttt{val\_accuracy}: 2 diverged" in table["caption"]
    censored = Latex(files["summary"]).tables["tab:toy-rho-threshold"]
    assert censored["rows"][0][1] == "median $12.00$ [3]", "a mean of those within range would be too small"


def test_verdicts_are_those_of_the_family(study):
    table = Latex(latex_tables(study)["verdicts"]).tables["tab:toy-rho-verdicts"]
    assert len(table["rows"]) == 5 == len(study.findings.family)
    for row, found in zip(table["rows"], study.findings.family, strict=True):
        verdict = found.verdict
        assert row[0] == f"{study.settings[found.a].label} $-$ rho=0, width=16"
        assert row[-1].removesuffix("$^{*}$") == verdict.decision
        assert row[-1].endswith("$^{*}$") == (verdict.test == "exact")
        assert row[2] == mathematics(words.with_sign(found.comparison.difference))
        assert ("diverged" in row[1]) == ("rho=0.2" in row[0])
    assert r"Holm's method for 5 comparisons" in table["caption"] and r"within $\pm0.005$ count" in table["caption"]


def test_without_a_declared_family_there_is_no_verdict(tmp_path):
    study = toy_study(Store(str(tmp_path / "s")), train=Fit(rho=grid(0.0, 0.2)), pairs=[], groups=[])
    files = latex_tables(study)
    assert set(files) == {"summary"} and "% No comparison was declared beforehand" in files["summary"]


def test_equal_values_and_two_seeds_do_not_look_like_certainty(tmp_path):
    study = toy_study(Store(str(tmp_path / "s")), train=Fit(rho=grid(0.0, 0.2)), seeds=range(2))
    tables = Latex(latex_tables(study)["summary"]).tables
    assert "Two seeds hardly tell a spread." in tables["tab:toy-fit"]["caption"]
    pairs = Latex(latex_tables(study)["pairs"]).tables["tab:toy-line"]
    assert pairs["rows"][0][1] == "$0.2500$ [1]", "one pair has no interval"
    same = toy_study(Store(str(tmp_path / "s")), train=Fit(), probes=[Choosy()], pairs=[], groups=[])
    assert Latex(latex_tables(same)["summary"]).tables["tab:toy-choosy"]["rows"][0][1] == "$1.000$ (all equal)"


def test_many_settings_take_a_table_that_breaks(tmp_path):
    study = toy_study(Store(str(tmp_path / "s")), train=Fit(rho=grid(*[k / 100 for k in range(50)])), seeds=range(2),
                      probes=[], pairs=[], groups=[])  # fmt: skip
    text = latex_tables(study)["summary"]
    assert r"\usepackage{longtable}" in text
    assert len(Latex(text).tables["tab:toy-fit"]["rows"]) == 50


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30))
@settings(max_examples=100, deadline=None)
def test_any_label_is_escaped(text):
    found = escaped(text)
    Latex._balanced(found)
    assert "\n" not in found and (found.isascii() or all(c.isalpha() for c in found if not c.isascii()))


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("val_acc & 5 % of $x$ {#}", r"val\_acc \& 5 \% of \$x\$ \{\#\}"),
        ("λ_max/ρ ≥ −1", r"$\lambda_{\mathrm{max}}$/$\rho$ $\ge$ $-$1"),
        ("½η²gᵀHg", r"$\frac12$$\eta$$^{2}$g$^{T}$Hg"),
        ("Müller\\x~y^z", r"Müller\textbackslash{}x\textasciitilde{}y\textasciicircum{}z"),
        ("Ω and Α ☃", r"$\Omega$ and A [U+2603]"),
    ],
)
def test_escapes(text, latex):
    assert escaped(text) == latex


@pytest.mark.parametrize(
    ("number", "latex"),
    [
        (words.with_half_width(0.9062, 0.00912), r"$0.9062 \pm 0.0091$"),
        (words.with_half_width(-1.3e-5, 2e-6), r"$(-1.30 \pm 0.20) \times 10^{-5}$"),
        (words.number(float("inf")), r"$\infty$"),
        (words.number(True), "yes"),
        (words.number(None), "--"),
    ],
)
def test_numbers_are_the_reports_own(number, latex):
    assert mathematics(number) == latex


def test_the_verb(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, seeds in (("few", range(2)), ("more", range(2, 5))):
        study = toy_study(Store("artifacts"), train=Fit(), seeds=seeds, pairs=[], groups=[], name=name)
        study.save(study.store, f"runs/{name}/2026-01-01")
    code, out, _ = orchestrate(capsys, "export", "few", "--format", "latex", "--to", "paper")
    assert (code, out) == (0, ["paper/summary.tex"])
    code, out, _ = orchestrate(capsys, "export", "few", "more", "--format", "latex", "--to", "both")
    text = Path("both/summary.tex").read_text(encoding="utf-8")
    assert code == 0 and "$n = 5$ seeds." in text and "% 2 runs taken together: few" in text
    code, out, _ = orchestrate(capsys, "export", "few", "more", "--to", "csv")
    assert out == ["csv/trials.csv", "csv/summary.csv"] and len(Path("csv/trials.csv").read_text().splitlines()) == 6
    code, _, err = orchestrate(capsys, "export", "few", "--format", "latx")
    assert code == 2 and "csv, parquet or latex, not 'latx' (did you mean 'latex'?)" in err


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed here")
def test_pdflatex_takes_it(study, tmp_path):
    names = list(latex_tables(study))
    study.export(tmp_path, "latex")
    inputs = "".join(f"\\input{{{name}}}" for name in names)
    (tmp_path / "main.tex").write_text(
        rf"\documentclass{{article}}\usepackage{{booktabs,longtable}}\begin{{document}}{inputs}\end{{document}}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
