import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from momentum_core.errors import ReversibilityError
from momentum_core.reversible import MomentumStack


def test_batch_norm_moves_once_per_step(make_blocks, make_input):
    stack = MomentumStack(make_blocks("conv", 3))
    for step in range(1, 3):
        stack(make_input("conv").requires_grad_()).sum().backward()
        assert [block.f[1].num_batches_tracked.item() for block in stack.blocks] == [step] * 3


def test_spectral_norm_moves_once_and_recomputes_the_same_weight(assert_same_bits):
    torch.manual_seed(0)
    stack = MomentumStack([spectral_norm(nn.Linear(4, 4)) for _ in range(6)], skip=False)
    before = {name: b.clone() for name, b in stack.named_buffers()}
    found = assert_same_bits(stack, torch.randn(3, 4))
    assert any(
        not torch.equal(before[name.removeprefix("buffer ")], value)
        for name, value in found.items()
        if name.startswith("buffer")
    )


class Counting(nn.Module):
    """Scales by a buffer that it replaces, not updates, at every call."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("calls", torch.tensor(0.0))

    def forward(self, x):
        self.calls = self.calls + 1
        return self.linear(x) / self.calls


def test_a_buffer_that_is_replaced_is_restored_as_well(assert_same_bits):
    block = Counting()
    stack = MomentumStack([block, block, Counting()], skip=False)
    found = assert_same_bits(stack, torch.randn(2, 4))
    assert found["buffer blocks.0.calls"].item() == 2


def test_random_numbers_after_a_step_do_not_depend_on_the_mode(make_blocks, make_input):
    after = []
    for backward in ("reversible", "stored"):
        stack = MomentumStack(make_blocks("conv", 4), backward=backward)
        torch.manual_seed(5)
        stack(make_input("conv").requires_grad_()).sum().backward()
        after.append(torch.rand(3))
    assert torch.equal(*after)


@pytest.mark.parametrize("inside", [True, False])
def test_autocast_is_as_it_was(make_blocks, make_input, inside):
    stack = MomentumStack(make_blocks("attention", 8), gamma=0.9)
    results = []
    for backward in ("reversible", "stored"):
        stack.backward_mode = backward
        stack.zero_grad()
        x = make_input("attention").requires_grad_()
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16):
            y = stack(x)
            if inside:
                y.square().sum().backward()
        if not inside:
            y.square().sum().backward()
        assert y.dtype == torch.float32
        results.append([y, x.grad, *(p.grad for p in stack.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    with torch.no_grad():
        assert not torch.equal(stack(make_input("attention")), results[0][0])


def test_training_flags_are_as_they_were(make_blocks, make_input):
    stack = MomentumStack(make_blocks("conv", 5))
    results = []
    for backward in ("reversible", "stored"):
        stack.backward_mode = backward
        stack.zero_grad()
        stack.train()
        for block in stack.blocks:
            block.f[1].reset_running_stats()
        torch.manual_seed(2)
        y = stack(make_input("conv").requires_grad_())
        stack.eval()
        y.square().sum().backward()
        assert not any(module.training for module in stack.modules())
        results.append([p.grad for p in stack.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_number_of_threads_is_as_it_was(make_blocks, make_input, assert_same_bits):
    threads = torch.get_num_threads()
    stack = MomentumStack(make_blocks("conv", 5))
    try:
        torch.set_num_threads(1)
        y = stack(make_input("conv").requires_grad_())
        torch.set_num_threads(2)
        y.sum().backward()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "what", ["parameter", "replaced parameter", "part that was changed first", "buffer", "argument"]
)
def test_changes_between_forward_and_backward_are_refused(make_blocks, make_input, what):
    stack = MomentumStack(make_blocks("attention", 3), name="encoder")
    stack.blocks[1].register_buffer("scale", torch.ones(1))
    mask = torch.zeros(3, 3)
    y = stack(make_input("attention").requires_grad_(), mask)
    with torch.no_grad():
        if what == "parameter":
            stack.blocks[1].norm.weight.add_(1)
        elif what == "replaced parameter":
            stack.blocks[1].norm.weight = nn.Parameter(torch.ones(4))
        elif what == "part that was changed first":
            stack.blocks[1].norm.weight.add_(1)
            stack.blocks[1].norm = nn.LayerNorm(4)
        elif what == "buffer":
            stack.blocks[1].scale.mul_(2)
        else:
            mask.add_(1)
    block = 2 if what == "argument" else 1
    with pytest.raises(ReversibilityError, match=f"encoder, block {block}: ") as caught:
        y.sum().backward()
    assert caught.value.code == "changed_before_backward"


def test_a_block_that_does_not_repeat_itself_is_found_out():
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return self.linear(x) * self.calls

    stack = MomentumStack([Fickle(), Fickle()], skip=False, name="layer1")
    y = stack(torch.randn(2, 4))
    with pytest.raises(ReversibilityError, match="layer1: reversing did not lead back") as caught:
        y.sum().backward()
    assert caught.value.code == "not_deterministic"
    learned = MomentumStack([nn.Linear(4, 4)], skip=False, initial_velocity=Fickle())
    with pytest.raises(ReversibilityError, match="did not lead back"):
        learned(torch.randn(2, 4)).sum().backward()


def test_statistics_that_another_pass_moved_are_refused_or_restored(make_blocks, make_input):
    stack = MomentumStack(make_blocks("conv", 2))
    first = stack(make_input("conv").requires_grad_())
    stack(make_input("conv").requires_grad_()).sum().backward()
    first.sum().backward()
    stack.eval()
    frozen = stack(make_input("conv").requires_grad_())
    stack.train()
    stack(make_input("conv").requires_grad_()).sum().backward()
    with pytest.raises(ReversibilityError, match="buffer"):
        frozen.sum().backward()
