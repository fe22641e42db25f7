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
    """dx/dt = f(x), by torchdiffeq; by `EULER` a unit of time is a residual block.

    Source: Chen et al. 2018, Neural Ordinary Differential Equations (arXiv:1806.07366).

    Args:
        functions: f of each unit of time; the last one goes on.
        time: for how long.
        saves: whether the backward pass solves backwards (the adjoint) and keeps no states.
        options: torchdiffeq's, as its method and tolerances.
    """

    def __init__(
        self, functions: Sequence[nn.Module], time: float, *, saves: bool, **options: Any
    ) -> None:
        super().__init__()
        self.field = _Field(nn.ModuleList(functions))
        self.time, self.saves, self.options = time, saves, options

    def forward(self, x: Tensor) -> Tensor:
        from torchdiffeq import odeint, odeint_adjoint

        return self._solved(odeint_adjoint if self.saves else odeint, x, (0.0, self.time))

    @torch.no_grad()
    def inverse(self, y: Tensor) -> Tensor:
        """Solve backwards in time."""
        from torchdiffeq import odeint

        return self._solved(odeint, y, (self.time, 0.0))

    def _solved(self, solve: Any, x: Tensor, times: tuple[float, float]) -> Tensor:
        found: Tensor = solve(self.field, x, torch.tensor(times), **self.options)[-1]
        return found


EULER: dict[str, Any] = {
    "method": "euler",
    # A step that begins where f jumps takes the f of its inside, in both directions of time.
    "options": {"step_size": 1.0, "perturb": True},
}


class _Field(nn.Module):
    """f as the solver calls it."""

    def __init__(self, functions: nn.ModuleList) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, time: Tensor, x: Tensor) -> Tensor:
        last = len(self.functions) - 1
        at = min(int(time), last) if last else 0
        change: Tensor = self.functions[at](x)
        return change


def couplings(functions: Sequence[nn.Module], *, saves: bool) -> nn.Module:
    """Return revlib's network of two streams, whose functions act on one each, in turns."""
    from revlib import MemoryModes, ReversibleSequential

    mode = MemoryModes.autograd_function if saves else MemoryModes.no_savings
    network: nn.Module = ReversibleSequential(*functions, split_dim=1, memory_mode=mode)
    return network


class TwoStreams(nn.Module):
    """A network of two streams that starts with the input twice.

    It ends with the streams' mean; or, with `has_all_outputs`, with y1 + y2 - x, which holds every
    function's output once, as a residual network does.

    Source: Kitaev et al. 2020, Reformer (arXiv:2001.04451).
    """

    def __init__(self, inner: nn.Module, *, has_all_outputs: bool = False) -> None:
        super().__init__()
        self.inner, self.has_all_outputs = inner, has_all_outputs

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        streams: Tensor = self.inner(torch.cat([x, x], dim=1), *others)
        first, second = streams.chunk(2, dim=1)
        total = first + second
        return total - x if self.has_all_outputs else total / 2


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
