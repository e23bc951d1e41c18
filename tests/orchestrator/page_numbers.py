"""A report taken apart: its marked numbers, its sentences, and what text stands outside of both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser

VOID = {"meta", "img", "link", "br", "hr", "input", "col", "wbr"}
MINUS = "\N{MINUS SIGN}"
NUMBER = re.compile(rf"(?<![\w.])[+{MINUS}-]?\d[\d,]*(?:\.\d+)?(?:\s?×\s?10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))?(?![\w])")
_PLAIN = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


@dataclass(frozen=True)
class Marked:
    """A number on the page: its text, and all data-… attributes that hold for it."""

    text: str
    about: dict[str, str]

    @property
    def value(self) -> float:
        text = self.about["value"]
        return float(text == "True") if text in ("True", "False") else float(text)


@dataclass(frozen=True)
class Words:
    """Text that is no marked number: where it stands (tags, classes) and the data-… attributes that hold for it."""

    text: str
    tags: tuple[str, ...]
    classes: frozenset[str]
    about: dict[str, str]


class Page(HTMLParser):
    """Attributes: marked, words; scripts: the text of each by its id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.marked: list[Marked] = []
        self.words: list[Words] = []
        self.scripts: dict[str, str] = {}
        self._open: list[tuple[str, dict[str, str]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self._open.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        tags = tuple(tag for tag, _ in self._open)
        if "script" in tags:
            self.scripts[self._open[-1][1].get("id", "")] = data
        if not data.strip() or {"script", "style", "title"} & set(tags):
            return
        about = {k.removeprefix("data-"): v for _, own in self._open for k, v in own.items() if k.startswith("data-")}
        if "data-value" in self._open[-1][1]:
            self.marked.append(Marked(data.strip(), about))
        else:
            classes = frozenset(c for _, own in self._open for c in own.get("class", "").split())
            self.words.append(Words(data.strip(), tags, classes, about))


def read_number(text: str) -> float:
    """The number that a text shows, as people write it: −0.0207, 1.3 × 10⁻⁵, 1,024, 1e+06."""
    text = text.replace(MINUS, "-").replace(",", "").replace(" ", "")
    if "×10" in text:
        mantissa, _, power = text.partition("×10")
        return float(mantissa) * 10.0 ** int(power.translate(_PLAIN))
    return float(text)


def shows(text: str, value: float) -> bool:
    """Whether the text is the value to as many places as it has."""
    match = NUMBER.fullmatch(text.strip())
    if match is None:
        return text.strip() == ("yes" if value else "no")
    shown = read_number(text)
    mantissa = text.replace(",", "").partition("×")[0].strip()
    places = len(mantissa.partition(".")[2])
    unit = 10.0 ** (-places + (int(match[1].translate(_PLAIN)) if match[1] else 0))
    return abs(shown - value) <= 0.5000001 * unit + 1e-12 * abs(value)


def numbers_in(text: str) -> list[str]:
    """The numbers that stand in a text."""
    return [m[0] for m in NUMBER.finditer(text)]
