"""Every system that saves memory in training, on one chain: peak memory, time, exactness."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.benchmarks.findings import Cell, Claim, Finding, Table
from tests.benchmarks.rival_chains import basic_branch
from tests.benchmarks.rival_methods import AUTHORS, EACH, OURS, PLAIN, SEGMENTS, Rival, rivals
from tests.benchmarks.steps import StepFigures, compare
from tests.profiled import profiled

NUM_BLOCKS, WIDTH, SIDE, BATCH_SIZE = 32, 64, 32, 4
REPEATS = 3
MIB = 2**20

PEAK_BOUNDS = {PLAIN: 0.13, EACH: 0.42, SEGMENTS: 0.5, AUTHORS: 0.5}
"""A fifth above what was measured; bytes have no noise, other versions may hold others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What a system did in its first steps."""

    rival: Rival
    network: nn.Module | None
    num_parameters: int | None = None
    gradient_error: float | None = None
    """Relative, against its own forward pass with every state stored."""

    between_bytes: int = 0
    """Peak between operators, by the profiler."""

    allocator_bytes: int = 0
    """Peak at any moment, by the profiler."""

    fresh_bytes: int = 0
    """Peak with the gradients, see `fresh_peak`."""

    failure: str = ""


def run_chain() -> Iterator[Finding]:
    """Measure a chain of equal blocks, which every system can train."""
    torch.manual_seed(0)
    branches = [basic_branch(WIDTH) for _ in range(NUM_BLOCKS)]
    x = torch.randn(BATCH_SIZE, WIDTH, SIDE, SIDE, requires_grad=True)
    trials = [try_rival(rival, branches, x) for rival in rivals(NUM_BLOCKS, WIDTH)]
    running = {one.rival.name: one.network for one in trials if one.network is not None}
    figures = measure_in_turns(running, x)
    yield Table(
        name="chain",
        title=f"{NUM_BLOCKS} blocks, {WIDTH} channels of {SIDE}x{SIDE}, batch {BATCH_SIZE}",
        columns=(
            *(
                "system",
                "trains a pretrained ResNet",
                "parameters",
                "peak MiB",
                "allocator MiB",
                "with gradients MiB",
            ),
            *("of plain memory", "of plain time", "gradient error"),
        ),
        rows=tuple(_row(one, figures, trials[0]) for one in trials),
        note=CHAIN_NOTE,
    )
    peaks = {one.rival.name: _peak(one, figures) for one in trials if one.network is not None}
    for rival, at_most in PEAK_BOUNDS.items():
        yield Claim(f"chain: our peak over {rival}", peaks[OURS] / peaks[rival], at_most)
    yield Claim(f"chain: our time over {EACH}", figures[OURS].seconds / figures[EACH].seconds, 1.2)
    error = trials[-1].gradient_error
    assert error is not None
    yield Claim("chain: our gradient error", error, 0.0)


CHAIN_NOTE = (
    "Blocks are x + f(x), f the two convolutions of a basic block with batch normalization. "
    "Peaks are above parameters, gradients, buffers and input: of tensors by the tracker "
    "(torch.compile and memcnn: by the profiler between operators), of the allocator by the "
    f"profiler at any moment; with gradients: of a step that makes them. Time is the median of "
    f"{REPEATS} steps in turns, without compiling. "
    "The gradient error is against the same forward pass with every state stored; this chain "
    "amplifies a rounding error to about 1e-3. torch.compile here divides the graph into "
    "forward and backward pass as its default backend does and runs torch's own kernels. The "
    "tied Neural ODE has one block's weights and takes as many Euler steps as there are blocks; "
    "with weights by step its forward pass is the chain's, and its adjoint carries all "
    "gradients of the weights along. A RevNet of halves has two branches of half the channels "
    "for each block, so half the weights and half the work. HeunNet is written from its formula "
    "and evaluates every block twice. This project and momentumnet: gamma 1/2."
)


def try_rival(rival: Rival, branches: Sequence[nn.Module], x: Tensor) -> Trial:
    """Build the network and run it, whatever may come: a rival's failure is a finding."""
    say(f"{rival.name}\n")
    try:
        network, stored = (rival.build(branches, kept).train() for kept in (False, True))
        found, expected = (_gradient(one, x) for one in (network, stored))
        seen = profiled(lambda: _step(network, x))
        fresh = fresh_peak(network, x)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:120]
        return Trial(rival=rival, network=None, failure=f"{type(error).__name__}: {reason}")
    return Trial(
        rival=rival,
        network=network,
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        gradient_error=float((found - expected).norm() / expected.norm()),
        between_bytes=seen.peak,
        allocator_bytes=seen.highest,
        fresh_bytes=fresh,
    )


def fresh_peak(network: nn.Module, x: Tensor) -> int:
    """Return the peak of a step that makes the gradients, by the profiler between operators.

    As after `zero_grad()`. Where gradients are there before the step, a system that holds all new
    ones until its end pays for them twice; here nobody does.
    """
    for leaf in (*network.parameters(), x):
        leaf.grad = None
    return profiled(lambda: _step(network, x)).peak


def _gradient(network: nn.Module, x: Tensor) -> Tensor:
    leaves = [*network.parameters(), x]
    for leaf in leaves:
        leaf.grad = torch.zeros_like(leaf)
    _step(network, x)
    return torch.cat([leaf.grad.flatten().double() for leaf in leaves if leaf.grad is not None])


def _step(network: Callable[[Tensor], Tensor], x: Tensor) -> None:
    network(x).square().sum().backward()  # type: ignore[no-untyped-call]


def measure_in_turns(running: Mapping[str, nn.Module], x: Tensor) -> dict[str, StepFigures]:
    """Measure the networks in turns; they may share weights."""
    parameters = list(dict.fromkeys(p for one in running.values() for p in one.parameters()))
    buffers = list(dict.fromkeys(b for one in running.values() for b in one.buffers()))
    return compare(running, parameters, x, buffers=buffers, repeats=REPEATS)


def _peak(trial: Trial, figures: Mapping[str, StepFigures]) -> int:
    untracked = trial.rival.is_untracked
    return trial.between_bytes if untracked else figures[trial.rival.name].peak_bytes


def _row(trial: Trial, figures: Mapping[str, StepFigures], plain: Trial) -> tuple[Cell, ...]:
    rival = trial.rival
    if trial.network is None:
        return rival.name, rival.takes_weights, None, trial.failure, *[None] * 5
    peak = _peak(trial, figures)
    return (
        rival.name,
        rival.takes_weights,
        trial.num_parameters,
        peak / MIB,
        trial.allocator_bytes / MIB,
        trial.fresh_bytes / MIB,
        peak / _peak(plain, figures),
        figures[rival.name].seconds / figures[plain.rival.name].seconds,
        trial.gradient_error,
    )


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
