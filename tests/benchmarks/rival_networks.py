"""Whole networks by the systems that take pretrained weights: peak memory and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from momentum_core import ConversionConfig, convert
from momentum_core.comparison.methods import MOMENTUM, ORIGINAL, methods_of
from tests.benchmarks.findings import Cell, Claim, Finding, Table
from tests.benchmarks.memory import BATCH_SIZE, GAMMA, Network, networks
from tests.benchmarks.rival_chains import BUDGET, INDUCTOR, PARTITION, Compiled
from tests.benchmarks.rival_methods import Rival
from tests.benchmarks.rivals import (
    MIB,
    REPEATS,
    Trial,
    fresh_peak,
    measure_in_turns,
    say,
    try_rival,
)
from tests.benchmarks.steps import has_compiler, warm

INDUCTOR_FOR = ("resnet18", "resnet50", "vit_small_patch16_224")
"""Of the others, the compiler alone takes longer than all their measurements."""

REFUSED = {
    "RevNet": "n/a: couples two streams; no setting gives the function of the pretrained blocks",
    "Neural ODE": "n/a: one f for all depths; pretrained blocks have weights of their own",
    "HeunNet": "n/a: evaluates the blocks at other points, another function; keeps activations",
}

NETWORKS_NOTE = (
    "ResNets at 160 px, ViTs at 224 px, single precision, above parameters, gradients, buffers "
    "and input; of tensors by the tracker, torch.compile by the profiler between operators. The "
    f"backend {PARTITION} divides the graph as {INDUCTOR} does and runs torch's own kernels; "
    f"{INDUCTOR} itself was given {', '.join(INDUCTOR_FOR)} only. Budget {BUDGET}: the share of "
    "the activations' memory that it may hold at the end of the forward pass; what the backward "
    "pass recomputes comes on top."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class OnNetwork:
    """What a system did with a network."""

    peak_bytes: int | None = None
    fresh_bytes: int | None = None
    """With the gradients that the step makes."""

    time_ratio: float | None = None
    """To the plain network's."""

    failure: str = ""

    @property
    def peak(self) -> Cell:
        """MiB, or why there is no figure."""
        return self.failure if self.peak_bytes is None else self.peak_bytes / MIB


def run_networks() -> Iterator[Finding]:
    """Measure whole networks, by the systems that take pretrained weights."""
    measured = {one.name: _measure_network(one) for one in _networks()}
    systems = dict.fromkeys(name for found in measured.values() for name in found)
    empty = (None,) * (len(measured) - 1)
    refused = tuple((name, reason, *empty) for name, reason in REFUSED.items())

    def rows(cell: Callable[[OnNetwork], Cell]) -> tuple[tuple[Cell, ...], ...]:
        nothing = OnNetwork()
        return tuple(
            (system, *(cell(found.get(system, nothing)) for found in measured.values()))
            for system in systems
        )

    columns = ("system", *measured)
    title = f"a training step, batch {BATCH_SIZE}"
    yield Table(
        name="networks-memory",
        title=f"Peak memory of {title}, MiB",
        columns=columns,
        rows=(*rows(lambda one: one.peak), *refused),
        note=NETWORKS_NOTE,
    )
    yield Table(
        name="networks-total",
        title=f"Peak memory of {title}, with the gradients that it makes, MiB",
        columns=columns,
        rows=rows(lambda one: None if one.fresh_bytes is None else one.fresh_bytes / MIB),
        note=(
            "By the profiler between operators. In the table before, gradients exist before the "
            "step and are not counted, so a system that holds all new ones at once pays for them."
        ),
    )
    yield Table(
        name="networks-time",
        title=f"Time of {title}, as a ratio to the original's",
        columns=columns,
        rows=rows(lambda one: one.time_ratio),
        note=f"Medians of {REPEATS} steps in turns. Compiling is not in it.",
    )
    for network in _networks():
        yield from _claims(network, measured[network.name])


def _claims(network: Network, found: Mapping[str, OnNetwork]) -> Iterator[Claim]:
    peaks = {system: one.peak_bytes for system, one in found.items() if one.peak_bytes is not None}
    ours = peaks.pop(MOMENTUM)
    what = f"{network.name}: our peak over the best rival's"
    yield Claim(what, ours / min(peaks.values()), network.over_checkpoint)


def _networks() -> list[Network]:
    from torchvision import models

    chosen = [one for one in networks() if one.name.startswith(("resnet", "vit"))]
    small = Network("resnet18", lambda: models.resnet18(weights=None), 160, 1.01, 1.0, None)
    return [small, *chosen]


def _measure_network(network: Network) -> dict[str, OnNetwork]:
    say(f"{network.name}\n")
    torch.manual_seed(0)
    model = network.build().train()
    x = torch.randn(BATCH_SIZE, 3, network.image_size, network.image_size)
    converted = warm(convert(model, x, ConversionConfig(gamma=GAMMA)))
    methods = methods_of(model, converted)
    running = {one.name: one.model for one in methods if one.model is not None}
    failures = {one.name: one.reason or "" for one in methods if one.model is None}
    seen: dict[str, int] = {}
    for trial in _compile(network, model, x):
        name = trial.rival.name
        if trial.network is None:
            failures[name] = trial.failure
        else:
            running[name], seen[name] = trial.network, trial.between_bytes
    fresh = {name: fresh_peak(one, x) for name, one in running.items()}
    figures = measure_in_turns(running, x)
    plain = figures[ORIGINAL].seconds
    found = {
        name: OnNetwork(
            peak_bytes=seen.get(name, one.peak_bytes),
            fresh_bytes=fresh[name],
            time_ratio=one.seconds / plain,
        )
        for name, one in figures.items()
    }
    return found | {name: OnNetwork(failure=reason) for name, reason in failures.items()}


def _compile(network: Network, model: nn.Module, x: Tensor) -> Iterator[Trial]:
    """Yield the network compiled by each backend."""
    torch._dynamo.reset()
    can_generate = has_compiler() and network.name in INDUCTOR_FOR
    for backend in (PARTITION, INDUCTOR) if can_generate else (PARTITION,):

        def build(_: Sequence[nn.Module], stored: bool, backend: str = backend) -> nn.Module:
            return model if stored else Compiled(model, backend)

        name = f"torch.compile, {backend}, budget {BUDGET}"
        yield try_rival(
            Rival(name=name, build=build, takes_weights="yes", is_untracked=True), (), x
        )
