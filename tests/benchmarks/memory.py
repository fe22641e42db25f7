"""Peaks of training steps of whole networks: ours, checkpointed, by the authors' library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from momentum_core import ConversionConfig, convert
from tests.benchmarks.claims import Claim
from tests.benchmarks.steps import StepFigures, compare, show

GAMMA = 0.5
BATCH_SIZE = 8
REPEATS = 5
PLAIN, OURS, AUTHORS = "plain", "converted", "momentumnet"
EACH, SEGMENTS = "checkpoint each block", "checkpoint sqrt(n) segments"

Part = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Network:
    """A network, the parts that a checkpoint can be laid around, and what our peak may be."""

    name: str
    build: Callable[[], nn.Module]
    image_size: int
    stages: Callable[[nn.Module], list[list[Part]]]
    """Stem, blocks of one shape, ..., and the head, which is never checkpointed."""

    authors: Callable[[nn.Module], nn.Module]
    """Convert it with the authors' library."""

    over_checkpoint: float
    """Bound of our peak over that of the better kind of checkpointing."""

    over_authors: float
    over_plain: float | None


def run() -> Iterator[Claim]:
    """Measure peaks and times."""
    return _run(REPEATS)


def run_peaks() -> Iterator[Claim]:
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
    *stages, (head,) = network.stages(model)
    each = [[part] for stage in stages for part in stage]
    segments = [segment for stage in stages for segment in _cut(stage)]
    return {
        PLAIN: model,
        OURS: convert(model, example, ConversionConfig(gamma=GAMMA)),
        EACH: Checkpointed(model, each, head),
        SEGMENTS: Checkpointed(model, segments, head),
        AUTHORS: network.authors(model),
    }


class Checkpointed(nn.Module):
    """A network in segments, each within a checkpoint, and a head."""

    def __init__(self, model: nn.Module, segments: list[list[Part]], head: Part) -> None:
        super().__init__()
        self.model = model
        self._segments = segments
        self._head = head

    def forward(self, x: Tensor) -> Tensor:
        for segment in self._segments:
            x = checkpoint(_in_sequence(segment), x, use_reentrant=False)
        return self._head(x)


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


def _cut(stage: list[Part]) -> list[list[Part]]:
    """Cut a stage of n blocks into about sqrt(n) segments.

    Each stage by itself: segments across shapes, of sqrt(n) blocks of the whole network, hold more
    (184 MiB in place of 116 for ResNet-50).
    """
    num = round(math.sqrt(len(stage)))
    return [stage[len(stage) * at // num : len(stage) * (at + 1) // num] for at in range(num)]


def _run(repeats: int) -> Iterator[Claim]:
    for network in networks():
        trained = methods(network)
        side = network.image_size
        x = torch.randn(BATCH_SIZE, 3, side, side)
        parameters = [p for model in trained.values() for p in model.parameters()]
        buffers = [b for model in trained.values() for b in model.buffers()]
        figures = compare(trained, parameters, x, buffers=buffers, repeats=repeats)
        title = f"{network.name}, {side} px, batch {BATCH_SIZE}"
        show(title, figures, reference=PLAIN)
        yield from _claims(network, figures)


def _claims(network: Network, figures: dict[str, StepFigures]) -> Iterator[Claim]:
    ours = figures[OURS]
    best = min(figures[EACH].peak_bytes, figures[SEGMENTS].peak_bytes)
    yield Claim(
        f"{network.name}: peak over the better checkpointing",
        ours.peak_bytes / best,
        network.over_checkpoint,
    )
    bounds = {AUTHORS: network.over_authors, PLAIN: network.over_plain}
    for rival, bound in bounds.items():
        if bound is not None:
            ratio = ours.peak_bytes / figures[rival].peak_bytes
            yield Claim(f"{network.name}: peak over {rival}", ratio, bound)
    if not math.isnan(ours.seconds):
        ratio = ours.seconds / figures[EACH].seconds
        yield Claim(f"{network.name}: time over {EACH}", ratio, 1.10)


def _resnet(name: str, over_checkpoint: float, over_plain: float) -> Network:
    from momentumnet import transform_to_momentumnet
    from torchvision import models

    def stages(model: nn.Module) -> list[list[Part]]:
        stem = [model.conv1, model.bn1, model.relu, model.maxpool]
        layers = [model.layer1, model.layer2, model.layer3, model.layer4]
        head = [model.avgpool, nn.Flatten(), model.fc]
        return [[_in_sequence(stem)], *(list(layer) for layer in layers), [_in_sequence(head)]]

    return Network(
        name,
        lambda: models.get_model(name, weights=None),
        160,
        stages,
        lambda model: transform_to_momentumnet(model, gamma=GAMMA),
        over_checkpoint,
        0.45,
        over_plain,
    )


def _vit(name: str) -> Network:
    import timm
    from momentumnet import transform_to_momentumnet

    def stages(model: nn.Module) -> list[list[Part]]:
        stem = [model.patch_embed, model._pos_embed, model.patch_drop, model.norm_pre]
        head = [model.norm, model.forward_head]
        return [[_in_sequence(stem)], list(model.blocks), [_in_sequence(head)]]

    return Network(
        name,
        lambda: timm.create_model(name, pretrained=False),
        224,
        stages,
        lambda model: transform_to_momentumnet(
            model, sub_layers=["blocks"], keep_first_layer=False, gamma=GAMMA
        ),
        0.8,
        0.45,
        0.16,
    )


def _chain(name: str, build: Callable[[], nn.Module], over_checkpoint: float) -> Network:
    from momentumnet import transform_to_momentumnet

    return Network(
        name,
        build,
        32,
        lambda model: [[model.stem], list(model.blocks), [model.head]],
        lambda model: transform_to_momentumnet(
            model, sub_layers=["blocks"], keep_first_layer=False, gamma=GAMMA
        ),
        over_checkpoint,
        0.55,
        None,
    )


def _in_sequence(parts: Sequence[Part]) -> Part:
    def call(x: Tensor) -> Tensor:
        for part in parts:
            x = part(x)
        return x

    return call
