"""Loss and accuracy over the steps, as far as a job has come: drawn as in the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from worker.contract.job import Event, Job
from worker.figures.axes import Axis, linear_axis
from worker.figures.drawing import BOTTOM, LEFT, RIGHT, TOP, Level, Line, line_plot

MAX_POINTS = 300
"""Drawn of each line; more could not be told apart."""

LABELS = {"momentum": "momentum network", "original": "original"}


@dataclass(frozen=True, slots=True)
class Curve:
    """A drawing, with what it shows as a table."""

    name: str
    caption: str
    drawing: Markup
    networks: tuple[str, ...]
    last: tuple[str, ...]
    """The newest figure of each network, in words."""


def curves(job: Job, events: Sequence[Event]) -> list[Curve]:
    """Return the curves for which there are at least two points."""
    told = [
        event.data
        for event in events
        if event.kind == "progress" and event.attempt == job.attempt and "loss" in event.data
    ]
    losses, percents = _Series(), _Series()
    for one in told:
        network = one.get("network") or "momentum"
        losses.add(network, one["step"], one["loss"])
        if one.get("metric_percent") is not None:
            percents.add(network, one["step"], one["metric_percent"])
    target = told[-1].get("target_percent") if told else None
    found = []
    if losses.is_line:
        found.append(_loss_curve(losses))
    if percents.is_line:
        found.append(_percent_curve(percents, target))
    return found


class _Series:
    """Points of each network, in the order of their steps; a number that is none is left out."""

    def __init__(self) -> None:
        self._points: dict[str, dict[float, float]] = {}

    def add(self, network: str, step: float, value: float) -> None:
        if math.isfinite(value):
            self._points.setdefault(network, {})[step] = value

    @property
    def is_line(self) -> bool:
        return any(len(points) > 1 for points in self._points.values())

    @property
    def steps(self) -> list[float]:
        return [step for points in self._points.values() for step in points]

    @property
    def values(self) -> list[float]:
        return [value for points in self._points.values() for value in points.values()]

    @property
    def networks(self) -> tuple[str, ...]:
        return tuple(self._points)

    def last(self) -> list[float]:
        return [points[max(points)] for points in self._points.values()]

    def lines(self) -> list[Line]:
        return [
            Line(kind=network, label=LABELS.get(network, network), points=_thinned(points))
            for network, points in self._points.items()
        ]


def _thinned(points: dict[float, float]) -> tuple[tuple[float, float], ...]:
    """Return at most so many points, the last one among them."""
    ordered = sorted(points.items())
    stride = math.ceil(len(ordered) / MAX_POINTS)
    return tuple(ordered[(len(ordered) - 1) % stride :: stride])


def _loss_curve(losses: _Series) -> Curve:
    return Curve(
        name="loss",
        caption="Loss",
        drawing=line_plot(
            "loss",
            "Loss of the last steps against the step",
            losses.lines(),
            x=_steps(losses),
            y=linear_axis(losses.values, start=BOTTOM, end=TOP, label=lambda one: f"{one:g}"),
            x_title="step",
            y_title="loss",
        ),
        networks=losses.networks,
        last=tuple(f"{value:.4f}" for value in losses.last()),
    )


def _percent_curve(percents: _Series, target: float | None) -> Curve:
    levels = [] if target is None else [Level(target, f"goal {target:.2f} %")]
    return Curve(
        name="percent",
        caption="Held-back images",
        drawing=line_plot(
            "percent",
            "Percentage on held-back images against the step, with the goal as a dashed level",
            percents.lines(),
            x=_steps(percents),
            y=linear_axis(
                [*percents.values, *(level.value for level in levels)],
                start=BOTTOM,
                end=TOP,
                label=lambda one: f"{one:g} %",
                from_zero=False,
            ),
            x_title="step",
            y_title="held-back images",
            levels=levels,
        ),
        networks=percents.networks,
        last=tuple(f"{value:.2f} %" for value in percents.last()),
    )


def _steps(series: _Series) -> Axis:
    return linear_axis(series.steps, start=LEFT, end=RIGHT, label=lambda one: f"{one:g}")
