"""Keep what multiplying by n/d would lose, so that the product can be undone bit for bit.

Section "Multiplying" of this folder's README derives the formulas and the static bound.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from momentum_core.gamma import shift_of
from momentum_core.reversible.fused import Exchange, Shift, in_memory_order
from momentum_core.reversible.store_plan import Push, StorePlan
from momentum_core.reversible.tiles import Tile

_WORD = {8: torch.uint8, 16: torch.int16, 32: torch.int32}


class RemainderStore:
    """The lost digits of one run: a word per element and a stack of spilled bytes.

    Multiplications are pushed in the order of `plan.pushes` and taken back in the opposite order.
    Each is opened with `begin_*`, done tile by tile, and closed with `end_*`.
    """

    def __init__(self, plan: StorePlan, like: Tensor) -> None:
        """Start empty.

        Args:
            plan: the static plan of the run.
            like: a tensor of the state's shape, device and memory layout.
        """
        self._plan = plan
        self._shift = shift_of(plan.gamma)
        self._like = like
        self._word: Tensor | None = None
        self._bytes: list[Tensor] = []
        self._depth = 0
        self._scalars: dict[tuple[str, int], Tensor] = {}

    @property
    def gamma(self) -> Fraction:
        """The factor of every multiplication."""
        return self._plan.gamma

    @property
    def num_held(self) -> int:
        """Multiplications that have been pushed and not yet taken back."""
        return self._depth

    def held_bytes(self) -> int:
        """Return the bytes of memory that the store holds now."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the word, if there is one yet, and the spilled bytes."""
        return (*(() if self._word is None else (self._word,)), *self._bytes)

    def is_empty(self) -> bool:
        """Return whether nothing is held: no multiplication, no byte, and a word of zeros."""
        if self._depth or self._bytes:
            return False
        return self._word is None or not bool(self._word.any())

    def begin_push(self) -> Push:
        """Open the next multiplication; allocate and spill what its plan says."""
        push = self._plan.pushes[self._depth]
        if self._word is None:
            self._word = self._zeros()
        for _ in range(push.spills_before):
            if self._word.dtype == torch.uint8:
                self._bytes.append(self._word)
                self._word = self._zeros()
            else:
                plane = torch.empty_like(self._like, dtype=torch.uint8)
                self._bytes.append(_low_byte(self._word, plane))
                self._word.bitwise_right_shift_(8)
        for _ in range(push.spills_after):
            self._bytes.append(torch.empty_like(self._like, dtype=torch.uint8))
        return push

    def push(self, v: Tensor, tile: Tile, push: Push) -> None:
        """Multiply the int32 velocities `v` by gamma in place and keep what is lost."""
        assert self._word is not None
        word = self._word[tile]
        if self._shift is not None:
            held = push.radix.bit_length() - 1
            if push.next_radix <= 256:
                # Everything fits a byte, and bytes are four times faster than words.
                low = v.to(torch.uint8).bitwise_and_(2**self._shift - 1)
                v.bitwise_right_shift_(self._shift)
                word.add_(low, alpha=2**held)
                return
            digit = v.bitwise_and(2**self._shift - 1)
            v.bitwise_right_shift_(self._shift)
            if held:
                digit.bitwise_left_shift_(held).bitwise_or_(word)
            for plane in range(push.spills_after):
                spilled = self._bytes[len(self._bytes) - push.spills_after + plane]
                _low_byte(digit, spilled[tile])
                digit.bitwise_right_shift_(8)
            word.copy_(digit)
            return
        n, d = self._plan.gamma.numerator, self._plan.gamma.denominator
        quotient = _floor_divide(v, d)
        total = v.sub_(quotient, alpha=d).mul_(push.radix).add_(word)
        if n == 1:
            word.copy_(total)
            v.copy_(quotient)
            return
        digit = _digit(total, push.next_radix)
        word.copy_(total.sub_(digit, alpha=push.next_radix))
        torch.add(digit, quotient, alpha=n, out=v)

    def multiplication(self, push: Push, shape: tuple[int, ...] | None) -> Shift | Exchange | None:
        """Return `push` in the form that compiled code takes, or None if it has no such form.

        Args:
            push: the open multiplication or its open inverse.
            shape: that the tensors shall have in the order of memory.
        """
        assert self._word is not None
        word = in_memory_order(self._word, shape)
        if self._shift is None:
            n, d = self._plan.gamma.numerator, self._plan.gamma.denominator
            return Exchange(
                numerator=self._scalar("numerator", n),
                denominator=self._scalar("denominator", d),
                radix=self._scalar("radix", push.radix),
                next_radix=self._scalar("next_radix", push.next_radix),
                word=word,
            )
        if push.spills_after > 1:
            return None
        held = push.radix.bit_length() - 1
        spilled = in_memory_order(self._bytes[-1], shape) if push.spills_after else None
        return Shift(
            mask=self._scalar("mask", 2**self._shift - 1),
            bits=self._scalar("bits", self._shift),
            held=self._scalar("held", held),
            word=word,
            spilled=spilled,
        )

    def end_push(self) -> None:
        """Close the multiplication."""
        self._depth += 1

    def begin_pop(self) -> Push:
        """Open the inverse of the last multiplication."""
        self._depth -= 1
        return self._plan.pushes[self._depth]

    def pop(self, v: Tensor, tile: Tile, push: Push) -> None:
        """Undo `push` on the int32 velocities `v` in place."""
        assert self._word is not None
        word = self._word[tile]
        if self._shift is not None and push.next_radix <= 256:
            v.bitwise_left_shift_(self._shift)
            v.add_(word.bitwise_right_shift(push.radix.bit_length() - 1))
            word.bitwise_and_(push.radix - 1)
            return
        total = word.to(torch.int32)
        if self._shift is not None:
            for plane in range(1, push.spills_after + 1):
                total.bitwise_left_shift_(8).bitwise_or_(self._bytes[-plane][tile])
            held = push.radix.bit_length() - 1
            word.copy_(total.bitwise_and(push.radix - 1))
            v.bitwise_left_shift_(self._shift).bitwise_or_(total.bitwise_right_shift_(held))
            return
        n, d = self._plan.gamma.numerator, self._plan.gamma.denominator
        quotient = v
        if n > 1:
            quotient = _floor_divide(v, n)
            digit = v.sub_(quotient, alpha=n)
            total.add_(digit, alpha=push.next_radix)
        remainder = _digit(total, push.radix)
        word.copy_(total.sub_(remainder, alpha=push.radix))
        torch.add(remainder, quotient, alpha=d, out=v)

    def end_pop(self, push: Push) -> None:
        """Close the inverse: drop its bytes and take back those spilled before it."""
        assert self._word is not None
        del self._bytes[len(self._bytes) - push.spills_after :]
        for _ in range(push.spills_before):
            plane = self._bytes.pop()
            if self._word.dtype == torch.uint8:
                self._word = plane
            else:
                self._word.bitwise_left_shift_(8).bitwise_or_(plane)

    def _scalar(self, name: str, value: int) -> Tensor:
        """Return a number for compiled code, which takes a tensor for each name."""
        if (name, value) not in self._scalars:
            self._scalars[name, value] = torch.tensor(value, dtype=torch.int32)
        return self._scalars[name, value]

    def _zeros(self) -> Tensor:
        return torch.zeros_like(self._like, dtype=_WORD[self._plan.accumulator_bits])


