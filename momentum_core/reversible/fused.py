"""The update of a whole state in one pass over memory, made by `torch.compile`.

Operation by operation, a block's update and its inverse pass over the state thirty times and wait
for memory each time. Compiled they pass over it once or twice, and give the same bits: both ways
may meet in one run. Without a compiler, or where compiling would cost more than it saves, `update`
works operation by operation.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from momentum_core.errors import ConfigError

logger = logging.getLogger(__name__)

MIN_ELEMENTS = 2**15
"""Below, calling a compiled function costs as much as it saves."""

WORTH_COMPILING = 2**30
"""Elements after whose update compiling has paid: operation by operation they take about as long
as the compiler does, ten seconds on two cores."""


@dataclass(slots=True)
class Compiler:
    """Decides, for one process, when the compiled update is used; compiles at first use."""

    num_updated: int = 0
    """Elements updated operation by operation where compiled code could have done it."""

    broken: bool = field(default=False, init=False)
    """Whether compiling was tried and cannot be done here."""

    def wants(self, state: Tensor, *, fused: bool | None) -> bool:
        """Return whether to work on `state`, all of it, by compiled code.

        Args:
            state: a run's integers, or gradients; any shape.
            fused: True and False demand an answer; None compiles once it has become worth while.
        """
        # Whoever watches single operations (a memory tracker, fake tensors) shall see them.
        if fused is False or state.numel() < 2 or _get_current_dispatch_mode() is not None:
            return False
        if fused:
            return True
        is_large = state.numel() >= MIN_ELEMENTS
        return is_large and not self.broken and self.num_updated > WORTH_COMPILING

    def count(self, state: Tensor, *, fused: bool | None) -> None:
        """Note that `state` was updated operation by operation where code might be compiled."""
        is_watched = _get_current_dispatch_mode() is not None
        if fused is None and not is_watched and state.numel() >= MIN_ELEMENTS:
            self.num_updated += state.numel()

    def call(
        self, function: Callable[..., Tensor], *arguments: Any, fused: bool | None, **named: Any
    ) -> Tensor | None:
        """Return what the compiled `function` returns, or None where it cannot be compiled.

        Raises:
            ConfigError: it cannot be compiled, and `fused` demands it.
        """
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        try:
            return _compiled(function)(*arguments, **named)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            reason = str(error).strip().partition("\n")[0]
            if fused:
                raise ConfigError(
                    f"fused=True needs torch.compile, which fails here: {reason}; install a C++ "
                    "compiler, or leave fused at None"
                ) from error
            self.broken = True
            logger.info("updates are not compiled: %s", reason)
            return None


compiler = Compiler()
"""The one of this process."""


@functools.cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # Sizes are variables: a run compiles again only for another type or kind of multiplication.
    compiled: Callable[..., Tensor] = torch.compile(  # type: ignore[call-overload]
        function,
        dynamic=True,
        fullgraph=True,
        recompile_limit=64,
        # Half-precision values are rounded where operations would round them.
        options={"emulate_precision_casts": True},
    )
    return compiled


def in_memory_order(tensor: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return the elements of a dense tensor as they lie in memory, without a copy.

    Args:
        tensor: any shape.
        shape: of the result; by default it has one dimension.
    """
    flat = tensor.as_strided((tensor.numel(),), (1,))
    return flat if shape is None else flat.view(shape)


def shape_by_channel(tensor: Tensor, dim: int) -> tuple[int, ...]:
    """Return the shape of `in_memory_order` in which dimension `dim` is one of its own.

    That is (outer, channels) or (outer, channels, inner).
    """
    channels, inner = tensor.shape[dim], tensor.stride(dim)
    outer = tensor.numel() // (channels * inner)
    return (outer, channels) if inner == 1 else (outer, channels, inner)


