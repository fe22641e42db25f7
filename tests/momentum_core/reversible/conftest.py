"""Small residual blocks and the comparison that most tests of the core make."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from momentum_core.reversible import MomentumStack


class MLP(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.tanh(self.first(x)))


class Conv(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.f = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout(0.2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


class Attention(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.norm(x)
        return x + self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]


KINDS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "mlp": (MLP, (2, 4)),
    "conv": (Conv, (2, 3, 4, 4)),
    "attention": (Attention, (2, 3, 4)),
}


@pytest.fixture
def make_blocks() -> Callable[..., list[nn.Module]]:
    def make(kind: str, num_blocks: int) -> list[nn.Module]:
        torch.manual_seed(num_blocks)
        return [KINDS[kind][0]() for _ in range(num_blocks)]

    return make


@pytest.fixture
def make_input() -> Callable[[str], Tensor]:
    def make(kind: str) -> Tensor:
        return torch.randn(KINDS[kind][1], generator=torch.Generator().manual_seed(7))

    return make


def _train_step(
    stack: nn.Module, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Tensor | None]:
    torch.manual_seed(11)
    x = x.clone().requires_grad_()
    y = stack(x, *args, **kwargs)
    y.float().square().sum().backward()
    return {
        "output": y.detach(),
        "input gradient": x.grad,
        **{f"gradient of {name}": p.grad for name, p in stack.named_parameters()},
        **{f"buffer {name}": b.clone() for name, b in stack.named_buffers()},
    }


@pytest.fixture
def train_step() -> Callable[..., dict[str, Tensor | None]]:
    """One step: output, gradients and buffers by name."""

    def run(stack: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> dict[str, Tensor | None]:
        return _train_step(stack, x, args, kwargs)

    return run


@pytest.fixture
def assert_same_bits() -> Callable[..., dict[str, Tensor | None]]:
    """Assert that reversible and stored backward agree in every bit; return the results."""

    def check(
        stack: MomentumStack, x: Tensor, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor | None]:
        stored = copy.deepcopy(stack)
        stored.backward_mode = "stored"
        expected = _train_step(stored, x, args, kwargs)
        found = _train_step(stack, x, args, kwargs)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            other = found[name]
            assert (value is None) == (other is None), name
            assert value is None or torch.equal(value, other), name
        return found

    return check
