"""The report's page: numbers with their origins, and how it behaves in a real browser."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import Browser, browser, program
from builders import grid, toy_study
from matplotlib import rc_context
from toys import Brittle, Choosy, Curvature, Downhill, Fit, Sideways, Threshold

from orchestrator import store as store_module
from orchestrator.report import page, results, style, trials, words
from orchestrator.report.pictures.run import run_pictures
from orchestrator.stats import mean_interval
from orchestrator.store import Store
from orchestrator.study import Study

RUN = "runs/toy/r1"
WRONG = {
    "train": Fit(rho=grid(0.0, 0.05, 0.2), diverge_above=0.1),
    "probes": [Curvature(), Brittle(), Threshold(), Choosy()],
    "baseline": {"rho": 0.0},
    "margin": 0.02,
}
OPTIMIZERS = grid(Sideways(angle=1.0), Sideways(angle=2.0), Downhill())
LONG = {
    "train": Fit(rho=grid(0.1, 0.2), optimizer=OPTIMIZERS, width=grid(16, 32)),
    "seeds": range(2),
    "pairs": [],
}


def written(home: Path, **changes) -> tuple[Study, Path]:
    """A study and its page, with the pictures of how the run went alone: others take their time."""
    store = Store(str(home))
    study = toy_study(store, **changes)
    return study, written_again(study, store)


def written_again(study: Study, store: Store) -> Path:
    with rc_context(style.SETTINGS):
        drawn = list(run_pictures(study))
    store.write(f"{RUN}/report.html", page.render(study, drawn, store).encode())
    return store.path(f"{RUN}/report.html")


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    """A study in which trainings diverge, probes fail, and a family is declared; its page."""
    return written(tmp_path_factory.mktemp("wrong"), **WRONG)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Settings with long labels, two seeds."""
    return written(tmp_path_factory.mktemp("long"), **LONG)


# Numbers and where they come from


@dataclass
class Element:
    """An element that is still open, with the attributes of those around it."""

    tag: str
    about: dict[str, str]
    own: dict[str, str]
    text: str = ""
    loose: str = ""  # text that is in no number
    inside: list[str] = field(default_factory=list)


