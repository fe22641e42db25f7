"""What a part of the benchmarks finds: claims, tables, curves, pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Cell = str | int | float | None
"""None is a figure that there is not: an empty cell."""

_PRINTED = 10
"""Points of a curve that are printed."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A measured figure that the documents state, and its upper bound (with a margin for noise)."""

    what: str
    value: float
    at_most: float

    @property
    def holds(self) -> bool:
        """Whether the value keeps the bound."""
        return self.value <= self.at_most

    def __str__(self) -> str:
        mark = "holds" if self.holds else "FAILS"
        return f"{mark}: {self.what}: {self.value:.3f} (at most {self.at_most:g})"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of figures, the first column says of what."""

    name: str
    """Within the part: a document refers to it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    """What a reader must know beside: what differs from the paper, and why."""

    def __str__(self) -> str:
        return f"\n{self.title}\n\n{self.markdown()}\n" + (f"\n{self.note}\n" if self.note else "")

    def markdown(self) -> str:
        """Return the rows as a table of Markdown."""
        lines = [self.columns, ("---",) * len(self.columns)]
        lines += [tuple(_shown(cell) for cell in row) for row in self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True, slots=True)
class Curve:
    """One series of a plot."""

    label: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """A plot of lines."""

    name: str
    title: str
    x_title: str
    y_title: str
    curves: tuple[Curve, ...]
    has_log_x: bool = False
    has_log_y: bool = False
    note: str = ""

    def __str__(self) -> str:
        lines = [f"\n{self.title} ({self.y_title} by {self.x_title})"]
        for curve in self.curves:
            pairs = list(zip(curve.xs, curve.ys, strict=True))
            # A few are enough to read; the record has all of them.
            few = pairs[:: math.ceil(len(pairs) / _PRINTED)]
            values = ", ".join(f"{_shown(x)}: {_shown(y)}" for x, y in few)
            lines.append(f"  {curve.label}: {values}")
        return "\n".join(lines) + (f"\n{self.note}\n" if self.note else "\n")


@dataclass(frozen=True, slots=True)
class Panel:
    """A function of the square's points, from 0 to 1."""

    label: str
    rows: tuple[str, ...]
    """From top to bottom; one digit is a point's value in ninths."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panels:
    """Functions of the plane side by side: decision surfaces."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    half_width: float
    """The square goes from minus this to this, both ways."""

    note: str = ""

    def __str__(self) -> str:
        return f"\n{self.title}: {', '.join(panel.label for panel in self.panels)}\n"


Finding = Claim | Table | Curves | Panels


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What can be measured by its name."""

    about: str
    run: Callable[[], Iterable[Finding]]
    is_quick: bool = False
    """Whether it belongs to what runs without a name, in half an hour in all."""

    seeds: tuple[int, ...] = (0,)


def load(kept: dict[str, Any]) -> list[Finding]:
    """Return the findings that a file keeps (see `record.write`)."""
    return [_load_one(one) for one in kept["findings"]]


def _load_one(kept: dict[str, Any]) -> Finding:
    fields = {name: _frozen(value) for name, value in kept.items() if name != "kind"}
    match kept["kind"]:
        case "claim":
            return Claim(**fields)
        case "table":
            return Table(**fields)
        case "curves":
            curves = tuple(Curve(**_all_frozen(one)) for one in kept["curves"])
            return Curves(**(fields | {"curves": curves}))
        case "panels":
            panels = tuple(Panel(**_all_frozen(one)) for one in kept["panels"])
            return Panels(**(fields | {"panels": panels}))
        case other:
            raise ValueError(f"unknown kind of finding: {other!r}")


def _all_frozen(kept: dict[str, Any]) -> dict[str, Any]:
    return {name: _frozen(value) for name, value in kept.items()}


def _frozen(value: Any) -> Any:
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value


def _shown(cell: Cell) -> str:
    """Return a cell as text: three digits are what a measurement is worth."""
    if cell is None:
        return ""
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.0f}" if 1000 <= abs(cell) < 1e6 else f"{cell:.3g}"
