"""Every number of sam_rho's report is traced to the stored artifacts."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from page_numbers import Marked, Page, numbers_in, shows
from recomputed import EXACT, LABELS, SEEDS, SETTINGS, SOURCES, Artifacts, own_intervals

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the study has run."""
    if ready := os.environ.get("TRACED_STORE"):  # to look at one that is there
        return Path(ready)
    folder = tmp_path_factory.mktemp("traced")
    command = [sys.executable, "-m", "orchestrator", "sweep", str(ROOT / "sweeps/sam_rho.py"), "--smoke"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [*command, "--seeds", "5", "--store", "store"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "store"


@pytest.fixture(scope="module")
def artifacts(store: Path) -> Artifacts:
    found = Artifacts(store)
    assert len(found.kind("train")) == 25 and len(found.kind("probe")) == 125
    assert len(found.kind("pair")) == 2 * (5 * 10 + 10 * 5) and len(found.kind("group")) == 5
    return found


@pytest.fixture(scope="module")
def page(store: Path) -> Page:
    (report,) = store.glob("runs/*/*/report.html")
    return Page(report.read_text(encoding="utf-8"))


FORMS: dict[str, Callable[[str, float], bool]] = {
    "p": lambda text, p: text == "< 0.001" if p < 1e-3 else shows(text, p),
    "hours": lambda text, seconds: shows(text, seconds / 3600),
    "MiB": lambda text, size: shows(text, size / 2**20),
    "percent": lambda text, share: shows(text.removesuffix("%").strip(), 100 * share),
    "duration": lambda text, seconds: abs(_seconds(text) - seconds) <= (30 if "min" in text else 0.5),
}


def _seconds(text: str) -> float:
    units = {"ms": 0.001, "s": 1, "min": 60, "h": 3600}
    return sum(float(n) * units[unit] for n, unit in re.findall(r"([\d.]+) (ms|s|min|h)", text))


def name_of(number: Marked) -> str:
    return ", ".join(f"{k}={v}" for k, v in number.about.items()) + f": {number.text!r}"


def test_every_marked_number_is_what_the_artifacts_say(page: Page, artifacts: Artifacts) -> None:
    wrong, seen = [], Counter[str]()
    for number in page.marked:
        at = number.about
        if at["stat"] in ("metrics_hidden", "points"):
            continue  # see test_the_data_behind_the_panels_of_trials
        try:
            expected = float(SOURCES[at["of"]](artifacts, at))
        except KeyError as unknown:
            wrong.append(f"no way to trace {unknown} of {name_of(number)}")
            continue
        seen[at["of"]] += 1
        # Chances that are integrals are found here by another rule than there.
        near = {"rel_tol": 1e-4, "abs_tol": 1e-6} if at["of"] == "power" or "effect" in at["stat"] else EXACT
        if "bootstrap" in at["stat"]:  # 9,999 of the 3,125 equally likely resamples, with repetitions
            near = {"rel_tol": 0.05, "abs_tol": 1e-9}
        if not math.isclose(number.value, expected, **near):
            wrong.append(f"{name_of(number)}: the artifacts say {expected!r}")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(page.marked)} numbers:", *wrong[:30]])
    assert seen["summary"] > 500 and seen["pair"] > 1000 and seen["trial"] >= 300 and seen["verdict"] >= 4 * 10, seen
    assert {"group", "exploratory", "power", "sharpness", "winner", "cost", "count", "declared"} <= set(seen), seen


def test_every_marked_number_reads_as_its_value(page: Page) -> None:
    wrong = []
    for number in page.marked:
        text, value = number.text, number.value
        value /= 10.0 ** int(number.about.get("exponent", 0))
        if not FORMS.get(number.about.get("form", ""), shows)(text, value):
            wrong.append(name_of(number))
    assert not wrong, "\n".join(wrong[:30])


# Sentences, captions and all other text


def test_numbers_in_sentences_stand_in_the_tables_too(page: Page, artifacts: Artifacts) -> None:
    """What a finding says in words has only numbers that are marked in its table, or say how it was found."""
    wrong = []
    for words in page.words:
        if words.about.get("stat") != "sentence":
            continue
        kind = words.about["finding"]
        sources = {"answer": ("declared", "count"), "sharpness": ("sharpness", "matched")}.get(kind, (kind,))
        pool = []
        for m in page.marked:
            alike = words.about.get("setting") in (None, m.about.get("setting"))
            if m.about["of"] in ("declared", "count") or (m.about["of"] in sources and alike):
                pool.append(m.value)
        pool += [100 * v for v in pool if 0 <= v <= 1] + [-v for v in pool]
        # The power wanted, how many seeds it takes, and the level of two one-sided tests' interval.
        pool += {"power": [80, 90], "fewer_seeds": [10], "verdict": [90]}.get(kind, [])
        if kind == "verdict":  # also what it says of a contrast alone
            (contrast,) = [i for i, label in enumerate(LABELS) if words.text.startswith(f"{label} against ")]
            pool += own_intervals(artifacts, contrast)
        text = words.text
        for label in sorted(LABELS, key=len, reverse=True):
            text = text.replace(label, "")
        for found in numbers_in(text):
            if not any(shows(found, value) for value in pool):
                wrong.append(f"{found} in {words.text!r}")
    assert not wrong, "\n".join(wrong)


def test_no_other_number_stands_on_the_page(page: Page, artifacts: Artifacts) -> None:
    """Outside of marked numbers, sentences and captions there are names, dates, versions and words with digits only."""
    named = {str(seed) for seed in SEEDS} | {str(rho) for _, rho in SETTINGS} | {f"{rho:g}" for _, rho in SETTINGS}
    told = {m[name] for m in artifacts.manifests for name in ("platform", "label")}
    told |= {t for m in artifacts.manifests for t in (*m["versions"].values(), m["source"]["command"])}
    wrong = []
    for words in page.words:
        free = {"glossary", "key"} & words.classes or {"code", "pre", "h1", "summary"} & set(words.tags)
        if free or words.about.get("stat") == "sentence" or words.about.get("of") == "caption":
            continue
        text = words.text
        for known in sorted([*LABELS, *told], key=len, reverse=True):
            text = text.replace(known, "")
        text = re.sub(r"\b[0-9a-f]{12,64}\b", "", text)  # keys and hashes
        text = re.sub(r"\d{4}-\d\d-\d\d( \d\d:\d\d)?", "", text)
        text = re.sub(r"\b95 %|seeds for [89]0 %|SHA-256|× 10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", "", text)
        left = [n for n in numbers_in(text) if not (n in named and {"td", "th", "a"} & set(words.tags))]
        if left:
            wrong.append(f"{left} in {words.text[:200]!r} ({'>'.join(words.tags[2:])})")
    assert not wrong, "\n".join(wrong)


def test_the_data_behind_the_panels_of_trials(page: Page, artifacts: Artifacts) -> None:
    """What a click on a trial shows: every result, and curves that lie on those in the artifacts."""
    data = json.loads(page.scripts["trial-data"])
    paths = [path for path, *_ in data["metrics"]]
    assert data["settings"] == LABELS and len(data["trials"]) == len(artifacts.trial_of)
    hidden = next(m.value for m in page.marked if m.about["stat"] == "metrics_hidden")
    assert hidden == sum(not shown for _, _, shown, _ in data["metrics"])
    most = next(m.value for m in page.marked if m.about["stat"] == "points")
    measured = {
        p for p, values in artifacts.trials.items() if any(isinstance(v, (int, float)) for v in values.values())
    }
    assert measured - set(paths) <= {"Train.diverged"}
    curves = 0
    for row in data["trials"]:
        trial = (row["s"], int(row["r"]))
        for path, value in zip(paths, row["v"], strict=True):
            expected = artifacts.trials[path][trial]
            assert value == expected or math.isclose(value, expected, rel_tol=1e-12), (path, trial)
        for curve, place, quantities in row["c"]:
            about = data["curves"][curve]
            arrays = artifacts.arrays(about["column"], trial)
            for index, values in quantities:
                name = about["names"][index].replace(" ", "_")
                stored = np.concatenate([a[name].ravel() for a in arrays if name in a])
                assert len(values) == len(data["xs"][place]) <= most
                assert all(v is None or np.isclose(stored, v, rtol=6e-4, atol=1e-12).any() for v in values), (
                    name,
                    trial,
                )
                curves += 1
    assert curves > 25 * 10
