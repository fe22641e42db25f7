"""The peak of a training step, counted in bytes: no clock is involved."""

import functools

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.checkpoint import checkpoint

from momentum_core.memory import MemoryTracker
from momentum_core.reversible import MomentumStack


class CheckpointedBlocks(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x


@functools.lru_cache(maxsize=1)
def _bottlenecks():
    """The 22 blocks of ResNet-101's third stage that keep the shape."""
    return list(torchvision.models.resnet101().layer3)[1:]


def _peak_above_parameters_and_gradients(module):
    x = torch.randn(8, 1024, 14, 14, requires_grad=True)
    known = [x, *module.parameters(), *module.buffers()]
    for tensor in known[:-1]:
        if tensor.requires_grad:
            tensor.grad = torch.zeros_like(tensor)
    gradients = [tensor.grad for tensor in known if tensor.grad is not None]
    with MemoryTracker([*known, *gradients]) as tracker:
        module(x).sum().backward()
    return tracker.peak_bytes


@functools.lru_cache(maxsize=1)
def _peak_with_a_checkpoint_per_block():
    return _peak_above_parameters_and_gradients(CheckpointedBlocks(_bottlenecks()))


class Thin(nn.Module):
    def __init__(self):
        super().__init__()
        self.rise, self.fall = nn.Linear(64, 8), nn.Linear(8, 64)

    def forward(self, x):
        return x + self.fall(torch.tanh(self.rise(x)))


def test_a_rule_that_learns_holds_its_gradients_parts_no_longer_than_it_needs():
    """In states; c times the gradient is made when they are gone, or it would be one more."""
    x = torch.randn(2**17, 64, requires_grad=True)
    stack = MomentumStack([Thin() for _ in range(4)], gamma=0.5, trainable_rule=True)
    with MemoryTracker([x, *stack.parameters()]) as tracker:
        stack(x).sum().backward()
    assert tracker.peak_bytes < 8.9 * x.nbytes


@pytest.mark.parametrize(("gamma", "most"), [(0.5, 0.45), (0.9, 0.42)])
def test_22_bottlenecks_peak_below_half_of_a_checkpoint_per_block(gamma, most):
    stack = MomentumStack(_bottlenecks(), gamma=gamma)
    assert len(stack.blocks) == 22
    peak = _peak_above_parameters_and_gradients(stack)
    assert peak <= most * _peak_with_a_checkpoint_per_block()
