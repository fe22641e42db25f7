"""The compiled update gives the bits of the one that works operation by operation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from momentum_core.errors import StateRangeError
from momentum_core.reversible import MomentumStack
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
def test_compiled_and_plain_updates_agree_in_every_bit(gamma):
    blocks = [Block() for _ in range(NUM_BLOCKS)]
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(3, 4, 5, 7).to(memory_format=memory_format)
        for plain, compiled in zip(
            _step(blocks, x, gamma, False), _step(blocks, x, gamma, True), strict=True
        ):
            assert torch.equal(plain, compiled)


def test_compiled_updates_decode_the_position_that_a_block_wrote_over():
    blocks = [Block(into_input=True) for _ in range(3)]
    x = torch.randn(2, 4, 5, 5)
    for plain, compiled in zip(
        _step(blocks, x, 0.5, False), _step(blocks, x, 0.5, True), strict=True
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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_compiled_updates_refuse_what_does_not_fit(value):
    blocks = [Block() for _ in range(3)]
    with torch.no_grad():
        blocks[1].conv.bias.fill_(value)
    stack = MomentumStack(blocks, fused=True)
    with pytest.raises(StateRangeError, match="block 1: its contribution to the velocity"):
        stack(torch.randn(2, 4, 5, 5, requires_grad=True))


def test_updates_are_compiled_once_that_pays():
    state = torch.zeros(MIN_ELEMENTS, dtype=torch.int32)
    compiler = Compiler(num_updated=WORTH_COMPILING - 2 * MIN_ELEMENTS)
    assert not compiler.wants(state[1:], fused=None)
    assert not compiler.wants(state, fused=False)
    assert not compiler.wants(state, fused=None)
    assert not compiler.wants(state, fused=None)
    with FlopCounterMode(display=False):
        assert not compiler.wants(state, fused=None)
    assert compiler.wants(state, fused=None)
    assert compiler.wants(state[:2], fused=True)


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
