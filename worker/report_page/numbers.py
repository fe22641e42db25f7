"""Figures of a report by their path (RFC 6901), written for people and marked for programs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from worker.figures.forms import FORMS

_PLACEHOLDER = re.compile(r"\{(/[^|{}]*)\|([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class Numbers:
    """The figures of one report."""

    report: Mapping[str, Any]

    def at(self, path: str) -> Any:
        """Return the value at a path such as `/memory/original/peak_bytes`; None if it is absent.

        In a name `/` is written `~1`, and `~` as `~0`.
        """
        value: Any = self.report
        for word in path.split("/")[1:]:
            key = word.replace("~1", "/").replace("~0", "~")
            try:
                value = value[int(key)] if isinstance(value, list) else value[key]
            except (KeyError, IndexError, TypeError, ValueError):
                return None
        return value

    def text(self, path: str, form: str) -> str:
        """Return the value at a path in one of `FORMS`, or that it was not measured."""
        value = self.at(path)
        return "not measured" if value is None else FORMS[form](value)

    def html(self, path: str, form: str, missing: str = "not measured") -> Markup:
        """Return it in an element that names its path and its exact value."""
        value = self.at(path)
        if value is None:
            return Markup('<span class="missing">{}</span>').format(missing)
        return Markup('<data value="{}" data-path="{}" data-form="{}">{}</data>').format(
            value, path, form, FORMS[form](value)
        )

    def fill_text(self, sentence: str) -> str:
        """Return a sentence whose placeholders `{path|form}` are filled."""
        return _PLACEHOLDER.sub(lambda found: self.text(found[1], found[2]), sentence)

    def fill_html(self, sentence: str) -> Markup:
        """Return likewise, with elements in place of plain figures."""
        pieces, at = [], 0
        for found in _PLACEHOLDER.finditer(sentence):
            pieces += [escape(sentence[at : found.start()]), self.html(found[1], found[2])]
            at = found.end()
        return Markup("").join([*pieces, escape(sentence[at:])])


def key(name: str) -> str:
    """Return a name as part of a path."""
    return name.replace("~", "~0").replace("/", "~1")
