"""Memory against depth and against batch size: the paper's figures 2 and 7, on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from momentum_core import ConversionConfig, convert
from momentum_core.comparison.budget import GIB, MIB, largest
from momentum_core.comparison.methods import EACH_BLOCK, MOMENTUM, ORIGINAL, SQRT, methods_of
from momentum_core.memory.batch_profile import BatchProfile, profile_batches
from momentum_core.reversible import MomentumStack
from tests.benchmarks.findings import Claim, Curve, Curves, Finding, Table
from tests.benchmarks.rival_chains import Chain, CheckpointedChain
from tests.benchmarks.steps import compare

DEPTHS = (10, 30, 100, 300, 1000)
WIDTH, HIDDEN, NUM_ROWS = 500, 8, 500
"""The paper's toy: blocks 500-8-500 with tanh, and 500 examples; a position takes 1 MB."""

PLAIN, EACH, SEGMENTS = "plain", "checkpointing", "checkpointing sqrt(n)"
AUTHORS, OURS, OURS_SLOW = "momentumnet, paper's gamma", "ours, gamma 1/2", "ours, gamma 127/128"

DEPTH_BOUNDS = {
    # A fifth above what was measured, or more.
    (OURS, PLAIN): 0.06,
    (OURS, SEGMENTS): 0.75,
    (OURS_SLOW, PLAIN): 0.02,
    (OURS_SLOW, SEGMENTS): 0.25,
}

SIDE = 224
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MEASURED_BATCHES = (1, 2)
BUDGETS_GIB = (8, 16, 32)
GAMMA = 0.5
LABELS = {
    ORIGINAL: "original",
    EACH_BLOCK: "checkpointing",
    SQRT: "checkpointing sqrt(n)",
    MOMENTUM: "momentum",
}
CLAIMED_BATCH = 128
BATCH_BOUNDS = {"original": 0.22, "checkpointing": 0.62, "checkpointing sqrt(n)": 0.95}


def run() -> Iterator[Finding]:
    """Measure by depth, predict by batch size, check the prediction."""
    yield from _by_depth()
    yield from _by_batch()


def _by_depth() -> Iterator[Finding]:
    peaks = {depth: _peaks(depth) for depth in DEPTHS}
    names = list(peaks[DEPTHS[0]])
    title = "Memory of a training step by depth"
    yield Curves(
        name="by-depth",
        title=title,
        x_title="blocks",
        y_title="peak, MiB",
        curves=tuple(
            Curve(name, DEPTHS, tuple(peaks[depth][name] / MIB for depth in DEPTHS))
            for name in names
        ),
        has_log_x=True,
        has_log_y=True,
    )
    yield Table(
        name="depth",
        title=f"{title}, MiB",
        columns=("blocks", *map(str, DEPTHS)),
        rows=tuple((name, *(peaks[depth][name] / MIB for depth in DEPTHS)) for name in names),
        note=(
            "The paper's figure 2: blocks 500-8-500, 500 examples, gamma 1 - 1/(50 n), n blocks. "
            "There the memory of the process is drawn, and all blocks share their weights; here "
            "what tensors hold above parameters, gradients and input, and every block has its own. "
            "Our gamma ends at 127/128; 1/2 is what a pretrained network can be converted with, "
            "and costs one bit for each element and block."
        ),
    )
    deepest = peaks[DEPTHS[-1]]
    for (own, rival), at_most in DEPTH_BOUNDS.items():
        what = f"{DEPTHS[-1]} blocks: peak of {own} over {rival}"
        yield Claim(what, deepest[own] / deepest[rival], at_most)


def _peaks(depth: int) -> dict[str, int]:
    from momentumnet import MomentumNet

    torch.manual_seed(0)
    branches = [_branch() for _ in range(depth)]
    chain = Chain(branches)
    x = torch.rand(NUM_ROWS, WIDTH, requires_grad=True)
    paper = 1 - 1 / (50 * depth)
    methods: dict[str, Callable[[Tensor], Tensor]] = {
        PLAIN: chain,
        EACH: CheckpointedChain(branches, depth),
        SEGMENTS: CheckpointedChain(branches, round(depth**0.5)),
        AUTHORS: MomentumNet(branches, gamma=paper, use_backprop=False),
        OURS_SLOW: MomentumStack(branches, gamma=127 / 128, scheme="paper", skip=False),
        OURS: MomentumStack(branches, gamma=GAMMA, scheme="paper", skip=False),
    }
    found = compare(methods, list(chain.parameters()), x, repeats=0)
    return {name: one.peak_bytes for name, one in found.items()}


