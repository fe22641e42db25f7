"""Axes of a plot: where a value lies, and which values get a tick."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """From values to places in the drawing."""

    low: float
    high: float
    start: float
    """Place of `low`."""

    end: float
    ticks: tuple[tuple[float, str], ...]
    """Value and label."""

    is_log: bool = False

    def place(self, value: float) -> float:
        """Return where a value lies; values outside are moved to the edge."""
        bounded = min(max(value, self.low), self.high)
        share = (self._scaled(bounded) - self._scaled(self.low)) / (
            self._scaled(self.high) - self._scaled(self.low)
        )
        return round(self.start + share * (self.end - self.start), 2)

    def _scaled(self, value: float) -> float:
        return math.log2(value) if self.is_log else value


def linear_axis(
    values: Iterable[float],
    *,
    start: float,
    end: float,
    label: Callable[[float], str],
    from_zero: bool = True,
) -> Axis:
    """Return an axis with about five round ticks around the values."""
    found = list(values)
    high = max(found)
    low = 0.0 if from_zero else min(found)
    if high <= low:  # all of them are alike: a line needs some room around it
        low, high = (0.0, 1.0) if from_zero else (low - 1.0, high)
    step = _round_step((high - low) / 4 or 1.0)
    low = math.floor(low / step) * step
    num = max(1, math.ceil((high - low) / step - 1e-9))
    ticks = tuple((low + at * step, label(low + at * step)) for at in range(num + 1))
    return Axis(low=low, high=ticks[-1][0], start=start, end=end, ticks=ticks)


def log_axis(
    values: Iterable[float], *, start: float, end: float, label: Callable[[float], str]
) -> Axis:
    """Return an axis of powers of two around the values, with at most seven ticks."""
    found = [value for value in values if value > 0]
    first, last = math.floor(math.log2(min(found))), math.ceil(math.log2(max(found)))
    last = max(last, first + 1)
    stride = math.ceil((last - first) / 6)
    ticks = tuple((2.0**power, label(2.0**power)) for power in range(first, last + 1, stride))
    return Axis(low=2.0**first, high=2.0**last, start=start, end=end, ticks=ticks, is_log=True)


def _round_step(step: float) -> float:
    """Return the next step of 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= step * 0.999)
