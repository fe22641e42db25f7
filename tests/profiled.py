"""What torch's own profiler saw of a training step, for tests and benchmarks."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Profiled:
    """Bytes that a step allocated, from the profiler's memory events."""

    levels: list[int]
    """After every outermost operator."""

    highest: int
    """At any moment: workspaces inside operators included, which no tensor shows."""

    left: int
    """When the step was over."""

    @property
    def peak(self) -> int:
        """Most between operators."""
        return max(self.levels)


def profiled(step: Callable[[], Any]) -> Profiled:
    """Run `step` and return what the profiler's memory events say of it."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        kept = step()
    events = list(profile.profiler.kineto_results.events())
    del kept
    changes = sorted(
        (e.start_ns(), at, e.nbytes()) for at, e in enumerate(events) if e.name() == "[memory]"
    )
    times = [time for time, _, _ in changes]
    totals = list(itertools.accumulate(num_bytes for _, _, num_bytes in changes))
    spans = sorted(
        (e.start_ns(), -(e.start_ns() + e.duration_ns()))
        for e in events
        if e.name().startswith("aten::")
    )
    ends: list[int] = []
    for _, negative_end in spans:
        if not ends or -negative_end > ends[-1]:
            ends.append(-negative_end)
    levels = [totals[bisect.bisect_right(times, end) - 1] for end in ends if end >= times[0]]
    return Profiled(levels, max(totals), totals[-1])
