"""Whatever is built from blocks that can be reversed: reversible and stored agree in every bit."""

from __future__ import annotations

import collections
import copy
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from momentum_core.errors import StateRangeError
from momentum_core.reversible import MomentumStack, passes


class LayerNormed(nn.Module):
    def __init__(self, width, skip):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.3)
        self.skip = skip

    def forward(self, x):
        f = self.dropout(F.gelu(self.linear(self.norm(x))))
        return x + f if self.skip else f


class MLP(nn.Module):
    def __init__(self, width, skip):
        super().__init__()
        self.first = nn.Linear(width, 2 * width)
        self.second = nn.Linear(2 * width, width)
        self.skip = skip

    def forward(self, x, mask=None):
        f = self.second(torch.tanh(self.first(x)))
        if mask is not None:
            f = f * mask
        return x + f if self.skip else f


class Convolution(nn.Module):
    """The ReLU writes into the sum, or into what the dropout returns."""

    def __init__(self, width, skip):
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(0.2)
        self.relu = nn.ReLU(inplace=True)
        self.skip = skip

    def forward(self, x):
        f = self.dropout(self.norm(self.convolution(x)))
        return self.relu(x + f if self.skip else f)


class Attention(nn.Module):
    def __init__(self, width, skip):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)
        self.skip = skip

    def forward(self, x, mask=None):
        y = self.norm(x)
        f = self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + f if self.skip else f


