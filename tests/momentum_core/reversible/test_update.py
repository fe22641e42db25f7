"""The integer rule with numbers worked out by hand."""

import pytest
import torch
from torch import nn

from momentum_core.errors import StateRangeError
from momentum_core.reversible import MomentumStack
from momentum_core.reversible.fixed_point import FixedPoint
from momentum_core.reversible.range_check import RangeCheck, encode


class Add(nn.Module):
    def __init__(self, amount):
        super().__init__()
        self.amount = nn.Parameter(torch.tensor(amount))

    def forward(self, x):
        return x + self.amount


def test_two_blocks_by_hand():
    # gamma 1/2, compensated: c = (1/2)/(1 - 1/4) = 2/3, then 1. f = 3, then 1.
    # v1 = 2, x1 = 3; v2 = 1 + 1 = 2, x2 = 5.
    stack = MomentumStack([Add(3.0), Add(1.0)], gamma=0.5)
    x = torch.tensor([1.0], requires_grad=True)
    y = stack(x)
    assert y.item() == pytest.approx(5.0, abs=1e-5)
    y.backward()
    # dx2/df1 = c1 * (1 + gamma) = 1, dx2/df2 = 1, dx2/dx0 = 1.
    assert stack.blocks[0].amount.grad.item() == pytest.approx(1.0)
    assert stack.blocks[1].amount.grad.item() == 1.0
    assert x.grad.item() == 1.0


def test_the_published_rule_by_hand():
    # gamma 3/4, c = 1/4. f = 4 each: v1 = 1, x1 = 1; v2 = 3/4 + 1, x2 = 2.75.
    stack = MomentumStack([Add(4.0), Add(4.0)], gamma=0.75, scheme="paper")
    y = stack(torch.tensor([0.0], requires_grad=True))
    assert y.item() == pytest.approx(2.75, abs=1e-5)
    y.backward()
    assert stack.blocks[0].amount.grad.item() == pytest.approx(0.25 * 1.75)


def test_offset_predictor_and_channel_scale_by_hand():
    # One block, two channels: v = c * f + b + p * x, x' = x + v; f = 2.
    stack = MomentumStack(
        [Add(2.0)],
        coefficients=torch.tensor([[1.0, 0.5]]),
        offsets=torch.tensor([0.25]),
        predictors=torch.tensor([[0.0, 2.0]]),
        trainable_rule=True,
    )
    x = torch.tensor([[1.0, 3.0]], requires_grad=True)
    y = stack(x)
    torch.testing.assert_close(y, torch.tensor([[3.25, 3 + 1 + 0.25 + 6.0]]), rtol=0, atol=1e-5)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([[1.0, 3.0]]))
    torch.testing.assert_close(stack.coefficients.grad, torch.tensor([[2.0, 2.0]]))
    torch.testing.assert_close(stack.offsets.grad, torch.tensor([2.0]))
    torch.testing.assert_close(stack.predictors.grad, torch.tensor([[1.0, 3.0]]))
    assert stack.blocks[0].amount.grad.item() == pytest.approx(1.5)


def test_activations_are_rounded_to_the_scale():
    check = RangeCheck(FixedPoint(32, 2), deferred=False)
    values = torch.tensor([0.1, 0.13, -0.4, 3.0])
    assert encode(values, 4.0, check, "x").tolist() == [0, 1, -2, 12]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e6, -1e6])
@pytest.mark.parametrize("state_bits", [16, 32])
def test_values_that_do_not_fit_raise_with_run_block_and_remedy(value, state_bits):
    stack = MomentumStack([Add(0.0), Add(value)], state_bits=state_bits, name="layer3")
    with pytest.raises(StateRangeError, match=r"layer3, block 1: .*lower_precision\(\)"):
        stack(torch.zeros(3, requires_grad=True))
    with pytest.raises(StateRangeError, match="layer3, input"):
        stack(torch.full((3,), value, requires_grad=True))


@pytest.mark.parametrize("state_bits", [16, 32])
def test_positions_that_creep_out_of_range_raise_and_never_wrap(state_bits):
    # Every increment fits; their sum does not.
    stack = MomentumStack([Add(0.0)] * 40, gamma=0.9, state_bits=state_bits)
    with torch.no_grad():
        stack.blocks[0].amount.fill_(stack.fixed_point.largest / 20)
    with pytest.raises(StateRangeError, match=r"the (position|velocity) after it reaches"):
        stack(torch.zeros(3, requires_grad=True))
    with torch.no_grad():
        stack.blocks[0].amount.fill_(stack.fixed_point.largest / 50)
    y = stack(torch.zeros(3, requires_grad=True))
    torch.testing.assert_close(y, stack.forward_floats(torch.zeros(3))[0], rtol=1e-2, atol=0)


def test_lower_precision_lets_the_step_be_repeated(train_step):
    norm = nn.BatchNorm1d(3)
    stack = MomentumStack([norm, Add(3000.0)], skip=False, gamma=0.5)
    x = torch.randn(5, 3)
    with pytest.raises(StateRangeError):
        stack(x.clone().requires_grad_())
    # Statistics that moved before the error are back where they were.
    assert norm.num_batches_tracked.item() == 0
    assert torch.equal(norm.running_mean, torch.zeros(3))
    stack.lower_precision(bits=2)
    y = stack(x.clone().requires_grad_())
    assert norm.num_batches_tracked.item() == 1
    torch.testing.assert_close(y, stack.forward_floats(x)[0], rtol=1e-4, atol=0)


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_a_deferred_check_gives_nan_at_once_and_raises_in_the_backward_pass(monkeypatch, value):
    from momentum_core.reversible import passes

    monkeypatch.setattr(
        passes, "RangeCheck", lambda point, deferred: RangeCheck(point, deferred=True)
    )
    stack = MomentumStack([Add(1.0), Add(value), Add(1.0)], name="layer3")
    y = stack(torch.zeros(3, requires_grad=True))
    assert y.isnan().all()
    with pytest.raises(StateRangeError, match="layer3, block 1"):
        y.sum().backward()
    fine = MomentumStack([Add(1.0), Add(2.0)])
    y = fine(torch.zeros(3, requires_grad=True))
    assert y.isfinite().all()
    y.sum().backward()
