"""Reads a report's page as a program would: its figures, its other words, its drawings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@dataclass
class Figure:
    path: str
    value: str
    form: str
    text: str = ""


@dataclass
class PageReader(HTMLParser):
    """Collects what is in a page."""

    figures: list[Figure] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    _inside: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    @classmethod
    def of(cls, page: str) -> PageReader:
        reader = cls()
        reader.feed(page)
        return reader

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.elements.append((tag, given))
        if tag not in ("meta", "line", "rect", "circle", "polyline"):
            self._inside.append(tag)
        if tag == "data":
            self.figures.append(Figure(given["data-path"], given["value"], given["data-form"]))

    def handle_endtag(self, tag):
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data):
        if "data" in self._inside:
            self.figures[-1].text += data
        elif not {"style", "svg", "title"} & set(self._inside):
            self.words.append(data)


def at(report, path):
    """Follow a JSON pointer, by hand."""
    for word in path.split("/")[1:]:
        name = word.replace("~1", "/").replace("~0", "~")
        report = report[int(name)] if isinstance(report, list) else report[name]
    return report


def says(text: str, value, form: str) -> bool:
    """Whether the text of a figure is its value, to the digits that are written."""
    if form == "text":
        return text == str(value)
    found = re.fullmatch(r"(-?[\d,]+(?:\.\d+)?(?:e[+-]\d+)?)(?: ?(\w+|%))?", text)
    assert found, text
    number, unit = float(found[1].replace(",", "")), found[2]
    digits = len(found[1].partition(".")[2])
    scale = {
        "bytes": UNITS.get(unit or "", 1),
        "seconds": {"s": 1, "ms": 1e-3}.get(unit or "", 1),
        "ratio": 1,
        "percent": 1,
    }.get(form, 1)
    if form == "number":
        return abs(number - value) <= 1e-3 * abs(value)
    return abs(number - value / scale) <= 0.5 * 10.0**-digits + 1e-9
