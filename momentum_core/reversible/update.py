"""One momentum step on the integer state, forwards and backwards, in place.

    v' = gamma * v + round(2^k * (c * f + b + p * x) + correction)        x' = x + v'

Both directions call `increment`, so what one adds the other takes away, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from momentum_core.errors import StateRangeError
from momentum_core.reversible import fused
from momentum_core.reversible.fixed_point import FixedPoint, work_dtype
from momentum_core.reversible.remainder import RemainderStore
from momentum_core.reversible.store_plan import Push
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

    def held_bytes(self) -> int:
        """Return the bytes of memory that the state holds."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors that the state consists of."""
        return (self.x, self.v, *self.store.tensors())


class RangeCheck:
    """Finds values that do not fit the state, before they are cast.

    On a CPU it raises at once. On an accelerator it only remembers, on the device, so that the
    forward pass never waits; `failed` is then read when the backward pass starts.
    """

    def __init__(self, fixed_point: FixedPoint, *, deferred: bool) -> None:
        self.fixed_point = fixed_point
        self.deferred = deferred
        self.where = ""
        """Run and block whose values come next."""

        self.largest_seen = 0.0
        """Largest magnitude admitted since this was last set, unless checks are deferred."""

        self._failures: list[tuple[str, str, Tensor, float]] = []

    def admit(self, values: Tensor, what: str, *, scale: float, limit: int | None = None) -> Tensor:
        """Return `values` (float or int32) if they fit the state; NaN does not.

        Deferred, values that do not are recorded and replaced, so that no cast is undefined.

        Args:
            values: in units of the state.
            what: name for the message.
            scale: units per unit of activation.
            limit: largest magnitude that fits; by default that of positions and increments.

        Raises:
            StateRangeError: not deferred, and a value does not fit.
        """
        if values.numel() == 0:
            return values
        limit = self.fixed_point.limit if limit is None else limit
        self.admit_extent(torch.stack(values.aminmax()), what, scale=scale, limit=limit)
        if not self.deferred:
            return values
        if values.is_floating_point():
            values.nan_to_num_(nan=0.0)
        return values.clamp_(-limit, limit)

    def admit_extent(self, extent: Tensor, what: str, *, scale: float, limit: int) -> None:
        """Do the same for values of which only the smallest and the largest are given, shape (2,).

        Raises:
            StateRangeError: not deferred, and a value does not fit.
        """
        if self.deferred:
            bounds = extent.to(torch.float64) / scale
            self._failures.append((self.where, what, bounds, limit / scale))
            return
        lowest, highest = extent.tolist()
        if not (lowest >= -limit and highest <= limit):
            reached = max(abs(lowest), abs(highest)) / scale
            raise self._error(self.where, what, reached, limit / scale)
        self.largest_seen = max(self.largest_seen, -lowest, highest)

    def any_failed(self) -> Tensor | None:
        """Return a bool tensor on the device: whether a recorded value did not fit."""
        if not self._failures:
            return None
        fits = [(seen.abs() <= limit).all() for _, _, seen, limit in self._failures]
        return ~torch.stack(fits).all()

    def raise_if_failed(self) -> None:
        """Wait for the device and raise for the first recorded value that did not fit.

        Raises:
            StateRangeError: a value did not fit.
        """
        failures, self._failures = self._failures, []
        for where, what, bounds, limit in failures:
            lowest, highest = bounds.tolist()
            if not (lowest >= -limit and highest <= limit):
                raise self._error(where, what, max(abs(lowest), abs(highest)), limit)

    def _error(self, where: str, what: str, reached: float, limit: float) -> StateRangeError:
        point = self.fixed_point
        value = f"reaches {reached:.4g}" if math.isfinite(reached) else "is NaN or infinite"
        return StateRangeError(
            f"{where}: {what} {value}; the {point.state_bits}-bit state with scale_bits="
            f"{point.scale_bits} holds up to {limit:g} there. If such values are meant, call "
            "lower_precision() on the stack and repeat the step, or build it with a larger "
            "activation_range; if not, look for diverging training or NaN in the input"
        )


def encode(values: Tensor, scale: float, check: RangeCheck, what: str) -> Tensor:
    """Return `values` as integers of the state, in the same memory layout if it is dense.

    Raises:
        StateRangeError: a value is NaN or does not fit.
    """
    scaled = values.to(work_dtype(values.dtype)) * scale
    scaled = check.admit(scaled, what, scale=scale)
    return torch.empty_like(values, dtype=check.fixed_point.dtype).copy_(scaled.round_())


