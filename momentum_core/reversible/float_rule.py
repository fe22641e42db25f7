"""The momentum rule in plain floats: what runs where no gradient is wanted, and under export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from momentum_core.reversible.fixed_point import work_dtype
from momentum_core.reversible.increment import BlockRule


def run_floats(
    blocks: Sequence[nn.Module],
    rules: Sequence[BlockRule],
    gamma: float,
    x: Tensor,
    v: Tensor | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Apply the rule to `x` block by block; return the last position and velocity.

        v' = gamma * v + c * f(x) + b + p * x        x' = x + v'

    Half-precision positions are summed in float32, as in the integer state; blocks still see `x`'s
    own type. Both results have the sum's type.

    Args:
        blocks: the run's blocks, in order.
        rules: one for each block.
        gamma: the momentum term n/d.
        x: first position.
        v: first velocity, shape of `x`; None is 0.
        args: passed on to every block.
        kwargs: passed on to every block.
    """
    dtype = x.dtype
    work = work_dtype(dtype)
    position, velocity = x.to(work), None if v is None else v.to(work)
    for block, rule in zip(blocks, rules, strict=True):
        seen = position.to(dtype)
        # A block may write into its input; the sum must not see it.
        given = seen.clone() if seen is position else seen
        output = block(given, *args, **kwargs)
        position, velocity = take_step(position, velocity, output, seen, rule, gamma)
    assert velocity is not None
    return position, velocity


def take_step(
    position: Tensor,
    velocity: Tensor | None,
    output: Tensor,
    seen: Tensor,
    rule: BlockRule,
    gamma: float,
) -> tuple[Tensor, Tensor]:
    """Return position and velocity after a block that returned `output` for `seen`.

    Args:
        position: x, in the type that the rule is computed in.
        velocity: v, shape and type of `position`; None is 0.
        output: what the block returned, shape of x.
        seen: x in the type that the block saw.
        rule: the block's coefficients.
        gamma: the momentum term n/d.
    """
    step = _increment(output, seen, rule, position.dtype)
    velocity = step if velocity is None else gamma * velocity + step
    return position + velocity, velocity


def rewind_floats(
    blocks: Sequence[nn.Module],
    rules: Sequence[BlockRule],
    gamma: float,
    x: Tensor,
    v: Tensor,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Undo `run_floats` approximately; return the first position and velocity.

        x = x' - v'        v = (v' - c * f(x) - b - p * x) / gamma

    Each block multiplies the rounding error by up to 1/gamma, so it grows like gamma^-N: at gamma
    0.9, 50 blocks in float32 leave about 2e-4, 100 blocks 0.2; at 0.5 the result is useless after
    20. The arguments are those of `run_floats`, with the last position and velocity.
    """
    dtype = x.dtype
    work = work_dtype(dtype)
    position, velocity = x.to(work), v.to(work)
    for block, rule in zip(reversed(blocks), reversed(rules), strict=True):
        position = position - velocity
        seen = position.to(dtype)
        given = seen.clone() if seen is position else seen
        step = _increment(block(given, *args, **kwargs), seen, rule, work)
        velocity = (velocity - step) / gamma
    return position, velocity


def _increment(output: Tensor, seen: Tensor, rule: BlockRule, work: torch.dtype) -> Tensor:
    """Return c * f(x) + b + p * x in the type `work`."""
    step = output.to(work)
    if rule.includes_skip:
        step = step - seen.to(work)
    step = step * rule.coefficient
    if rule.offset is not None:
        step = step + rule.offset
    if rule.predictor is not None:
        step = step + rule.predictor * seen.to(work)
    return step