class Numbers(NamedTuple):
    """Numbers of the fixed-point format and of one increment; tensors, so that none is a constant.

    Each has no dimension and lies on the CPU.
    """

    factor: Tensor
    """c times `scale` where c is a number, else `scale`, type `work`."""

    scale: Tensor
    """Units of the velocity per unit of activation, type `work`."""

    correction: Tensor
    """In units of the velocity, type `work`."""

    decode: Tensor
    """Activation per unit of the position, type `work`."""

    half: Tensor
    """Half of a position's unit in units of the velocity, int32."""

    guard: Tensor
    """Guard bits, int32."""

    limit: Tensor
    """Largest magnitude of an increment, type `work`."""


class ByChannel(NamedTuple):
    """What a rule has one number for each channel for; each broadcasts against the position."""

    coefficient: Tensor | None
    offset: Tensor | None
    predictor: Tensor | None


class Shift(NamedTuple):
    """Multiplication by 1/2^m, whose lost bits go into the store's word above those it holds."""

    mask: Tensor
    """2^m - 1, int32, as all of these."""

    bits: Tensor
    """m."""

    held: Tensor
    """Bits that the word holds before."""

    word: Tensor
    """uint8, one for each element."""

    spilled: Tensor | None
    """uint8 plane for the low byte, if the bits do not fit the word."""


class Exchange(NamedTuple):
    """Multiplication by n/d: the store's word takes the remainder and gives a digit."""

    numerator: Tensor
    """int32, as `denominator`, `radix` and `next_radix`."""

    denominator: Tensor
    radix: Tensor
    next_radix: Tensor
    word: Tensor
    """uint8, int16 or int32, one for each element."""


def advance(
    output: Tensor,
    x: Tensor,
    v: Tensor,
    into: Tensor,
    numbers: Numbers,
    by_channel: ByChannel | None,
    multiplication: Shift | Exchange | None,
    dtype: torch.dtype,
    includes_skip: bool,
) -> Tensor:
    """Move x and v one block forward, in place; see `update.advance`.

    Args:
        output: what the block returned, of the shape of `x`: that of `in_memory_order`.
        x: positions, int32.
        v: velocities, int32.
        into: floats, gets the positions after the block.
        numbers: of the format and the increment.
        by_channel: numbers of the increment for each channel; None without any.
        multiplication: of the velocity; None where it is known to be 0.
        dtype: float type in which the block saw the position.
        includes_skip: whether the block returns x + f(x).

    Returns:
        Largest magnitude of an increment, shape (1,); beyond `numbers.limit` the state is spoilt.
    """
    real = _increment(output, None, x, numbers, by_channel, dtype, includes_skip)
    size = real.abs()
    # A cast of what does not fit, or is NaN, is not defined.
    step = torch.where(size <= numbers.limit, real, 0.0).to(torch.int32)
    moved = _multiplied(v, multiplication) + step
    v.copy_(moved)
    position = x + _displacement(moved, numbers)
    x.copy_(position)
    into.copy_(_decoded(position, numbers, into.dtype))
    return size.amax().reshape(1)


def read(x: Tensor, into: Tensor, numbers: Numbers) -> Tensor:
    """Write the positions into `into` as floats."""
    return into.copy_(_decoded(x, numbers, into.dtype))


def rewind_position(
    aside: Tensor | None, x: Tensor, v: Tensor, into: Tensor, numbers: Numbers
) -> Tensor:
    """Take the velocity off the position, in place, and write it into `into` as floats.

    Args:
        aside: the position as floats, where `x` does not have it.
        x: positions, int32.
        v: velocities, int32.
        into: floats.
        numbers: of the format.
    """
    # A power of two: what was decoded from an integer comes back as that integer.
    whole = x if aside is None else (aside / numbers.decode).to(torch.int32)
    position = whole - _displacement(v, numbers)
    x.copy_(position)
    return into.copy_(_decoded(position, numbers, into.dtype))


