"""The same code path on a CUDA device."""

import copy

import pytest
import torch

from momentum_core.errors import StateRangeError
from momentum_core.reversible import MomentumStack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def _deterministic():
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kind", ["mlp", "conv", "attention"])
@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("autocast", [False, True])
def test_reversible_and_stored_backward_agree_in_every_bit(
    make_blocks, make_input, assert_same_bits, kind, gamma, autocast
):
    stack = MomentumStack(make_blocks(kind, 40), gamma=gamma).cuda()
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        assert_same_bits(stack, make_input(kind).cuda())


def test_a_value_out_of_range_is_reported_without_waiting(make_blocks):
    stack = MomentumStack(make_blocks("mlp", 3), name="layer3").cuda()
    broken = copy.deepcopy(stack)
    with torch.no_grad():
        broken.blocks[1].second.bias.fill_(float("nan"))
    y = broken(torch.randn(2, 4, device="cuda", requires_grad=True))
    assert y.isnan().all()
    with pytest.raises(StateRangeError, match="layer3, block 1"):
        y.sum().backward()


def test_the_peak_does_not_grow_with_depth(make_blocks):
    peaks = []
    for depth in (8, 64):
        stack = MomentumStack(make_blocks("conv", 1) * depth, gamma=0.99).cuda()
        x = torch.randn(64, 3, 64, 64, device="cuda", requires_grad=True)
        torch.cuda.reset_peak_memory_stats()
        stack(x).sum().backward()
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < 1.1 * peaks[0]