class Numbers(HTMLParser):
    """Every number of a page, and the cells that hold digits outside of any."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[Element] = []
        self.numbers: list[Element] = []
        self.cells: list[Element] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        own = {k: v or "" for k, v in attrs}
        around = self.open[-1].about if self.open else {}
        element = Element(tag, {**around, **{k: v for k, v in own.items() if k.startswith("data-")}}, own)
        if tag not in ("meta", "img", "br", "wbr", "input"):
            self.open.append(element)

    def handle_endtag(self, tag):
        element = self.open.pop()
        assert element.tag == tag
        if "data-value" in element.own:
            self.numbers.append(element)
        if tag == "td":
            self.cells.append(element)

    def handle_data(self, data):
        marked = any("data-value" in e.own for e in self.open)
        for element in self.open:
            element.text += data
            element.loose += "" if marked or element.tag in ("script", "style") else data


def shown(element: Element) -> tuple[float, float]:
    """The number as it reads, and half a unit of its last place."""
    text = element.text.replace("\N{MINUS SIGN}", "-")
    body, _, power = text.partition(" × 10")
    raised = power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    scale = 10.0 ** (int(raised or 0) + int(element.own.get("data-exponent", 0)))
    decimals = len(body.partition(".")[2])
    return float(body) * scale, 0.5000001 * 10.0**-decimals * scale


@pytest.mark.parametrize("name", ["wrong", "long"])
def test_every_number_says_what_it_is_and_is_its_value_rounded(name, request):
    _, path = request.getfixturevalue(name)
    found = Numbers(path.read_text())
    assert len(found.numbers) > 150
    for n in found.numbers:
        assert {"data-of", "data-stat"} <= set(n.about), (n.text, n.about)
        value = {"True": 1.0, "False": 0.0}.get(n.own["data-value"]) if "e" in n.own["data-value"].lower() else None
        value = float(n.own["data-value"]) if value is None else value
        if "data-form" in n.about or not math.isfinite(value) or n.text in ("yes", "no"):
            continue
        read, half = shown(n)
        assert abs(read - value) <= half, (n.text, n.about)


def test_no_cell_holds_a_number_without_its_origin(wrong):
    _, path = wrong
    for cell in Numbers(path.read_text()).cells:
        where = cell.about.get("data-of")
        words_alone = "text" in cell.own.get("class", "") or cell.about.get("data-stat") == "sentence"
        if re.search(r"\d", cell.loose) and not words_alone:
            # A seed's label and the value of a parameter were declared; a row of one cell is a finding's sentence.
            assert where in ("trial", None) or "colspan" in cell.own, cell


def test_summaries_and_trials_on_the_page_are_those_of_the_artifacts(wrong):
    study, path = wrong
    results_of = {}
    for manifest in study.manifests():
        task = study.tasks[manifest["key"]]
        if task.kind in ("train", "probe") and manifest["status"] == "done":
            for name, value in manifest["results"].items():
                results_of[f"{task.column}.{name}", task.trials[0]] = value
    checked = {"trial": 0, "summary": 0}
    for n in Numbers(path.read_text()).numbers:
        about = n.about
        if about["data-of"] == "trial":
            value = results_of[about["data-metric"], (int(about["data-setting"]), about["data-seed"])]
            assert n.own["data-value"] == repr(value)
            checked["trial"] += 1
        elif about["data-of"] == "summary" and about["data-stat"] in ("mean", "half"):
            metric, setting = about["data-metric"], int(about["data-setting"])
            values = [v for (m, (s, _)), v in results_of.items() if m == metric and s == setting and v is not None]
            interval = mean_interval([v for v in values if math.isfinite(v)])
            assert float(n.own["data-value"]) == getattr(interval, about["data-stat"])
            checked["summary"] += 1
    assert checked["trial"] > 40 and checked["summary"] > 15


def test_verdicts_on_the_page_are_those_of_the_findings(wrong):
    study, path = wrong
    family = {f"{c.a} {c.b}": c for c in study.findings.family}
    seen = set()
    for n in Numbers(path.read_text()).numbers:
        if n.about["data-of"] == "verdict":
            c, stat = family[n.about["data-setting"]], n.about["data-stat"]
            source = c.verdict if stat in ("p_holm", "low", "high") else c.comparison
            if hasattr(source, stat) and not stat.startswith("effect"):
                assert n.own["data-value"] == repr(getattr(source, stat))
                seen.add(stat)
    assert {"n_a", "p_holm", "p_exact", "smallest_p", "diverged_a"} <= seen
    text = path.read_text()
    assert all(c.verdict.decision in text for c in family.values())


def test_the_same_store_gives_the_same_bytes(wrong, tmp_path):
    study, path = wrong
    shutil.copytree(study.store.local, tmp_path / "copy")
    copy = Store(str(tmp_path / "copy"))
    study.save(copy, RUN)
    again = Study.load(copy, RUN)
    assert written_again(again, copy).read_bytes() == path.read_bytes()


def test_metrics_that_are_no_headline_are_on_the_page_and_those_nobody_measured_are_named(wrong):
    _, path = wrong
    text = re.sub(r"<[^>]*>", "", path.read_text())
    assert "More of Fit: epochs" in text and "The same in all 8 tasks that ended well: epochs 6." in text
    assert "The same in all 6 tasks that ended well: remark fine." in text
    assert "No Choosy task has a value of sometimes, so there is no column." in text
    assert "Measured by no trial, so without a column: Choosy.sometimes." in text


def test_equal_values_are_called_equal_and_not_certain(long):
    _, path = long
    text = re.sub(r"<[^>]*>", "", path.read_text())
    assert "± 0 " not in text and "± 0[" not in text
    assert words.interval(mean_interval([6, 6])) == "6.000, all equal"
    assert words.interval(mean_interval([0.1 + 0.2, 0.3])).endswith("all equal")
    assert words.interval(mean_interval([1.0, 1.0 + 1e-6])) != "1.000, all equal"


def test_links_lead_to_artifacts_only_where_the_page_lies_in_their_store(wrong, tmp_path):
    study, path = wrong
    keys = {t.key for t in study.of_column("Fit")}
    assert keys <= set(re.findall(r'href="../../../artifacts/Fit/(\w+)/"', path.read_text()))
    elsewhere = page.render(study, [], Store(str(tmp_path)))
    assert "../../../" not in elsewhere
    assert all(f"{study.store}/artifacts/Fit/{key}" in elsewhere for key in keys)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's ratio of two colours."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([light(one), light(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_stands_out_in_both_schemes(scheme):
    style = (Path(page.__file__).parent / "report.css").read_text()
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme]))
    for ground in ("page", "card", "warm"):
        for ink in ("ink", "soft", "accent", "bad"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)


# In a browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if program() is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI has to have chromium: .ci/run installs it")
        pytest.skip("there is no chromium here (Debian: apt-get install chromium)")
    with browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


def trials_shown(b: Browser) -> list[list[str]]:
    rows = "[...document.querySelectorAll('#trials tbody tr')].filter(r => !r.hidden)"
    return b.run(f"{rows}.map(r => [...r.cells].map(c => c.textContent))")


def head(b: Browser, name: str) -> str:
    """A selector of the button in the head of a column of the trials' table."""
    heads = b.run("[...document.querySelectorAll('#trials thead th')].map(th => th.innerText.split('\\n').pop())")
    return f"#trials thead th:nth-child({[h.strip('▲▼ ') for h in heads].index(name) + 1}) button"


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["wrong", "long"])
def test_the_page_is_calm_everywhere(chromium, request, name, dark, width):
    _, path = request.getfixturevalue(name)
    chromium.look(width, dark=dark)
    chromium.open(path)
    chromium.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert chromium.console == [] and chromium.requests == []
    assert chromium.run("document.documentElement.scrollWidth") <= width
    red, *_ = map(int, re.findall(r"\d+", chromium.run("getComputedStyle(document.body).backgroundColor")))
    assert (red < 60) == dark
    assert chromium.run("[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt)")


