"""One momentum step on the integer state, forwards and backwards, in place.

    v' = gamma * v + round(2^k * (c * f + b + p * x) + correction)        x' = x + v'

Both directions call `increment`, so what one adds the other takes away, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from momentum_core.reversible import fused
from momentum_core.reversible.fixed_point import FixedPoint, work_dtype
from momentum_core.reversible.fused import Numbers
from momentum_core.reversible.increment import BlockRule, increment, rule_at
from momentum_core.reversible.range_check import RangeCheck
from momentum_core.reversible.remainder import RemainderStore
from momentum_core.reversible.store_plan import Push
from momentum_core.reversible.tiles import Tile

EXACT_IN_FLOATS = 2.0**24
"""Integers up to this magnitude are single-precision floats, too."""


@dataclass(slots=True)
class IntegerState:
    """Position and velocity of a run as integers, and the digits its multiplications lost."""

    x: Tensor
    v: Tensor
    store: RemainderStore
    fixed_point: FixedPoint
    dtype: torch.dtype
    """Float type in which blocks see the position."""

    tiles: tuple[Tile, ...]
    bound_x: float
    """No position is larger than this, in units (unless checks are deferred)."""

    bound_v: float
    """No velocity is larger than this, in units (likewise)."""

    fused: bool | None = None
    """Whether updates are compiled; None does so where it pays."""

    largest_bound_x: float = field(init=False)
    """No position of the run was larger than this, in units (unless checks are deferred)."""

    numbers: dict[tuple[float, float], Numbers] = field(default_factory=dict, init=False)
    """By coefficient and correction: making seven tensors for every call takes its time."""

    def __post_init__(self) -> None:
        """Start with what is known of the input."""
        self.largest_bound_x = self.bound_x

    def held_bytes(self) -> int:
        """Return the bytes of memory that the state holds."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors that the state consists of."""
        return (self.x, self.v, *self.store.tensors())


def advance(
    state: IntegerState,
    block_output: Tensor,
    seen: Tensor | None,
    rule: BlockRule,
    correction: float,
    check: RangeCheck,
    *,
    multiply: bool,
) -> Tensor | None:
    """Move `state` one block forward, in place.

    Args:
        state: the integers before the block.
        block_output: what the block returned at `state`'s position, shape of x.
        seen: the position as the block saw it, if that tensor is still at hand; compiled code has
            no use for it.
        rule: the block's coefficients.
        correction: mean of what the store's digits hide, in units of the state.
        check: raises or remembers what does not fit.
        multiply: whether the velocity is multiplied by gamma (not where it is known to be 0).

    Returns:
        The position after the block as the next one sees it, where that cost nothing.

    Raises:
        StateRangeError: a value does not fit and `check` is not deferred.
    """
    store, point = state.store, state.fixed_point
    push = store.begin_push() if multiply else None
    narrow = point.state_bits == 16
    check.largest_seen = 0.0
    extent, floats = _advance_fused(state, block_output, rule, correction, push)
    if extent is not None:
        what = "its contribution to the velocity"
        check.admit_extent(extent, what, scale=point.velocity_scale, limit=point.limit)
    for tile in state.tiles if extent is None else ():
        real = _rounded_increment(state, tile, block_output, seen, rule, correction)
        real = check.admit(real, "its contribution to the velocity", scale=point.velocity_scale)
        step = real.to(torch.int32)
        x, v = state.x[tile], state.v[tile]
        wide = v.to(torch.int32) if narrow else v
        if push is not None:
            store.push(wide, tile, push)
        wide.add_(step)
        if narrow:
            v.copy_(check.admit(wide, "the velocity after it", scale=point.velocity_scale))
            position = point.displacement(wide).add(x)
            x.copy_(check.admit(position, "the position after it", scale=point.scale))
        else:
            x.add_(point.displacement(wide))
    if push is not None:
        store.end_push()
    if not narrow:
        _check_bounds(state, check)
    return floats


