"""Momentum terms that integers can multiply by: gamma as a fraction n/d with a small d."""

from __future__ import annotations

from fractions import Fraction

from momentum_core.errors import ConfigError

MAX_DENOMINATOR = 128
MAX_SHIFT = 12

_LARGEST = Fraction(MAX_DENOMINATOR - 1, MAX_DENOMINATOR)
_SMALLEST = Fraction(1, 2**MAX_SHIFT)


def round_gamma(gamma: float | Fraction) -> Fraction:
    """Return the fraction nearest to `gamma` that the exact core can use.

    Candidates are n/d with 0 < n < d <= 128 and 1/2^m with m <= 12. The result is the momentum
    term itself: forward, inverse and gradients use it, and no other value.

    Raises:
        ConfigError: `gamma` is no number in (0, 1), or so near to 0 or 1 that rounding would
            change its meaning (below 3/4 of 1/4096, or above 1 - 3/4 of 1/128).
    """
    is_number = isinstance(gamma, int | float | Fraction) and not isinstance(gamma, bool)
    if not is_number or not 0 < gamma < 1:
        raise ConfigError(
            f"gamma must be a number between 0 and 1, both excluded, got {gamma!r}; "
            "at 0 the network has no inverse, at 1 it ignores its blocks; try 0.5"
        )
    exact = Fraction(gamma)
    if exact < _SMALLEST * Fraction(3, 4):
        raise ConfigError(f"gamma {float(exact):g} is too small to reverse; use 1/4096 or more")
    if 1 - exact < (1 - _LARGEST) * Fraction(3, 4):
        raise ConfigError(f"gamma {float(exact):g} is too close to 1; use 127/128 or less")
    candidates = [exact.limit_denominator(MAX_DENOMINATOR)]
    candidates += [Fraction(1, 2**shift) for shift in range(1, MAX_SHIFT + 1)]
    proper = [candidate for candidate in candidates if 0 < candidate < 1]
    return min([*proper, _LARGEST], key=lambda candidate: abs(candidate - exact))


def shift_of(gamma: Fraction) -> int | None:
    """Return m if `gamma` is 1/2^m, else None."""
    is_dyadic = gamma.numerator == 1 and gamma.denominator.bit_count() == 1
    return gamma.denominator.bit_length() - 1 if is_dyadic else None
