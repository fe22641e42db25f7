"""The least squares give what can be found by hand, and the numbers keep every bit."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

from momentum_core.calibration.numbers import rule_of
from momentum_core.calibration.stepwise import fit_stepwise
from momentum_core.calibration.student import FloatRun
from momentum_core.calibration.watch import RunCall
from momentum_core.conversion import RunRule

GAMMA = 0.5


class _Scale(nn.Module):
    """f(x) = a * x."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = a

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.a * x


@pytest.mark.parametrize("lead", [0.0, 0.5, 1.0])
def test_two_blocks_that_scale_their_input(lead):
    """With f_i(x) = a_i * x everything is a multiple of the first position.

    The first block aims at x1* = 1 + a0 with x1 + lead * gamma * v1, so v1 = a0 / (1 + lead*gamma).
    The last one aims at x2* = (1 + a0)(1 + a1) with x1 + gamma * v1 + c1 * a1 * x1.
    """
    a0, a1 = 0.3, 0.4
    scheme = RunRule.of_scheme("compensated", Fraction(1, 2), 2)
    call = RunCall(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), (), {})
    numbers = fit_stepwise(
        [_Scale(a0), _Scale(a1)], scheme, [(call, call)], form="scalar", lead=lead
    )
    c = numbers.columns[0].squeeze(1)
    v1 = a0 / (1 + lead * GAMMA)
    x1 = 1 + v1
    c1 = ((1 + a0) * (1 + a1) - x1 - GAMMA * v1) / (a1 * x1)
    # Ridge pulls a thousandth of the way back to the scheme.
    torch.testing.assert_close(c, torch.tensor([v1 / a0, c1]), rtol=2e-3, atol=0)


def test_offset_and_predictor_are_found_in_each_channel():
    """The original adds what no multiple of f is: b and p of the only block must bring it."""
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(1))
    ours = RunCall(x, (), {})
    shift, slope = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    theirs = RunCall(x + shift + slope * x, (), {})

    class Fixed(nn.Module):
        def forward(self, position: torch.Tensor) -> torch.Tensor:
            return position + torch.sin(7 * x)

    scheme = RunRule.of_scheme("compensated", Fraction(1, 2), 1)
    fitted = fit_stepwise([Fixed()], scheme, [(ours, theirs)], form="predictor", lead=0.5)
    _, b, p = (column.squeeze(0) for column in fitted.columns)
    torch.testing.assert_close(b, shift, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(p, slope, rtol=1e-2, atol=1e-2)


def test_a_rule_keeps_every_bit_of_the_numbers():
    scheme = RunRule.of_scheme("compensated", Fraction(1, 2), 3)
    columns = tuple(torch.randn(3, 5) * 10.0 ** torch.randint(-12, 3, (3, 5)) for _ in range(3))
    for made, given in zip(rule_of(columns, scheme).tensors(), columns, strict=True):
        assert made is not None
        assert torch.equal(made, given)


def test_each_block_starts_from_where_the_ones_before_it_led():
    """The input is off by (1, -2): whatever the first block leaves of that, the last one mends."""
    blocks = nn.ModuleList([_Scale(0.3), _Scale(0.4)])
    scheme = RunRule.of_scheme("compensated", Fraction(1, 2), 2)
    x = torch.randn(400, 2, generator=torch.Generator().manual_seed(2))
    goal = x + torch.tensor([1.0, -2.0])
    calls = [(RunCall(x, (), {}), RunCall(goal, (), {}))]
    fitted = fit_stepwise(list(blocks), scheme, calls, form="predictor", lead=0.5)
    reached = FloatRun(blocks, rule_of(fitted.columns, scheme))(x)
    torch.testing.assert_close(reached, 1.3 * 1.4 * goal, rtol=1e-2, atol=1e-2)
