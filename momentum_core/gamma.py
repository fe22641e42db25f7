"""Momentum terms that integers can multiply by: gamma as a fraction n/d with a small d."""

from __future__ import annotations

from fractions import Fraction

from momentum_core.errors import ConfigError

MAX_DENOMINATOR = 128
MAX_SHIFT = 12

_LARGEST_CHANGE = 0.05
"""Of gamma or of 1 - gamma, relative: more would be another momentum term than was asked for."""


def round_gamma(gamma: float | Fraction) -> Fraction:
    """Return the fraction nearest to `gamma` that the exact core can use.

    Candidates are n/d with 0 < n < d <= 128 and 1/2^m with m <= 12. The result is the momentum
    term itself: forward, inverse and gradients use it, and no other value.

    Between 1/128 and 127/128 rounding changes neither gamma nor 1 - gamma by 1 %.

    Raises:
        ConfigError: `gamma` is no number in (0, 1), or it lies where candidates are far apart and
            rounding would change gamma or 1 - gamma by more than 5 %.
    """
    is_number = isinstance(gamma, int | float | Fraction) and not isinstance(gamma, bool)
    if not is_number or not 0 < gamma < 1:
        raise ConfigError(
            f"gamma must be a number between 0 and 1, both excluded, got {gamma!r}; "
            "at 0 the network has no inverse, at 1 it ignores its blocks; try 0.5"
        )
    exact = Fraction(gamma)
    nearest, second = _nearest_two(exact)
    if abs(nearest - exact) > _LARGEST_CHANGE * min(exact, 1 - exact):
        raise ConfigError(
            f"gamma {float(exact):g} lies too far from every fraction that integers can be "
            f"multiplied by and divided by again; the two nearest are {nearest} "
            f"({float(nearest):.5g}) and {second} ({float(second):.5g})"
        )
    return nearest


def _nearest_two(exact: Fraction) -> tuple[Fraction, Fraction]:
    """Return the two candidates nearest to `exact`, the nearest first."""
    most = MAX_DENOMINATOR
    ends = (Fraction(most - 2, most - 1), Fraction(most - 1, most))
    powers = (Fraction(1, 2**shift) for shift in range(1, MAX_SHIFT + 1))
    best = exact.limit_denominator(most)
    proper = {best, *ends, *powers} - {Fraction(0), Fraction(1)}
    nearest, second, *_ = sorted(proper, key=lambda candidate: abs(candidate - exact))
    return nearest, second


def shift_of(gamma: Fraction) -> int | None:
    """Return m if `gamma` is 1/2^m, else None."""
    is_dyadic = gamma.numerator == 1 and gamma.denominator.bit_count() == 1
    return gamma.denominator.bit_length() - 1 if is_dyadic else None
