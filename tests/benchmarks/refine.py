"""How much accuracy refinement gives back: published CIFAR-10 networks, 10,000 training images.

Top-1 of the 5,000 test images, which choose nothing: neither the weights nor when to stop.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from momentum_core.config import ConversionConfig, RefinementConfig
from momentum_core.conversion import convert, plan_architecture
from momentum_core.refinement import TrainingImages, evaluate, refine
from tests.benchmarks.findings import Cell, Claim, Finding, Table
from tests.benchmarks.networks import CIFAR_FILES, IMAGENET, cifar_images, cifar_network

CASES: tuple[tuple[float, int, bool, float], ...] = (
    (0.9, 400, True, 0.7),
    (0.5, 150, True, 0.4),
    (0.9, 200, False, 1.0),
)
"""Gamma, steps of 128 images at most, whether labels are used, points that may be lost."""


TITLE = "Top-1 of 5,000 CIFAR-10 test images after steps of 128 images"
COLUMNS = ("network", "gamma", "steps", "labels", "original", "refined", "points lost")


def run() -> Iterator[Finding]:
    """Refine ResNet-20 and ResNet-56 in every case."""
    rows: list[tuple[Cell, ...]] = []
    images, labels = cifar_images("train")
    shown = (*cifar_images("test"), IMAGENET)
    for name in CIFAR_FILES:
        network = cifar_network(name)
        original = evaluate(network, *shown).top1_percent
        _say(f"\n{name}: {original:.2f} % of {len(shown[0])} test images\n")
        for gamma, max_steps, labelled, at_most in CASES:
            config = ConversionConfig(gamma=gamma)
            plan = plan_architecture(name, num_classes=10, config=config)
            done = refine(
                convert(network, plan=plan),
                network,
                TrainingImages(images, labels if labelled else None),
                IMAGENET,
                RefinementConfig(max_steps=max_steps, batch_size=128, goal=None),
                test_images=shown[0],
            )
            result = done.result
            refined = evaluate(done.model, *shown).top1_percent
            what = f"{name}, gamma {gamma}, {max_steps} steps{'' if labelled else ', no labels'}"
            _say(
                f"{what}: {refined:.2f} %; held back: original {result.original_percent:.1f}, "
                f"converted {result.converted_percent:.1f}, start {result.start_percent:.1f}, "
                f"refined {result.refined_percent:.1f}; step {result.best_step} kept, "
                f"{result.seconds:.0f} s\n"
            )
            yield Claim(f"{what}: points lost", original - refined, at_most)
            rows.append(
                (
                    *(name, f"{gamma:g}", max_steps, "yes" if labelled else "no"),
                    *(f"{percent:.2f} %" for percent in (original, refined)),
                    f"{original - refined:.2f}",
                )
            )
    yield Table("accuracy", TITLE, COLUMNS, tuple(rows))


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
