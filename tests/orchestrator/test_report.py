"""Reports of toy studies: what is drawn, what is said, and that the numbers are the artifacts'."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from functools import cache, cached_property
from html.parser import HTMLParser

import pytest
from builders import COMMAND, carry_out, grid, toy_study, toy_sweep
from rich.console import Console
from toys import Brittle, Choosy, Curvature, Downhill, Fit, Sideways, Threshold

from orchestrator.commands.report import copy
from orchestrator.plan import make_plan
from orchestrator.report import terminal_table, words, write_report
from orchestrator.report.pictures import Picture, pictures
from orchestrator.report.views import chosen_settings, scale_of, views
from orchestrator.stats import mean_interval
from orchestrator.store import Store
from orchestrator.study import Study
from orchestrator.sweep import same_seed, same_setting

RUN = "runs/toy/r1"


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


class _Page(HTMLParser):
    """Text, addresses and unclosed tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "data") and v]
        self.ids |= {v for k, v in attrs if k == "id" and v}
        self.text += " " if tag in ("td", "th", "p", "li") else ""
        if tag not in ("meta", "img", "link", "br", "wbr", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.text += data


def page_of(study: Study, store: Store) -> _Page:
    path = write_report(study, store, RUN)
    page = _Page(store.path(path).read_text(encoding="utf-8"))
    page.text = re.sub(r"\s+", " ", page.text)
    assert page.open == []
    return page


def printed(study: Study, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(terminal_table(study, width))
    return console.file.getvalue().rstrip().splitlines()


STUDIES = {
    "all kinds": {},
    "things go wrong": {
        "train": Fit(rho=grid(0.0, 0.05, 0.2), diverge_above=0.1),
        "probes": [Curvature(), Curvature(k=5), Brittle()],
    },
    "one seed": {"seeds": [0], "train": Fit(rho=grid(0.0, 0.2))},
    "two seeds": {"seeds": range(2), "train": Fit(rho=grid(0.0, 0.2))},
    "one setting": {"train": Fit()},
    "one trial": {"train": Fit(), "seeds": [0], "groups": []},
    "two parameters": {"train": Fit(rho=grid(0.0, 0.2), width=grid(16, 32)), "pairs": []},
    "a random search": {"train": Fit(rho=grid(0.01, 0.02), width=grid(8, 16), epochs=grid(3, 4)), "pairs": []},
    "specs as values": {"train": Fit(optimizer=grid(Downhill(), Sideways()))},
    "pairs across settings only": {"train": Fit(rho=grid(0.0, 0.1, 0.2)), "pair_when": same_seed & ~same_setting},
    "censored values": {"train": Fit(), "probes": [Threshold()]},
    "all diverged": {"train": Fit(rho=0.2, diverge_above=0.1), "seeds": [1, 3]},
}


@dataclass
class Rendered:
    """A study of STUDIES, and what is made of it once for all tests."""

    study: Study
    store: Store
    page: _Page

    @cached_property
    def pictures(self) -> list[Picture]:
        return pictures(self.study)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """The study of a name."""

    @cache
    def one(name):
        store = Store(str(tmp_path_factory.mktemp("rendered")))
        study = toy_study(store, **STUDIES[name])
        return Rendered(study, store, page_of(study, store))

    return one


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_a_report_that_asks_for_nothing_outside(rendered, name):
    study, store, page = rendered(name).study, rendered(name).store, rendered(name).page
    inside = ("data:image/png;base64,", "data:image/svg+xml;base64,", "plots/", "../../../artifacts/")
    for address in page.addresses:
        assert address.startswith(inside) or address[1:] in page.ids
        if address.startswith("../"):
            assert store.path(f"{RUN}/{address}").is_dir()
        if address.startswith("plots/"):
            assert store.path(f"{RUN}/{address}").is_file()
    assert "Does rho flatten the minimum?" in page.text
    assert COMMAND in page.text
    drawn = set(store.names(f"{RUN}/plots"))
    assert "timeline.png" in drawn
    for metric in study.headline("train"):
        assert metric.words in page.text
    assert len([a for a in page.addresses if a.startswith("data:")]) == len(drawn) / 2  # each as PNG and SVG
    assert all(len(line) <= 80 for line in printed(study))


def test_the_numbers_are_those_of_the_artifacts(rendered):
    study, text = rendered("all kinds").study, rendered("all kinds").page.text
    for setting in study.settings:
        for task, name in (("Fit", "val_accuracy"), ("Curvature", "lambda_max")):
            mine = [m for m in study.manifests() if m["task"] == task]
            of_setting = [m["results"][name] for m in mine if study.tasks[m["key"]].trials[0][0] == setting.index]
            assert len(of_setting) == 3
            assert f"{words.interval(mean_interval(of_setting))} [3]" in text
    for manifest in study.manifests():
        if manifest["task"] == "Fit":
            assert manifest["key"][:12] in text
            assert words.number(manifest["results"]["val_accuracy"]) in text


def test_nothing_that_went_wrong_is_silent(rendered):
    wrong = rendered("things go wrong")
    text = wrong.page.text
    assert "Fit · rho=0.2 · seed 1 diverged the loss became non-finite" in text
    assert "1 Curvature, 1 Curvature(k=5), 1 Brittle" in text  # skipped because of it
    assert "ValueError: the toy broke" in text
    assert "not in them: 1 diverged" in text
    assert "outcomes.png" in wrong.store.names(f"{RUN}/plots")
    captions = {p.name: p.caption for p in wrong.pictures}
    assert "Left out: 1 of 9 values (1 diverged)." in captions["fit-metrics"]
    assert "Not drawn: 1 of 9 tasks (diverged)." in captions["fit-1-history"]


def test_censored_values_show_a_median_and_say_why(store):
    text = page_of(toy_study(store, train=Fit(), probes=[Threshold()]), store).text
    assert "median 11.00 [3] 1 censored" in re.sub(r"(\])(?=\d)", r"\1 ", text)
    assert "the median stands in its place" in text
    assert "no means are drawn" in text


def test_a_result_that_no_task_has_is_named_in_the_caption(store):
    study = toy_study(store, train=Fit(), probes=[Brittle()])
    captions = {p.name: p.caption for p in pictures(study)}
    assert "No panel for ratio: no task has a value. Left out: 3 of 3 values (" in captions["brittle-metrics"]


def test_pairs_across_settings_are_drawn_between_settings(store):
    study = toy_study(store, **STUDIES["pairs across settings only"])
    titles = {p.name: p.title for p in pictures(study)}
    assert titles["line-metrics"] == "Line between settings"


def test_where_all_ended_well_it_says_so(store):
    study = toy_study(store, train=Fit())
    assert "All tasks ended well." in page_of(study, store).text
    assert "outcomes.png" not in store.names(f"{RUN}/plots")


def test_the_best_is_marked_and_called_exploratory(rendered):
    text = rendered("all kinds").page.text
    assert text.count("★") == 2  # in the table and in the sentence about it
    assert "exploratory" in text


def test_text_of_the_study_is_escaped(store):
    study = toy_study(store, train=Fit(), question="Is a < b & <script>alert(1)</script>?", pairs=[], groups=[])
    write_report(study, store, RUN)
    page = store.read(f"{RUN}/report.html").decode()
    assert "<script>alert" not in page
    assert "a &lt; b &amp; &lt;script&gt;" in page


def test_pictures_of_an_older_report_are_deleted_and_nothing_else(store, tmp_path):
    study = toy_study(store, train=Fit(), pairs=[], groups=[])
    store.write(f"{RUN}/plots/of-an-older-one.png", b"")
    store.write(f"{RUN}/plots/notes.txt", b"mine")
    write_report(study, store, RUN)
    names = store.names(f"{RUN}/plots")
    assert "of-an-older-one.png" not in names
    assert "notes.txt" in names
    assert len(names) > 2

    folder = tmp_path / "copied"
    (folder / "plots").mkdir(parents=True)
    (folder / "report.html").write_text('<a href="plots/of-an-older-one.png">PNG</a>')
    for name in ("of-an-older-one.png", "mine.png"):
        (folder / "plots" / name).write_bytes(b"")
    copy(store, RUN, folder)
    assert {p.name for p in (folder / "plots").iterdir()} == {*names, "mine.png"} - {"notes.txt"}


def test_a_family_of_which_every_run_diverged_has_a_report(store):
    train = Fit(rho=grid(0.0, 0.05), diverge_above=-1.0)
    study = toy_study(store, train=train, seeds=[1], probes=[], pairs=[], groups=[], baseline={"rho": 0.0})
    write_report(study, store, RUN)
    text = store.read(f"{RUN}/report.html").decode()
    assert "every run of both settings diverged" in text
    assert not {"verdicts.png", "seeds.png"} & set(store.names(f"{RUN}/plots"))


def test_nothing_that_a_run_leaves_holds_the_password_of_its_store(tmp_path):
    store = Store(str(tmp_path))
    plan = make_plan(toy_sweep(probes=[Brittle()]), store)
    outcome = carry_out(plan, store)
    uri = "s3://key:opensesame@bucket/study"
    errors = dict.fromkeys(outcome.errors, f"OSError: {uri} is gone")
    outcome = replace(outcome, errors=errors, command=f"python -m orchestrator sweep toy.py --store {uri}")
    study = Study.from_plan(plan, store, outcome)
    study.save(store, RUN)
    study.write_tables(store, RUN)
    write_report(study, store, RUN)
    left = {p.name: p.read_bytes() for p in (tmp_path / RUN).rglob("*") if p.is_file()}
    assert {"study.json", "report.html", "trials.parquet", "timeline.png"} <= set(left)
    assert [name for name, data in left.items() if b"opensesame" in data] == []
    assert b"s3://key:***@bucket/study is gone" in left["study.json"]
    assert b"--store s3://key:***@bucket/study" in left["report.html"]


def test_a_stored_run_has_no_timeline_and_no_division_by_its_time(store):
    toy_study(store, train=Fit())
    plan = make_plan(toy_sweep(train=Fit()), store)
    study = Study.from_plan(plan, store, carry_out(plan, store))
    assert "timeline" not in {p.name for p in pictures(study)}
    assert "were stored before" in page_of(study, store).text


def test_damaged_or_missing_arrays_spoil_no_report(store):
    study = toy_study(store, train=Fit(), pairs=[], groups=[])
    first, second, *_ = study.of_column("Curvature")
    with study.file(first.key, "slices.npz") as path:
        path.unlink()
    with study.file(second.key, "slices.npz") as path:
        path.write_bytes(b"not a zip")
    assert "curvature-2-slices" in {p.name for p in pictures(study)}


@pytest.mark.parametrize("below", [0, 1])
def test_a_curve_that_a_task_has_not_written_is_no_damage(store, below):
    study = toy_study(store, train=Fit(), probes=[Choosy(below=below)], pairs=[], groups=[])
    assert ("choosy-1-more" in {p.name for p in pictures(study)}) == (below > 0)
    assert not study.damaged


def test_pictures_are_named_after_their_columns(rendered):
    names = [p.name for p in rendered("things go wrong").pictures]
    assert len(names) == len(set(names))
    assert {"fit-metrics", "fit-1-history", "curvature-1-spectrum", "curvature-k-5-1-spectrum"} <= set(names)
    assert {"line-metrics", "line-1-path", "line-matrix", "ensemble-metrics", "timeline"} <= set(names)


# Views


def test_a_numeric_parameter_has_a_numeric_axis(store):
    (view,) = views(toy_study(store, pairs=[], probes=[], groups=[]))
    assert (view.label, view.numeric, view.joined) == ("rho", True, True)
    assert [view.x[i,] for i in range(5)] == [0.0, 0.02, 0.05, 0.1, 0.2]


def test_of_two_parameters_one_makes_the_lines(store):
    train = Fit(rho=grid(0.0, 0.1, 0.2), width=grid(16, 32))
    (view,) = views(toy_study(store, train=train, pairs=[], probes=[], groups=[]))
    assert (view.label, view.names) == ("rho", ("width=16", "width=32"))


def test_settings_that_form_no_grid_have_an_axis_for_each_parameter(store):
    plan = make_plan(toy_sweep(train=Fit(), pairs=[], probes=[], groups=[]), store)
    plan.settings.clear()
    sweep = toy_sweep(train=Fit(rho=grid(0.0), width=grid(1)), pairs=[], probes=[], groups=[])
    for i, (rho, width) in enumerate([(0.1, 10), (0.13, 17), (0.2, 12)]):
        plan.add_setting(sweep.setting(i, {"train.rho": rho, "train.width": width}))
    found = views(Study.from_plan(plan, store, carry_out(plan, store)))
    assert [(v.label, v.joined) for v in found] == [("rho", False), ("width", False)]


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([0, 0.02, 0.05, 0.1, 0.2], "linear"),
        ([1e-4, 1e-3, 1e-2], "log"),
        ([0, 1e-4, 1e-2, 1], "symlog"),
        ([-1, 0, 1], "linear"),
        ([0], "linear"),
        ([32, 64, 128], "log"),
        ([32, 64, 100], "linear"),
    ],
)
def test_scales(values, scale):
    assert scale_of(values)[0] == scale


