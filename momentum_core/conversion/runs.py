"""Finds runs: residual blocks that hand their output to each other and to nobody else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from momentum_core.conversion.trace import Argument, ModuleCall, TensorToken, Trace

Chain = tuple[ModuleCall, ...]


@dataclass(frozen=True, slots=True)
class FoundRuns:
    """The runs of a model, and the blocks that are in none."""

    runs: tuple[Chain, ...]
    left_out: tuple[tuple[ModuleCall, str], ...]
    """Blocks that stay, with the reason."""


def find_runs(evaluated: Trace, trained: Trace | None) -> FoundRuns:
    """Find the longest chains of residual blocks.

    A block is a module whose output is its input plus something computed from it, of the same shape
    and type. The next block of a chain takes the output of the one before, which nothing else uses,
    and the same other arguments. Where modules are nested, the longest chain wins.

    Args:
        evaluated: a forward pass in evaluation mode.
        trained: one in training mode; None if there could be none.
    """
    blocks, refused = _blocks(evaluated)
    chains: list[Chain] = []
    for chain in _chains_of(blocks, evaluated):
        if any(call.overlaps(taken) for other in chains for taken in other for call in chain):
            continue
        if trained is None or _holds_in(chain, trained):
            chains.append(chain)
        else:
            refused |= dict.fromkeys(chain, _CHANGES_IN_TRAINING)
    chains.sort(key=lambda chain: chain[0].entered)
    return FoundRuns(tuple(chains), tuple(_left_out(evaluated, chains, refused)))


_ONE_BLOCK = "a run of one block saves nothing"
_CHANGES_IN_TRAINING = (
    "in training its parent may leave it out or use its output elsewhere; switch layer drop off"
)


def _blocks(trace: Trace) -> tuple[list[ModuleCall], dict[ModuleCall, str]]:
    """Return the residual calls that may join a run, and the reasons of the others."""
    counts: dict[str, int] = defaultdict(int)
    for call in trace.calls:
        counts[call.name] += 1
    blocks, refused = [], {}
    for call in trace.calls:
        if call.residual is None:
            continue
        reason = _obstacle(call, trace, counts[call.name])
        if reason is None:
            blocks.append(call)
        else:
            refused[call] = reason
    return blocks, refused


def _obstacle(call: ModuleCall, trace: Trace, num_calls: int) -> str | None:
    assert call.residual is not None
    if num_calls > 1:
        return f"it is called {num_calls} times in one forward pass"
    if call.residual.place is None:
        return "its input lies inside a tuple or dictionary among its arguments"
    if call.writes_input:
        return "it writes into its own input"
    given = {argument.value for argument in call.tensors}
    others = [one for one in call.outputs[1:] if one is not None]
    if any(not isinstance(one, TensorToken) or one not in given for one in others):
        return "it returns more than its output, and that is computed inside it"
    if any(call.contains(time) for time, depends in trace.provenance.reads if depends):
        return "its computation depends on the values in its input (an `if` or `.item()`)"
    if trace.leaks(call):
        return "something computed inside it is used outside"
    return None


def _chains_of(blocks: list[ModuleCall], trace: Trace) -> list[Chain]:
    """Return the longest chain that ends at each block, longest first."""
    by_output: dict[Any, list[ModuleCall]] = defaultdict(list)
    length: dict[ModuleCall, int] = {}
    before: dict[ModuleCall, ModuleCall] = {}
    # In the order in which they ended, a block's predecessors come first.
    for call in blocks:
        assert call.residual is not None
        candidates = by_output[call.residual.value]
        fitting = [one for one in candidates if _follows(call, one, trace)]
        best = max(fitting, key=lambda one: length[one], default=None)
        length[call] = 1 if best is None else length[best] + 1
        if best is not None:
            before[call] = best
        by_output[call.outputs[0]].append(call)
    chains = []
    for call in sorted(blocks, key=lambda one: -length[one]):
        chain = [call]
        while chain[-1] in before:
            chain.append(before[chain[-1]])
        if len(chain) > 1:
            chains.append(tuple(reversed(chain)))
    return chains


def _follows(call: ModuleCall, previous: ModuleCall, trace: Trace) -> bool:
    """Whether `call` takes the output of `previous`, and nothing else does."""
    assert call.residual is not None
    assert previous.residual is not None
    number = previous.outputs[0].number
    return (
        previous.left <= call.entered
        and trace.is_used_only_in(call, number, since=previous.left)
        and call.residual.place == previous.residual.place
        and call.returns_tensor == previous.returns_tensor
        and len(call.outputs) == len(previous.outputs)
        and not any(
            previous.left < time <= call.entered and depends
            for time, depends in trace.provenance.reads
        )
        and _same(_others(previous), _others(call))
    )


def _others(call: ModuleCall) -> list[Argument]:
    return [one for one in call.arguments if one is not call.residual]


def _same(one: Sequence[Argument], other: Sequence[Argument]) -> bool:
    return len(one) == len(other) and all(
        a.path == b.path and (a.value is b.value or _equal(a.value, b.value))
        for a, b in zip(one, other, strict=True)
    )


def _equal(one: Any, other: Any) -> bool:
    try:
        return type(one) is type(other) and bool(one == other)
    except (TypeError, ValueError, RuntimeError):
        return False  # what cannot be compared is taken to differ


def _holds_in(chain: Chain, trained: Trace) -> bool:
    """Whether the chain's modules hand their outputs to each other in training mode, too."""
    found = {name: call for call in trained.calls if (name := call.name)}
    calls = [found.get(call.name) for call in chain]
    if any(call is None or trained.num_calls(call.name) != 1 for call in calls):
        return False
    present = [call for call in calls if call is not None]
    if any(call.residual is None or trained.leaks(call) for call in present):
        return False
    return all(
        call.residual is not None
        and call.residual.value == previous.outputs[0]
        and _follows(call, previous, trained)
        for previous, call in pairwise(present)
    )


def _left_out(
    trace: Trace, chains: list[Chain], refused: dict[ModuleCall, str]
) -> list[tuple[ModuleCall, str]]:
    """Return the blocks that stay, outermost ones only, in the order of their calls."""
    taken = [call for chain in chains for call in chain]
    kinds = {type(call.module) for call in taken}
    found: list[tuple[ModuleCall, str]] = []

    def rank(call: ModuleCall) -> tuple[bool, int, int]:
        # Blocks that would make a run say more than the module that holds them all.
        return refused.get(call) != _CHANGES_IN_TRAINING, call.entered, -call.left

    for call in sorted(trace.calls, key=rank):
        is_block = call.residual is not None or type(call.module) in kinds
        if not is_block or any(call.overlaps(other) for other in taken):
            continue
        if any(call is other or call.overlaps(other) for other, _ in found):
            continue
        found.append((call, refused.get(call) or _reason(call)))
    return sorted(found, key=lambda item: item[0].entered)


def _reason(call: ModuleCall) -> str:
    if call.residual is not None:
        return _ONE_BLOCK
    shapes = [shape for shape in call.shapes if shape is not None]
    if shapes and call.output_shape is not None and shapes[0] != call.output_shape:
        return f"{_written(shapes[0])} -> {_written(call.output_shape)}"
    return "no identity path leads from its input to its output"


def _written(shape: tuple[int, ...]) -> str:
    """Write a shape without its batch dimension."""
    return "x".join(map(str, shape[1:]))
