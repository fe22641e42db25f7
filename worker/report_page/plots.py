"""The report's plots: what is drawn of which figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from worker.figures.axes import Axis, linear_axis, log_axis
from worker.figures.drawing import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Bar,
    Level,
    Line,
    bar_plot,
    line_plot,
)
from worker.report_page.sentences import LABELS

PHASES = ("forward", "backward", "optimizer_step")
CATEGORIES = (
    "parameters",
    "gradients",
    "optimizer_state",
    "buffers",
    "input",
    "activations",
    "reversible_state",
    "temporaries",
)


def measured_methods(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the path of every measured method's figures, in the order of `LABELS`."""
    paths = {name: f"/memory/rivals/{name}" for name in report["memory"]["rivals"]}
    paths |= {"original": "/memory/original", "momentum": "/memory/momentum"}
    return {name: paths[name] for name in LABELS if name in paths}


def live_bytes(report: Mapping[str, Any]) -> Markup:
    """Return bytes alive over the step, one line for each method."""
    lines = []
    for name, figures in _figures(report).items():
        points, at = [], 0.0
        for phase in figures["phases"]:
            width = figures["phase_seconds"][phase["name"]]["median"]
            levels = phase["live_bytes"]
            for number, level in enumerate(levels):
                points.append((at + width * (number + 0.5) / len(levels), level))
            at += width
        lines.append(Line(kind=name, label=LABELS[name], points=tuple(points)))
    x = linear_axis(
        (point[0] for line in lines for point in line.points),
        start=LEFT,
        end=RIGHT,
        label=_short_seconds,
    )
    return line_plot(
        "live",
        "Bytes alive over one training step, a line for each method",
        lines,
        x=x,
        y=_bytes_axis([point[1] for line in lines for point in line.points]),
        x_title="time in the step",
        y_title="bytes alive",
    )


def peak_by_category(report: Mapping[str, Any]) -> Markup:
    """Return what is alive at each method's peak, by category."""
    bars = [
        Bar(
            label=LABELS[name],
            pieces=tuple(
                (category, figures["peak_by_category"].get(category, 0)) for category in CATEGORIES
            ),
        )
        for name, figures in _figures(report).items()
    ]
    totals = [sum(value for _, value in bar.pieces) for bar in bars]
    unit = _unit(max(totals))
    x = linear_axis(
        [total / unit for total in totals],
        start=14,
        end=RIGHT - 14,
        label=lambda value: f"{value:g}",
    )
    scaled = [
        Bar(label=bar.label, pieces=tuple((kind, value / unit) for kind, value in bar.pieces))
        for bar in bars
    ]
    title = "Bytes alive at the peak of each method, by category"
    return bar_plot("categories", title, scaled, x=x, x_title=_UNIT_NAMES[unit])


def against_batch(report: Mapping[str, Any]) -> Markup:
    """Return predicted GPU memory against the batch size, with the budgets as levels."""
    prediction = report["prediction"]
    lines = [
        Line(
            kind=name,
            label=LABELS[name],
            points=tuple(
                (point["batch_size"], point["terms"]["total"] / 2**30) for point in method["points"]
            ),
        )
        for name, method in prediction["methods"].items()
    ]
    budgets = [budget["gib"] for budget in prediction["budgets"]]
    most = 2 * max(budgets, default=64)
    shown = [
        Line(kind=one.kind, label=one.label, points=tuple(p for p in one.points if p[1] <= most))
        for one in lines
    ]
    points = [point for line in shown for point in line.points]
    return line_plot(
        "batch",
        "Predicted GPU memory of a training step against the batch size, a line for each method; "
        "the memory of GPUs as dashed levels",
        shown,
        x=log_axis(
            [point[0] for point in points], start=LEFT, end=RIGHT, label=lambda one: f"{one:,.0f}"
        ),
        y=log_axis(
            [*(point[1] for point in points), *budgets],
            start=BOTTOM,
            end=TOP,
            label=lambda one: f"{one:g} GiB",
        ),
        x_title="batch size",
        y_title="predicted GPU memory",
        levels=[Level(gib, f"{gib:g} GiB") for gib in budgets if gib not in (12, 48)],
    )


