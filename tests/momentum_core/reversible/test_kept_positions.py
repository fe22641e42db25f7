"""Runs that keep every block's input, and modules whose graph is filled when it is asked for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from momentum_core.errors import ReversibilityError
from momentum_core.memory import MemoryTracker
from momentum_core.reversible import MomentumStack, Recomputed, held_state, recompute_whole


class InPlace(nn.Module):
    """x + f(x), written into x."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return x.add_(self.inner(x.clone()).tanh())


def _gradients(stack, x, run):
    x = x.clone().requires_grad_()
    torch.manual_seed(5)
    output = run(stack, x)
    output.square().sum().backward()
    return [output.detach(), x.grad, *(parameter.grad for parameter in stack.parameters())]


def _assert_equal(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("gamma", [0.5, 0.9])
@pytest.mark.parametrize("kind", ["mlp", "conv", "attention"])
def test_kept_positions_give_the_gradients_of_kept_graphs(make_blocks, make_input, kind, gamma):
    options = {"gamma": gamma, "trainable_rule": True, "initial_velocity": make_blocks(kind, 1)[0]}
    stored = MomentumStack(make_blocks(kind, 5), backward="stored", **options)
    kept = copy.deepcopy(stored)
    kept.backward_mode = "recomputed"
    x = make_input(kind)
    _assert_equal(*(_gradients(stack, x, lambda stack, x: stack(x)) for stack in (stored, kept)))


def test_a_block_that_writes_into_its_input_finds_it_again() -> None:
    torch.manual_seed(0)
    blocks = [InPlace() for _ in range(4)]
    stored = MomentumStack(blocks, gamma=0.5, backward="stored", trainable_rule=True)
    x = torch.randn(3, 4)
    for mode in ("recomputed", "reversible"):
        other = copy.deepcopy(stored)
        other.backward_mode = mode
        _assert_equal(*(_gradients(one, x, lambda stack, x: stack(x)) for one in (stored, other)))
        stored.zero_grad()


def test_a_run_recomputed_as_a_whole_keeps_its_input_alone(make_blocks, make_input) -> None:
    stored = MomentumStack(make_blocks("conv", 4), gamma=0.5, backward="stored")
    whole = copy.deepcopy(stored)
    whole.backward_mode = "reversible"
    x = make_input("conv")
    plain = _gradients(stored, x, lambda stack, x: stack(x))
    _assert_equal(plain, _gradients(whole, x, recompute_whole))
    with MemoryTracker([*whole.parameters(), *whole.buffers(), x]) as tracker:
        output = recompute_whole(whole, x)
        assert tracker.current_bytes < 1.5 * output.nbytes
    assert not held_state(output)


def test_positions_are_all_that_is_kept(make_blocks, make_input) -> None:
    stack = MomentumStack(make_blocks("mlp", 6), gamma=0.5, backward="recomputed")
    x = make_input("mlp").requires_grad_()
    assert sum(tensor.nbytes for tensor in held_state(stack(x))) == 6 * x.nbytes


def test_positions_beyond_what_a_float_can_hold_are_not_made_from_floats() -> None:
    # Above 64 a position at scale 2^-18 needs more than the 24 bits of a float.
    torch.manual_seed(0)
    stored = MomentumStack([nn.Linear(4, 4) for _ in range(5)], gamma=0.5, backward="stored")
    other = copy.deepcopy(stored)
    other.backward_mode = "reversible"
    x = 300 + torch.rand(8, 4)
    _assert_equal(*(_gradients(one, x, lambda stack, x: stack(x)) for one in (stored, other)))


def test_a_block_that_changed_unseen_is_found_out() -> None:
    stack = MomentumStack([nn.Linear(4, 4) for _ in range(3)], backward="recomputed")
    loss = stack(torch.randn(2, 4)).sum()
    stack.blocks[1].weight.data.add_(1)
    with pytest.raises(ReversibilityError, match="block 1: its output is not that"):
        loss.backward()


def test_a_recomputed_graph_can_be_used_twice() -> None:
    torch.manual_seed(0)
    recomputed = Recomputed(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
    x = torch.randn(2, 4, requires_grad=True)
    loss = recomputed(x).sum()
    loss.backward(retain_graph=True)
    once = x.grad.clone()
    loss.backward()
    assert torch.equal(x.grad, 2 * once)
    (expected,) = torch.autograd.grad(recomputed.run(x).sum(), x)
    assert torch.equal(once, expected)


def test_each_parameters_gradient_is_there_before_the_module_before_is_differentiated() -> None:
    recomputed = Recomputed(*(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)))
    seen = []
    for number, module in enumerate(recomputed):
        module[0].weight.register_post_accumulate_grad_hook(lambda _, n=number: seen.append(n))
    x = torch.randn(2, 4, requires_grad=True)
    recomputed(x).sum().backward()
    assert seen == [2, 1, 0]


def test_a_module_that_differentiates_inside_is_recomputed_all_the_same() -> None:
    class Energy(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            energy = self.linear(x).tanh().sum()
            (slope,) = torch.autograd.grad(energy, x, create_graph=True)
            return slope

    torch.manual_seed(0)
    recomputed = Recomputed(Energy())
    x = torch.randn(2, 4, requires_grad=True)
    recomputed(x).square().sum().backward()
    (expected,) = torch.autograd.grad(recomputed.run(x).square().sum(), x)
    assert torch.equal(x.grad, expected)
