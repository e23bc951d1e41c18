"""The report: one self-contained page of HTML, and the pictures beside it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..store import Store
from ..study import Study
from ..tables import names as table_names
from . import marked, origins, problems, words
from .answer import answer
from .links import Links
from .pictures import Picture, pictures
from .results import column_table, headline_tables, reading
from .settings import settings_section
from .spread import spread_table
from .trials import trial_section

__all__ = ["render", "write_report"]


def write_report(study: Study, store: Store, run_path: str) -> str:
    """Write report.html and plots/ into the run's folder; returns the path of the page in the store.

    Pictures of an older report that this one does not have are deleted.
    """
    drawn = pictures(study)
    for picture in drawn:
        store.write(f"{run_path}/plots/{picture.name}.png", picture.png)
        store.write(f"{run_path}/plots/{picture.name}.svg", picture.svg)
    page = f"{run_path}/report.html"
    store.write(page, render(study, drawn, store).encode())
    fresh = {picture.name for picture in drawn}
    for name in store.names(f"{run_path}/plots"):
        if name.endswith((".png", ".svg")) and name[:-4] not in fresh:
            store.delete(f"{run_path}/plots/{name}")
    return page


def render(study: Study, drawn: Sequence[Picture], home: Store) -> str:
    """The page as text.

    Args:
        home: the store in which it is to lie; links to artifacts lead there.
    """
    links = Links(study, home)
    question, _, rest = study.question.partition("\n\n")
    trials = trial_section(study, links)
    context = {
        "study": study,
        "question": question or f"The sweep {study.sweep}",
        "background": [p.strip() for p in rest.split("\n\n") if p.strip()],
        "facts": origins.size_and_date(study),
        "answer": answer(study),
        "headline": headline_tables(study),
        "reading": reading(study),
        "spread": spread_table(study, study.findings.primary) if study.findings.primary else None,
        "sections": _sections(study, drawn),
        "pictures_of": {kind: [_picture(p) for p in drawn if p.kind == kind] for kind in ("answer", "findings", "run")},
        "settings": settings_section(study, links),
        "trials": trials,
        "trial_data": _json(trials["data"]),
        "failures": problems.failures(study, links),
        "all_well": problems.all_ended_well(study),
        "provenance": origins.facts(study, links),
        "machines": origins.machines(study),
        "commands": origins.commands(study),
        "files": [f"{name}.parquet" for name in table_names(study)],
        "notices": problems.notices(study),  # last: by now it is known which files are damaged
        "marked": marked,
        "hours": origins.hours,
        "duration": words.duration,
    }
    style, script = _read("report.css"), _read("report.js")
    return _template().render(
        **context,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["breakable"] = _breakable
    return environment.from_string(_read("report.html"))


def _breakable(name: str) -> Markup:
    """A name of many words that a narrow column may break: "generalisation_gap" after the "_"."""
    return Markup("_<wbr>").join(name.split("_"))


def _read(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A source expression of a Content-Security-Policy: this very text, and no other, may be used."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _json(data: Any) -> Markup:
    """Data for a script element, which nothing in the data can end."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


# Sections of pictures


_TITLES = {
    "train": "Training",
    "probe": "Probes of single trials",
    "pair": "Pairs of trials",
    "group": "All seeds of a setting together",
}


def _sections(study: Study, drawn: Sequence[Picture]) -> list[dict[str, Any]]:
    sections = []
    for kind, title in _TITLES.items():
        parts = []
        for column in study.columns_of(kind):
            table = column_table(study, column) if kind in ("pair", "group") else None
            own = [_picture(p) for p in drawn if p.column == column.name and p.kind == kind]
            if own or table:
                parts.append({"name": column.name, "pictures": own, "table": table})
        if parts:
            sections.append({"id": kind, "title": title, "parts": parts})
    return sections


SHARPER = 1.5
"""How much larger than as pixels a picture may be as lines and still be in the page as lines, which print better."""


def _picture(picture: Picture) -> dict[str, str]:
    lines = len(picture.svg) <= SHARPER * len(picture.png)
    kind, data = ("svg+xml", picture.svg) if lines else ("png", picture.png)
    return {
        "name": picture.name,
        "title": picture.title,
        "caption": picture.caption,
        "source": f"data:image/{kind};base64,{base64.b64encode(data).decode()}",
    }
