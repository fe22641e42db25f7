"""Find the state that reversible runs hold, for those who count memory."""

from __future__ import annotations

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from momentum_core.reversible.function import LeaveRun


def held_state(output: Tensor) -> list[Tensor]:
    """Return position, velocity and remainders of all runs in the graph that led to `output`.

    Runs inside the blocks of another run are not in that graph: they live while their block runs.
    """
    state: list[Tensor] = []
    waiting = [] if output.grad_fn is None else [output.grad_fn]
    seen: set[Node] = set(waiting)
    while waiting:
        node = waiting.pop()
        if isinstance(node, BackwardCFunction) and node._forward_cls is LeaveRun:
            state += node.tape.state.tensors()
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return state
