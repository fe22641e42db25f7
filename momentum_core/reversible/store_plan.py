"""The static plan of the remainder store: how large it can get, known without any activation."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from fractions import Fraction

from momentum_core.gamma import shift_of

_PRODUCT_LIMIT = 2**31
"""Every intermediate product of the store stays below this, so int32 arithmetic is enough."""

_MAX_FREE_START = 2**16


@dataclass(frozen=True, slots=True)
class Push:
    """One multiplication by n/d: the store goes from `radix` possible values to `next_radix`."""

    spills_before: int
    """Low bytes moved to the byte stack before the multiplication."""

    radix: int
    """The store holds a value in [0, radix) when the remainder arrives."""

    next_radix: int
    """The store holds a value in [0, next_radix) afterwards, before `spills_after`."""

    spills_after: int
    """Low bytes moved to the byte stack after the multiplication."""


@dataclass(frozen=True, slots=True)
class StorePlan:
    """All multiplications of a run, and what they leave behind."""

    gamma: Fraction
    accumulator_bits: int
    """Bits of the word that each element holds: 0 (no multiplication), 8, 16 or 32."""

    pushes: tuple[Push, ...]

    @property
    def bits_per_element(self) -> int:
        """Bits held per element once the whole run has passed."""
        spilled = sum(push.spills_before + push.spills_after for push in self.pushes)
        return self.accumulator_bits + 8 * spilled


@functools.lru_cache(maxsize=256)
def plan_store(gamma: Fraction, num_pushes: int) -> StorePlan:
    """Plan `num_pushes` exact multiplications by `gamma`.

    A store with B possible values that takes a remainder base d and gives a digit base n has
    `ceil(B * d / n)` possible values afterwards, whatever the numbers were. From that follow the
    width of its word and the moments at which low bytes must leave it.

    The store may start with more than one possible value. That costs nothing while the word has
    room, and makes the multiplication finer: see the README of this folder.
    """
    if num_pushes == 0:
        return StorePlan(gamma, 0, ())
    shift = shift_of(gamma)
    if shift is not None:
        return StorePlan(gamma, 8, _dyadic_pushes(shift, num_pushes))
    for bits, capacity in ((8, 2**8), (16, 2**15)):
        if _radices(gamma, num_pushes, 1)[-1] <= capacity:
            start = _largest_start(gamma, num_pushes, capacity)
            radices = _radices(gamma, num_pushes, start)
            pushes = tuple(
                Push(0, before, after, 0) for before, after in itertools.pairwise(radices)
            )
            return StorePlan(gamma, bits, pushes)
    return StorePlan(gamma, 32, _spilling_pushes(gamma, num_pushes))


def _next_radix(gamma: Fraction, radix: int) -> int:
    return -(-radix * gamma.denominator // gamma.numerator)


def _radices(gamma: Fraction, num_pushes: int, start: int) -> list[int]:
    radices = [start]
    for _ in range(num_pushes):
        radices.append(_next_radix(gamma, radices[-1]))
        if radices[-1] > _PRODUCT_LIMIT:
            break
    return radices


def _largest_start(gamma: Fraction, num_pushes: int, capacity: int) -> int:
    low, high = 1, capacity
    while low < high:
        middle = (low + high + 1) // 2
        if _radices(gamma, num_pushes, middle)[-1] <= capacity:
            low = middle
        else:
            high = middle - 1
    return low


def _dyadic_pushes(shift: int, num_pushes: int) -> tuple[Push, ...]:
    """Pack `shift` bits at a time into bytes; no bit is wasted."""
    pushes = []
    held = 0
    for _ in range(num_pushes):
        spills_before = 1 if held == 8 else 0
        held -= 8 * spills_before
        after = held + shift
        spills_after = max(0, math.ceil((after - 8) / 8))
        pushes.append(Push(spills_before, 2**held, 2**after, spills_after))
        held = after - 8 * spills_after
    return tuple(pushes)


def _spilling_pushes(gamma: Fraction, num_pushes: int) -> tuple[Push, ...]:
    """Start as finely as is free: the number of spilled bytes must not grow."""
    plain = _spill_schedule(gamma, num_pushes, 1)
    start = _MAX_FREE_START
    while start > 1:
        finer = _spill_schedule(gamma, num_pushes, start)
        if _spilled(finer) <= _spilled(plain):
            return finer
        start //= 2
    return plain


def _spill_schedule(gamma: Fraction, num_pushes: int, start: int) -> tuple[Push, ...]:
    pushes = []
    radix = start
    for _ in range(num_pushes):
        spills = 0
        while radix * gamma.denominator > _PRODUCT_LIMIT:
            radix = -(-radix // 256)
            spills += 1
        after = _next_radix(gamma, radix)
        pushes.append(Push(spills, radix, after, 0))
        radix = after
    return tuple(pushes)


def _spilled(pushes: tuple[Push, ...]) -> int:
    return sum(push.spills_before for push in pushes)
