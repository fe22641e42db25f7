"""Ways to train residual functions without keeping activations, each by its installed package."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from momentum_core import ConversionConfig, MomentumStack, convert
from tests.benchmarks.rival_chains import (
    EULER,
    Chain,
    CheckpointedChain,
    NeuralOde,
    TwoStreams,
    couplings,
)

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
            chain=lambda functions, saves: NeuralOde(functions[:1], len(functions), saves=saves),
            converted=_by_stage(lambda fs: NeuralOde(fs[:1], len(fs), saves=True, **EULER)),
        ),
        System(
            name="RevNet (revlib)",
            chain=lambda functions, saves: _revnet(functions, saves),
            converted=_by_stage(lambda fs: _revnet(fs, True)),
            halves=lambda functions: couplings(functions, saves=True),
        ),
        System(
            name="Momentum ResNet (momentumnet)",
            chain=_momentumnet,
            converted=_by_momentumnet,
            settings=(0.0, *GAMMAS),
        ),
        System(
            name="gradient checkpointing (torch)",
            chain=_checkpointed,
            converted=_by_stage(lambda fs: _checkpointed(fs, True)),
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


def _revnet(functions: Sequence[nn.Module], saves: bool) -> nn.Module:
    """Two copies of x: halves would need functions of half the width."""
    return TwoStreams(couplings(functions, saves=saves), has_all_outputs=True)


def _checkpointed(functions: Sequence[nn.Module], saves: bool) -> nn.Module:
    return CheckpointedChain(functions, len(functions)) if saves else Chain(functions)


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