def test_a_click_on_a_head_sorts_and_numbers_sort_as_numbers(chromium, wrong):
    chromium.look(1440)
    chromium.open(wrong[1])
    before = trials_shown(chromium)
    chromium.click(head(chromium, "lambda_max"))
    place = 4
    up = [row[place] for row in trials_shown(chromium)]
    assert up[-1] == "skipped"  # what has no number comes last, either way
    measured = [float(v) for v in up[:-1]]
    assert measured == sorted(measured) and up != [row[place] for row in before]
    assert chromium.run("document.querySelector('#trials th[aria-sort=ascending]').innerText").endswith("lambda_max")
    chromium.run(f"document.querySelector({head(chromium, 'lambda_max')!r}).focus()")
    chromium.press("Enter")
    down = [row[place] for row in trials_shown(chromium)]
    assert [v for v in down if v != "skipped"] == [v for v in reversed(up) if v != "skipped"]
    chromium.click(head(chromium, "setting"))
    assert trials_shown(chromium) == before  # in the order of declaration, though 0.05 comes after 0.2 as text


def test_a_sentence_stays_with_its_verdict(chromium, wrong):
    study, path = wrong
    chromium.open(path)
    rows = "[...document.querySelectorAll('#answer tbody tr')].map(r => r.innerText)"
    before = chromium.run(rows)
    assert len(before) == 4 and study.findings.family[0].sentence == before[1].strip()
    chromium.click("#answer thead th:nth-child(4) button")
    chromium.click("#answer thead th:nth-child(4) button")
    assert chromium.run(rows) == before[2:] + before[:2]


def test_the_filter_hides_rows_that_lack_a_word(chromium, wrong):
    chromium.open(wrong[1])
    chromium.run("document.querySelector('#trials input[type=search]').focus()")
    chromium.type("rho=0.2 diverged")
    (row,) = trials_shown(chromium)
    assert row[:2] == ["rho=0.2", "1"]
    assert chromium.run("document.querySelector('#trials [role=status]').textContent") == "1 of 9 rows"