def _check_bounds(state: IntegerState, check: RangeCheck) -> None:
    """Make sure that nothing left the range, by arithmetic where that is enough.

    A velocity is at most gamma times the one before, plus n for the exchanged digit, plus the
    increment; a position at most the one before plus the displacement. Only when these bounds leave
    the range are the integers read. Until then nothing has wrapped: see `FixedPoint.limit`.
    """
    point, gamma = state.fixed_point, state.store.gamma
    state.bound_v = float(gamma) * state.bound_v + gamma.numerator + check.largest_seen
    if check.deferred or state.bound_v > point.velocity_limit:
        check.largest_seen = 0.0
        what = "the velocity after it"
        check.admit(state.v, what, scale=point.velocity_scale, limit=point.velocity_limit)
        state.bound_v = check.largest_seen
    state.bound_x += state.bound_v / 2**point.guard_bits + 1.0
    # Looking once tells more than the bound does: it is kept where floats hold all integers.
    leaves_floats = state.bound_x > EXACT_IN_FLOATS >= state.largest_bound_x
    if check.deferred or leaves_floats or state.bound_x > point.limit:
        check.largest_seen = 0.0
        check.admit(state.x, "the position after it", scale=point.scale)
        state.bound_x = check.largest_seen
    state.largest_bound_x = max(state.largest_bound_x, state.bound_x)


def read_position(state: IntegerState) -> Tensor:
    """Return the position as the blocks see it, a new tensor."""
    if is_compiled(state):
        floats = torch.empty_like(state.x, dtype=state.dtype)
        x, into = fused.in_memory_order(state.x), fused.in_memory_order(floats)
        with torch.no_grad():
            done = fused.compiler.call(fused.read, x, into, _numbers(state), fused=state.fused)
        if done is not None:
            return floats
    return state.fixed_point.decode(state.x, state.dtype)


def rewind_position(state: IntegerState, aside: Tensor | None) -> Tensor | None:
    """Take the velocity off the position, in place: x = x' - v'.

    Args:
        state: the integers after the block.
        aside: the position as floats, where the state does not have it; has it again then.

    Returns:
        The position as the block sees it, where that cost nothing.
    """
    if is_compiled(state):
        if aside is not None:
            state.x = torch.empty_like(state.v)
        floats = torch.empty_like(state.v, dtype=state.dtype)
        done = fused.compiler.call(
            fused.rewind_position,
            None if aside is None else fused.in_memory_order(aside),
            fused.in_memory_order(state.x),
            fused.in_memory_order(state.v),
            fused.in_memory_order(floats),
            _numbers(state),
            fused=state.fused,
        )
        if done is not None:
            return floats
    if aside is not None:
        take_back_position(state, aside)
    for tile in state.tiles:
        # In 32 bits, as on the way forward: rounding must not wrap.
        wide = state.v[tile].to(torch.int32)
        state.x[tile].sub_(state.fixed_point.displacement(wide))
    return None


def take_back_position(state: IntegerState, aside: Tensor) -> None:
    """Let the state have the position again that `aside` has as floats."""
    scaled = aside * state.fixed_point.scale
    state.x = torch.empty_like(aside, dtype=state.fixed_point.dtype)
    state.x.copy_(scaled)


def rewind_velocity(
    state: IntegerState,
    block_output: Tensor,
    seen: Tensor | None,
    rule: BlockRule,
    correction: float,
    *,
    multiply: bool,
) -> None:
    """Undo the velocity's half of `advance`, in place, with the position already rewound.

    The increment is subtracted, then the multiplication is undone from the store. Nothing is
    checked: every value was, on the way forward.
    """
    store = state.store
    push = store.begin_pop() if multiply else None
    narrow = state.fixed_point.state_bits == 16
    done = _rewind_fused(state, block_output, seen, rule, correction, push)
    for tile in state.tiles if done is None else ():
        real = _rounded_increment(state, tile, block_output, seen, rule, correction)
        v = state.v[tile]
        wide = v.to(torch.int32) if narrow else v
        wide.sub_(real.to(torch.int32))
        if push is not None:
            store.pop(wide, tile, push)
        if narrow:
            v.copy_(wide)
    if push is not None:
        store.end_pop(push)


def is_compiled(state: IntegerState) -> bool:
    """Return whether the state is worked on by compiled code, as far as that can be compiled."""
    # The velocity: the position may be aside.
    is_wide = state.fixed_point.state_bits == 32
    return is_wide and fused.compiler.wants(state.v, fused=state.fused)


def _is_compiled_or_counted(state: IntegerState) -> bool:
    """Return the same; note an update of a state that could have been, and is not."""
    compiled = is_compiled(state)
    if not compiled and state.fixed_point.state_bits == 32:
        fused.compiler.count(state.v, fused=state.fused)
    return compiled


