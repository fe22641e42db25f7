"""The blocks before the first one that anything needs a gradient of: they run in plain floats.

The backward pass never gets there, so neither state nor activations of them are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from momentum_core.reversible import replay
from momentum_core.reversible.captured import check_captured, edge_of
from momentum_core.reversible.evaluation import check_output
from momentum_core.reversible.fixed_point import work_dtype
from momentum_core.reversible.float_rule import take_step
from momentum_core.reversible.replay import Circumstances
from momentum_core.reversible.run import Run


@dataclass(frozen=True, slots=True)
class Prefix:
    """Where a run stands after its first blocks."""

    num_blocks: int
    x: Tensor
    v: Tensor | None
    """The velocity; None if it is 0 or the initial velocity has yet to be computed."""

    history: tuple[Circumstances, ...] = ()
    """What the blocks depended on, so that a step that is repeated finds the same buffers."""


def pass_prefix(run: Run, x: Tensor) -> Prefix:
    """Run the blocks that nothing needs a gradient of.

    Gradients are enabled all the same, one block at a time: only a graph shows that a block uses a
    tensor which needs a gradient and is neither its parameter nor an argument.

    Raises:
        ReversibilityError: a block uses such a tensor.
    """
    num_blocks = _first_with_gradient(run, x)
    if num_blocks == 0:
        return Prefix(0, x, None)
    history: list[Circumstances] = []
    position, velocity = x.to(work_dtype(x.dtype)), None
    if run.initial_velocity is not None:
        output = _run_once(run, run.initial_velocity, run.where_it_starts, x, history)
        velocity = output.to(position.dtype)
    for number in range(num_blocks):
        seen = position.to(x.dtype)
        output = _run_once(run, run.modules[number], run.where(number), seen, history)
        with torch.no_grad():
            position, velocity = take_step(
                position, velocity, output, seen, run.rules[number], float(run.gamma)
            )
    return Prefix(num_blocks, position.to(x.dtype), velocity, tuple(history))


def _run_once(
    run: Run, module: nn.Module, where: str, x: Tensor, history: list[Circumstances]
) -> Tensor:
    given = x.clone()  # a block may write into its input
    call = run.arguments.call(module, given, ())
    output, circumstances = replay.first_run(
        module, call, run.arguments.tensors, x.device, keep_graph=True
    )
    history.append(circumstances)
    check_output(output, x.shape, where)
    edge = edge_of(output)
    if edge is not None:
        check_captured(edge.node, module, (given,), where)
    with torch.no_grad():
        return output.view_as(output)


def _first_with_gradient(run: Run, x: Tensor) -> int:
    """Return the number of the first block that a gradient is needed of, or N."""
    learned = run.initial_velocity
    if x.requires_grad or run.arguments.differentiable or (learned and _needs_grad(learned)):
        return 0
    for number, module in enumerate(run.modules):
        is_trainable = any(tensor is not None for tensor in run.trainable[number])
        if is_trainable or _needs_grad(module):
            return number
    return len(run.modules)


def _needs_grad(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
