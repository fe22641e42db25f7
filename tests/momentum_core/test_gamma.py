from fractions import Fraction

import pytest

from momentum_core.errors import ConfigError
from momentum_core.gamma import shift_of
from momentum_core.reversible import round_gamma


@pytest.mark.parametrize(
    ("gamma", "fraction"),
    [
        (0.5, Fraction(1, 2)),
        (0.9, Fraction(9, 10)),
        (0.97, Fraction(97, 100)),
        (1 / 3, Fraction(1, 3)),
        (0.875, Fraction(7, 8)),
        (1 / 1024, Fraction(1, 1024)),
        (2**-12, Fraction(1, 4096)),
        (0.002, Fraction(1, 512)),
        (Fraction(2, 7), Fraction(2, 7)),
        (127 / 128, Fraction(127, 128)),
        (0.9925, Fraction(127, 128)),
    ],
)
def test_gamma_becomes_the_nearest_fraction_that_integers_can_multiply_by(gamma, fraction):
    assert round_gamma(gamma) == fraction


def test_rounding_is_as_close_as_denominators_up_to_128_allow():
    for step in range(8, 990):
        gamma = step / 1000
        error = abs(float(round_gamma(gamma)) - gamma)
        nearest = min(
            abs(n / d - gamma)
            for d in range(2, 129)
            for n in {int(gamma * d), int(gamma * d) + 1}
            if 0 < n < d
        )
        assert error <= nearest + 1e-12


@pytest.mark.parametrize("gamma", [0, 1, -0.5, 1.5, float("nan"), float("inf"), "0.5", True, None])
def test_gamma_outside_the_open_interval_is_refused(gamma):
    with pytest.raises(ConfigError, match="gamma must be a number between 0 and 1"):
        round_gamma(gamma)


@pytest.mark.parametrize(
    ("gamma", "nearest", "second"),
    [
        (1e-4, "1/4096", "1/2048"),
        (0.003, "1/256", "1/512"),
        (0.0021, "1/512", "1/1024"),
        (0.9935, "127/128", "126/127"),
        (0.995, "127/128", "126/127"),
        (0.999, "127/128", "126/127"),
    ],
)
def test_gamma_far_from_every_fraction_is_refused_with_the_two_nearest(gamma, nearest, second):
    with pytest.raises(ConfigError, match=rf"nearest are {nearest} \(.*\) and {second} \("):
        round_gamma(gamma)


def test_rounding_never_changes_gamma_or_one_minus_gamma_by_more_than_it_says():
    for step in range(1, 4096):
        gamma = step / 4096
        allowed = 0.01 if 1 / 128 <= gamma <= 127 / 128 else 0.05
        try:
            error = abs(float(round_gamma(gamma)) - gamma)
        except ConfigError:
            assert allowed == 0.05
        else:
            assert error <= allowed * min(gamma, 1 - gamma)


def test_powers_of_two_are_recognised():
    assert shift_of(Fraction(1, 16)) == 4
    assert shift_of(Fraction(3, 16)) is None
    assert shift_of(Fraction(1, 3)) is None
