"""Lay a run out as autograd nodes, or walk through it without any."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from momentum_core.errors import ConfigError, ReversibilityError
from momentum_core.reversible import fixed_point as fixed
from momentum_core.reversible.arguments import Arguments
from momentum_core.reversible.fixed_point import FixedPoint
from momentum_core.reversible.float_rule import run_floats
from momentum_core.reversible.function import (
    EnterRun,
    InitialVelocity,
    LeaveRun,
    PassBlock,
    Step,
    carrier,
)
from momentum_core.reversible.remainder import RemainderStore
from momentum_core.reversible.rule import Trainable
from momentum_core.reversible.store_plan import plan_store
from momentum_core.reversible.tape import Block, Tape
from momentum_core.reversible.tiles import CPU_TILE_ELEMENTS, plan_tiles
from momentum_core.reversible.update import BlockRule, IntegerState, RangeCheck, encode

_SHARDED = ("FullyShardedDataParallel", "FSDPModule")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything that one pass through a stack needs to know."""

    name: str
    modules: tuple[nn.Module, ...]
    initial_velocity: nn.Module | None
    gamma: Fraction
    rules: tuple[BlockRule, ...]
    trainable: tuple[Trainable, ...]
    fixed_point: FixedPoint
    arguments: Arguments
    stored: bool


def run_with_gradients(run: Run, x: Tensor) -> Tensor:
    """Return the run's output, with the graph that rewinds it.

    Blocks before the first one that anything needs a gradient of run in plain floats: the backward
    pass never gets there.
    """
    check_input(x, run.name)
    first = _first_with_gradient(run, x)
    x, v = _skip_to(run, first, x)
    if first == len(run.modules):
        return x
    tape, blocks = create_tape(run, x, v, first=first)
    position = EnterRun.apply(tape, x) if x.requires_grad else carrier(x)
    velocity = carrier(x)
    arguments = run.arguments.differentiable
    if tape.has_initial_velocity:
        step = Step(tape, initial_block(run), run.stored)
        tensors = (*step.block.parameters, *arguments)
        position, velocity = InitialVelocity.apply(step, position, *tensors)
    for block in blocks:
        step = Step(tape, block, run.stored)
        rule = (tensor for tensor in block.trainable if tensor is not None)
        tensors = (*rule, *block.parameters, *arguments)
        position, velocity = PassBlock.apply(step, position, velocity, *tensors)
    output: Tensor = LeaveRun.apply(tape, position)
    return output


def create_tape(
    run: Run, x: Tensor, v: Tensor | None, *, first: int = 0
) -> tuple[Tape, tuple[Block, ...]]:
    """Return a tape that stands at `x`, and the blocks from number `first` on.

    Args:
        run: the run.
        x: position before block `first`.
        v: velocity there; None if it is 0 or the initial velocity has yet to be computed.
        first: number of the first block to pass.

    Raises:
        StateRangeError: `x` or `v` does not fit the state.
    """
    learned = run.initial_velocity is not None and first == 0
    num_blocks = len(run.modules) - first
    num_pushes = num_blocks if learned or v is not None else num_blocks - 1
    plan = plan_store(run.gamma, num_pushes)
    check = RangeCheck(run.fixed_point, deferred=x.device.type != "cpu")
    check.where = f"{run.name}, input"
    with torch.no_grad():
        integers = encode(x.detach(), run.fixed_point.scale, check, "it")
        bound_x = check.largest_seen
        velocity = torch.zeros_like(integers)
        if v is not None:
            scale = run.fixed_point.velocity_scale
            velocity.copy_(encode(v, scale, check, "the velocity"))
    tile_elements = CPU_TILE_ELEMENTS if x.device.type == "cpu" else None
    state = IntegerState(
        integers,
        velocity,
        RemainderStore(plan, integers),
        run.fixed_point,
        x.dtype,
        plan_tiles(integers, tile_elements),
        bound_x,
        float(run.fixed_point.limit) if learned or v is not None else 0.0,
    )
    tape = Tape(
        state,
        run.arguments,
        check,
        name=run.name,
        gamma=float(run.gamma),
        position_needs_grad=x.requires_grad,
        has_initial_velocity=learned,
        starts_at_rest=v is None,
    )
    corrections = fixed.corrections(plan, num_blocks)
    blocks = tuple(
        Block(
            module,
            f"{run.name}, block {first + number}",
            _trained(module, f"{run.name}, block {first + number}"),
            run.rules[first + number],
            run.trainable[first + number],
            corrections[number],
            number >= num_blocks - num_pushes,
        )
        for number, module in enumerate(run.modules[first:])
    )
    return tape, blocks


def initial_block(run: Run) -> Block:
    """Return the initial velocity's module in the form that a tape runs."""
    assert run.initial_velocity is not None
    where = f"{run.name}, initial velocity"
    module = run.initial_velocity
    rule = BlockRule(1.0, includes_skip=False)
    return Block(module, where, _trained(module, where), rule, (None, None, None), 0.0, False)


def check_input(x: object, name: str) -> None:
    """Raise unless `x` is a float tensor that a run can start from.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__qualname__
        raise ConfigError(f"{name}: the input must be a float tensor, got {kind}")


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


def _skip_to(run: Run, first: int, x: Tensor) -> tuple[Tensor, Tensor | None]:
    if first == 0:
        return x, None
    args, kwargs = run.arguments.unflatten()
    with torch.no_grad():
        v = None if run.initial_velocity is None else run.initial_velocity(x, *args, **kwargs)
        position, velocity = run_floats(
            run.modules[:first], run.rules[:first], float(run.gamma), x, v, args, kwargs
        )
    return position.to(x.dtype), velocity


def _trained(module: nn.Module, where: str) -> tuple[Tensor, ...]:
    for submodule in module.modules():
        if any(kind.__name__ in _SHARDED for kind in type(submodule).__mro__):
            raise _sharded_error(where)
    parameters = tuple(module.parameters())
    if any(type(parameter).__name__ == "DTensor" for parameter in parameters):
        raise _sharded_error(where)
    return tuple(parameter for parameter in parameters if parameter.requires_grad)


def _sharded_error(where: str) -> ReversibilityError:
    return ReversibilityError(
        f"{where}: its parameters are sharded (FSDP or DTensor), which frees or moves them before "
        "they are needed again; use DistributedDataParallel",
        code="sharded_parameters",
    )
