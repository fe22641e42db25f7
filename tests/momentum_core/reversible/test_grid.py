"""Every gamma with every depth and kind of block: the reversal is exact, to the last bit."""

import functools
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from momentum_core.reversible import MomentumStack

GAMMAS = (1 / 16, 0.1, 0.3, 1 / 2, 0.7, 7 / 8, 0.9, 0.97, 0.99)
DEPTHS = (1, 2, 7, 40, 200, 1000)
KINDS = ("mlp", "conv", "attention", "attention in eval mode")


# At depth 1,000 the time goes into modules and operators, not numbers: few of both.
class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2)

    def forward(self, x):
        return x + self.second(torch.tanh(self.first(x)))


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x):
        f = F.relu(self.norm(self.convolution(x)))
        return x + F.dropout(f, 0.2, self.training)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(2)
        self.project = nn.Linear(2, 6)

    def forward(self, x):
        q, k, v = self.project(self.norm(x)).chunk(3, dim=-1)
        dropout = 0.1 if self.training else 0.0
        return x + F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


BLOCKS = {
    "mlp": (MLP, (2, 2)),
    "conv": (Conv, (2, 2, 2, 2)),
    "attention": (Attention, (2, 3, 2)),
    "attention in eval mode": (Attention, (2, 3, 2)),
}


@functools.lru_cache(maxsize=1)
def _blocks(kind, depth):
    # The same for every gamma: building a thousand blocks takes as long as running them.
    torch.manual_seed(depth)
    return [BLOCKS[kind][0]() for _ in range(depth)]


def _step(stack, x):
    stack.zero_grad()
    for module in stack.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    torch.manual_seed(11)
    x = x.clone().requires_grad_()
    y = stack(x)
    tape = y.grad_fn.tape
    end = None
    if stack.backward_mode == "reversible":  # no other mode keeps its state
        end = tape.state.x.clone(), tape.state.store.num_held
    y.square().sum().backward()
    results = {
        "output": y.detach(),
        "input gradient": x.grad,
        **{f"gradient of {name}": p.grad for name, p in stack.named_parameters()},
        **{f"buffer {name}": b.clone() for name, b in stack.named_buffers()},
    }
    return results, tape, end


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small gain nothing from a second thread; on a busy machine they wait for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("kind", "depth", "gamma"), list(itertools.product(KINDS, DEPTHS, GAMMAS)))
def test_gradients_buffers_and_the_first_state_are_exact(kind, depth, gamma):
    stack = MomentumStack(_blocks(kind, depth), gamma=gamma).train("eval" not in kind)
    x = torch.randn(BLOCKS[kind][1], generator=torch.Generator().manual_seed(7))
    first = (x * stack.fixed_point.scale).round().to(torch.int32)

    stack.backward_mode = "stored"
    expected, _, _ = _step(stack, x)
    stack.backward_mode = "reversible"
    found, tape, (last, num_held) = _step(stack, x)

    assert not torch.equal(last, first)
    assert num_held == depth - 1
    assert torch.equal(tape.state.x, first)
    assert not tape.state.v.any()
    assert tape.state.store.is_empty()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert value.isfinite().all(), name
        assert torch.equal(found[name], value), name
    assert found["input gradient"].any()
