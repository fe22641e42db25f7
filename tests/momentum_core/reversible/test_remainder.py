import itertools
from fractions import Fraction

import pytest
import torch

from momentum_core.reversible.remainder import RemainderStore, _digit, _floor_divide
from momentum_core.reversible.store_plan import plan_store

WHOLE = (slice(None),)


def _push(store, v):
    push = store.begin_push()
    store.push(v, WHOLE, push)
    store.end_push()


def _pop(store, v):
    push = store.begin_pop()
    store.pop(v, WHOLE, push)
    store.end_pop(push)


def test_halving_by_hand():
    # -5 = 2 * -3 + 1: floor, so the remainder of a negative number is not negative.
    v = torch.tensor([-5, -4, 7, 0], dtype=torch.int32)
    store = RemainderStore(plan_store(Fraction(1, 2), 2), v)
    _push(store, v)
    assert v.tolist() == [-3, -2, 3, 0]
    _push(store, v)
    assert v.tolist() == [-2, -1, 1, 0]
    _pop(store, v)
    assert v.tolist() == [-3, -2, 3, 0]
    _pop(store, v)
    assert v.tolist() == [-5, -4, 7, 0]
    assert store.is_empty()


def test_two_thirds_by_hand():
    # One push into a byte: the start is 170, the most whose ceil(170 * 3 / 2) = 255 fits 256.
    plan = plan_store(Fraction(2, 3), 1)
    (push,) = plan.pushes
    assert (push.radix, push.next_radix) == (170, 255)
    v = torch.tensor([7, -7], dtype=torch.int32)
    store = RemainderStore(plan, v)
    _push(store, v)
    # 7 = 3*2 + 1: Z = 1*170, digit = 170 // 255 = 0, v = 2*2 + 0. -7 = 3*-3 + 2: 340 // 255 = 1.
    assert v.tolist() == [4, -5]
    _pop(store, v)
    assert v.tolist() == [7, -7]
    assert store.is_empty()


@pytest.mark.parametrize(
    "gamma",
    [Fraction(1, 2**m) for m in range(1, 13)]
    + [Fraction(*nd) for nd in ((1, 3), (2, 3), (7, 8), (9, 10), (97, 100), (127, 128), (1, 127))],
)
def test_every_multiplication_can_be_undone(gamma):
    generator = torch.Generator().manual_seed(gamma.denominator)
    start = torch.randint(-(2**30), 2**30, (512,), generator=generator, dtype=torch.int32)
    for num_pushes in (1, 5, 33, 150):
        v = start.clone()
        store = RemainderStore(plan_store(gamma, num_pushes), v)
        noise = torch.randint(-(2**20), 2**20, (num_pushes, 512), dtype=torch.int32)
        for added in noise:
            before = v.to(torch.float64)
            _push(store, v)
            error = v.to(torch.float64) - before * float(gamma)
            assert error.abs().max() <= gamma.numerator
            v += added
        assert store.num_held == num_pushes
        assert store.held_bytes() * 8 == 512 * plan_store(gamma, num_pushes).bits_per_element
        for added in reversed(noise):
            v -= added
            _pop(store, v)
        assert torch.equal(v, start)
        assert store.is_empty()


def test_a_fine_store_multiplies_to_within_one_unit_whatever_n_is():
    # 97/100 with room to spare: the store carries the fraction that a coarse digit would lose.
    v = torch.randint(-(2**20), 2**20, (4096,), dtype=torch.int32)
    store = RemainderStore(plan_store(Fraction(97, 100), 150), v)
    for _ in range(60):
        expected = v.to(torch.float64) * 0.97
        _push(store, v)
        assert (v - expected).abs().max() < 1.5


def test_division_is_exact_at_the_edges_of_32_bits():
    edges = [-(2**31), -(2**31) + 1, -129, -128, -1, 0, 1, 127, 2**30, 2**31 - 1]
    values = torch.tensor(edges, dtype=torch.int32)
    for divisor in range(1, 129):
        assert _floor_divide(values, divisor).tolist() == [edge // divisor for edge in edges]


def test_digits_are_exact_around_every_multiple():
    for radix in (1, 2, 3, 255, 256, 4095, 4096, 4097, 32767, 2**24 - 1):
        totals = {
            quotient * radix + offset
            for quotient, offset in itertools.product(range(129), (-1, 0, 1, radix // 2))
        }
        totals = sorted(total for total in totals if 0 <= total < min(128 * radix, 2**31))
        found = _digit(torch.tensor(totals, dtype=torch.int32), radix)
        assert found.tolist() == [total // radix for total in totals]
