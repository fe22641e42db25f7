"""Draw lines and stacked bars as SVG, without a script and without a style of its own.

Colours come from the page's classes, so that the drawing follows dark mode and print. Lines differ
by dashes as well as by colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from worker.figures.axes import Axis

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 88, 526, 14, 284


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One series."""

    kind: str
    """The page's class for it."""

    label: str
    points: tuple[tuple[float, float], ...]
    has_marks: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """A line across the plot."""

    value: float
    label: str


def line_plot(
    name: str,
    title: str,
    lines: Sequence[Line],
    *,
    x: Axis,
    y: Axis,
    x_title: str,
    y_title: str,
    levels: Sequence[Level] = (),
) -> Markup:
    """Return a plot of lines.

    Args:
        name: of the plot, unique in the page.
        title: what it shows, for those who do not see it.
        lines: the series.
        x: the horizontal axis.
        y: the vertical one.
        x_title: what it counts.
        y_title: likewise.
        levels: lines across, with their labels.
    """
    parts = [_grid(x, y, x_title, y_title)]
    for level in levels:
        at = y.place(level.value)
        parts.append(
            Markup(
                '<line class="level" x1="{}" x2="{}" y1="{}" y2="{}"/>'
                '<text class="level-label" x="{}" y="{}">{}</text>'
            ).format(LEFT, RIGHT, at, at, LEFT + 6, at - 4, level.label)
        )
    for line in lines:
        places = [(x.place(one), y.place(other)) for one, other in line.points]
        path = " ".join(f"{across},{down}" for across, down in places)
        parts.append(Markup('<polyline class="line m-{}" points="{}"/>').format(line.kind, path))
        if line.has_marks:
            marks = (
                Markup('<circle class="mark m-{}" cx="{}" cy="{}" r="4"/>').format(
                    line.kind, across, down
                )
                for across, down in places
            )
            parts.append(Markup("").join(marks))
    return _svg(name, title, HEIGHT, parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One stacked bar."""

    label: str
    pieces: tuple[tuple[str, float], ...]
    """The page's class and the value of each piece."""


def bar_plot(name: str, title: str, bars: Sequence[Bar], *, x: Axis, x_title: str) -> Markup:
    """Return stacked horizontal bars, each under its label.

    Args:
        name: of the plot, unique in the page.
        title: what it shows, for those who do not see it.
        bars: from top to bottom.
        x: the axis of the values; it starts at 0.
        x_title: what it counts.
    """
    row = 54
    bottom = TOP + row * len(bars)
    parts = _columns(x, bottom)
    for number, bar in enumerate(bars):
        top, total = TOP + row * number, 0.0
        parts.append(
            Markup('<text class="bar-label" x="{}" y="{}">{}</text>').format(
                x.start, top + 18, bar.label
            )
        )
        for kind, value in bar.pieces:
            left, right = x.place(total), x.place(total + value)
            total += value
            parts.append(
                Markup('<rect class="piece c-{}" x="{}" y="{}" width="{}" height="22"/>').format(
                    kind, left, top + 24, round(right - left, 2)
                )
            )
    middle = (x.start + x.end) / 2
    parts.append(
        Markup('<text class="axis" text-anchor="middle" x="{}" y="{}">{}</text>').format(
            middle, bottom + 44, x_title
        )
    )
    return _svg(name, title, bottom + 56, parts)


def _grid(x: Axis, y: Axis, x_title: str, y_title: str) -> Markup:
    parts = []
    for value, label in y.ticks:
        at = y.place(value)
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>'
                '<text class="tick" text-anchor="end" x="{}" y="{}">{}</text>'
            ).format(LEFT, RIGHT, at, at, LEFT - 6, at + 5, label)
        )
    parts += _columns(x, BOTTOM)
    middle = (TOP + BOTTOM) / 2
    parts.append(
        Markup(
            '<text class="axis" text-anchor="middle" x="{}" y="{}">{}</text>'
            '<text class="axis axis-y" text-anchor="middle" '
            'transform="translate(14 {}) rotate(-90)">{}</text>'
        ).format((LEFT + RIGHT) / 2, BOTTOM + 46, x_title, middle, y_title)
    )
    return Markup("").join(parts)


def _columns(x: Axis, bottom: float) -> list[Markup]:
    """Return a line and a label for each tick of the horizontal axis."""
    parts = []
    for value, label in x.ticks:
        at = x.place(value)
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>'
                '<text class="tick" text-anchor="middle" x="{}" y="{}">{}</text>'
            ).format(at, at, TOP, bottom, at, bottom + 20, label)
        )
    return parts


def _svg(name: str, title: str, height: float, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg role="img" aria-labelledby="{name}-title" viewBox="0 0 {width} {height}">'
        '<title id="{name}-title">{title}</title>{parts}</svg>'
    ).format(name=name, title=title, width=WIDTH, height=height, parts=Markup("").join(parts))
