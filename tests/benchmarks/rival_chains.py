"""Chains of residual blocks in the forms that rivals of reversal give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

PARTITION, INDUCTOR = "aot_eager_decomp_partition", "inductor"
"""Backends of torch.compile. The first divides the graph in the way of the second and runs torch's
own kernels: it is ready in seconds."""

BUDGET = 0.5
"""Share of the activations' memory that torch.compile may hold. From 0.5 to 0.9 the peak is the
lowest; below, it rises again: what is recomputed is one piece, and is all there at its end."""


def basic_branch(width: int) -> nn.Module:
    """Return what a basic block adds to its input."""

    def convolution() -> nn.Module:
        return nn.Conv2d(width, width, 3, padding=1, bias=False)

    first, second = ((convolution(), nn.BatchNorm2d(width)) for _ in range(2))
    return nn.Sequential(*first, nn.ReLU(inplace=True), *second)


class Chain(nn.Module):
    """x + f(x), block by block."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + branch(x)
        return x


class CheckpointedChain(nn.Module):
    """The chain in segments whose inputs are kept."""

    def __init__(self, branches: Sequence[nn.Module], num_segments: int) -> None:
        super().__init__()
        cuts = [len(branches) * at // num_segments for at in range(num_segments + 1)]
        self.segments = nn.ModuleList(Chain(branches[a:b]) for a, b in pairwise(cuts))

    def forward(self, x: Tensor) -> Tensor:
        for segment in self.segments:
            x = checkpoint(segment, x, use_reentrant=False)
        return x


class HeunChain(nn.Module):
    """HeunNet: a predictor-corrector cycle in place of every Euler step.

        x' = x[i] + f_i(x[i])           x[i+1] = x[i] + (f_i(x[i]) + f_(i+1)(x')) / 2

    After the last block there is no other; its cycle ends with its own f.

    Source: Maleki, Habiba and Pearlmutter 2021, HeunNet (arXiv:2105.06168).
    """

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        following = [*self.branches[1:], self.branches[-1]]
        for branch, after in zip(self.branches, following, strict=True):
            slope = branch(x)
            x = x + (slope + after(x + slope)) / 2
        return x


class NeuralOde(nn.Module):
    """dx/dt = f(x, t) over a unit of time, by Euler steps of equal length.

    With one branch, f does not depend on t. With as many as there are steps, each governs its step
    and is scaled so that a step is a residual block: the forward pass is that of the chain.
    """

    def __init__(self, branches: Sequence[nn.Module], num_steps: int, *, stored: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.num_steps, self.stored = num_steps, stored
        self.field = _Field(self.branches)

    def forward(self, x: Tensor) -> Tensor:
        from torchdiffeq import odeint, odeint_adjoint

        def grid(_: Any, __: Any, times: Tensor) -> Tensor:
            return torch.linspace(float(times[0]), float(times[-1]), self.num_steps + 1)

        solve = odeint if self.stored else odeint_adjoint
        # A step that begins where f jumps takes the f of its inside, in both directions of time.
        options = {"grid_constructor": grid, "perturb": True}
        states: Tensor = solve(
            self.field, x, torch.tensor([0.0, 1.0]), method="euler", options=options
        )
        return states[-1]


class _Field(nn.Module):
    def __init__(self, branches: nn.ModuleList) -> None:
        super().__init__()
        self.branches = branches

    def forward(self, time: Tensor, x: Tensor) -> Tensor:
        num = len(self.branches)
        change: Tensor = num * self.branches[min(int(time * num), num - 1)](x)
        return change


class TwoStreams(nn.Module):
    """A network of two streams that starts with the input twice and ends with their mean."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.inner(torch.cat([x, x], 1)).chunk(2, 1)
        mean: Tensor = (first + second) / 2
        return mean


class View(nn.Module):
    """The same numbers, no leaf."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.shape)


class Compiled(nn.Module):
    """A network whose compiler recomputes what does not fit a share of its activations' memory."""

    def __init__(self, inner: nn.Module, backend: str) -> None:
        super().__init__()
        self.inner = inner
        self.call: Callable[[Tensor], Tensor] = torch.compile(inner, backend=backend)

    def forward(self, x: Tensor) -> Tensor:
        from torch._functorch import config

        # Read when the graph is divided, in the first call.
        with config.patch(activation_memory_budget=BUDGET):
            return self.call(x)
