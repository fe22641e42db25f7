"""Residual systems of equal size on tiny states, all seeds trained at once in one batch.

A tensor is (seeds, points, dimensions). Each seed has weights of its own, drawn as `nn.Linear`
draws them, so a sum of losses over seeds and an elementwise optimizer train every seed by itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from momentum_core import MomentumStack
from tests.benchmarks.rival_chains import HeunChain, NeuralOde

SEEDS = tuple(range(10))
DEPTH = 15
HIDDEN = 16

_SECOND_HALF = 1000
"""Added to a seed for the second function of a RevNet."""

_TOLERANCE = 1e-3
"""Of the solver of the Neural ODE, relative and absolute."""


class ResidualFunction(nn.Module):
    """f(x) = W tanh(U x + a) + b, with other weights for each seed."""

    def __init__(self, dim: int, hidden: int = HIDDEN, *, first_seed: int = 0) -> None:
        super().__init__()
        drawn = [_draw(dim, hidden, first_seed + seed) for seed in SEEDS]
        inner, inner_bias, outer, outer_bias = (
            nn.Parameter(torch.stack(tensors)) for tensors in zip(*drawn, strict=True)
        )
        self.inner, self.inner_bias = inner, inner_bias
        self.outer, self.outer_bias = outer, outer_bias

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(torch.bmm(x, self.inner) + self.inner_bias)
        return torch.bmm(hidden, self.outer) + self.outer_bias


@dataclass(frozen=True, slots=True)
class System:
    """A kind of network: `build(dim, depth)` draws one with tied weights."""

    name: str
    build: Callable[[int, int], nn.Module]


def systems(dim: int) -> tuple[System, ...]:
    """Return what is compared on states of so many dimensions."""
    split = (System("RevNet, split state", _split_revnet),) if dim % 2 == 0 else ()
    return (
        System("ResNet", lambda d, depth: ResNet(ResidualFunction(d), depth)),
        System("Momentum ResNet, gamma 0.9", lambda d, depth: momentum(d, depth, 0.9)),
        System("Momentum ResNet, gamma 0.99", lambda d, depth: momentum(d, depth, 0.99)),
        System("RevNet, state twice", _double_revnet),
        *split,
        System("Neural ODE", _neural_ode),
        System("HeunNet", lambda d, depth: HeunChain([ResidualFunction(d)] * depth)),
    )


def states(network: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """Yield the positions before the first block of a ResNet or momentum network and after each."""
    yield x
    depth = network.depth
    assert isinstance(depth, int)
    for blocks in range(1, depth + 1):
        network.depth = blocks  # type: ignore[assignment]
        yield network(x)


class ResNet(nn.Module):
    """x' = x + f(x), `depth` times."""

    def __init__(self, f: ResidualFunction, depth: int) -> None:
        super().__init__()
        self.f, self.depth = f, depth

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.depth):
            x = x + self.f(x)
        return x


class Momentum(nn.Module):
    """This project's stack by the paper's rule: in floats, or reversed exactly."""

    def __init__(self, f: ResidualFunction, depth: int, gamma: float, *, is_exact: bool) -> None:
        super().__init__()
        self.f, self.depth, self.gamma, self.is_exact = f, depth, gamma, is_exact

    def forward(self, x: Tensor) -> Tensor:
        # Built here: trajectories are read from shorter stacks. Too small to be worth a compiler.
        stack = MomentumStack(
            [self.f] * self.depth, gamma=self.gamma, scheme="paper", skip=False, fused=False
        )
        return stack(x) if self.is_exact else stack.forward_floats(x)[0]


class RevNet(nn.Module):
    """y = x + F(z), z' = z + G(y), `depth` times; memcnn's coupling.

    With `is_double` both halves start as the whole state, and their mean is the result; else the
    state is cut in two.
    """

    def __init__(self, f: nn.Module, g: nn.Module, depth: int, *, is_double: bool) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # memcnn's own, at its import
            from memcnn import AdditiveCoupling

        self.coupling = AdditiveCoupling(f, g, split_dim=2)
        self.depth, self.is_double = depth, is_double

    def forward(self, x: Tensor) -> Tensor:
        if self.is_double:
            x = torch.cat((x, x), dim=2)
        for _ in range(self.depth):
            x = self.coupling(x)
        return torch.stack(x.chunk(2, dim=2)).mean(0) if self.is_double else x


def _draw(dim: int, hidden: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inner, outer = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
    weights = (inner.weight.T, inner.bias[None], outer.weight.T, outer.bias[None])
    first, second, third, fourth = (one.detach().clone() for one in weights)
    return first, second, third, fourth


def momentum(dim: int, depth: int, gamma: float, *, is_exact: bool = False) -> Momentum:
    """Draw a momentum network."""
    return Momentum(ResidualFunction(dim), depth, gamma, is_exact=is_exact)


def _neural_ode(dim: int, _: int) -> NeuralOde:
    """As deep as its solver finds right."""
    return NeuralOde(
        [ResidualFunction(dim)],
        1.0,
        saves=True,
        rtol=_TOLERANCE,
        atol=_TOLERANCE,
        method="dopri5",
        adjoint_options={"norm": "seminorm"},
    )


def _double_revnet(dim: int, depth: int) -> RevNet:
    """Two functions of half the width: as many parameters but for a second output bias."""
    halves = _halves(dim, HIDDEN // 2)
    return RevNet(*halves, depth, is_double=True)


def _split_revnet(dim: int, depth: int) -> RevNet:
    """Two functions of half the dimensions, as wide as makes the parameters nearly as many."""
    wanted = 2 * dim * HIDDEN + HIDDEN + dim
    width = round((wanted - dim) / (2 * (dim + 1)))
    return RevNet(*_halves(dim // 2, width), depth, is_double=False)


def _halves(dim: int, width: int) -> tuple[ResidualFunction, ResidualFunction]:
    second = ResidualFunction(dim, width, first_seed=_SECOND_HALF)
    return ResidualFunction(dim, width), second