def _low_byte(values: Tensor, out: Tensor) -> Tensor:
    # Masked first: converting an integer that does not fit is not defined on every device.
    return out.copy_(values.bitwise_and(255))


def _floor_divide(values: Tensor, divisor: int) -> Tensor:
    """Return floor(values / divisor) for int32 values, exactly, as a new int32 tensor.

    Doubles hold int32 exactly. (values + 1/2) / divisor is at least 1/(2*divisor) away from a whole
    number, which is more than its rounding error: quotient * 2^-51 in doubles. Vector units have no
    integer division; this is three times faster.
    """
    if divisor.bit_count() == 1:
        return values.bitwise_right_shift(divisor.bit_length() - 1)
    real = values.to(torch.float64)
    return _scaled(real, divisor).floor_().to(torch.int32)


def _digit(total: Tensor, radix: int) -> Tensor:
    """Return floor(total / radix) for 0 <= total and a result of at most 128; see above.

    Up to radix 2^12, total is below 2^20 and single precision suffices: the error is at most
    128 * 2^-22, the distance from a whole number at least 2^-13.
    """
    if radix.bit_count() == 1:
        return total.bitwise_right_shift(radix.bit_length() - 1)
    real = total.to(torch.float32 if radix <= 2**12 else torch.float64)
    return _scaled(real, radix).to(torch.int32)


def _scaled(values: Tensor, divisor: int) -> Tensor:
    """Return (values + 1/2) / divisor in place, in one pass."""
    half = torch.tensor(0.5 / divisor, dtype=values.dtype, device=values.device)
    return torch.add(half, values, alpha=1.0 / divisor, out=values)
