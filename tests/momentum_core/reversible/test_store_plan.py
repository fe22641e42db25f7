import math
import random
from fractions import Fraction

import pytest

from momentum_core.reversible import round_gamma
from momentum_core.reversible.store_plan import plan_store

GAMMAS = [Fraction(1, 2**m) for m in range(1, 13)] + random.Random(0).sample(
    [Fraction(n, d) for d in range(3, 129) for n in range(1, d)], 120
)
GAMMAS += [round_gamma(g) for g in (0.1, 0.3, 0.7, 7 / 8, 0.9, 0.97, 0.99, 127 / 128)]
DEPTHS = (1, 2, 3, 5, 8, 9, 22, 35, 100, 200, 1000)


def _static_bound(gamma, num_blocks):
    bound = 0
    for _ in range(num_blocks - 1):
        bound = (bound * gamma.denominator + gamma.denominator - 1) // gamma.numerator
    return bound


@pytest.mark.parametrize("depth", DEPTHS)
def test_bits_held_stay_within_the_stated_bound(depth):
    for gamma in GAMMAS:
        held = plan_store(gamma, depth - 1).bits_per_element
        assert held <= depth * math.log2(1 / gamma) + 24, gamma
        if _static_bound(gamma, depth) < 256:
            assert held <= 8, gamma


@pytest.mark.parametrize("depth", DEPTHS)
def test_no_intermediate_product_leaves_32_bits(depth):
    for gamma in GAMMAS:
        plan = plan_store(gamma, depth)
        for push in plan.pushes:
            assert push.radix * gamma.denominator <= 2**31
            assert push.next_radix <= 2**31


def test_radices_never_promise_less_room_than_the_digits_need():
    for gamma in GAMMAS:
        plan = plan_store(gamma, 60)
        left = plan.pushes[0].radix
        for push in plan.pushes:
            left = max(1, -(-left // 256**push.spills_before))
            assert push.radix >= left
            assert push.next_radix * gamma.numerator >= push.radix * gamma.denominator
            left = -(-push.next_radix // 256**push.spills_after)


@pytest.mark.parametrize("shift", range(1, 13))
def test_dyadic_remainders_waste_less_than_a_byte(shift):
    for pushes in range(1, 60):
        held = plan_store(Fraction(1, 2**shift), pushes).bits_per_element
        assert shift * pushes <= held < shift * pushes + 8


def test_a_single_block_stores_nothing():
    assert plan_store(Fraction(1, 3), 0).bits_per_element == 0