def mix_gradients(
    grad_x: Tensor,
    grad_w: Tensor,
    scaled: Tensor,
    gamma: Tensor,
    coefficient: Tensor,
    takes_skip: bool,
) -> Tensor:
    """Put what reaches a block together, in place; see `function.mix`.

    Args:
        grad_x: gradient of the position after the block.
        grad_w: that of gamma times the velocity; becomes g = grad_x + gamma * grad_w.
        scaled: becomes c * g.
        gamma: no dimension, of the gradients' type.
        coefficient: c, likewise.
        takes_skip: whether c * g is taken off `grad_x`.
    """
    total = grad_x + grad_w * gamma
    part = total * coefficient
    grad_w.copy_(total)
    if takes_skip:
        grad_x.copy_(grad_x - part)
    return scaled.copy_(part)


def rewind_velocity(
    output: Tensor,
    seen: Tensor | None,
    x: Tensor,
    v: Tensor,
    numbers: Numbers,
    by_channel: ByChannel | None,
    multiplication: Shift | Exchange | None,
    dtype: torch.dtype,
    includes_skip: bool,
) -> Tensor:
    """Undo the velocity's half of `advance`, in place; the arguments are the same."""
    real = _increment(output, seen, x, numbers, by_channel, dtype, includes_skip)
    v.copy_(_divided(v - real.to(torch.int32), multiplication))
    return v


def _increment(
    output: Tensor,
    seen: Tensor | None,
    x: Tensor,
    numbers: Numbers,
    by_channel: ByChannel | None,
    dtype: torch.dtype,
    includes_skip: bool,
) -> Tensor:
    """Return what `increment.increment` does, rounded; in the same order, so with the same bits."""
    work = numbers.factor.dtype
    position = (_decoded(x, numbers, dtype) if seen is None else seen).to(work)
    result = output.to(work)
    if includes_skip:
        result = result - position
    if by_channel is None:
        return (result * numbers.factor + numbers.correction).round()
    coefficient, offset, predictor = by_channel
    if coefficient is not None:
        result = result * coefficient
    result = result * numbers.factor + numbers.correction
    if offset is not None:
        result = result + offset.to(work) * numbers.scale
    if predictor is not None:
        result = result + (position * predictor) * numbers.scale
    return result.round()


def _decoded(x: Tensor, numbers: Numbers, dtype: torch.dtype) -> Tensor:
    return (x.to(numbers.decode.dtype) * numbers.decode).to(dtype)


def _displacement(v: Tensor, numbers: Numbers) -> Tensor:
    return (v + numbers.half) >> numbers.guard


def _multiplied(v: Tensor, by: Shift | Exchange | None) -> Tensor:
    """Return gamma * v; what is lost goes into the word (see `RemainderStore.push`)."""
    if by is None:
        return v
    word = by.word.to(torch.int32)
    if isinstance(by, Shift):
        word = word | ((v & by.mask) << by.held)
        if by.spilled is not None:
            by.spilled.copy_(word & 255)
            word = word >> 8
        by.word.copy_(word)
        return v >> by.bits
    quotient = _floor_divide(v, by.denominator)
    total = (v - quotient * by.denominator) * by.radix + word
    digit = _floor_divide(total, by.next_radix)
    by.word.copy_(total - digit * by.next_radix)
    return quotient * by.numerator + digit


def _divided(v: Tensor, by: Shift | Exchange | None) -> Tensor:
    """Undo `_multiplied` (see `RemainderStore.pop`)."""
    if by is None:
        return v
    word = by.word.to(torch.int32)
    if isinstance(by, Shift):
        if by.spilled is not None:
            word = (word << 8) | by.spilled.to(torch.int32)
        above = word >> by.held
        by.word.copy_(word - (above << by.held))
        return (v << by.bits) + above
    quotient = _floor_divide(v, by.numerator)
    total = (v - quotient * by.numerator) * by.next_radix + word
    remainder = _floor_divide(total, by.radix)
    by.word.copy_(total - remainder * by.radix)
    return quotient * by.denominator + remainder


def _floor_divide(values: Tensor, divisor: Tensor) -> Tensor:
    """Return floor(values / divisor) for int32, exactly; see `remainder`."""
    return ((values.to(torch.float64) + 0.5) / divisor).floor().to(torch.int32)