KINDS = {"layer norm": LayerNormed, "mlp": MLP, "conv": Convolution, "attention": Attention}
DTYPES = (*[torch.float32] * 3, torch.float64, torch.bfloat16, torch.half)
LAYOUTS = ("contiguous", "transposed", "sliced", "channels last", "expanded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One example, in a form that prints well and can be built twice."""

    kind: str
    order: tuple[int, ...]
    """Which module of the pool each block is; repeats are tied blocks."""

    sizes: tuple[int, int, int]
    """Batch, width, length (or side)."""

    gamma: float | Fraction
    options: dict[str, Any]
    rule: dict[str, str]
    """Per tensor of the rule: scalar or channel."""

    initial_velocity: bool
    dtype: torch.dtype
    autocast: torch.dtype | None
    mode: str
    frozen: str
    input_needs_grad: bool
    layout: str
    mask: str
    tile_elements: int | None
    seed: int

    @property
    def shape(self) -> tuple[int, ...]:
        batch, width, length = self.sizes
        return (batch, width, length, 3) if self.kind == "conv" else (batch, length, width)

    def stack(self) -> MomentumStack:
        torch.manual_seed(self.seed)
        width, num_blocks = self.sizes[1], len(self.order)
        skip = self.options["skip"]
        pool = [KINDS[self.kind](width, skip) for _ in range(max(self.order) + 1)]
        scales = {"coefficients": 1.0, "offsets": 0.3, "predictors": 0.03}
        rule = {
            name: scales[name]
            * torch.rand((num_blocks,) if form == "scalar" else (num_blocks, width))
            for name, form in self.rule.items()
        }
        stack = MomentumStack(
            [pool[number] for number in self.order],
            gamma=self.gamma,
            channel_dim=1 if self.kind == "conv" else -1,
            initial_velocity=KINDS[self.kind](width, skip) if self.initial_velocity else None,
            **rule,
            **self.options,
        )
        stack.to(self.dtype).train(self.mode != "eval")
        if self.mode == "mixed":
            for module in list(stack.modules())[2::2]:
                module.training = False
        self._freeze(stack)
        return stack

    def _freeze(self, stack: MomentumStack) -> None:
        if self.frozen == "first blocks":
            for block in stack.blocks[: len(self.order) // 2]:
                block.requires_grad_(False)
            if stack.initial_velocity is not None:
                stack.initial_velocity.requires_grad_(False)
        elif self.frozen != "nothing":
            share = {"some": 0.3, "all": 1.0}[self.frozen]
            for parameter in stack.parameters():
                if torch.rand(()) < share:
                    parameter.requires_grad_(False)

    def input(self, dtype: torch.dtype) -> torch.Tensor:
        x = torch.randn(self.shape, generator=torch.Generator().manual_seed(self.seed))
        x = x.to(self.dtype).to(dtype)
        if self.layout == "transposed":
            x = x.transpose(0, -1).contiguous().transpose(0, -1)
        elif self.layout == "sliced":
            x = torch.stack((x, x), dim=-1)[..., 0]
        elif self.layout == "channels last" and x.dim() == 4:
            x = x.to(memory_format=torch.channels_last)
        elif self.layout == "expanded":
            x = x[:1].expand(x.shape)
        return x.requires_grad_(self.input_needs_grad)

    def arguments(self, dtype: torch.dtype) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.mask == "none" or self.kind not in ("mlp", "attention"):
            return (), {}
        _, width, length = self.sizes
        shape = (length, length) if self.kind == "attention" else (length, width)
        mask = torch.randn(shape, generator=torch.Generator().manual_seed(self.seed))
        if self.mask == "bool":
            # True bars a key from attention; every query keeps itself.
            return (), {"mask": (mask > 0.5) & ~torch.eye(*shape, dtype=torch.bool)}
        mask = mask.to(self.dtype).to(dtype)
        if self.mask == "positional":
            return (mask,), {}
        return (), {"mask": mask.requires_grad_(self.mask == "with gradient")}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kind = draw(st.sampled_from(list(KINDS)))
    # Few blocks have every feature; depth is what `test_grid` is about.
    num_blocks = draw(st.one_of(st.integers(1, 8), st.integers(1, 8), st.integers(9, 30)))
    pool = draw(st.one_of(st.just(num_blocks), st.integers(1, num_blocks)))
    order = tuple(range(num_blocks))
    if pool < num_blocks:
        numbers = st.integers(0, pool - 1)
        order = tuple(draw(st.lists(numbers, min_size=num_blocks, max_size=num_blocks)))
    dtype = draw(st.sampled_from(DTYPES))
    forms = st.sampled_from(["absent", "scalar", "channel"])
    drawn = {name: draw(forms) for name in ("coefficients", "offsets", "predictors")}
    amp = st.sampled_from([None, None, None, torch.bfloat16, torch.half])
    frozen = draw(st.sampled_from(["nothing", "some", "some", "first blocks", "all"]))
    return Case(
        kind=kind,
        order=order,
        sizes=draw(st.tuples(st.integers(1, 3), st.sampled_from([2, 4, 6]), st.integers(1, 5))),
        gamma=draw(
            st.one_of(
                st.sampled_from([1 / 4096, 1 / 16, 1 / 3, 1 / 2, 0.9, 127 / 128]),
                st.floats(1 / 128, 127 / 128),
                st.fractions(Fraction(1, 128), Fraction(127, 128), max_denominator=128),
            )
        ),
        options={
            "state_bits": draw(st.sampled_from([32, 32, 16])),
            "scheme": draw(st.sampled_from(["compensated", "paper"])),
            "skip": draw(st.sampled_from([True, True, False])),
            "trainable_rule": draw(st.booleans()),
        },
        rule={name: form for name, form in drawn.items() if form != "absent"},
        initial_velocity=draw(st.sampled_from([False, False, True])),
        dtype=dtype,
        autocast=draw(amp) if dtype == torch.float32 else None,
        mode=draw(st.sampled_from(["train", "eval", "eval", "mixed"])),
        frozen=frozen,
        input_needs_grad=frozen == "all" or draw(st.booleans()),
        layout=draw(st.sampled_from(LAYOUTS)),
        mask=draw(st.sampled_from(["none", "bool", "keyword", "positional", "with gradient"])),
        tile_elements=draw(st.one_of(st.none(), st.integers(2, 16))),
        seed=draw(st.integers(0, 10**6)),
    )


def _step(stack: MomentumStack, case: Case) -> dict[str, torch.Tensor | None]:
    torch.manual_seed(case.seed + 1)
    x = case.input(case.dtype)
    args, kwargs = case.arguments(case.dtype)
    tile_elements = case.tile_elements or passes.CPU_TILE_ELEMENTS
    autocast = torch.autocast(
        "cpu", case.autocast or torch.bfloat16, enabled=case.autocast is not None
    )
    with mock.patch.object(passes, "CPU_TILE_ELEMENTS", tile_elements):
        with autocast:
            y = stack(x, *args, **kwargs)
        torch.rand(3)  # backward has to find its own way back to the random state
        return _results(stack, y, x, kwargs)


def _float64_step(stack: MomentumStack, case: Case) -> dict[str, torch.Tensor | None]:
    """Return what autograd makes of the real-valued rule, in double precision."""
    x = case.input(torch.float64)
    args, kwargs = case.arguments(torch.float64)
    return _results(stack, stack.forward_floats(x, *args, **kwargs)[0], x, kwargs)


def _results(stack, y, x, kwargs):
    if y.requires_grad:
        y.to(torch.promote_types(y.dtype, torch.float32)).square().mean().backward()
    return {
        "output": y.detach(),
        "gradient of the input": x.grad,
        **{f"gradient of {name}": mask.grad for name, mask in kwargs.items()},
        **{f"gradient of {name}": p.grad for name, p in stack.named_parameters()},
        **{f"buffer {name}": b.clone() for name, b in stack.named_buffers()},
    }


def _assert_close(found, expected, *, with_gradients):
    pairs = [(found["output"], expected["output"])]
    names = [
        name
        for name, value in expected.items()
        if with_gradients and name.startswith("gradient") and value is not None
    ]
    if names:
        flat = (torch.cat([side[name].flatten() for name in names]) for side in (found, expected))
        pairs.append(tuple(flat))
    for value, real in pairs:
        # Norms of nearly nothing are noise.
        assert (value.double() - real).norm() <= 1e-2 * real.norm().clamp_min(1e-3)


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small gain nothing from a second thread; on a busy machine they wait for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_no_example_shows_a_difference():
    counts = collections.Counter()

    @settings(
        max_examples=500,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def check(case: Case) -> None:
        stack = case.stack()
        stored = copy.deepcopy(stack)
        stored.backward_mode = "stored"
        real = copy.deepcopy(stack).double()
        try:
            expected = _step(stored, case)
            found = _step(stack, case)
        except StateRangeError:
            counts["refused"] += 1
            return
        counts["compared"] += 1
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            other = found[name]
            assert (value is None) == (other is None), name
            # Half precision overflows in some examples, in both ways alike.
            assert value is None or torch.equal(other.isnan(), value.isnan()), name
            assert value is None or torch.equal(other[~other.isnan()], value[~value.isnan()]), name
        is_plain = case.dtype == torch.float32 and case.autocast is None
        if is_plain and case.mode == "eval" and case.options["state_bits"] == 32:
            counts["compared with float64"] += 1
            # A ReLU passes a gradient or none, and noise may turn it over.
            _assert_close(found, _float64_step(real, case), with_gradients=case.kind != "conv")

    check()
    assert counts["compared"] >= 500 * 0.9
    assert counts["compared with float64"] >= 25
