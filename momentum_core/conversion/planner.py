"""Decides what each part of a converted network keeps, by profiles of the parts on fake tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from momentum_core.config import ConversionConfig, Strategy
from momentum_core.conversion.convert import BACKWARD, act
from momentum_core.conversion.memory_plan import (
    MemoryPlan,
    PartChoices,
    check_strategies,
    choose_strategies,
    explain,
)
from momentum_core.conversion.plan import ConversionPlan, PlannedRun
from momentum_core.conversion.runs import Chain
from momentum_core.conversion.stand_ins import CalledBlock
from momentum_core.conversion.trace import ExampleInput, ModuleCall, TensorKind
from momentum_core.errors import DataError
from momentum_core.memory import predict_training_step
from momentum_core.memory.part import PartProfile, profile_part
from momentum_core.memory.prediction import new_mode, without_memory
from momentum_core.reversible import MomentumStack, Recomputed
from momentum_core.reversible.store_plan import plan_store

_Further = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a block besides its input."""

_PROFILED_BLOCKS = 3
"""A first, a last and one between: what further blocks of a run hold is known by then."""


def plan_memory(
    plan: ConversionPlan,
    model: nn.Module,
    example_input: ExampleInput,
    runs: Sequence[Chain],
    segments: Sequence[Chain],
    config: ConversionConfig,
) -> ConversionPlan:
    """Return the plan with a strategy for every part, and the predicted memory of a step.

    Where a model's step cannot run on fake tensors, the plan says so in a note and keeps the
    strategies that need no prediction.

    Args:
        plan: what becomes a run.
        model: the original.
        example_input: what it takes; its batch is the one that is predicted.
        runs: the calls of the plan's runs, in its order.
        segments: what is recomputed outside the runs.
        config: limits and decisions of the caller.

    Raises:
        ConfigError: the caller's decisions cannot be carried out.
    """
    try:
        parts = _parts(plan, model, runs, segments)
        chosen, slowdown = choose_strategies(
            parts, max_slowdown=config.max_slowdown, fixed=config.strategies
        )
        plan = with_strategies(plan, chosen)
        original = predict_training_step(model, example_input)
        converted = predict_training_step(act(model, plan), example_input)
    except DataError as error:
        plan = with_strategies(plan, config.strategies)
        return replace(plan, notes=(*plan.notes, str(error)))
    tensors = [leaf for leaf in pytree.tree_leaves(example_input) if isinstance(leaf, Tensor)]
    memory = MemoryPlan(
        batch_size=tensors[0].shape[0] if tensors and tensors[0].dim() else 1,
        parts=explain(parts, chosen, config.strategies),
        slowdown=slowdown,
        original_peak_bytes=original.peak_bytes,
        converted_peak_bytes=converted.peak_bytes,
    )
    return replace(plan, memory=memory)


def with_strategies(plan: ConversionPlan, strategies: Mapping[str, Strategy]) -> ConversionPlan:
    """Return the plan with these strategies; a chain that is stored is not recomputed.

    Raises:
        ConfigError: a strategy is for no part, or for one that cannot have it.
    """
    able: dict[str, tuple[Strategy, ...]] = {
        chain[0]: ("recompute", "store") for chain in plan.recomputed
    }
    for run in plan.runs:
        whole: tuple[Strategy, ...] = ("recompute_whole",) if run.takes_input_only else ()
        able[run.name] = ("reverse", "recompute", *whole, "store")
    check_strategies(strategies, able)
    return replace(
        plan,
        strategies=dict(strategies),
        recomputed=tuple(chain for chain in plan.recomputed if strategies.get(chain[0]) != "store"),
    )


def _parts(
    plan: ConversionPlan,
    model: nn.Module,
    runs: Sequence[Chain],
    segments: Sequence[Chain],
) -> tuple[PartChoices, ...]:
    """Return runs and segments in the order of the forward pass, profiled."""
    mode = new_mode()
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    entered = {chain[0].name: chain[0].entered for chain in segments}
    shapes = {chain[0].name: chain[0].shapes[0] for chain in segments}
    found: list[tuple[int, PartChoices]] = []
    first = min([*entered.values(), *(run.entered for run in plan.runs)], default=0)
    try:
        for run, chain in zip(plan.runs, runs, strict=True):
            further = _further_arguments(mode, run, chain[0])
            found.append((run.entered, _run_choices(mode, run, plan, model, dtype, further)))
        for chain in segments:
            names = tuple(call.name for call in chain)
            shape = shapes[names[0]]
            assert shape is not None
            needs_grad = entered[names[0]] != first
            choices = _segment_choices(mode, names, model, shape, dtype, needs_grad)
            found.append((entered[names[0]], choices))
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(
            f"the memory of its parts cannot be predicted: {reason}", code="prediction_failed"
        ) from error
    return tuple(choices for _, choices in sorted(found, key=lambda item: item[0]))