def advance(
    state: IntegerState,
    block_output: Tensor,
    seen: Tensor | None,
    rule: BlockRule,
    correction: float,
    check: RangeCheck,
    *,
    multiply: bool,
) -> None:
    """Move `state` one block forward, in place.

    Args:
        state: the integers before the block.
        block_output: what the block returned at `state`'s position, shape of x.
        seen: the position as the block saw it, if that tensor is still at hand.
        rule: the block's coefficients.
        correction: mean of what the store's digits hide, in units of the state.
        check: raises or remembers what does not fit.
        multiply: whether the velocity is multiplied by gamma (not where it is known to be 0).

    Raises:
        StateRangeError: a value does not fit and `check` is not deferred.
    """
    store, point = state.store, state.fixed_point
    push = store.begin_push() if multiply else None
    narrow = point.state_bits == 16
    check.largest_seen = 0.0
    extent = _call_fused(fused.advance, state, block_output, seen, rule, correction, push)
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
    if check.deferred or state.bound_x > point.limit:
        check.largest_seen = 0.0
        check.admit(state.x, "the position after it", scale=point.scale)
        state.bound_x = check.largest_seen


def read_position(state: IntegerState) -> Tensor:
    """Return the position as the blocks see it, a new tensor."""
    if _wants_fused(state):
        floats = torch.empty_like(state.x, dtype=state.dtype)
        x, into = fused.in_memory_order(state.x), fused.in_memory_order(floats)
        with torch.no_grad():
            done = fused.compiler.call(fused.read, x, into, _numbers(state), fused=state.fused)
        if done is not None:
            return floats
    return state.fixed_point.decode(state.x, state.dtype)


def rewind_position(state: IntegerState) -> None:
    """Take the velocity off the position, in place: x = x' - v'."""
    if _wants_fused(state):
        x, v = fused.in_memory_order(state.x), fused.in_memory_order(state.v)
        if (
            fused.compiler.call(fused.rewind_position, x, v, _numbers(state), fused=state.fused)
            is not None
        ):
            return
    for tile in state.tiles:
        # In 32 bits, as on the way forward: rounding must not wrap.
        wide = state.v[tile].to(torch.int32)
        state.x[tile].sub_(state.fixed_point.displacement(wide))


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
    done = _call_fused(fused.rewind_velocity, state, block_output, seen, rule, correction, push)
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


def _wants_fused(state: IntegerState) -> bool:
    is_wide = state.fixed_point.state_bits == 32
    return is_wide and fused.compiler.wants(state.x, fused=state.fused)


def _call_fused(
    kernel: Callable[..., Tensor],
    state: IntegerState,
    block_output: Tensor,
    seen: Tensor | None,
    rule: BlockRule,
    correction: float,
    push: Push | None,
) -> Tensor | None:
    """Return what `fused.advance` or `fused.rewind_velocity` returns; None where neither can."""
    if not _wants_fused(state):
        return None
    by_channel, shape = _by_channel(rule, state.x)
    multiplication = None if push is None else state.store.multiplication(push, shape)
    if push is not None and multiplication is None:
        return None
    coefficient = 1.0 if isinstance(rule.coefficient, Tensor) else rule.coefficient
    return fused.compiler.call(
        kernel,
        _in_order_of(state.x, block_output, shape),
        None if seen is None else _in_order_of(state.x, seen, shape),
        fused.in_memory_order(state.x, shape),
        fused.in_memory_order(state.v, shape),
        _numbers(state, coefficient, correction),
        by_channel,
        multiplication,
        state.dtype,
        rule.includes_skip,
        fused=state.fused,
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


def _numbers(
    state: IntegerState, coefficient: float = 1.0, correction: float = 0.0
) -> fused.Numbers:
    point, work = state.fixed_point, work_dtype(state.dtype)
    bits = point.guard_bits
    half = 2 ** (bits - 1) if bits else 0
    return fused.Numbers(
        factor=torch.tensor(coefficient * point.velocity_scale, dtype=work),
        scale=torch.tensor(point.velocity_scale, dtype=work),
        correction=torch.tensor(correction, dtype=work),
        decode=torch.tensor(1.0 / point.scale, dtype=work),
        half=torch.tensor(half, dtype=torch.int32),
        guard=torch.tensor(bits, dtype=torch.int32),
        limit=torch.tensor(float(point.limit), dtype=work),
    )


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
        _rule_at(rule, tile, state.x.shape),
        state.fixed_point.velocity_scale,
        correction,
        work_dtype(state.dtype),
    ).round_()


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


def _rule_at(rule: BlockRule, tile: Tile, shape: torch.Size) -> BlockRule:
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