def _advance_fused(
    state: IntegerState,
    block_output: Tensor,
    rule: BlockRule,
    correction: float,
    push: Push | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Return what `fused.advance` returns and the next position; None where it cannot be used."""
    if not _is_compiled_or_counted(state):
        return None, None
    into = torch.empty_like(state.x, dtype=state.dtype)
    extent = _call_fused(fused.advance, state, block_output, rule, correction, push, into=into)
    return extent, None if extent is None else into


def _rewind_fused(
    state: IntegerState,
    block_output: Tensor,
    seen: Tensor | None,
    rule: BlockRule,
    correction: float,
    push: Push | None,
) -> Tensor | None:
    """Return what `fused.rewind_velocity` returns; None where it cannot be used."""
    if not _is_compiled_or_counted(state):
        return None
    return _call_fused(
        fused.rewind_velocity, state, block_output, rule, correction, push, seen=seen
    )


def _call_fused(
    kernel: Callable[..., Tensor],
    state: IntegerState,
    block_output: Tensor,
    rule: BlockRule,
    correction: float,
    push: Push | None,
    **others: Tensor | None,
) -> Tensor | None:
    """Call a kernel with all it takes; `others` have the shape of the position."""
    by_channel, shape = _by_channel(rule, state.x)
    multiplication = None if push is None else state.store.multiplication(push, shape)
    if push is not None and multiplication is None:
        return None
    coefficient = 1.0 if isinstance(rule.coefficient, Tensor) else rule.coefficient
    named = {
        name: None if one is None else _in_order_of(state.x, one, shape)
        for name, one in others.items()
    }
    return fused.compiler.call(
        kernel,
        fused=state.fused,
        output=_in_order_of(state.x, block_output, shape),
        x=fused.in_memory_order(state.x, shape),
        v=fused.in_memory_order(state.v, shape),
        numbers=_numbers(state, coefficient, correction),
        by_channel=by_channel,
        multiplication=multiplication,
        dtype=state.dtype,
        includes_skip=rule.includes_skip,
        **named,
    )


def _by_channel(
    rule: BlockRule, x: Tensor
) -> tuple[fused.ByChannel | None, tuple[int, ...] | None]:
    """Return the rule's tensors, and the shape in the order of memory that they broadcast with."""
    coefficient = rule.coefficient if isinstance(rule.coefficient, Tensor) else None
    tensors = (coefficient, rule.offset, rule.predictor)
    if tensors == (None, None, None):
        return None, None
    dims = {
        dim
        for tensor in tensors
        if tensor is not None
        for dim, size in enumerate(tensor.shape)
        if size > 1
    }
    shape = fused.shape_by_channel(x, dims.pop()) if dims else None
    rank = 1 if shape is None else len(shape)
    # One number for all channels, or one for each: (1,), (C,) or (C, 1).
    sizes = (-1,) if rank < 3 else (-1, 1)
    return fused.ByChannel(*(None if t is None else t.reshape(sizes) for t in tensors)), shape


def _in_order_of(x: Tensor, values: Tensor, shape: tuple[int, ...] | None) -> Tensor:
    """Return `values` in the order in which `x` lies in memory."""
    if values.stride() != x.stride():
        values = torch.empty_like(x, dtype=values.dtype).copy_(values)
    return fused.in_memory_order(values, shape)


def _numbers(state: IntegerState, coefficient: float = 1.0, correction: float = 0.0) -> Numbers:
    known = state.numbers.get((coefficient, correction))
    if known is not None:
        return known
    point, work = state.fixed_point, work_dtype(state.dtype)
    bits = point.guard_bits
    half = 2 ** (bits - 1) if bits else 0
    made = Numbers(
        factor=torch.tensor(coefficient * point.velocity_scale, dtype=work),
        scale=torch.tensor(point.velocity_scale, dtype=work),
        correction=torch.tensor(correction, dtype=work),
        decode=torch.tensor(1.0 / point.scale, dtype=work),
        half=torch.tensor(half, dtype=torch.int32),
        guard=torch.tensor(bits, dtype=torch.int32),
        limit=torch.tensor(float(point.limit), dtype=work),
    )
    state.numbers[coefficient, correction] = made
    return made


def _rounded_increment(
    state: IntegerState,
    tile: Tile,
    block_output: Tensor,
    seen: Tensor | None,
    rule: BlockRule,
    correction: float,
) -> Tensor:
    """Return the increment of one tile as whole numbers in a float tensor."""
    x = None if seen is None else seen[tile]
    if x is None and (rule.includes_skip or rule.predictor is not None):
        x = state.fixed_point.decode(state.x[tile], state.dtype)
    return increment(
        block_output[tile],
        x,
        rule_at(rule, tile, state.x.shape),
        state.fixed_point.velocity_scale,
        correction,
        work_dtype(state.dtype),
    ).round_()