def _further_arguments(mode: FakeTensorMode, run: PlannedRun, call: ModuleCall) -> _Further:
    """Return what the run's blocks take besides their input, as the example has it."""

    def made(kind: TensorKind) -> Tensor:
        # Whole numbers may be places in a table: zeros are in every table.
        return torch.zeros(kind.shape, dtype=kind.dtype)

    with torch.device("cpu"), mode:
        given, named = pytree.tree_map_only(TensorKind, made, call.given)
    _, args, kwargs = run.pattern.take(given, named)
    return args, kwargs


def _run_choices(
    mode: FakeTensorMode,
    run: PlannedRun,
    plan: ConversionPlan,
    model: nn.Module,
    dtype: torch.dtype,
    further: _Further,
) -> PartChoices:
    num_blocks = len(run.blocks)
    count = min(num_blocks, _PROFILED_BLOCKS)
    blocks = [model.get_submodule(name) for name in run.blocks[:count]]
    called = blocks if run.pattern.is_plain else [CalledBlock(one, run.pattern) for one in blocks]
    stack = without_memory(
        MomentumStack(called, gamma=run.gamma, scheme=plan.scheme, name=run.name), mode
    ).train()
    args, kwargs = further
    given = [leaf for leaf in pytree.tree_leaves(further) if isinstance(leaf, Tensor)]
    profiles: dict[Strategy, PartProfile] = {}
    for strategy in ("reverse", "recompute", "store"):
        stack.backward_mode = BACKWARD[strategy]
        profiles[strategy] = profile_part(
            mode,
            stack,
            lambda x: cast(Tensor, stack(x, *args, **kwargs)),
            run.shape,
            dtype,
            input_needs_grad=True,
            given=given,
        )
    position = math.prod(run.shape) * dtype.itemsize
    more = num_blocks - count
    stored = (profiles["store"].held // count) * more
    # A store grows in whole bytes, at its own pace.
    reverse = profiles["reverse"].plus(_store_bytes(run, num_blocks) - _store_bytes(run, count))
    choices: dict[Strategy, PartProfile] = {
        "reverse": reverse,
        "recompute": profiles["recompute"].plus(more * position),
    }
    if run.takes_input_only:
        # Its input stays until it was run again and reversed; so does the gradient of its output.
        again = max(reverse.forward, reverse.backward) + 2 * position
        choices["recompute_whole"] = PartProfile(position, reverse.forward, again)
    choices["store"] = profiles["store"].plus(stored)
    cost = _operations(mode, stack.blocks[0], run.shape, dtype, further) * num_blocks
    return PartChoices(run.name, cost, choices)


def _segment_choices(
    mode: FakeTensorMode,
    names: tuple[str, ...],
    model: nn.Module,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    input_needs_grad: bool,
) -> PartChoices:
    modules = [model.get_submodule(name) for name in names]
    segment = without_memory(Recomputed(*modules), mode).train()
    ways: dict[Strategy, Callable[[Tensor], Tensor]] = {
        "recompute": segment,
        "store": segment.run,
    }
    profiles = {
        strategy: profile_part(mode, segment, way, shape, dtype, input_needs_grad=input_needs_grad)
        for strategy, way in ways.items()
    }
    return PartChoices(names[0], _operations(mode, segment, shape, dtype), profiles)


def _operations(
    mode: FakeTensorMode,
    module: nn.Module,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    further: _Further = ((), {}),
) -> float:
    """Return the operations of one forward pass, at least one for each number of the input."""
    with torch.device("cpu"), mode, torch.no_grad():
        x = torch.empty(shape, dtype=dtype)
        with FlopCounterMode(display=False) as counter:
            module(x, *further[0], **further[1])
    return float(counter.get_total_flops() + x.numel())


def _store_bytes(run: PlannedRun, num_blocks: int) -> int:
    bits = plan_store(run.gamma, num_blocks - 1).bits_per_element
    return run.num_elements * run.shape[0] * bits // 8
