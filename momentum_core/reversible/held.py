"""Find the state that reversible runs hold, for those who count memory."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from momentum_core.reversible.function import LeaveRun


def held_state(output: Tensor) -> list[Tensor]:
    """Return what all runs hold in the graph that led to `output`: state or positions.

    Runs inside the blocks of another run are not in that graph: they live while their block runs.
    """
    state: list[Tensor] = []
    waiting: list[Any] = [] if output.grad_fn is None else [output.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        is_run = getattr(node, "_forward_cls", None) is LeaveRun
        if is_run and node.tape is not None:  # None once its backward pass has begun
            state += node.tape.held_tensors()
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return state