def test_of_many_settings_some_are_drawn_the_best_among_them(store):
    values = [i / 60 for i in range(31)]  # accuracy is best at rho = 1/6, the eleventh
    study = toy_study(store, train=Fit(rho=grid(*values)), seeds=[0], probes=[], pairs=[], groups=[])
    chosen = chosen_settings(study, 8)
    assert len(chosen) == 8
    assert (chosen[0], chosen[-1]) == (0, 30)
    assert study.best() in chosen
    captions = {p.name: p.caption for p in pictures(study)}
    assert "8 of 31 settings are drawn" in captions["fit-1-history"]


def test_of_many_settings_those_are_drawn_that_differ_in_little(store):
    rhos = [i / 60 for i in range(6)]
    study = toy_study(store, train=Fit(rho=grid(*rhos), width=grid(16, 32)), seeds=[0], probes=[], pairs=[], groups=[])
    chosen = chosen_settings(study, 8)
    best = study.settings[study.best()].config["train.width"]
    assert [study.settings[s].config for s in chosen] == [{"train.rho": r, "train.width": best} for r in rhos]
    captions = {p.name: p.caption for p in pictures(study)}
    assert f"6 of 12 settings are drawn, with width={best}, the best by mean among them." in captions["fit-1-history"]


# The terminal


