"""How much of a network's accuracy conversion keeps: without data, calibrated, and with gamma auto.

Published CIFAR-10 networks, 5,000 test images; calibration sees 1,024 training images without their
labels, and nothing is chosen on the test images. Weights are those of the original throughout.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from momentum_core.calibration import LADDER, CalibrationResult, calibrate
from momentum_core.config import CalibrationConfig, ConversionConfig, RuleForm
from momentum_core.conversion import ConversionPlan, convert, plan_architecture, plan_conversion
from momentum_core.refinement import evaluate, to_input
from tests.benchmarks.findings import Cell, Claim, Finding, Table
from tests.benchmarks.networks import (
    CIFAR_FILES,
    IMAGENET,
    LITE0,
    cifar_images,
    cifar_network,
    efficientnet_lite0,
)
from tests.benchmarks.networks import photos as hymenoptera

GAMMAS = (0.1, 0.3, 0.5, 0.7, 0.9)
NUM_TEST, NUM_CALIBRATION, BATCH = 5000, 1024, 64
COMPENSATED = {
    "cifar_resnet20": (0.0, 0.4, 1.6, 3.3, 5.5),
    "cifar_resnet56": (-0.2, 0.4, 2.1, 6.7, 18.9),
}
"""Points lost without data, one for each of `GAMMAS`; 0.15 more is allowed."""

CALIBRATED = {
    "cifar_resnet20": (0.3, 0.5, 0.8, 1.5, 2.3),
    "cifar_resnet56": (0.3, 0.5, 0.8, 2.0, 4.5),
}

AUTO_TOLERANCE, AUTO_LOSS = 0.003, 0.5
FORMS: tuple[RuleForm, ...] = ("scalar", "channel", "offset")
"""Compared with the default at the largest gamma."""


def run() -> Iterator[Finding]:
    """Measure ResNet-20, ResNet-56 and EfficientNet-Lite0."""
    for name in CIFAR_FILES:
        yield from _cifar(name)
    yield from _efficientnet()


def _cifar(name: str) -> Iterator[Finding]:
    images = _Cifar(name)
    _say(f"\n{name}: {images.top1_percent:.2f} % of {NUM_TEST} test images\n")
    rows: tuple[list[Cell], list[Cell]] = (["no data"], ["calibrated"])
    for gamma, compensated, calibrated in zip(
        GAMMAS, COMPENSATED[name], CALIBRATED[name], strict=True
    ):
        plan = images.plan(ConversionConfig(gamma=gamma))
        lost = images.lost(plan)
        rows[0].append(round(lost, 2))
        yield Claim(f"{name}, gamma {gamma}, no data: points lost", lost, compensated + 0.15)
        result = images.calibrate(plan)
        lost = images.lost(result.plan)
        rows[1].append(round(lost, 2))
        yield Claim(f"{name}, gamma {gamma}, calibrated: points lost", lost, calibrated)
    yield Table(
        name,
        f"Points of top-1 lost by {name} ({images.top1_percent:.2f} %) without training",
        ("gamma", *(f"{gamma:g}" for gamma in GAMMAS)),
        tuple(tuple(row) for row in rows),
    )
    auto = images.calibrate(images.plan(ConversionConfig(gamma="auto", tolerance=AUTO_TOLERANCE)))
    what = f"{name}, gamma auto, tolerance {AUTO_TOLERANCE}"
    yield Claim(f"{what}: points lost", images.lost(auto.plan), AUTO_LOSS)
    smallest = min(float(run.gamma) for run in auto.plan.runs)
    yield Claim(f"{what}: 1/8 over the smallest gamma", float(LADDER[0]) / smallest, 1.0)
    for form in FORMS:
        result = images.calibrate(plan, form)
        _say(f"  gamma {GAMMAS[-1]}, form {form}: {images.lost(result.plan):.2f} points lost\n")


class _Cifar:
    """A published network and its images."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.network = cifar_network(name)
        tested, truth = cifar_images("test")
        self._test = tested[:NUM_TEST], truth[:NUM_TEST]
        images, _ = cifar_images("train")
        chosen = np.random.default_rng(0).permutation(len(images))
        images = images[chosen[:NUM_CALIBRATION]]
        self._batches = list(to_input(images, IMAGENET).split(BATCH))
        self.top1_percent = self.top1(self.network)

    def plan(self, config: ConversionConfig) -> ConversionPlan:
        return plan_architecture(self.name, num_classes=10, config=config)

    def calibrate(self, plan: ConversionPlan, form: RuleForm | None = None) -> CalibrationResult:
        config = CalibrationConfig() if form is None else CalibrationConfig(form=form)
        result = calibrate(plan, self.network, self._batches, config)
        assert result.num_steps <= 60
        _say(f"{result}\n")
        return result

    def lost(self, plan: ConversionPlan) -> float:
        return self.top1_percent - self.top1(convert(self.network, plan=plan))

    def top1(self, network: nn.Module) -> float:
        return evaluate(network, *self._test, IMAGENET).top1_percent


def _efficientnet() -> Iterator[Finding]:
    network = efficientnet_lite0()
    train, photos = (to_input(hymenoptera(part)[0], LITE0) for part in ("train", "val"))
    plan = plan_conversion(network, photos[:2], ConversionConfig(gamma=0.5))
    with torch.no_grad():
        answers = network(photos).argmax(dim=1)

    def changed(plan: ConversionPlan) -> float:
        with torch.no_grad():
            same = convert(network, plan=plan).eval()(photos).argmax(dim=1) == answers
        return 100.0 * float((~same).double().mean())

    _say(f"\nEfficientNet-Lite0: {changed(plan):.2f} % of {len(photos)} answers change\n")
    # One folder after the other would leave one class to judge with.
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    result = calibrate(plan, network, list(train[order].split(16)))
    _say(f"{result}\n")
    yield Claim(
        f"EfficientNet-Lite0, gamma 1/2, calibrated: % of {len(photos)} answers that change",
        changed(result.plan),
        2.0,
    )


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
