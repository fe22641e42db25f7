import copy

import pytest
import torch
from torch import nn

from momentum_core.errors import ReversibilityError
from momentum_core.reversible import MomentumStack


@pytest.mark.parametrize("kind", ["mlp", "conv", "attention"])
@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.97])
@pytest.mark.parametrize("learned", [True, False])
def test_rewind_undoes_advance_to_the_bit(make_blocks, make_input, kind, gamma, learned):
    x = make_input(kind)
    options = {"initial_velocity": nn.Dropout(0.5)} if learned else {}
    stack = MomentumStack(make_blocks(kind, 30), gamma=gamma, **options)
    state = stack.advance(x)
    assert not torch.allclose(state.x, x)
    start = (x * stack.fixed_point.scale).round() / stack.fixed_point.scale
    assert torch.equal(stack.rewind(state), start)


def test_advance_ends_where_the_forward_pass_does(make_blocks, make_input):
    stack = MomentumStack(make_blocks("mlp", 9), gamma=0.9)
    state = stack.advance(make_input("mlp"))
    assert torch.equal(state.x, stack(make_input("mlp")).detach())
    x, v = stack.forward_floats(make_input("mlp"))
    torch.testing.assert_close(state.x, x.detach(), rtol=0, atol=1e-4)
    torch.testing.assert_close(state.v, v.detach(), rtol=0, atol=1e-4)


def test_a_state_can_be_rewound_once(make_blocks, make_input):
    stack = MomentumStack(make_blocks("mlp", 3))
    state = stack.advance(make_input("mlp"))
    stack.rewind(state)
    with pytest.raises(ReversibilityError, match="rewound"):
        stack.rewind(state)


def test_a_changed_parameter_makes_the_state_useless(make_blocks, make_input):
    stack = MomentumStack(make_blocks("mlp", 3))
    state = stack.advance(make_input("mlp"))
    with torch.no_grad():
        stack.blocks[0].first.bias.add_(1)
    with pytest.raises(ReversibilityError, match=r"first\.bias"):
        stack.rewind(state)


@pytest.mark.parametrize("kind", ["conv", "attention"])
@pytest.mark.parametrize("rewind_inside", [True, False])
def test_inference_mode_changes_nothing(make_blocks, make_input, kind, rewind_inside):
    torch.manual_seed(0)
    *blocks, learned = make_blocks(kind, 6)
    stack = MomentumStack(blocks, gamma=0.9, initial_velocity=learned)
    twin = copy.deepcopy(stack)
    extra = (torch.zeros(3, 3),) if kind == "attention" else ()
    torch.manual_seed(1)
    expected = twin.advance(make_input(kind), *extra)
    start = (make_input(kind) * stack.fixed_point.scale).round() / stack.fixed_point.scale
    with torch.inference_mode():
        torch.manual_seed(1)
        state = stack.advance(make_input(kind), *(tensor.clone() for tensor in extra))
        assert torch.equal(state.x, expected.x)
        assert torch.equal(state.v, expected.v)
        if rewind_inside:
            assert torch.equal(stack.rewind(state), start)
    if not rewind_inside:
        assert torch.equal(stack.rewind(state), start)
    assert not any(buffer.is_inference() for buffer in stack.buffers())


def test_the_memory_held_is_state_and_remainders(make_blocks):
    x = torch.randn(100, 4)
    held = {n: MomentumStack(make_blocks("mlp", n)).advance(x).held_bytes() for n in (1, 9, 33)}
    # gamma 1/2: 8 bytes of state, and a bit for every block but the first.
    assert held == {1: 8 * 400, 9: 9 * 400, 33: 12 * 400}


def test_the_float_inverse_is_approximate(make_blocks, make_input):
    x = make_input("mlp").double()
    stack = MomentumStack([block.double() for block in make_blocks("mlp", 12)], gamma=0.9)
    with torch.no_grad():
        back, velocity = stack.rewind_floats(*stack.forward_floats(x))
        torch.testing.assert_close(back, x, rtol=0, atol=1e-10)
        torch.testing.assert_close(velocity, torch.zeros_like(x), rtol=0, atol=1e-10)
        floats = stack.float()
        back, _ = floats.rewind_floats(*floats.forward_floats(x.float()))
    error = (back.double() - x).abs().max().item()
    assert 0 < error < 1e-3
