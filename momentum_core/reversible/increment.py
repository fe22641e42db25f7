"""What one block adds to the velocity: `c * f(x) + b + p * x`, in units of the state."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from momentum_core.reversible.tiles import Tile


@dataclass(frozen=True, slots=True)
class BlockRule:
    """What the rule does with one block's output: `c * f(x) + b + p * x`."""

    coefficient: float | Tensor
    """c: a number, or a tensor that broadcasts against x."""

    offset: Tensor | None = None
    """b: broadcasts against x."""

    predictor: Tensor | None = None
    """p: broadcasts against x."""

    includes_skip: bool = True
    """Whether the block returns x + f(x), so that f(x) is its output less x."""


def increment(
    block_output: Tensor,
    x: Tensor | None,
    rule: BlockRule,
    scale: float,
    correction: float,
    work: torch.dtype,
) -> Tensor:
    """Return `scale * (c * f + b + p * x) + correction` as a new tensor of type `work`.

    Args:
        block_output: x + f(x), or f(x) alone, of any float type.
        x: the position that the block saw; needed if the block includes the skip or p is given.
        rule: the block's coefficients, shaped for these tensors.
        scale: units of the state per unit of activation.
        correction: in units of the state.
        work: float32 or float64.
    """
    if rule.includes_skip:
        assert x is not None
        is_work = block_output.dtype == work
        result = block_output - x.to(work) if is_work else block_output.to(work).sub_(x)
    else:
        result = block_output.to(work, copy=True)
    if isinstance(rule.coefficient, Tensor):
        result.mul_(rule.coefficient)
        factor = scale
    else:
        factor = rule.coefficient * scale
    # In two steps: fused in one they would round once, and compiled code rounds twice.
    result.mul_(factor)
    if correction:
        result.add_(correction)
    if rule.offset is not None:
        result.add_(rule.offset.to(work) * scale)
    if rule.predictor is not None:
        assert x is not None
        result.add_((x.to(work) * rule.predictor).mul_(scale))
    return result


def rule_at(rule: BlockRule, tile: Tile, shape: torch.Size) -> BlockRule:
    """Cut the tensors of `rule` to the tile."""
    coefficient = rule.coefficient
    if isinstance(coefficient, Tensor):
        coefficient = coefficient.expand(shape)[tile]
    elif rule.offset is None and rule.predictor is None:
        return rule
    return BlockRule(
        coefficient,
        None if rule.offset is None else rule.offset.expand(shape)[tile],
        None if rule.predictor is None else rule.predictor.expand(shape)[tile],
        rule.includes_skip,
    )