def against_depth(report: Mapping[str, Any]) -> Markup:
    """Return predicted peaks against the number of blocks of the longest run."""
    points = report["prediction"]["depth"]["points"]
    lines = [
        Line(
            kind=name,
            label=LABELS[name],
            points=tuple((point["num_blocks"], point["peak_bytes"][name]) for point in points),
            has_marks=True,
        )
        for name in points[0]["peak_bytes"]
    ]
    return line_plot(
        "depth",
        "Predicted peak of a training step against the number of blocks of the longest run",
        lines,
        x=linear_axis(
            [point["num_blocks"] for point in points],
            start=LEFT,
            end=RIGHT,
            label=lambda one: f"{one:g}",
        ),
        y=_bytes_axis([point[1] for line in lines for point in line.points]),
        x_title="blocks in the run",
        y_title="predicted peak",
    )


def accuracy_against_step(report: Mapping[str, Any]) -> Markup:
    """Return the percentage on held-back images against the step, with the goal."""
    refinement = report["refinement"]
    points = tuple((one["step"], one["percent"]) for one in refinement["evaluations"])
    levels = [Level(refinement["original_percent"], "original")]
    if refinement.get("target_percent") is not None:
        levels.append(Level(refinement["target_percent"], "goal"))
    values = [*(point[1] for point in points), *(level.value for level in levels)]
    return line_plot(
        "accuracy",
        "Percentage on held-back images against the refinement step, with the goal",
        [Line(kind="momentum", label=LABELS["momentum"], points=points, has_marks=True)],
        x=linear_axis(
            [point[0] for point in points], start=LEFT, end=RIGHT, label=lambda one: f"{one:g}"
        ),
        y=linear_axis(
            values, start=BOTTOM, end=TOP, label=lambda one: f"{one:g} %", from_zero=False
        ),
        x_title="step",
        y_title="held-back images",
        levels=levels,
    )


def gamma_trials(report: Mapping[str, Any]) -> Markup:
    """Return the agreement with the original against the bits that gamma costs, for each trial."""
    trials = report["gamma_search"]
    points = tuple(
        sorted((trial["bits_per_element"], trial["agreement_percent"]) for trial in trials)
    )
    return line_plot(
        "gamma",
        "Agreement with the original against the bits for each element and block, for each gamma "
        "that was tried",
        [Line(kind="momentum", label="tried", points=points, has_marks=True)],
        x=linear_axis(
            [point[0] for point in points], start=LEFT, end=RIGHT, label=lambda one: f"{one:g}"
        ),
        y=linear_axis(
            [point[1] for point in points],
            start=BOTTOM,
            end=TOP,
            label=lambda one: f"{one:g} %",
            from_zero=False,
        ),
        x_title="bits for each element and block",
        y_title="same answer as the original",
    )


def _figures(report: Mapping[str, Any]) -> dict[str, Any]:
    memory = report["memory"]
    found = memory["rivals"] | {name: memory[name] for name in ("original", "momentum")}
    return {name: found[name] for name in LABELS if name in found}


_UNIT_NAMES = {1: "bytes", 2**10: "KiB", 2**20: "MiB", 2**30: "GiB"}


def _unit(most: float) -> int:
    return max(unit for unit in _UNIT_NAMES if unit <= max(most, 1))


def _bytes_axis(values: list[float]) -> Axis:
    unit = _unit(max(values))
    axis = linear_axis(
        [value / unit for value in values], start=BOTTOM, end=TOP, label=lambda one: f"{one:g}"
    )
    ticks = tuple((value * unit, f"{label} {_UNIT_NAMES[unit]}") for value, label in axis.ticks)
    return replace(axis, low=axis.low * unit, high=axis.high * unit, ticks=ticks)


def _short_seconds(value: float) -> str:
    return f"{value:g} s" if value >= 1 or value == 0 else f"{value * 1000:g} ms"