def test_the_table_over_seeds(store):
    lines = printed(toy_study(store))
    text = "\n".join(lines)
    assert "★ rho=0.2" in text
    assert "0.9380 ± 0.0090" in text
    assert "95 % t interval over 3 seeds" in text


def test_a_narrow_terminal_loses_columns_and_says_so(store):
    lines = printed(toy_study(store), width=50)
    assert all(len(line) <= 50 for line in lines)
    assert "more columns in the report" in " ".join(lines)


def test_long_labels_are_told_to_their_ends_in_a_terminal(store):
    optimizers = grid(Sideways(angle=1.0), Sideways(angle=2.0), Downhill())
    train = Fit(rho=grid(0.1, 0.2), width=grid(8, 16), optimizer=optimizers, epochs=grid(3, 4))
    study = toy_study(store, train=train, seeds=[0], pairs=[])
    assert max(len(s.label) for s in study.settings) > 38
    lines = printed(study)
    text = " ".join(line[:40].replace("★", "").strip() for line in lines)
    assert all(s.label in text for s in study.settings)
    assert all(len(line) <= 80 for line in lines)


def test_the_table_says_where_seeds_are_missing_and_that_one_seed_is_one(store, tmp_path):
    study = toy_study(store, train=Fit(rho=grid(0.0, 0.2), diverge_above=0.1))
    assert any("rho=0.2" in line and "[2]" in line for line in printed(study))
    alone = toy_study(Store(str(tmp_path / "other")), seeds=[0])
    assert "one seed: no intervals" in "\n".join(printed(alone))


