"""The matrix is complete, and so is the document that shows it."""

from __future__ import annotations

import re

from tests.conftest import ROOT
from tests.faults.matrix import MATRIX


def marked() -> dict[int, list[str]]:
    """Return the tests of each row, by file and name."""
    found: dict[int, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        waiting: list[int] = []
        for line in path.read_text().splitlines():
            if row := re.match(r"@pytest\.mark\.fault\((\d+)\)", line):
                waiting.append(int(row[1]))
            elif test := re.match(r"def (test_\w+)", line):
                for number in waiting:
                    found.setdefault(number, []).append(f"{path.name}::{test[1]}")
                waiting = []
    return found


def table() -> str:
    """Return the table of docs/faults.md."""
    rows = ["| | fault | expected |", "| --- | --- | --- |"]
    rows += [f"| {number} | {row.fault} | {row.expected} |" for number, row in MATRIX.items()]
    return "\n".join(rows)


def test_every_row_has_a_test():
    assert sorted(MATRIX) == list(range(1, 41))
    assert sorted(marked()) == sorted(MATRIX)


def test_ten_rows_also_run_on_postgresql():
    rows = [
        row for row, tests in marked().items() if any("test_on_postgres" in one for one in tests)
    ]
    assert len(rows) == 10


def test_the_document_has_the_table():
    assert table() in (ROOT / "docs" / "faults.md").read_text()
