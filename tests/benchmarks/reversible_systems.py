"""Ways to train residual functions without keeping activations, each by its installed package."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from momentum_core import ConversionConfig, MomentumStack, convert

PUBLISHED_GAMMA = 0.9
GAMMA = 0.5
GAMMAS = (1 / 4096, 0.05, 0.1, 0.5)
"""Tried for the mildest: the smallest that this project takes, and larger ones."""

STAGES = ("layer1", "layer2", "layer3")
"""Of a CIFAR ResNet; the first block of the last two changes the shape."""


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """One way, on a chain of residual functions and on a pretrained network."""

    name: str
    chain: Callable[[Sequence[nn.Module], bool], nn.Module]
    """Makes a module of residual functions; with True one that saves memory, else one whose graph
    autograd keeps."""

    converted: Callable[[nn.Module, float], nn.Module]
    """Makes a network that saves memory of a pretrained one, which stays as it is."""

    settings: tuple[float, ...] = (0.0,)
    """Of `converted`, what may be the mildest: momentum terms, where there are any."""

    keeps_inputs: bool = False
    """Of every function, so that nothing is inverted."""

    halves: Callable[[Sequence[nn.Module]], nn.Module] | None = None
    """The chain as published, where that is not `chain`: on two halves of x."""


class Plain(nn.Module):
    """x + f(x), function by function; with checkpoints it keeps the inputs alone."""

    def __init__(self, functions: Sequence[nn.Module], *, has_checkpoints: bool) -> None:
        super().__init__()
        self.functions = nn.ModuleList(functions)
        self.has_checkpoints = has_checkpoints

    def forward(self, x: Tensor) -> Tensor:
        for f in self.functions:
            x = x + (checkpoint(f, x, use_reentrant=False) if self.has_checkpoints else f(x))
        return x


class NeuralODE(nn.Module):
    """x' = f(x) from time 0 to the number of functions: only the first one is there for all times.

    Source: Chen et al. 2018, Neural Ordinary Differential Equations (arXiv:1806.07366).
    """

    def __init__(
        self, functions: Sequence[nn.Module], *, has_adjoint: bool, euler: bool = False
    ) -> None:
        super().__init__()
        self.function = functions[0]
        self.times = (0.0, float(len(functions)))
        self.has_adjoint = has_adjoint
        # A step for each block, or the package's own solver and tolerances.
        steps = {"method": "euler", "options": {"step_size": 1.0}}
        self.options: dict[str, Any] = steps if euler else {}

    def forward(self, x: Tensor) -> Tensor:
        from torchdiffeq import odeint, odeint_adjoint

        solve = odeint_adjoint if self.has_adjoint else odeint
        return self._solved(solve, x, self.times)

    def inverse(self, y: Tensor) -> Tensor:
        """Solve backwards in time."""
        from torchdiffeq import odeint

        return self._solved(odeint, y, self.times[::-1])

    def _solved(self, solve: Any, x: Tensor, times: Sequence[float]) -> Tensor:
        field = _Field(self.function)
        found: Tensor = solve(field, x, torch.tensor(times), **self.options)[-1]
        return found


class _Field(nn.Module):
    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, _: Tensor, x: Tensor) -> Any:
        return self.function(x)


class RevNet(nn.Module):
    """Two copies of x through additive couplings, which take the functions in turns.

    Halves of x would need functions of half the width. y1 + y2 - x holds every function's output
    once, as the residual network does; the copies drift apart from the second function on.

    Source: Gomez et al. 2017, The Reversible Residual Network (arXiv:1707.04585); both streams from
    one x: Kitaev et al. 2020, Reformer (arXiv:2001.04451).
    """

    def __init__(self, functions: Sequence[nn.Module], *, is_saving: bool) -> None:
        import revlib

        super().__init__()
        modes = revlib.MemoryModes
        mode = modes.autograd_function if is_saving else modes.no_savings
        self.couplings = revlib.ReversibleSequential(*functions, split_dim=1, memory_mode=mode)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.couplings(torch.cat([x, x], dim=1)).chunk(2, dim=1)
        total: Tensor = first + second - x
        return total


class Residual(nn.Module):
    """block(x) - x."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Any:
        return self.block(x) - x


def systems() -> tuple[System, ...]:
    """Return the ways whose packages can be installed."""
    return (
        System(
            name="Neural ODE (torchdiffeq)",
            chain=lambda functions, saves: NeuralODE(functions, has_adjoint=saves),
            converted=_by_stage(lambda fs: NeuralODE(fs, has_adjoint=True, euler=True)),
        ),
        System(
            name="RevNet (revlib)",
            chain=lambda functions, saves: RevNet(functions, is_saving=saves),
            converted=_by_stage(lambda fs: RevNet(fs, is_saving=True)),
            halves=_on_halves,
        ),
        System(
            name="Momentum ResNet (momentumnet)",
            chain=_momentumnet,
            converted=_by_momentumnet,
            settings=(0.0, *GAMMAS),
        ),
        System(
            name="gradient checkpointing (torch)",
            chain=lambda functions, saves: Plain(functions, has_checkpoints=saves),
            converted=_by_stage(lambda fs: Plain(fs, has_checkpoints=True)),
            keeps_inputs=True,
        ),
        ours(),
    )


def ours() -> System:
    """Return this project."""
    return System(
        name="this project",
        chain=_stack,
        converted=_by_us,
        settings=GAMMAS,
    )


def _on_halves(functions: Sequence[nn.Module]) -> nn.Module:
    import revlib

    model: nn.Module = revlib.ReversibleSequential(*functions, split_dim=1)
    return model


def _momentumnet(functions: Sequence[nn.Module], saves: bool) -> nn.Module:
    from momentumnet import MomentumNet

    model: nn.Module = MomentumNet(list(functions), gamma=PUBLISHED_GAMMA, use_backprop=not saves)
    return model


def _by_momentumnet(network: nn.Module, gamma: float) -> nn.Module:
    from momentumnet import transform_to_momentumnet

    model: nn.Module = transform_to_momentumnet(network, sub_layers=list(STAGES), gamma=gamma)
    return model


def _stack(functions: Sequence[nn.Module], saves: bool) -> nn.Module:
    return MomentumStack(
        functions, gamma=GAMMA, skip=False, backward="reversible" if saves else "stored"
    )


def _by_us(network: nn.Module, gamma: float) -> nn.Module:
    return convert(network, torch.zeros(2, 3, 32, 32), ConversionConfig(gamma=gamma))


def _by_stage(
    made: Callable[[Sequence[nn.Module]], nn.Module],
) -> Callable[[nn.Module, float], nn.Module]:
    """Return what replaces all but the first block of each stage by one module of theirs."""

    def converted(network: nn.Module, _: float) -> nn.Module:
        changed = copy.deepcopy(network)
        for name in STAGES:
            first, *others = changed.get_submodule(name).children()
            chain = made([Residual(block) for block in others])
            setattr(changed, name, nn.Sequential(first, chain))
        return changed

    return converted