def _branch() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, WIDTH))


def _by_batch() -> Iterator[Finding]:
    models = _resnet152()
    example = torch.empty(2, 3, SIDE, SIDE, device="meta")
    profiles = {
        LABELS[name]: profile_batches(model, example, device="cpu")
        for name, model in models.items()
    }
    yield Curves(
        name="by-batch",
        title="Memory of a training step of ResNet-152 by batch size",
        x_title="batch size",
        y_title="memory, GiB",
        curves=tuple(
            Curve(label, BATCHES, tuple(one.total_bytes(n) / GIB for n in BATCHES))
            for label, one in profiles.items()
        ),
        note=(
            "The paper's figure 7. Predicted, not measured, and checked at two batch sizes: all "
            "that tensors hold at the peak, with weights, gradients and the momentum of SGD, in "
            f"single precision at {SIDE} px. The paper measures a GPU of 32 GiB."
        ),
    )
    yield _largest_batches(profiles)
    yield from _check(models, profiles)
    yield from _batch_claims(profiles)


def _resnet152() -> dict[str, nn.Module]:
    from torchvision import models

    torch.manual_seed(0)
    original = models.resnet152(weights=None).train()
    example = torch.zeros(2, 3, SIDE, SIDE)
    converted = convert(original, example, ConversionConfig(gamma=GAMMA))
    found = {one.name: one.model for one in methods_of(original, converted)}
    return {name: model for name, model in found.items() if name in LABELS and model is not None}


def _largest_batches(profiles: Mapping[str, BatchProfile]) -> Table:
    def row(profile: BatchProfile) -> Iterator[int]:
        for budget in BUDGETS_GIB:
            yield largest(partial(_free, profile, budget * GIB))

    return Table(
        name="largest-batch",
        title=f"Largest batch of ResNet-152, {SIDE} px, by memory (predicted)",
        columns=("GiB", *map(str, BUDGETS_GIB)),
        rows=tuple((label, *row(profile)) for label, profile in profiles.items()),
        note="Of tensors alone: a GPU's context, workspaces and fragments come on top.",
    )


def _free(profile: BatchProfile, budget: int, batch_size: int) -> int:
    return budget - profile.total_bytes(batch_size)


def _check(
    models: Mapping[str, nn.Module], profiles: Mapping[str, BatchProfile]
) -> Iterator[Claim]:
    """Measure what was predicted, at batches that fit everywhere."""
    parameters = list(dict.fromkeys(p for model in models.values() for p in model.parameters()))
    buffers = list(dict.fromkeys(b for model in models.values() for b in model.buffers()))
    worst = 0.0
    for batch in MEASURED_BATCHES:
        x = torch.randn(batch, 3, SIDE, SIDE)
        measured = compare(models, parameters, x, buffers=buffers, repeats=0)
        for name, one in measured.items():
            predicted = profiles[LABELS[name]].peak_bytes(batch)
            worst = max(worst, abs(predicted / one.peak_bytes - 1))
    batches = " and ".join(map(str, MEASURED_BATCHES))
    yield Claim(f"ResNet-152, batches {batches}: prediction of the peak off by", worst, 0.02)


def _batch_claims(profiles: Mapping[str, BatchProfile]) -> Iterator[Claim]:
    """Predictions have no noise: bounds leave room for other versions of the libraries."""
    totals = {label: one.total_bytes(CLAIMED_BATCH) for label, one in profiles.items()}
    ours = totals.pop(LABELS[MOMENTUM])
    for label, at_most in BATCH_BOUNDS.items():
        what = f"ResNet-152, batch {CLAIMED_BATCH}: memory over {label}"
        yield Claim(what, ours / totals[label], at_most)
