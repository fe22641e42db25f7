"""Chains of equal residual blocks as each system trains them: this project and its rivals.

Every system gets the same branches f, two convolutions of a basic block. Where it cannot use them
(a RevNet of halves, a Neural ODE), it gets what it needs, and its number of parameters is stated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from momentum_core.reversible import MomentumStack
from tests.benchmarks.rival_chains import (
    BUDGET,
    EULER,
    PARTITION,
    Chain,
    CheckpointedChain,
    Compiled,
    HeunChain,
    NeuralOde,
    TwoStreams,
    View,
    basic_branch,
    couplings,
)
from tests.benchmarks.steps import has_compiler

GAMMA = 0.5

PLAIN, EACH, SEGMENTS = "plain", "checkpoint each block", "checkpoint sqrt(n)"
AUTHORS, OURS = "momentumnet", "ours"

Build = Callable[[Sequence[nn.Module], bool], nn.Module]
"""Of the branches, and whether every state is stored: the network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rival:
    """A system that trains a chain of residual blocks."""

    name: str
    build: Build
    takes_weights: str
    """Whether a pretrained ResNet can be trained with it as it is."""

    is_untracked: bool = False
    """It makes or frees buffers past torch's dispatcher; only the allocator sees them all."""


def _checkpointed(branches: Sequence[nn.Module], stored: bool, num_segments: int) -> nn.Module:
    return Chain(branches) if stored else CheckpointedChain(branches, num_segments)


def _momentumnet(branches: Sequence[nn.Module], stored: bool) -> nn.Module:
    from momentumnet import MomentumNet

    network: nn.Module = MomentumNet(list(branches), gamma=GAMMA, use_backprop=stored)
    return network


def _memcnn(branches: Sequence[nn.Module], stored: bool) -> nn.Module:
    from memcnn import AdditiveCoupling, InvertibleModuleWrapper

    pairs = zip(branches[::2], branches[1::2], strict=True)
    couplings = [AdditiveCoupling(Fm=first, Gm=second) for first, second in pairs]
    # It frees its input, and sets the input's gradient besides returning it: neither may happen to
    # the leaf that the chain is given.
    return nn.Sequential(
        View(),
        *(
            InvertibleModuleWrapper(one, keep_input=at == 0, disable=stored)
            for at, one in enumerate(couplings)
        ),
    )


def _ours(branches: Sequence[nn.Module], stored: bool) -> nn.Module:
    backward: Any = "stored" if stored else "reversible"
    # As after the first minute of training: by then updates are compiled.
    return MomentumStack(
        branches, gamma=GAMMA, skip=False, backward=backward, fused=has_compiler() or None
    )


def rivals(num_blocks: int, width: int) -> tuple[Rival, ...]:
    """Return the systems, the plain chain first and this project last."""
    torch.manual_seed(1)
    halves = [basic_branch(width // 2) for _ in range(2 * num_blocks)]
    same, no_halves = "yes, same function", "no: its blocks act on half of the channels"
    no_streams = "no: a second stream, another function"
    no_ode = "no: one set of weights for all depths"
    root = round(num_blocks**0.5)
    return (
        Rival(name=PLAIN, build=lambda b, _: Chain(b), takes_weights="yes"),
        Rival(name=EACH, build=lambda b, s: _checkpointed(b, s, num_blocks), takes_weights=same),
        Rival(name=SEGMENTS, build=lambda b, s: _checkpointed(b, s, root), takes_weights=same),
        Rival(
            name=f"torch.compile, {PARTITION}, budget {BUDGET}",
            build=lambda b, s: Chain(b) if s else Compiled(Chain(b), PARTITION),
            takes_weights=same,
            is_untracked=True,
        ),
        Rival(
            name="HeunNet", build=lambda b, _: HeunChain(b), takes_weights="no: another function"
        ),
        Rival(
            name="Neural ODE, adjoint, tied weights",
            build=lambda b, s: NeuralOde(b[:1], num_blocks, saves=not s, **EULER),
            takes_weights=no_ode,
        ),
        Rival(
            name="Neural ODE, adjoint, weights by step",
            build=lambda b, s: NeuralOde(b, num_blocks, saves=not s, **EULER),
            takes_weights="same function, other gradients",
        ),
        Rival(
            name="RevNet of halves, memcnn",
            build=lambda _, s: _memcnn(halves, s),
            takes_weights=no_halves,
            is_untracked=True,
        ),
        Rival(
            name="RevNet of halves, revlib",
            build=lambda _, s: couplings(halves, saves=not s),
            takes_weights=no_halves,
        ),
        Rival(
            name="RevNet of two full streams, revlib",
            build=lambda b, s: TwoStreams(couplings(b, saves=not s)),
            takes_weights=no_streams,
        ),
        Rival(name=AUTHORS, build=_momentumnet, takes_weights="near to it, by gamma"),
        Rival(name=OURS, build=_ours, takes_weights="near to it, by gamma"),
    )
