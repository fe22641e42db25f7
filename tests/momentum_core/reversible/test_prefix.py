"""Blocks before the first one that anything needs a gradient of."""

import copy

import pytest
import torch
from torch import nn

from momentum_core.errors import ReversibilityError, StateRangeError
from momentum_core.reversible import MomentumStack


class Captures(nn.Module):
    def __init__(self, use, outside):
        super().__init__()
        self.use = use
        self.outside = [outside]

    def forward(self, x):
        return self.use(x, self.outside[0])


@pytest.mark.parametrize("behind", [True, False], ids=["with a trainable block", "alone"])
@pytest.mark.parametrize(
    ("use", "outside"),
    [
        (lambda x, t: x * t, torch.ones(4, requires_grad=True)),
        (lambda x, t: x * t, torch.ones(4, requires_grad=True) * 2),
        (lambda x, t: t, torch.ones(2, 4, requires_grad=True)),
        (lambda x, f: f(x), nn.Linear(4, 4)),
    ],
    ids=["leaf", "inner node", "returned as it is", "module not registered"],
)
def test_what_a_block_without_parameters_captures_is_refused(use, outside, behind):
    blocks = [Captures(use, outside), *([nn.Linear(4, 4)] if behind else [])]
    stack = MomentumStack(blocks, skip=False, name="layer2")
    with pytest.raises(ReversibilityError, match="layer2, block 0: Captures uses") as caught:
        stack(torch.randn(2, 4))
    assert caught.value.code == "captured_tensor"
    learned = MomentumStack([nn.Linear(4, 4)], initial_velocity=blocks[0], skip=False)
    with pytest.raises(ReversibilityError, match="initial velocity: Captures uses"):
        learned(torch.randn(2, 4))


def test_a_gradient_inside_a_frozen_block_is_no_capture():
    def force(x, f):
        x.requires_grad_()
        (slope,) = torch.autograd.grad(f(x).square().sum(), x, create_graph=True)
        return slope

    frozen = nn.Linear(4, 4).requires_grad_(False)
    stack = MomentumStack([Captures(force, frozen), nn.Linear(4, 4)], skip=False)
    stack(torch.randn(2, 4)).sum().backward()
    assert stack.blocks[1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("num_frozen", [0, 1, 3])
@pytest.mark.parametrize("learned", [True, False])
def test_a_frozen_prefix_leaves_the_gradients_of_the_real_rule(make_blocks, num_frozen, learned):
    torch.manual_seed(1)
    frozen_velocity = {"initial_velocity": nn.Linear(4, 4).requires_grad_(False)} if learned else {}
    stack = MomentumStack(make_blocks("mlp", 6), gamma=0.8, **frozen_velocity)
    for block in stack.blocks[:num_frozen]:
        block.requires_grad_(False)
    real = copy.deepcopy(stack).double()
    x = torch.randn(2, 4)
    stack(x).square().sum().backward()
    real.forward_floats(x.double())[0].square().sum().backward()
    for name, parameter in real.named_parameters():
        found = stack.get_parameter(name).grad
        assert (found is None) == (parameter.grad is None)
        if found is not None:
            error = (found.double() - parameter.grad).norm() / parameter.grad.norm()
            assert error < 1e-4, name


def _weights_change(stack):
    stack.blocks[2].first.weight.data.add_(1.0)


def _fused_optimizer_steps(stack):
    parameters = [p for p in stack.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    torch.optim.Adam(parameters, lr=0.1, fused=True).step()


@pytest.mark.parametrize("change", [_weights_change, _fused_optimizer_steps])
@pytest.mark.parametrize("num_frozen", [0, 1])
@pytest.mark.parametrize("learned", [True, False])
def test_weights_that_change_unseen_are_found_out(make_blocks, change, num_frozen, learned):
    options = {"initial_velocity": nn.Linear(4, 4)} if learned else {}
    stack = MomentumStack(make_blocks("mlp", 4), name="layer1", **options)
    if num_frozen:
        stack.blocks[0].requires_grad_(False)
        if learned:
            stack.initial_velocity.requires_grad_(False)
    y = stack(torch.randn(2, 4))
    change(stack)
    with pytest.raises(ReversibilityError, match="layer1: ") as caught:
        y.sum().backward()
    assert caught.value.code in ("not_deterministic", "changed_before_backward")


def test_a_block_that_does_not_repeat_itself_is_found_out_behind_a_prefix(make_blocks):
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return self.linear(x) * self.calls

    frozen = make_blocks("mlp", 1)[0].requires_grad_(False)
    stack = MomentumStack([frozen, Fickle(), *make_blocks("mlp", 1)], gamma=0.5)
    with pytest.raises(ReversibilityError, match="did not lead back"):
        stack(torch.randn(2, 4)).sum().backward()


def test_a_shifted_position_alone_is_found_out(make_blocks):
    # The last block's input is read from the last position: with one block nothing else shows it.
    stack = MomentumStack(make_blocks("mlp", 1))
    y = stack(torch.randn(2, 4))
    y.grad_fn.tape.state.x.add_(1)
    with pytest.raises(ReversibilityError, match="did not lead back"):
        y.sum().backward()


def test_a_range_error_gives_the_prefix_its_buffers_back(make_blocks):
    frozen = nn.Sequential(nn.BatchNorm1d(4, affine=False))
    mean = frozen[0].running_mean
    stack = MomentumStack([frozen, nn.Linear(4, 4)], skip=False)
    with torch.no_grad():
        stack.blocks[1].bias.fill_(1e6)
    with pytest.raises(StateRangeError):
        stack(torch.randn(5, 4) + 1)
    assert frozen[0].running_mean is mean
    assert not mean.any()
    assert frozen[0].num_batches_tracked == 0


def test_a_frozen_block_must_keep_the_shape(make_blocks):
    stack = MomentumStack([nn.Flatten(0), nn.Linear(4, 4)], skip=False, name="layer2")
    with pytest.raises(ReversibilityError, match=r"layer2, block 0: returned shape \(8,\)"):
        stack(torch.randn(2, 4))