def test_a_trial_opens_with_its_curves_and_all_that_was_measured(chromium, wrong):
    study, path = wrong
    chromium.look(1440)
    chromium.open(path)
    chromium.click("#trials tbody tr:nth-child(3) td:nth-child(3)")
    assert chromium.run("document.querySelector('dialog').open")
    said = chromium.run("document.querySelector('dialog').innerText")
    assert said.startswith("rho=0 · seed 2") and "Loss during training" in said and "Hessian spectrum" in said
    drawn = "[...document.querySelectorAll('dialog .chart path.line')].map(p => p.getAttribute('d'))"
    lines = [d for d in chromium.run(drawn) if len(d) > 20]
    assert len(lines) >= 2 and all(len(re.findall("[ML]", d)) == 6 for d in lines[:2])  # six epochs
    assert chromium.run("document.querySelectorAll('dialog .chart .other').length") > 0  # the other seeds
    key = next(t.key for t in study.of_column("Fit") if t.trials == ((0, "2"),))
    results_ = study.results(key)
    assert words.number(results_["val_accuracy"]) in said and "Fit.epochs" in said and key[:12] in said
    first = chromium.run(drawn)
    chromium.press("ArrowRight")
    assert chromium.run("document.querySelector('dialog h3').textContent") == "rho=0.05 · seed 0"
    assert chromium.run(drawn) != first
    chromium.press("Escape")
    assert chromium.until("!document.querySelector('dialog').open")
    assert chromium.until("document.activeElement.closest('tr')?.dataset.place === '3'")  # where one was
    chromium.press("Enter")
    assert chromium.until("document.querySelector('dialog').open")
    assert chromium.console == []


def test_a_diverged_trial_shows_its_curve_and_what_became_of_it(chromium, wrong):
    chromium.open(wrong[1])
    chromium.click("#trials tbody tr:nth-child(8) th")
    said = chromium.run("document.querySelector('dialog').innerText")
    assert "rho=0.2 · seed 1" in said and "Fit diverged: the loss became non-finite" in said
    assert "Brittle skipped" in said
    assert chromium.run("document.querySelectorAll('dialog .chart path.line').length") > 0


def test_columns_can_be_chosen(chromium, wrong):
    chromium.open(wrong[1])
    before = trials_shown(chromium)
    chromium.click("#trials details summary")
    chromium.settle()
    box = "[...document.querySelectorAll('#trials .choices label')].find(l => l.innerText.trim() === 'Fit.epochs')"
    chromium.run(f"{box}.click()")
    after = trials_shown(chromium)
    place = len(before[0]) - 2  # before how the training ended, and its key
    assert [row[place] for row in after] == ["6"] * 7 + ["diverged", "6"]
    chromium.click(head(chromium, "epochs"))
    assert [row[place] for row in trials_shown(chromium)] == ["6"] * 8 + ["diverged"]
    chromium.run(f"{box}.click()")
    chromium.click(head(chromium, "setting"))
    assert trials_shown(chromium) == before


def test_rows_that_the_script_makes_are_those_that_the_page_would_hold(chromium, wrong, tmp_path, monkeypatch):
    study, path = wrong
    chromium.open(path)
    rows = "[...document.querySelectorAll('#trials tbody tr')].map(r => r.outerHTML)"

    def cells() -> list[str]:
        """Rows without whitespace between cells, and values as floats: 1 in JavaScript is 1.0."""
        tidy = (re.sub(r"\s+(?=<t[dh])", "", row) for row in chromium.run(rows))
        return [re.sub(r'(?<=data-value=")[\d.e-]+', lambda m: repr(float(m[0])), row) for row in tidy]

    whole = cells()
    monkeypatch.setattr(trials, "MAX_ROWS", 2)
    short = tmp_path / "report.html"
    short.write_text(page.render(study, [], study.store))
    chromium.open(short)
    assert len(cells()) == 2
    assert "The first 2 of 9 trials are in this table" in chromium.run("document.querySelector('#trials').innerText")
    chromium.click("#trial-more button")
    assert cells() == whole


