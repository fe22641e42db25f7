import copy
import itertools

import pytest
import torch

from momentum_core.reversible import MomentumStack

GAMMAS = (1 / 16, 0.1, 0.3, 1 / 2, 0.7, 7 / 8, 0.9, 0.97, 0.99)
DEPTHS = (1, 2, 7, 40, 200, 1000)

# Every depth and every gamma; `test_grid` has every pair of them, of thinner blocks.
DEEP = {40: GAMMAS[1::3], 200: GAMMAS[2::4], 1000: GAMMAS[7:8]}
GRID = [
    (kind, depth, gamma)
    for kind, depth in itertools.product(("mlp", "conv", "attention"), DEPTHS)
    for gamma in DEEP.get(depth, GAMMAS)
]


def _integers_of_input(stack, x):
    return (x * stack.fixed_point.scale).round().to(stack.fixed_point.dtype)


@pytest.mark.parametrize(("kind", "depth", "gamma"), GRID)
def test_reversible_and_stored_backward_agree_in_every_bit(
    make_blocks, make_input, assert_same_bits, kind, depth, gamma
):
    stack = MomentumStack(make_blocks(kind, depth), gamma=gamma)
    found = assert_same_bits(stack, make_input(kind))
    assert all(value is not None and value.isfinite().all() for value in found.values())
    assert found["input gradient"].abs().sum() > 0


@pytest.mark.parametrize("kind", ["conv", "attention"])
@pytest.mark.parametrize("gamma", [0.3, 0.9])
def test_they_agree_in_eval_mode_with_gradients(
    make_blocks, make_input, assert_same_bits, kind, gamma
):
    stack = MomentumStack(make_blocks(kind, 20), gamma=gamma).eval()
    before = copy.deepcopy(dict(stack.named_buffers()))
    assert_same_bits(stack, make_input(kind))
    assert all(torch.equal(before[name], b) for name, b in stack.named_buffers())


@pytest.mark.parametrize("state_bits", [16, 32])
@pytest.mark.parametrize("gamma", [1 / 16, 0.1, 0.5, 0.7, 7 / 8])
def test_the_first_state_is_reconstructed_bit_for_bit(make_blocks, make_input, state_bits, gamma):
    depth = 40 if state_bits == 32 else 15
    stack = MomentumStack(make_blocks("mlp", depth), gamma=gamma, state_bits=state_bits)
    x = make_input("mlp")
    y = stack(x.clone().requires_grad_())
    tape = y.grad_fn.tape
    assert not torch.equal(tape.state.x, _integers_of_input(stack, x))
    assert not tape.state.store.is_empty()
    y.sum().backward()
    assert torch.equal(tape.state.x, _integers_of_input(stack, x))
    assert not tape.state.v.any()
    assert tape.state.store.is_empty()


@pytest.mark.parametrize("state_bits", [16, 32])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_they_agree_in_every_float_type(
    make_blocks, make_input, assert_same_bits, dtype, state_bits
):
    blocks = [block.to(dtype) for block in make_blocks("mlp", 12)]
    stack = MomentumStack(blocks, gamma=0.5, state_bits=state_bits)
    found = assert_same_bits(stack, make_input("mlp").to(dtype))
    assert found["output"].dtype == dtype
    assert found["input gradient"].dtype == dtype


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_memory_layout_of_the_input_is_kept(make_blocks, assert_same_bits, memory_format):
    x = torch.randn(2, 3, 5, 4).to(memory_format=memory_format)
    stack = MomentumStack(make_blocks("conv", 5), gamma=0.7)
    found = assert_same_bits(stack, x)
    assert found["output"].is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(6, 4)[::2],
        torch.randn(4, 3).t(),
        torch.randn(1, 4).expand(3, 4),
        torch.randn(0, 4),
        torch.randn(4),
        torch.randn(2, 1, 3, 1, 4),
    ],
    ids=["strided", "transposed", "expanded", "empty", "one dimension", "five dimensions"],
)
def test_any_shape_and_stride_will_do(make_blocks, train_step, assert_same_bits, x):
    stack = MomentumStack(make_blocks("mlp", 5), gamma=0.9)
    found = assert_same_bits(stack, x)
    assert found["output"].shape == x.shape


@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_tensors_larger_than_a_tile_are_cut_without_loss(
    monkeypatch, make_blocks, assert_same_bits, train_step, gamma
):
    from momentum_core.reversible import passes

    stack = MomentumStack(make_blocks("conv", 30), gamma=gamma)
    x = torch.randn(3, 3, 7, 5)
    whole = train_step(copy.deepcopy(stack), x)
    monkeypatch.setattr(passes, "CPU_TILE_ELEMENTS", 16)
    cut = assert_same_bits(stack, x)
    assert torch.equal(whole["output"], cut["output"])


def test_pure_residual_functions_need_no_skip(make_blocks, make_input, assert_same_bits):
    class Residual(torch.nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, x):
            return self.block(x) - x

    blocks = make_blocks("mlp", 10)
    with_skip = MomentumStack(blocks, gamma=0.5)
    without = MomentumStack([Residual(block) for block in blocks], gamma=0.5, skip=False)
    found = assert_same_bits(without, make_input("mlp"))
    expected = with_skip(make_input("mlp"))
    torch.testing.assert_close(found["output"], expected, rtol=0, atol=1e-4)
