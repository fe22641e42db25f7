"""What each part of a converted network keeps for the backward pass, as a value, and the choice.

Forward passes run through the parts in turn and backward passes return through them, so a step's
peak is that of one part plus what all parts before it hold:

    peak = max_i ( sum_{j < i} held_j + max(forward_i, backward_i) )

A part's own figures are found on fake tensors (`momentum_core.memory.part`), once for each
strategy; the search then only adds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from momentum_core.config import Strategy
from momentum_core.errors import ConfigError
from momentum_core.memory.part import PartProfile

_MOST_COMPARED = 10_000
_FORWARD_SHARE = 1.0 / 3.0
"""Of a training step without recomputation: its backward pass costs two forward passes."""


@dataclass(frozen=True, slots=True)
class PlannedPart:
    """A run, or a chain of modules outside the runs, and what it keeps."""

    name: str
    """Of its first module."""

    strategy: Strategy
    reason: str


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What every part keeps, and what a training step is predicted to cost."""

    batch_size: int
    """Of the example input, to which all bytes belong."""

    parts: tuple[PlannedPart, ...]
    slowdown: float
    """Time of a step over that of the original, by the count of forward passes."""

    original_peak_bytes: int
    """Above parameters, gradients, buffers and input."""

    converted_peak_bytes: int
    """Likewise."""

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "batch_size": self.batch_size,
            "slowdown": self.slowdown,
            "original_peak_bytes": self.original_peak_bytes,
            "converted_peak_bytes": self.converted_peak_bytes,
            "parts": [
                {"name": part.name, "strategy": part.strategy, "reason": part.reason}
                for part in self.parts
            ],
        }

    def lines(self) -> list[str]:
        """Return the plan as lines of text."""
        ratio = self.converted_peak_bytes / max(1, self.original_peak_bytes)
        lines = [
            f"predicted peak of a step, batch {self.batch_size}: "
            f"{self.converted_peak_bytes / 2**20:.1f} MiB above weights, gradients and input, "
            f"{ratio:.2f}x the original's {self.original_peak_bytes / 2**20:.1f} MiB; "
            f"time {self.slowdown:.2f}x by the count of forward passes"
        ]
        lines += [f"  {part.name}: {part.strategy}, {part.reason}" for part in self.parts]
        return lines


@dataclass(frozen=True, slots=True)
class PartChoices:
    """A part and its strategies, the preferred one first."""

    name: str
    cost: float
    """Of its forward pass: operations, in any unit."""

    profiles: Mapping[Strategy, PartProfile]


EXTRA_FORWARDS: Mapping[Strategy, float] = {
    "reverse": 1.0,
    "recompute": 1.0,
    "recompute_whole": 2.0,
    "store": 0.0,
}
"""Forward passes of a part beyond the first."""

REASONS: Mapping[Strategy, str] = {
    "reverse": "its last state is rewound",
    "recompute": "its blocks' inputs are kept",
    "recompute_whole": "only its input is kept, and it is run twice more",
    "store": "its activations are kept",
}


def choose_strategies(
    parts: Sequence[PartChoices], *, max_slowdown: float, fixed: Mapping[str, Strategy]
) -> tuple[dict[str, Strategy], float]:
    """Return the strategy of every part that makes the peak smallest, and the slowdown.

    Of equal peaks the faster choice wins. All choices are compared if that takes no more than a
    fraction of a second; else one part is changed at a time, first until the limit is kept.

    Args:
        parts: in the order of the forward pass.
        max_slowdown: limit of the time of a step over that of the original.
        fixed: what the caller decided, by part.

    Raises:
        ConfigError: a decision is for no part, or cannot be; or the limit cannot be kept.
    """
    check_strategies(fixed, {part.name: tuple(part.profiles) for part in parts})
    options: list[tuple[Strategy, ...]] = [
        (fixed[part.name],) if part.name in fixed else tuple(part.profiles) for part in parts
    ]
    names = [part.name for part in parts]
    fastest = dict(
        zip(names, (min(one, key=EXTRA_FORWARDS.__getitem__) for one in options), strict=True)
    )
    if slowdown(parts, fastest) > max_slowdown:
        raise ConfigError(
            f"max_slowdown {max_slowdown:g} cannot be kept: with the strategies that are given a "
            f"step takes {slowdown(parts, fastest):.2f} times as long; raise it or store more parts"
        )

    def rank(one: dict[str, Strategy]) -> tuple[int, float]:
        return peak(parts, one), slowdown(parts, one)

    if math.prod(map(len, options)) <= _MOST_COMPARED:
        every = (dict(zip(names, one, strict=True)) for one in itertools.product(*options))
        chosen = min((one for one in every if slowdown(parts, one) <= max_slowdown), key=rank)
    else:
        chosen = _descend(parts, options, fastest, max_slowdown)
    return chosen, slowdown(parts, chosen)


