"""Figures of many steps in little room: every so many steps one is kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MAX_POINTS = 512


@dataclass(slots=True)
class Series:
    """Points of a curve; when there are too many, every second one goes."""

    stride: int = 1
    """Steps from one point to the next."""

    points: list[dict[str, Any]] = field(default_factory=list)

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Keep the figures of a step, counted from 1, if its turn has come."""
        if (step - 1) % self.stride:
            return
        self.points.append({"step": step, **figures})
        if len(self.points) > MAX_POINTS:
            self.stride *= 2
            self.points = [one for one in self.points if (one["step"] - 1) % self.stride == 0]
