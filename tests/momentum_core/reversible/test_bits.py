import math
from pathlib import Path

import pytest

from momentum_core.gamma import round_gamma
from momentum_core.reversible import bits

README = Path(bits.__file__).with_name("README.md")


@pytest.mark.parametrize("depth", [1, 2, 5, 22, 35, 100])
def test_measured_bits_stay_within_the_stated_bound(depth):
    for gamma in bits.GAMMAS:
        held = bits.measure_bits(gamma, depth)
        fraction = round_gamma(gamma)
        assert held <= 64 + depth * math.log2(1 / fraction) + 24
        bound = 0
        for _ in range(depth - 1):
            bound = (bound * fraction.denominator + fraction.denominator - 1) // fraction.numerator
        if bound < 256:
            assert held <= 64 + 8


def test_the_table_in_the_readme_is_what_the_command_prints():
    assert bits.bits_table() in README.read_text()
