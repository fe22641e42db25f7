import copy

import pytest
import torch
from torch import nn

from momentum_core.errors import ReversibilityError
from momentum_core.reversible import MomentumStack


class Memory(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, memory, *, scale=1.0, extra=None):
        y = self.linear(x + memory) * scale
        return x + torch.tanh(y if extra is None else y * extra["gain"])


def test_tensors_get_their_gradients_wherever_they_are_passed():
    torch.manual_seed(0)
    stack = MomentumStack([Memory() for _ in range(6)], gamma=0.7)
    results = []
    for backward in ("reversible", "stored"):
        stack.backward_mode = backward
        stack.zero_grad()
        torch.manual_seed(1)
        x, memory, gain = (torch.randn(3, 4, requires_grad=True) for _ in range(3))
        scale = torch.rand(4, requires_grad=True)
        fixed = torch.rand(3, 4)
        y = stack(x, memory * 1.0, scale=scale, extra={"gain": gain, "unused": [fixed, None, 3]})
        y.square().sum().backward()
        results.append([x.grad, memory.grad, gain.grad, scale.grad])
        assert fixed.grad is None
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    real = copy.deepcopy(stack).double()
    torch.manual_seed(1)
    leaves = [torch.randn(3, 4).double().requires_grad_() for _ in range(3)]
    leaves.append(torch.rand(4).double().requires_grad_())
    y = real.forward_floats(leaves[0], leaves[1], scale=leaves[3], extra={"gain": leaves[2]})[0]
    y.square().sum().backward()
    for found, leaf in zip(results[0], leaves, strict=True):
        torch.testing.assert_close(found.double(), leaf.grad, rtol=1e-3, atol=1e-3)


def test_an_argument_alone_may_need_a_gradient():
    stack = MomentumStack([Memory().requires_grad_(False) for _ in range(3)])
    memory = torch.randn(2, 4, requires_grad=True)
    stack(torch.randn(2, 4), memory).sum().backward()
    assert memory.grad.abs().sum() > 0


def test_masks_reach_every_block(make_blocks, make_input, assert_same_bits):
    stack = MomentumStack(make_blocks("attention", 4), gamma=0.9).eval()
    x = make_input("attention")
    causal = torch.full((3, 3), float("-inf")).triu(1)
    found = assert_same_bits(stack, x, mask=causal)
    changed = x.clone()
    changed[:, 2] += 1.0
    later = stack(changed.requires_grad_(), mask=causal)
    # What comes later does not reach what came before.
    assert torch.equal(found["output"][:, :2], later[:, :2])
    assert not torch.equal(found["output"][:, 2], later[:, 2])


@pytest.mark.parametrize(
    "cache", [object(), iter([1]), {"keys": set()}], ids=["object", "iterator", "set"]
)
def test_arguments_that_can_change_are_refused(cache):
    stack = MomentumStack([Memory()])
    with pytest.raises(ReversibilityError, match="use_cache=False") as caught:
        stack(torch.randn(2, 4), torch.zeros(1), extra=cache)
    assert caught.value.code == "mutable_argument"


class Growing(nn.Module):
    def __init__(self, where):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.where = where

    def forward(self, x, given):
        if self.where == "list":
            given.append(x)
        else:
            given.add_(1.0)
        return self.linear(x)


@pytest.mark.parametrize("where", ["list", "tensor"])
def test_a_block_that_changes_an_argument_is_refused(where):
    given = [torch.zeros(1)] if where == "list" else torch.zeros(1)
    stack = MomentumStack([Growing(where)], skip=False)
    with pytest.raises(ReversibilityError, match="argument") as caught:
        stack(torch.randn(2, 4), given)
    assert caught.value.code == "mutable_argument"
