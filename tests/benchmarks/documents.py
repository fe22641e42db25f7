"""Puts what was measured into the documents: tables between two comments, figures as files.

A document says where, and nothing else writes there:

    <!-- measured: PART/NAME -->
    <!-- end of measured -->
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.findings import Curves, Finding, Panels, Table, load
from tests.benchmarks.record import RECORDS, read

DOCS = RECORDS.parent
FIGURES = DOCS / "figures"

KNOWN_MISSES = frozenset(
    (
        "resnet152: time over checkpoint_each_block",
        "96 basic blocks: time over checkpoint_each_block",
        "96 bottlenecks: time over checkpoint_each_block",
        "EfficientNet-Lite0, calibrated on 1,458 parts of them, 6 of each: "
        "% of answers that change",
    )
)
"""Claims that were recorded as not held; ARCHITECTURE says of each why."""

_BLOCK = re.compile(
    r"<!-- measured: (?P<part>[\w-]+)/(?P<name>[\w-]+) -->\n.*?<!-- end of measured -->", re.S
)


def filled(document: Path) -> str:
    """Return a document's text with what the records say.

    Raises:
        LookupError: a block names what no record has, or has no end.
    """
    text = document.read_text()
    if text.count("<!-- measured: ") != text.count("<!-- end of measured -->"):
        raise LookupError(f"{document.name}: a measured block has no end, or an end no block")

    def block(match: re.Match[str]) -> str:
        part, name = match["part"], match["name"]
        return (
            f"<!-- measured: {part}/{name} -->\n{_text(document, part, name)}\n"
            "<!-- end of measured -->"
        )

    return _BLOCK.sub(block, text)


def named_in(document: Path) -> set[tuple[str, str]]:
    """Return part and name of each block of a document."""
    return {(one["part"], one["name"]) for one in _BLOCK.finditer(document.read_text())}


def figures() -> Iterator[tuple[Path, str]]:
    """Draw every recorded curve and picture; yield each file and its text."""
    from tests.benchmarks.drawing import draw

    for path in sorted(RECORDS.glob("*.json")):
        for finding in load(read(path)):
            if isinstance(finding, Curves | Panels):
                yield _figure(path.stem, finding.name), draw(finding)


def find(part: str, name: str) -> tuple[dict[str, Any], Finding]:
    """Return a part's record and one of its findings.

    Raises:
        LookupError: there is none of that name.
    """
    path = RECORDS / f"{part}.json"
    if not path.exists():
        raise LookupError(f"part {part!r} was not recorded: run it with --record")
    kept = read(path)
    for finding in load(kept):
        if isinstance(finding, Table | Curves | Panels) and finding.name == name:
            return kept, finding
    raise LookupError(f"the record of {part!r} has nothing named {name!r}")


def _text(document: Path, part: str, name: str) -> str:
    kept, finding = find(part, name)
    if isinstance(finding, Table):
        shown = finding.markdown()
    elif isinstance(finding, Curves | Panels):
        to_figure = os.path.relpath(_figure(part, name), document.parent)
        shown = f"![{finding.title}]({to_figure})"
    else:
        raise LookupError(f"{part}/{name} is a claim, which no document shows by itself")
    note = f"{finding.note}\n\n" if finding.note else ""
    return f"{shown}\n\n{note}{_provenance(kept)}"


def _provenance(kept: dict[str, Any]) -> str:
    machine, torch_version = kept["machine"], kept["versions"]["torch"]
    seeds = f", seeds {_range(kept['seeds'])}" if len(kept["seeds"]) > 1 else ""
    return (
        f"<sub>`make benchmark PART={kept['part']}`, {kept['measured']}: "
        f"{machine['cores']} cores of {machine['processor']}, device {machine['device']}, "
        f"torch {torch_version}{seeds}.</sub>"
    )


def _range(seeds: list[int]) -> str:
    return f"{seeds[0]} to {seeds[-1]}"


def _figure(part: str, name: str) -> Path:
    return FIGURES / f"{part}-{name}.svg"
