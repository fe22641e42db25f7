"""Is reversal exact? Gradients of the reversible backward pass against those of stored states.

The same forward pass, the same weights, two backward passes: one recomputes every state from the
last, the other keeps all states. Whatever they differ by is the error of the reversal.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor, nn

from momentum_core.reversible import MomentumStack
from momentum_core.reversible.run import Backward
from tests.benchmarks.findings import Cell, Claim, Curve, Curves, Finding, Table

DEPTHS = (5, 10, 20, 40, 80, 160, 320)
GAMMAS = (0.1, 0.5, 0.9, 0.99)
WIDTH, HIDDEN, BATCH_SIZE = 16, 32, 32
FLOOR = 1e-10
"""What a plot with a logarithmic axis shows for an error of zero."""

_Backward = Callable[[bool], Callable[[Tensor], Tensor]]
"""Of whether states are stored: the network."""


def run() -> Iterator[Finding]:
    """Compare gradients by depth and gamma."""
    ours: dict[tuple[float, int], float] = {}
    authors: dict[tuple[float, int], float] = {}
    for gamma, depth in product(GAMMAS, DEPTHS):
        torch.manual_seed(depth)
        branches = [_branch() for _ in range(depth)]
        x = torch.randn(BATCH_SIZE, WIDTH)
        ours[gamma, depth] = _error(_stack(branches, gamma), branches, x)
        authors[gamma, depth] = _error(_momentumnet(branches, gamma), branches, x)
    yield Curves(
        name="by-blocks",
        title="Relative error of the gradient by reversal",
        x_title="blocks",
        y_title="relative error",
        curves=(
            *(_curve(f"momentumnet, gamma {gamma}", authors, gamma) for gamma in GAMMAS),
            *(_curve(f"ours, gamma {gamma}", ours, gamma) for gamma in GAMMAS),
        ),
        has_log_x=True,
        has_log_y=True,
        note=f"An error of zero is drawn at {FLOOR:g}. Errors that are no number are left out.",
    )
    yield _table(ours, authors)
    # No margin: bit for bit is what is claimed.
    yield Claim("our largest relative error of a gradient", _worst(ours), 0.0)
    yield Claim("1 % over momentumnet's largest error", 0.01 / _worst(authors), 1.0)


def _branch() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, WIDTH))


def _stack(branches: Sequence[nn.Module], gamma: float) -> _Backward:
    def build(stored: bool) -> Callable[[Tensor], Tensor]:
        backward: Backward = "stored" if stored else "reversible"
        return MomentumStack(branches, gamma=gamma, scheme="paper", skip=False, backward=backward)

    return build


def _momentumnet(branches: Sequence[nn.Module], gamma: float) -> _Backward:
    from momentumnet import MomentumNet

    def build(stored: bool) -> Callable[[Tensor], Tensor]:
        network: nn.Module = MomentumNet(list(branches), gamma=gamma, use_backprop=stored)
        return network

    return build


def _error(build: _Backward, branches: Sequence[nn.Module], x: Tensor) -> float:
    """Return the relative distance of the two gradients, all parameters and the input together."""
    found, expected = (_gradient(build(stored), branches, x) for stored in (False, True))
    return float((found - expected).norm() / expected.norm())


def _gradient(
    network: Callable[[Tensor], Tensor], branches: Sequence[nn.Module], x: Tensor
) -> Tensor:
    x = copy.deepcopy(x).requires_grad_()
    parameters = [p for branch in branches for p in branch.parameters()]
    for parameter in parameters:
        parameter.grad = None
    network(x).square().sum().backward()  # type: ignore[no-untyped-call]
    gradients = [leaf.grad for leaf in (*parameters, x) if leaf.grad is not None]
    # In double precision, so that the norm itself neither rounds nor overflows.
    return torch.cat([gradient.flatten().double() for gradient in gradients])


def _curve(label: str, errors: dict[tuple[float, int], float], gamma: float) -> Curve:
    shown = [(depth, errors[gamma, depth]) for depth in DEPTHS]
    shown = [(depth, max(error, FLOOR)) for depth, error in shown if math.isfinite(error)]
    return Curve(label, tuple(depth for depth, _ in shown), tuple(error for _, error in shown))


def _worst(errors: dict[tuple[float, int], float]) -> float:
    """Return the largest error; one that is no number is larger than all."""
    return max(error if math.isfinite(error) else math.inf for error in errors.values())


def _table(ours: dict[tuple[float, int], float], authors: dict[tuple[float, int], float]) -> Table:
    def row(name: str, errors: dict[tuple[float, int], float], gamma: float) -> tuple[Cell, ...]:
        cells = (errors[gamma, depth] for depth in DEPTHS)
        return f"{name}, gamma {gamma}", *(one if math.isfinite(one) else "NaN" for one in cells)

    return Table(
        name="gradient-error",
        title="Relative error of the gradient by reversal, against the same forward pass stored",
        columns=("blocks", *map(str, DEPTHS)),
        rows=(
            *(row("momentumnet", authors, gamma) for gamma in GAMMAS),
            *(row("ours", ours, gamma) for gamma in GAMMAS),
        ),
        note=(
            f"Blocks are perceptrons ({WIDTH}-{HIDDEN}-{WIDTH}, tanh) with weights of their own, "
            f"batch {BATCH_SIZE}, rule of the paper, single precision, norm over all parameters "
            "and the input. The paper states that reversal is exact and does not measure it. A "
            "difference of single precision, 1e-7, would be no error; above 1 the gradient is "
            "worthless."
        ),
    )