def _descend(
    parts: Sequence[PartChoices],
    options: Sequence[tuple[Strategy, ...]],
    chosen: dict[str, Strategy],
    max_slowdown: float,
) -> dict[str, Strategy]:
    """Change one part at a time, from a choice that keeps the limit, as long as that helps."""
    while True:
        changed = [
            chosen | {part.name: strategy}
            for part, able in zip(parts, options, strict=True)
            for strategy in able
        ]
        allowed = [one for one in changed if slowdown(parts, one) <= max_slowdown]
        best = min(allowed, key=lambda one: (peak(parts, one), held(parts, one)))
        if (peak(parts, best), held(parts, best)) >= (peak(parts, chosen), held(parts, chosen)):
            return chosen
        chosen = best


def check_strategies(
    fixed: Mapping[str, Strategy], able: Mapping[str, tuple[Strategy, ...]]
) -> None:
    """Raise unless every decision is for a part that can have the strategy.

    Raises:
        ConfigError: one is not.
    """
    for name, strategy in fixed.items():
        if name not in able:
            raise ConfigError(
                f"strategies names {name!r}, which is no run and no recomputed part; there are "
                f"{', '.join(able)}"
            )
        if strategy not in able[name]:
            raise ConfigError(
                f"{name} cannot have the strategy {strategy!r}; it can have {', '.join(able[name])}"
            )


def peak(parts: Sequence[PartChoices], chosen: Mapping[str, Strategy]) -> int:
    """Return the predicted peak of the parts, in bytes."""
    before, highest = 0, 0
    for part in parts:
        profile = part.profiles[chosen[part.name]]
        highest = max(highest, before + profile.forward, before + profile.backward)
        before += profile.held
    return highest


def held(parts: Sequence[PartChoices], chosen: Mapping[str, Strategy]) -> int:
    """Return what all parts hold between the passes, in bytes."""
    return sum(part.profiles[chosen[part.name]].held for part in parts)


def slowdown(parts: Sequence[PartChoices], chosen: Mapping[str, Strategy]) -> float:
    """Return the time of a step over that of the original, by the count of forward passes."""
    total = sum(part.cost for part in parts)
    extra = sum(part.cost * EXTRA_FORWARDS[chosen[part.name]] for part in parts)
    return 1.0 + _FORWARD_SHARE * extra / total if total else 1.0


def explain(
    parts: Sequence[PartChoices], chosen: Mapping[str, Strategy], fixed: Mapping[str, Strategy]
) -> tuple[PlannedPart, ...]:
    """Return the parts with the reason of each choice: what the next best would cost."""
    planned = []
    for part in parts:
        strategy = chosen[part.name]
        others = [
            (peak(parts, {**chosen, part.name: other}) - peak(parts, chosen), other)
            for other in part.profiles
            if other != strategy
        ]
        if part.name in fixed:
            why = "as was asked for"
        else:
            why = ", ".join(
                f"{other} would add {added / 2**20:.1f} MiB"
                for added, other in sorted(others)
                if added > 0
            )
        reason = REASONS[strategy] + (f" ({why})" if why else "")
        planned.append(PlannedPart(part.name, strategy, reason))
    return tuple(planned)