# Words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (True, "yes"), ("a", "a"), (0.90624, "0.9062"), (12, "12"), (-3, "−3"), (0.0, "0"),
        (46.2755, "46.28"), (123456.7, "123457"), (1.3e-5, "1.30 × 10⁻⁵"), (float("inf"), "∞"), (float("nan"), "nan"),
    ],
)  # fmt: skip
def test_numbers(value, text):
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("mean", "half", "text"),
    [
        (0.90597, 0.0089967, "0.9060 ± 0.0090"),
        (50.6, 28.7, "51 ± 29"),
        (1234.5, 250.0, "1234 ± 250"),
        (-0.5, 0.25, "−0.50 ± 0.25"),
        (1.5e-6, 2e-7, "(1.50 ± 0.20) × 10⁻⁶"),
        (0.5, 0.0, "0.5000 ± 0"),
        (0.5, None, "0.5000"),
        (0.0, 0.03, "0.000 ± 0.030"),
        (2e-9, 0.5, "0.00 ± 0.50"),
        (1.00000001, 2e-8, "1.0000 ± 2 × 10⁻⁸"),
        (1234.5, 0.0025, "1234.5 ± 0.0025"),
    ],
)
def test_intervals_in_words(mean, half, text):
    assert words.with_half_width(mean, half) == text


def test_durations():
    assert [words.duration(s) for s in (0.04, 3.21, 75, 750, 12_000)] == [
        "40 ms",
        "3.2 s",
        "75 s",
        "12 min",
        "3 h 20 min",
    ]
