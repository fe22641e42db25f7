"""Lay a run out as autograd nodes, or walk through it without any."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from momentum_core.errors import StateRangeError
from momentum_core.reversible import fixed_point as fixed
from momentum_core.reversible import replay
from momentum_core.reversible.evaluation import Block
from momentum_core.reversible.function import (
    EnterRun,
    InitialVelocity,
    LeaveRun,
    PassBlock,
    Step,
)
from momentum_core.reversible.increment import BlockRule
from momentum_core.reversible.prefix import Prefix, pass_prefix
from momentum_core.reversible.pull_back import carrier
from momentum_core.reversible.range_check import RangeCheck, encode
from momentum_core.reversible.remainder import RemainderStore
from momentum_core.reversible.run import Run, check_input, refuse_forward_mode
from momentum_core.reversible.sharding import check_not_sharded
from momentum_core.reversible.store_plan import plan_store
from momentum_core.reversible.switches import device_kind, is_simulated
from momentum_core.reversible.tape import Tape
from momentum_core.reversible.tiles import CPU_TILE_ELEMENTS, plan_tiles
from momentum_core.reversible.update import IntegerState

_SIMULATED_TILES = 2
"""Looked at when memory is predicted: the first, and one that begins while its like is freed."""


def run_with_gradients(run: Run, x: Tensor) -> Tensor:
    """Return the run's output, with the graph that rewinds it."""
    check_input(x, run.name)
    prefix = pass_prefix(run, x)
    x = prefix.x
    if prefix.num_blocks == len(run.modules):
        return x
    refuse_forward_mode(run, x)
    tape, blocks = create_tape(run, prefix)
    position = EnterRun.apply(tape, x) if x.requires_grad else carrier(x)
    velocity = carrier(x)
    arguments = run.arguments.differentiable
    if tape.has_initial_velocity:
        step = Step(tape, initial_block(run))
        tensors = (*step.block.parameters, *arguments)
        position, velocity = InitialVelocity.apply(step, position, *tensors)
    for block in blocks:
        step = Step(tape, block)
        rule = (tensor for tensor in block.trainable if tensor is not None)
        tensors = (*rule, *block.parameters, *arguments)
        position, velocity = PassBlock.apply(step, position, velocity, *tensors)
    output: Tensor = LeaveRun.apply(tape, position)
    return output


def create_tape(run: Run, prefix: Prefix) -> tuple[Tape, tuple[Block, ...]]:
    """Return a tape that stands at the end of `prefix`, and the blocks from there on.

    Raises:
        StateRangeError: position or velocity does not fit the state.
    """
    first, x, v = prefix.num_blocks, prefix.x, prefix.v
    learned = run.initial_velocity is not None and first == 0
    num_blocks = len(run.modules) - first
    num_pushes = num_blocks if learned or v is not None else num_blocks - 1
    plan = plan_store(run.gamma, num_pushes)
    check = RangeCheck(run.fixed_point, deferred=x.device.type != "cpu" or is_simulated())
    check.where = f"{run.name}, input"
    try:
        with torch.no_grad():
            integers = encode(x.detach(), run.fixed_point.scale, check, "it")
            bound_x = check.largest_seen
            velocity = torch.zeros_like(integers)
            if v is not None:
                scale = run.fixed_point.velocity_scale
                velocity.copy_(encode(v, scale, check, "the velocity"))
    except StateRangeError:
        replay.restore_buffers(prefix.history)
        raise
    tile_elements = CPU_TILE_ELEMENTS if device_kind(x.device) == "cpu" else None
    tiles = plan_tiles(integers, tile_elements)
    if is_simulated():
        # Nothing is computed, and each further piece would hold what one before it held.
        tiles = tiles[:_SIMULATED_TILES]
    state = IntegerState(
        integers,
        velocity,
        # The store holds on to what it is like, and the state may let go of the position.
        RemainderStore(plan, integers if learned else velocity),
        run.fixed_point,
        x.dtype,
        tiles,
        bound_x,
        float(run.fixed_point.limit) if learned or v is not None else 0.0,
        run.fused,
    )
    tape = Tape(
        state,
        run.arguments,
        check,
        name=run.name,
        backward=run.backward,
        gamma=float(run.gamma),
        position_needs_grad=x.requires_grad,
        has_initial_velocity=learned,
        starts_at_rest=v is None,
        earlier=prefix.history,
    )
    corrections = fixed.corrections(plan, num_blocks, run.fixed_point.guard_bits)
    blocks = tuple(
        Block(
            run.modules[first + number],
            run.where(first + number),
            _trained(run.modules[first + number], run.where(first + number)),
            run.rules[first + number],
            run.trainable[first + number],
            corrections[number],
            number >= num_blocks - num_pushes,
        )
        for number in range(num_blocks)
    )
    return tape, blocks


def initial_block(run: Run) -> Block:
    """Return the initial velocity's module in the form that a tape runs."""
    assert run.initial_velocity is not None
    module, where = run.initial_velocity, run.where_it_starts
    # What flows between the nodes is the gradient of gamma * v.
    rule = BlockRule(float(run.gamma), includes_skip=False)
    return Block(module, where, _trained(module, where), rule, (None, None, None), 0.0, False)


def _trained(module: nn.Module, where: str) -> tuple[Tensor, ...]:
    check_not_sharded(module, where)
    return tuple(parameter for parameter in module.parameters() if parameter.requires_grad)
