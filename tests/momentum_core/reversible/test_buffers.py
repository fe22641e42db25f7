"""Buffers that move, that are shared, made or replaced, and the tensors that others hold."""

import copy
import itertools

import pytest
import torch
from torch import nn

from momentum_core.errors import ReversibilityError, StateRangeError
from momentum_core.reversible import MomentumStack, buffers


class SharedStatistics(nn.Module):
    """Two norms on one set of buffers: the first moves them, the second reads them."""

    def __init__(self):
        super().__init__()
        self.moving, self.reading = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        for name, buffer in self.moving.named_buffers():
            setattr(self.reading, name, buffer)

    def forward(self, x):
        return x + self.reading(torch.tanh(self.moving(x)))


def test_a_buffer_of_two_modules_is_one_buffer(assert_same_bits):
    stack = MomentumStack([SharedStatistics() for _ in range(3)])
    for block in stack.blocks:
        block.reading.eval()
    x = torch.randn(5, 4)
    found = assert_same_bits(stack, x)
    real = copy.deepcopy(stack).double()
    for block in real.blocks:
        block.moving.reset_running_stats()
    x64 = x.double().requires_grad_()
    real.forward_floats(x64)[0].square().sum().backward()
    error = (found["input gradient"].double() - x64.grad).norm() / x64.grad.norm()
    assert error < 1e-4


class MakesItsBuffer(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.how = how
        if how == "from None":
            self.register_buffer("gain", None)

    def forward(self, x):
        if getattr(self, "gain", None) is not None:
            self.gain = self.gain * 1.1
        elif self.how == "from None":
            self.gain = torch.full((4,), 0.5)
        else:
            self.register_buffer("gain", torch.full((4,), 0.5))
        return torch.tanh(self.linear(x)) * self.gain


@pytest.mark.parametrize("how", ["from None", "from nothing"])
def test_a_buffer_that_the_first_run_makes_is_made_again(assert_same_bits, how):
    block = MakesItsBuffer(how)
    stack = MomentumStack([block, MakesItsBuffer(how), block], skip=False)
    found = assert_same_bits(stack, torch.randn(2, 4))
    torch.testing.assert_close(found["buffer blocks.0.gain"], torch.full((4,), 0.55))
    torch.testing.assert_close(found["buffer blocks.1.gain"], torch.full((4,), 0.5))


class WritesUnseen(nn.Module):
    """Moves its buffer behind the back of the version counter, as code books do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        self.mean.data.lerp_(x.detach().mean(0), 0.5)
        return torch.tanh(self.linear(x) + self.mean)


def test_a_buffer_written_through_data_is_restored_as_well(assert_same_bits):
    found = assert_same_bits(
        MomentumStack([WritesUnseen() for _ in range(3)], skip=False), torch.randn(5, 4)
    )
    assert found["buffer blocks.2.mean"].abs().sum() > 0


class Add(nn.Module):
    def __init__(self, amount):
        super().__init__()
        self.amount = nn.Parameter(torch.tensor(amount))

    def forward(self, x):
        return x + self.amount


def _raise_in_the_backward_pass(monkeypatch):
    from momentum_core.reversible import passes
    from momentum_core.reversible.range_check import RangeCheck

    monkeypatch.setattr(
        passes, "RangeCheck", lambda point, deferred: RangeCheck(point, deferred=True)
    )


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("backward", ["reversible", "stored"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_range_error_leaves_the_same_buffers_with_the_contents_from_before(
    monkeypatch, deferred, backward, nested
):
    if deferred:
        _raise_in_the_backward_pass(monkeypatch)
    norm, replaced = nn.BatchNorm1d(4), MakesItsBuffer("from None")
    replaced.gain = torch.ones(4)
    held = {"mean": norm.running_mean, "gain": replaced.gain}
    blocks = [norm, replaced, norm, Add(3000.0)]
    if nested:
        blocks = [norm, MomentumStack(blocks, skip=False, backward=backward)]
    stack = MomentumStack(blocks, skip=False, gamma=0.5, backward=backward)
    with pytest.raises(StateRangeError):
        stack(torch.randn(5, 4, requires_grad=True) + 1).sum().backward()
    assert norm.running_mean is held["mean"]
    assert not norm.running_mean.any()
    assert norm.num_batches_tracked == 0
    assert replaced.gain is held["gain"]
    assert torch.equal(replaced.gain, torch.ones(4))


def test_advance_restores_them_as_well(monkeypatch):
    _raise_in_the_backward_pass(monkeypatch)
    norm = nn.BatchNorm1d(4)
    stack = MomentumStack([norm, Add(3000.0)], skip=False)
    with pytest.raises(StateRangeError):
        stack.advance(torch.randn(5, 4))
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize("size", [4, buffers._KEPT_UNSEEN_BYTES])
def test_nothing_is_compared_where_that_would_wait_for_the_device(
    monkeypatch, make_blocks, make_input, assert_same_bits, size
):
    # As on an accelerator: batch norm's statistics are known to move, others tell by their version,
    # and small ones are kept in any case.
    def refuse(one, other):
        assert one.dtype == torch.uint8, "only random states lie on the host"
        return bool((one == other).all())

    stack = MomentumStack(make_blocks("conv", 3))
    for block in stack.blocks:
        block.register_buffer("constant", torch.zeros(size))
    monkeypatch.setattr(buffers, "_can_look", lambda _: False)
    with monkeypatch.context() as patched:
        patched.setattr(buffers.torch, "equal", refuse)
        y = stack(make_input("conv").requires_grad_())
    y.sum().backward()
    kept = {
        buffer.name for circumstances in _history(stack, make_input) for buffer in circumstances
    }
    assert ("constant" in kept) == (size == 4)
    assert {"running_mean", "running_var", "num_batches_tracked"} <= kept


def _history(stack, make_input):
    y = stack(make_input("conv").requires_grad_())
    return [circumstances.moved for circumstances in y.grad_fn.tape._history]


def test_a_large_buffer_that_moved_unseen_on_a_device_is_found_out(monkeypatch):
    monkeypatch.setattr(buffers, "_can_look", lambda _: False)
    monkeypatch.setattr(buffers, "_KEPT_UNSEEN_BYTES", 8)
    stack = MomentumStack([WritesUnseen() for _ in range(3)], skip=False)
    with pytest.raises(ReversibilityError, match="did not compute the same values twice"):
        stack(torch.randn(5, 4)).sum().backward()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_scripted_blocks():
    class Scripted(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.tanh(self.norm(self.linear(x)))

    torch.manual_seed(0)
    stack = MomentumStack([Scripted() for _ in range(4)], gamma=0.9)
    results = []
    for script, backward in itertools.product((False, True), ("reversible", "stored")):
        blocks = copy.deepcopy(list(stack.blocks))
        scripted = [torch.jit.script(block) for block in blocks] if script else blocks
        twin = MomentumStack(scripted, gamma=0.9, backward=backward)
        x = torch.linspace(-1, 1, 20).view(5, 4).requires_grad_()
        twin(x).square().sum().backward()
        results.append([x.grad, *(p.grad for p in twin.parameters()), *twin.buffers()])
        assert twin.blocks[0].norm.num_batches_tracked == 1
    for reversible, stored in (results[:2], results[2:]):
        assert all(torch.equal(a, b) for a, b in zip(reversible, stored, strict=True))
    for eager, scripted in zip(results[0], results[2], strict=True):
        torch.testing.assert_close(eager, scripted, rtol=1e-4, atol=1e-4)
