"""What commands print: tables and colours at a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

Rows = Sequence[Sequence[str]]

STATE_STYLES = {
    "queued": "cyan",
    "running": "yellow",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "magenta",
}


def is_terminal() -> bool:
    """Return whether a person looks at what is printed."""
    return sys.stdout.isatty()


def short_id(job_id: str) -> str:
    """Return enough of an id to find the job by."""
    return job_id[:8]


def say(text: str = "") -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def say_aside(text: str) -> None:
    """Print a line for the person, which is no result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def print_json(value: Any) -> None:
    """Print one JSON document."""
    say(json.dumps(value, indent=2, ensure_ascii=False))


def print_json_line(value: Any) -> None:
    """Print one JSON document on a line of its own."""
    say(json.dumps(value, ensure_ascii=False))


def print_table(headings: Sequence[str], rows: Rows, *, numbers: Sequence[int] = ()) -> None:
    """Print a table.

    Args:
        headings: of the columns.
        rows: cells; that of a column `state` gets the state's colour at a terminal.
        numbers: places of the columns that are aligned to the right.
    """
    if not is_terminal():
        _print_plain([headings, *rows], numbers)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for at, heading in enumerate(headings):
        table.add_column(heading, justify="right" if at in numbers else "left", overflow="fold")
    for row in rows:
        cells = [escape(cell) for cell in row]
        for at, heading in enumerate(headings):
            style = STATE_STYLES.get(row[at].partition(" ")[0]) if heading == "state" else None
            cells[at] = f"[{style}]{cells[at]}[/]" if style else cells[at]
        table.add_row(*cells)
    Console(highlight=False).print(table)


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and values, a pair in a line."""
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        say(f"{name.ljust(width)}  {value}".rstrip())


def _print_plain(rows: Rows, numbers: Sequence[int]) -> None:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if at in numbers else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        say("  ".join(cells).rstrip())


def local_time(at: datetime | None) -> str:
    """Return a time by this machine's clock."""
    return "-" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def seconds_since(at: datetime, until: datetime | None = None) -> float:
    """Return the seconds from one time to another, or to now."""
    return ((until or datetime.now(UTC)) - at).total_seconds()
