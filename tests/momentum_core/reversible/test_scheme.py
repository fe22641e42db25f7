from fractions import Fraction

import pytest

from momentum_core.errors import ConfigError
from momentum_core.reversible import scheme_coefficients


def test_paper_takes_one_minus_gamma():
    assert scheme_coefficients("paper", Fraction(3, 4), 3) == (0.25, 0.25, 0.25)


def test_compensated_by_hand():
    # (1/2) / (1 - 1/8), (1/2) / (1 - 1/4), (1/2) / (1 - 1/2)
    expected = (4 / 7, 2 / 3, 1.0)
    assert scheme_coefficients("compensated", Fraction(1, 2), 3) == pytest.approx(expected)


@pytest.mark.parametrize("gamma", [Fraction(1, 16), Fraction(7, 10), Fraction(99, 100)])
def test_compensated_gives_every_block_its_full_weight_at_the_end(gamma):
    num_blocks = 30
    coefficients = scheme_coefficients("compensated", gamma, num_blocks)
    for block, coefficient in enumerate(coefficients):
        weight = coefficient * sum(float(gamma) ** k for k in range(num_blocks - block))
        assert weight == pytest.approx(1.0, abs=1e-12)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(ConfigError, match="'compensated' or 'paper'"):
        scheme_coefficients("papers", Fraction(1, 2), 3)
