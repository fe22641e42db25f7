"""Draws findings as SVG, the same text for the same figures."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

from tests.benchmarks.findings import Curves, Panel, Panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

mpl.use("svg")
mpl.rcParams.update(
    {
        "svg.hashsalt": "momentum-zoo",
        "svg.fonttype": "none",
        "font.size": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#dddddd",
        "path.simplify": False,
    }
)

OUR_COLOUR = "#0b6e4f"
COLOURS = ("#c44536", "#3d5a98", "#b07d12", "#7b4b94", "#3f7d86", "#6b6b6b", "#a0527a")
"""Lines are told apart by dashes and marks as well, for those who do not see colours."""

DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKS = ("o", "s", "^", "D", "v", "P", "X")
OURS = ("momentum", "ours", "this project")
_COLUMNS = 4
_WIDE = 30
"""Points from which on marks would hide the line."""


def draw(finding: Curves | Panels) -> str:
    """Return the picture."""
    figure = _curves(finding) if isinstance(finding, Curves) else _panels(finding)
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    # Matplotlib leaves spaces at the ends of lines.
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


def _curves(finding: Curves) -> Figure:
    from matplotlib.figure import Figure

    legend_rows = math.ceil(len(finding.curves) / 2)
    height = 4.2 + 0.24 * legend_rows
    figure = Figure(figsize=(7.2, height))
    bottom = (0.24 * legend_rows + 0.75) / height
    axes: Axes = figure.add_axes((0.11, bottom, 0.86, 1 - bottom - 0.35 / height))
    counts = {True: 0, False: 0}
    for curve in finding.curves:
        is_ours = _is_ours(curve.label)
        number = counts[is_ours]
        counts[is_ours] += 1
        axes.plot(
            curve.xs,
            curve.ys,
            label=curve.label,
            color=OUR_COLOUR if is_ours else COLOURS[number % len(COLOURS)],
            # Solid lines are ours.
            linestyle=DASHES[number % len(DASHES)] if is_ours else DASHES[1 + number % 6],
            marker=MARKS[(number + 3 * is_ours) % len(MARKS)] if len(curve.xs) < _WIDE else "",
            linewidth=2.4 if is_ours else 1.6,
            markersize=5,
        )
    if finding.has_log_x:
        axes.set_xscale("log")
    if finding.has_log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]) if _near_zero(finding) else None)
    axes.set_xlabel(finding.x_title)
    axes.set_ylabel(finding.y_title)
    axes.set_title(finding.title, loc="left", fontsize=11, fontweight="bold")
    figure.legend(loc="lower center", ncols=2, frameon=False, fontsize=10)
    return figure


def _is_ours(label: str) -> bool:
    return label.lower().startswith(OURS) and not label.startswith("momentumnet")


def _near_zero(finding: Curves) -> bool:
    """Return whether zero belongs into the plot: the values go more than half of the way to it."""
    values = [y for curve in finding.curves for y in curve.ys]
    return min(values) >= 0 and min(values) < max(values) / 2


def _panels(finding: Panels) -> Figure:
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(finding.panels))
    rows = math.ceil(len(finding.panels) / columns)
    height = 2.35 * rows + 0.35
    figure = Figure(figsize=(2.15 * columns, height))
    for number, panel in enumerate(finding.panels):
        row, column = divmod(number, columns)
        left, bottom = (column + 0.04) / columns, (rows - 1 - row) * 2.35 / height
        axes = figure.add_axes((left, bottom + 0.04 / height, 0.92 / columns, 1.98 / height))
        _surface(axes, panel, finding.half_width)
    figure.suptitle(finding.title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def _surface(axes: Axes, panel: Panel, half_width: float) -> None:
    values = np.array([[int(digit) / 9 for digit in row] for row in panel.rows])
    side = np.linspace(-half_width, half_width, values.shape[1])
    axes.contourf(side, side[::-1], values, levels=[0, 0.25, 0.5, 0.75, 1.0], cmap="RdYlBu")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal")
    axes.set_title(panel.label, fontsize=7.5)
