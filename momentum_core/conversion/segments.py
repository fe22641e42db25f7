"""Finds what is worth computing twice outside the runs: stems, transitions, single blocks."""

from __future__ import annotations

from torch import nn

from momentum_core.conversion.runs import Chain
from momentum_core.conversion.trace import ModuleCall, TensorToken, Trace

MIN_GAIN = 0.25
"""Bytes that a segment must free, as a share of the bytes of the input that it keeps instead."""


def find_segments(
    trace: Trace, trained: Trace | None, runs: tuple[Chain, ...]
) -> tuple[Chain, ...]:
    """Find modules outside the runs whose activations are better recomputed than kept.

    A segment takes one tensor and returns one. Modules without children that follow each other
    (convolution, norm, activation, pooling) are one segment.

    Args:
        trace: a forward pass in evaluation mode.
        trained: one in training mode; None if there could be none.
        runs: what is converted.
    """
    taken = [call for run in runs for call in run]
    marking = _marking(trained)
    chains: list[list[ModuleCall]] = []
    # Outermost modules first: what lies inside one is part of it.
    for call in sorted(trace.calls, key=lambda call: (call.entered, -call.left)):
        if (
            any(call.overlaps(other) for other in taken)
            or call.name in marking
            or not _may_be_recomputed(call, trace)
        ):
            continue
        taken.append(call)
        if chains and _continues(chains[-1][-1], call, trace):
            chains[-1].append(call)
        elif not call.writes_input:  # what is kept for the second time must stay as it is
            chains.append([call])
    return tuple(tuple(chain) for chain in chains if _gain(chain, trace) >= MIN_GAIN)


def _marking(trained: Trace | None) -> set[str]:
    """Return the modules that mark tensors of their own as needing a gradient."""
    if trained is None:
        return set()
    marks = trained.provenance.marks
    return {call.name for call in trained.calls if any(call.contains(time) for time in marks)}


def _may_be_recomputed(call: ModuleCall, trace: Trace) -> bool:
    """Whether a call takes one tensor, returns one, and would do the same a second time."""
    return (
        _is_whole(call)
        and trace.num_calls(call.name) == 1
        and len(call.arguments) == 1
        and call.arguments[0].place == 0
        and isinstance(call.arguments[0].value, TensorToken)
        and call.returns_tensor
        and not any(call.contains(time) for time, _ in trace.provenance.reads)
        and not trace.leaks(call)
    )


def _is_whole(call: ModuleCall) -> bool:
    """Whether a module is one piece: a sequence of composite modules is taken apart."""
    if not isinstance(call.module, nn.Sequential | nn.ModuleList):
        return True
    return all(not list(child.children()) for child in call.module.children())


def _continues(previous: ModuleCall, call: ModuleCall, trace: Trace) -> bool:
    """Whether two childless siblings hand a tensor to each other and to nobody else."""
    token = previous.outputs[0]
    return (
        call.parent is previous.parent
        and not list(call.module.children())
        and not list(previous.module.children())
        and call.arguments[0].value == token
        and trace.is_used_only_in(call, token.number, since=previous.left)
    )


def _gain(chain: list[ModuleCall], trace: Trace) -> float:
    """Return the bytes made inside, the output left out, over those of the input."""
    made = trace.provenance.made_bytes
    inside = sum(made[call.left] - made[call.entered] for call in chain)
    output = made[chain[-1].left] - made[chain[-1].left - 1]
    kept = _num_elements(chain[0].shapes[0]) * 4
    return (inside - output) / max(1, kept)


def _num_elements(shape: tuple[int, ...] | None) -> int:
    count = 1
    for size in shape or ():
        count *= size
    return count
