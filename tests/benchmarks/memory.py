"""Peaks of training steps of whole networks: ours, checkpointed, by the authors' library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from momentum_core import ConversionConfig, convert
from momentum_core.comparison.methods import (
    AUTHORS,
    EACH_BLOCK,
    MOMENTUM,
    ORIGINAL,
    SQRT,
    methods_of,
)
from tests.benchmarks.findings import Cell, Claim, Finding, Table
from tests.benchmarks.steps import StepFigures, compare, table, warm

GAMMA = 0.5
BATCH_SIZE = 8
REPEATS = 5


SUMMARY = (
    "network",
    "original",
    "the better checkpointing",
    "momentumnet 0.10",
    "momentum",
    "of the original's",
)
TIMES = ("its time", "time of checkpointing each block", "of sqrt(n) segments")
TIME_NOTE = (
    f"Times are over the original's: medians of {REPEATS} steps in turns, as after the first "
    "minute of training, when updates are compiled."
)


@dataclass(frozen=True, slots=True)
class Network:
    """A network, and what our peak may be."""

    name: str
    build: Callable[[], nn.Module]
    image_size: int
    over_checkpoint: float
    """Bound of our peak over that of the better kind of checkpointing."""

    over_authors: float
    over_plain: float | None


def run() -> Iterator[Finding]:
    """Measure peaks and times."""
    return _run(REPEATS)


def run_peaks() -> Iterator[Finding]:
    """Measure peaks only: one step of each method."""
    return _run(0)


def networks() -> tuple[Network, ...]:
    """Return the networks that are measured."""
    return (
        _resnet("resnet50", 1.0, 0.35),
        _resnet("resnet101", 0.92, 0.25),
        _resnet("resnet152", 0.90, 0.18),
        _vit("vit_small_patch16_224"),
        _vit("vit_base_patch16_224"),
        _chain("96 basic blocks", lambda: BlockChain(96, 64, bottleneck=False), 0.30),
        _chain("96 bottlenecks", lambda: BlockChain(96, 256, bottleneck=True), 0.35),
    )


def methods(network: Network) -> dict[str, nn.Module]:
    """Return the network in training mode, as each method trains it; the weights are the same."""
    torch.manual_seed(0)
    model = network.build().train()
    example = torch.zeros(BATCH_SIZE, 3, network.image_size, network.image_size)
    converted = warm(convert(model, example, ConversionConfig(gamma=GAMMA)))
    found = methods_of(model, converted)
    return {one.name: one.model for one in found if one.model is not None}


class BlockChain(nn.Module):
    """A convolution, blocks that all keep the shape, and a classifier."""

    def __init__(self, num_blocks: int, width: int, *, bottleneck: bool) -> None:
        from torchvision.models.resnet import BasicBlock, Bottleneck

        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            *(
                Bottleneck(width, width // 4) if bottleneck else BasicBlock(width, width)
                for _ in range(num_blocks)
            )
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def _run(repeats: int) -> Iterator[Finding]:
    rows = []
    for network in networks():
        trained = methods(network)
        side = network.image_size
        x = torch.randn(BATCH_SIZE, 3, side, side)
        parameters = [p for model in trained.values() for p in model.parameters()]
        buffers = [b for model in trained.values() for b in model.buffers()]
        figures = compare(trained, parameters, x, buffers=buffers, repeats=repeats)
        title = f"{network.name}, {side} px, batch {BATCH_SIZE}"
        yield table(network.name, title, figures, reference=ORIGINAL)
        yield from _claims(network, figures)
        rows.append(_row(f"{network.name}, {side} px", figures))
    title = f"A training step in fp32, batch {BATCH_SIZE}, gamma {GAMMA}: peak of memory, in MiB"
    columns = (*SUMMARY, *TIMES) if repeats else SUMMARY
    yield Table("summary", title, columns, tuple(rows), TIME_NOTE if repeats else "")


def _row(name: str, figures: dict[str, StepFigures]) -> tuple[Cell, ...]:
    ours, original = figures[MOMENTUM], figures[ORIGINAL]
    checkpointed = min(figures[EACH_BLOCK], figures[SQRT], key=lambda one: one.peak_bytes)
    rivals = (original, checkpointed, figures[AUTHORS])
    row: tuple[Cell, ...] = (name, *(round(one.peak_bytes / 2**20) for one in (*rivals, ours)))
    row += (f"{ours.peak_bytes / original.peak_bytes:.2f}x",)
    if math.isnan(ours.seconds):
        return row
    timed = (ours, figures[EACH_BLOCK], figures[SQRT])
    return (*row, *(f"{one.seconds / original.seconds:.2f}x" for one in timed))


def _claims(network: Network, figures: dict[str, StepFigures]) -> Iterator[Claim]:
    ours = figures[MOMENTUM]
    best = min(figures[EACH_BLOCK].peak_bytes, figures[SQRT].peak_bytes)
    yield Claim(
        f"{network.name}: peak over the better checkpointing",
        ours.peak_bytes / best,
        network.over_checkpoint,
    )
    bounds = {AUTHORS: network.over_authors, ORIGINAL: network.over_plain}
    for rival, bound in bounds.items():
        if bound is not None:
            ratio = ours.peak_bytes / figures[rival].peak_bytes
            yield Claim(f"{network.name}: peak over {rival}", ratio, bound)
    if not math.isnan(ours.seconds):
        ratio = ours.seconds / figures[EACH_BLOCK].seconds
        yield Claim(f"{network.name}: time over {EACH_BLOCK}", ratio, 1.10)


def _resnet(name: str, over_checkpoint: float, over_plain: float) -> Network:
    from torchvision import models

    def build() -> nn.Module:
        return models.get_model(name, weights=None)

    return Network(name, build, 160, over_checkpoint, 0.45, over_plain)


def _vit(name: str) -> Network:
    import timm

    def build() -> nn.Module:
        return timm.create_model(name, pretrained=False)

    return Network(name, build, 224, 0.8, 0.45, 0.16)


def _chain(name: str, build: Callable[[], nn.Module], over_checkpoint: float) -> Network:
    return Network(name, build, 32, over_checkpoint, 0.55, None)
