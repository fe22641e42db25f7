"""The compiled update gives the bits of the one that works operation by operation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch.utils.flop_counter import FlopCounterMode

from momentum_core.errors import ConfigError, StateRangeError
from momentum_core.reversible import MomentumStack, fused
from momentum_core.reversible.fused import MIN_ELEMENTS, WORTH_COMPILING, Compiler
from tests.conftest import ROOT

NUM_BLOCKS = 20


class Block(nn.Module):
    def __init__(self, into_input=False):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.into_input = into_input

    def forward(self, x):
        y = self.conv(x.clone() if self.into_input else x)
        return x.relu_() + y if self.into_input else x + y


def _step(blocks, x, gamma, fused, **rule):
    stack = MomentumStack(blocks, gamma=gamma, fused=fused, **rule)
    stack.zero_grad()
    x = x.detach().requires_grad_()
    y = stack(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in stack.blocks.parameters())]


# A shift that fits the store's byte, one that spills, one that compiled code leaves to the other
# way, and an exchange of digits.
@pytest.mark.parametrize("gamma", [1 / 2, 1 / 8, 2**-10, 0.9])
@pytest.mark.parametrize("skip", [True, False])
def test_compiled_and_plain_updates_agree_in_every_bit(gamma, skip):
    blocks = [Block() for _ in range(NUM_BLOCKS)]
    if not skip:
        blocks = [block.conv for block in blocks]
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(3, 4, 5, 7).to(memory_format=memory_format)
        for plain, compiled in zip(
            _step(blocks, x, gamma, False, skip=skip),
            _step(blocks, x, gamma, True, skip=skip),
            strict=True,
        ):
            assert torch.equal(plain, compiled)


class Asking(Block):
    """Differentiates something itself, so that its first run happens twice."""

    def forward(self, x):
        with torch.enable_grad():
            probe = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(probe.square().sum(), probe)
        return super().forward(x) + 0.01 * slope.detach()


# Beyond 64 positions are no floats any more: the integers stay while a block is differentiated.
@pytest.mark.parametrize("size", [1.0, 100.0])
@pytest.mark.parametrize("kind", [Block, Asking])
def test_compiled_and_plain_updates_agree_whatever_is_kept_beside(kind, size):
    blocks = [kind() for _ in range(12)]
    x = size * torch.randn(2, 4, 5, 5)
    stored = _step(blocks, x, 0.9, False, backward="stored")
    for compiled in (False, True):
        for backward in ("reversible", "recomputed"):
            found = _step(blocks, x, 0.9, compiled, backward=backward)
            assert all(map(torch.equal, found, stored)), (compiled, backward)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_compiled_code_rounds_where_operations_do(dtype, gamma):
    blocks = [Block().to(dtype) for _ in range(5)]
    x = torch.randn(2, 4, 5, 5).to(dtype)
    stored = _step(blocks, x, gamma, False, backward="stored")
    for backward in ("reversible", "recomputed", "stored"):
        found = _step(blocks, x, gamma, True, backward=backward)
        assert all(map(torch.equal, found, stored)), backward


@pytest.mark.parametrize("compiled", [False, True])
def test_an_input_that_needs_no_gradient_changes_no_other(compiled):
    blocks = [Block() for _ in range(4)]
    stack = MomentumStack(blocks, gamma=0.5, fused=compiled)
    x = torch.randn(2, 4, 5, 5)
    stack(x).square().sum().backward()
    own = [p.grad.clone() for p in stack.parameters()]
    for wanted, found in zip(_step(blocks, x, 0.5, False)[2:], own, strict=True):
        assert torch.equal(wanted, found)


@pytest.mark.parametrize("backward", ["reversible", "recomputed"])
def test_compiled_updates_decode_the_position_that_a_block_wrote_over(backward):
    blocks = [Block(into_input=True) for _ in range(3)]
    x = torch.randn(2, 4, 5, 5)
    for plain, compiled in zip(
        _step(blocks, x, 0.5, False, backward="stored"),
        _step(blocks, x, 0.5, True, backward=backward),
        strict=True,
    ):
        assert torch.equal(plain, compiled)


@pytest.mark.parametrize("channels", [(), (4,)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_numbers_for_each_channel_are_compiled_too(channels, memory_format):
    blocks = [Block() for _ in range(5)]
    x = torch.randn(3, 4, 5, 7).to(memory_format=memory_format)
    rule = {
        name: torch.randn(5, *channels) * 0.3 for name in ("coefficients", "offsets", "predictors")
    }
    for plain, compiled in zip(
        _step(blocks, x, 0.9, False, **rule), _step(blocks, x, 0.9, True, **rule), strict=True
    ):
        assert torch.equal(plain, compiled)


def test_runs_of_different_rules_follow_each_other_in_one_process():
    """A tensor that stands for two numbers would be compiled for anew, and torch stumbles there."""
    blocks = [Block() for _ in range(12)]
    x = torch.randn(3, 4, 5, 7)
    rule = {name: 0.1 * torch.randn(12, 4) for name in ("coefficients", "offsets", "predictors")}
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for gamma, numbers in ((0.9, rule), (0.5, rule), (0.5, {}), (0.25, {}), (0.9, {}), (0.5, rule)):
        pairs = zip(
            _step(blocks, x, gamma, False, **numbers),
            _step(blocks, x, gamma, True, **numbers),
            strict=True,
        )
        assert all(torch.equal(plain, compiled) for plain, compiled in pairs), (gamma, numbers)
    # Moving, a position back, reading, a velocity back, gradients; by channel or not; shift,
    # exchange of digits, spilled bytes, or no multiplication yet.
    assert 12 <= torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 20


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6, -1e6])
def test_compiled_updates_refuse_what_does_not_fit(value):
    blocks = [Block() for _ in range(3)]
    with torch.no_grad():
        blocks[1].conv.bias[0] = value
    stack = MomentumStack(blocks, fused=True)
    with pytest.raises(StateRangeError, match="block 1: its contribution to the velocity"):
        stack(torch.randn(2, 4, 5, 5, requires_grad=True))


def test_updates_are_compiled_once_that_pays():
    state = torch.zeros(MIN_ELEMENTS, dtype=torch.int32)
    compiler = Compiler(num_updated=WORTH_COMPILING - 2 * MIN_ELEMENTS)
    for _ in range(2):
        compiler.count(state[1:], fused=None)  # too small to be worth it
        assert not compiler.wants(state, fused=None)
        compiler.count(state, fused=None)
    assert not compiler.wants(state, fused=None)
    compiler.count(state, fused=False)
    assert not compiler.wants(state, fused=None)
    compiler.count(state, fused=None)
    assert not compiler.wants(state[1:], fused=None)
    assert not compiler.wants(state, fused=False)
    with FlopCounterMode(display=False):
        assert not compiler.wants(state, fused=None)
    assert compiler.wants(state, fused=None)
    assert compiler.wants(state[:2], fused=True)


def test_what_is_compiled_too_often_is_done_by_operations(monkeypatch):
    def compiled(*_):
        raise FailOnRecompileLimitHit("recompile_limit reached")

    monkeypatch.setattr(fused, "_compiled", lambda _: compiled)
    compiler = Compiler(num_updated=WORTH_COMPILING + 1)
    assert compiler.call(fused.read, fused=None) is None
    assert not compiler.wants(torch.zeros(MIN_ELEMENTS), fused=None)
    with pytest.raises(ConfigError, match=r"recompile_limit reached.*leave fused at None"):
        compiler.call(fused.read, fused=True)


def test_a_kept_state_holds_no_floats():
    stack = MomentumStack([Block() for _ in range(3)], fused=True)
    state = stack.advance(torch.randn(2, 4, 5, 5))
    assert state._tape._next is None


WITHOUT_COMPILER = """
import torch
from torch import nn
from momentum_core.errors import ConfigError
from momentum_core.reversible import MomentumStack, fused

fused.compiler.num_updated = fused.WORTH_COMPILING
x = torch.randn(4, fused.MIN_ELEMENTS // 4, requires_grad=True)
block = nn.LayerNorm(fused.MIN_ELEMENTS // 4)
MomentumStack([block, block])(x).sum().backward()
assert fused.compiler.broken
try:
    MomentumStack([block, block], fused=True)(x)
except ConfigError as error:
    print(error)
"""


def test_without_a_compiler_updates_work_operation_by_operation(tmp_path: Path):
    environment = os.environ | {"CXX": "/nonexistent/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "fused=True needs torch.compile, which fails here" in done.stdout