def test_it_prints(chromium, wrong):
    chromium.look(1440)
    chromium.open(wrong[1])
    pdf = chromium.pdf()
    assert pdf.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 4
    chromium.run("dispatchEvent(new Event('beforeprint'))")
    assert chromium.run("document.querySelectorAll('details:not([open])').length") == 0
    chromium.run("dispatchEvent(new Event('afterprint'))")
    assert chromium.run("document.querySelectorAll('details[open]').length") == 0


def test_without_scripts_everything_but_the_panel_is_there(chromium, wrong):
    chromium.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.open(wrong[1])
    finally:
        chromium.ask("Emulation.setScriptExecutionDisabled", value=False)
    tree = chromium.ask("DOM.getDocument", depth=-1)["root"]
    assert "trial-tools" in json.dumps(tree)
    visible = chromium.run("document.querySelector('#trials').innerText")
    assert "rho=0.05" in visible and "Choose a trial" not in visible and "Filter" not in visible


def test_words_from_the_store_are_words_in_the_browser(chromium, tmp_path):
    tags = "<script>alert(1)</script><img src=x onerror=alert(2)></script>\u2028{{ 7 * 7 }}"
    _, path = written(tmp_path, train=Fit(), question=tags, pairs=[], groups=[], seeds=[0])
    record = tmp_path / RUN
    text = path.read_text()
    data = json.loads(re.search(r'<script type="application/json" id="trial-data">(.*?)</script>', text, re.DOTALL)[1])
    data["settings"] = [tags] * len(data["settings"])
    data["trials"][0]["t"][0][2:4] = [tags, tags]
    spoilt = re.sub(
        r'(<script type="application/json" id="trial-data">).*?(</script>)',
        lambda m: m[1] + str(page._json(data)) + m[2],
        text,
        flags=re.DOTALL,
    )
    (record / "report.html").write_text(spoilt)
    chromium.open(path)
    chromium.click("#trials tbody tr th")
    assert tags.replace("\u2028", "") in chromium.run("document.querySelector('dialog').textContent").replace(
        "\u2028", ""
    )
    assert chromium.dialogs == [] and chromium.requests == [] and chromium.console == []


@pytest.mark.slow
def test_a_thousand_trials(chromium, tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "sync", lambda path: None)  # a disk is not what this is about
    monkeypatch.setattr(store_module, "sync_filesystem", lambda path: True)
    rhos = [i / 4000 for i in range(500)]
    store = Store(str(tmp_path))
    study = toy_study(store, train=Fit(rho=grid(*rhos)), seeds=range(2), probes=[], pairs=[], groups=[])
    text = page.render(study, [], store)
    store.write(f"{RUN}/report.html", text.encode())
    assert len(text) < 2_000_000
    chromium.look(1440)
    chromium.open(store.path(f"{RUN}/report.html"))
    assert len(trials_shown(chromium)) == trials.MAX_ROWS
    said = chromium.run("document.body.innerText")
    assert "The first 200 of 1000 trials are in this table" in said
    assert f"The best {results.MAX_SETTINGS} settings; 400 more are not shown here" in said
    chromium.run("document.querySelector('#trials input[type=search]').focus()")
    last = study.settings[-1].label
    chromium.type(last)
    assert [row[:2] for row in trials_shown(chromium)] == [[last, "0"], [last, "1"]]
    chromium.run("document.querySelector('#trials input[type=search]').value = ''")
    chromium.type(" ")
    chromium.click(head(chromium, "val_accuracy"))
    values = [float(row[2]) for row in trials_shown(chromium)]
    assert len(values) == 1000 and values == sorted(values)
    chromium.click("#trials tbody tr:nth-child(1000) td:nth-child(3)")
    assert chromium.run("document.querySelectorAll('dialog .chart path.line').length") >= 2
    assert chromium.console == []
