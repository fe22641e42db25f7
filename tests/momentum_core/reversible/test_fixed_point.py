from fractions import Fraction

import pytest
import torch

from momentum_core.errors import ConfigError, ReversibilityError
from momentum_core.reversible import MomentumStack
from momentum_core.reversible.fixed_point import TOLERANCE, FixedPoint


class Sine(torch.nn.Module):
    def __init__(self, phase):
        super().__init__()
        self.phase = phase

    def forward(self, x):
        return x + torch.sin(3.0 * x + self.phase)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(
    ("state_bits", "depth", "guard_bits"),
    [(32, 5, 0), (32, 60, 0), (32, 60, 1), (32, 60, 2), (32, 60, 4), (16, 8, 0), (16, 8, 1)],
)
@pytest.mark.parametrize("learned", [False, True])
def test_the_noise_is_what_is_expected_and_has_no_mean(
    gamma, state_bits, depth, guard_bits, learned
):
    if state_bits == 16 and gamma == 0.99:
        depth = 3
    # Blocks that ignore x: what differs from the exact rule is the state's own rounding.
    torch.manual_seed(0)
    steps = torch.randn(depth, 4000, dtype=torch.float64) * 0.1
    blocks = [torch.nn.Identity() for _ in range(depth)]
    options = {"initial_velocity": torch.nn.Identity()} if learned else {}
    stack = MomentumStack(blocks, gamma=gamma, state_bits=state_bits, **options)
    point = stack.fixed_point
    stack.fixed_point = FixedPoint(state_bits, point.scale_bits, guard_bits)
    for number, block in enumerate(blocks):
        block.register_forward_hook(lambda _, args, out, n=number: args[0] + steps[n])
    # Representable exactly: positions and the velocity that they start from.
    x = torch.randint(-500, 500, (4000,)).double() / point.scale
    difference = stack(x.clone().requires_grad_()).detach() - stack.forward_floats(x)[0]
    rms = difference.square().mean().sqrt().item()
    assert 0.5 * stack.expected_noise < rms < 1.3 * stack.expected_noise
    # 16 bits are too few for low digits to be as uniform as the formula has it.
    allowed = 0.1 if state_bits == 32 else 0.3
    assert abs(difference.mean().item()) < allowed * stack.expected_noise


def test_a_fraction_with_a_large_n_costs_no_more_noise_than_its_neighbours():
    def noise(gamma):
        blocks = [Sine(0.0) for _ in range(40)]
        return MomentumStack(blocks, gamma=gamma, scale_bits=18).expected_noise

    assert noise(Fraction(97, 100)) < 1.3 * noise(Fraction(31, 32))


def test_the_scale_follows_from_the_declared_range():
    stack = MomentumStack([Sine(0.0)], activation_range=1000.0)
    assert stack.fixed_point.largest >= 1000 > stack.fixed_point.largest / 2


@pytest.mark.parametrize(("gamma", "depth"), [(0.5, 4), (0.97, 40), (0.99, 40)])
def test_lower_precision_doubles_every_range_and_the_noise(gamma, depth):
    stack = MomentumStack([Sine(0.0) for _ in range(depth)], gamma=gamma)
    largest, noise = stack.fixed_point.largest, stack.expected_noise
    largest_step = stack.fixed_point.limit / stack.fixed_point.velocity_scale
    stack.lower_precision()
    assert stack.fixed_point.largest == 2 * largest
    assert stack.fixed_point.limit / stack.fixed_point.velocity_scale == 2 * largest_step
    assert stack.expected_noise == pytest.approx(2 * noise)
    with pytest.raises(ConfigError, match="scale_bits"):
        stack.lower_precision(bits=30)


@pytest.mark.parametrize("gamma", [1 / 16, 0.1, 0.3, 0.5, 0.7, 7 / 8, 0.9, 0.97, 0.99])
@pytest.mark.parametrize("depth", [2, 22, 40, 200, 1000])
def test_depth_and_gamma_cost_guard_bits_and_no_range_of_positions(gamma, depth):
    stack = MomentumStack([Sine(0.0)] * depth, gamma=gamma)
    assert stack.fixed_point.largest == 2048
    assert stack.fixed_point.limit / stack.fixed_point.velocity_scale >= 128
    assert stack.expected_noise <= (3e-5 if depth <= 40 else 2.5e-4)


@pytest.mark.parametrize("state_bits", [16, 32])
def test_noise_above_the_tolerance_is_refused(state_bits):
    stack = MomentumStack([Sine(0.0) for _ in range(4)], state_bits=state_bits)
    with pytest.raises(ReversibilityError, match="above the tolerance") as caught:
        stack.lower_precision(bits=14 if state_bits == 32 else 7)
    assert caught.value.code == "noise_above_tolerance"
    assert stack.expected_noise <= TOLERANCE[state_bits]
    with pytest.raises(ReversibilityError, match="smaller gamma"):
        MomentumStack([Sine(0.0) for _ in range(300)], gamma=0.99, scale_bits=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state_bits": 8}, "32 or 16"),
        ({"scale_bits": 40}, "from 0 to 26"),
        ({"scale_bits": -1}, "from 0 to 26"),
        ({"activation_range": 0.0}, "above 0"),
        ({"activation_range": float("nan")}, "above 0"),
        ({"activation_range": 1e12}, "does not fit"),
        ({"backward": "both"}, "'reversible', 'recomputed', 'stored'"),
        ({"coefficients": torch.ones(3)}, "shape"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        MomentumStack([Sine(0.0)], **options)


def test_a_stack_without_blocks_is_refused():
    with pytest.raises(ConfigError, match="at least one block"):
        MomentumStack([])
