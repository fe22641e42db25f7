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
    IMAGENET,
    LITE0,
    cifar_images,
    cifar_network,
    efficientnet_lite0,
    photo_crops,
    photos,
)

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
FORMS: tuple[RuleForm, ...] = ("scalar", "channel", "offset", "predictor")
"""What is fitted, the default last; compared at the largest gamma."""

TITLES = {"cifar_resnet20": "ResNet-20", "cifar_resnet56": "ResNet-56"}
NUM_CROPS = 6
"""Of each photo: 243 are few for three numbers a channel."""

MAX_STEPS = CalibrationConfig().max_steps


def run() -> Iterator[Finding]:
    """Measure ResNet-20, ResNet-56 and EfficientNet-Lite0."""
    rows: list[tuple[Cell, ...]] = []
    forms: list[tuple[Cell, ...]] = []
    seconds: list[float] = []
    for name, title in TITLES.items():
        images = _Cifar(name)
        yield from _cifar(images, title, rows, forms)
        seconds += images.seconds
    yield Table(
        "cifar",
        f"Points of top-1 lost on {NUM_TEST} CIFAR-10 test images, without training, by gamma",
        ("network", "", *(f"{gamma:g}" for gamma in GAMMAS), "auto", "its gammas"),
        tuple(rows),
        note=(
            f"Calibrated on {NUM_CALIBRATION} training images without labels, {MAX_STEPS} steps of "
            f"{BATCH} at most, {min(seconds):.0f} to {max(seconds):.0f} s on this machine (of a "
            f"gamma that is given). Auto: the largest gammas with a tolerance of {AUTO_TOLERANCE}."
        ),
    )
    yield Table(
        "forms",
        f"Points of top-1 lost at gamma {GAMMAS[-1]}, by what is fitted",
        ("network", *FORMS),
        tuple(forms),
    )
    yield from _efficientnet()


def _cifar(
    images: _Cifar, title: str, rows: list[tuple[Cell, ...]], forms: list[tuple[Cell, ...]]
) -> Iterator[Finding]:
    name, titled = images.name, f"{title} ({images.top1_percent:.2f} %)"
    _say(f"\n{titled} of {NUM_TEST} test images\n")
    losses: tuple[list[Cell], list[Cell]] = ([], [])
    for gamma, compensated, calibrated in zip(
        GAMMAS, COMPENSATED[name], CALIBRATED[name], strict=True
    ):
        plan = images.plan(ConversionConfig(gamma=gamma))
        lost = images.lost(plan)
        losses[0].append(f"{lost:.2f}")
        yield Claim(f"{name}, gamma {gamma}, no data: points lost", lost, compensated + 0.15)
        lost = images.lost(images.calibrate(plan).plan)
        losses[1].append(f"{lost:.2f}")
        yield Claim(f"{name}, gamma {gamma}, calibrated: points lost", lost, calibrated)
    by_form: list[Cell] = [
        f"{images.lost(images.calibrate(plan, form).plan):.2f}" for form in FORMS[:-1]
    ]
    # The last one is the default, and was measured above.
    forms.append((title, *by_form, losses[1][-1]))
    config = ConversionConfig(gamma="auto", tolerance=AUTO_TOLERANCE)
    auto = images.calibrate(images.plan(config), timed=False).plan
    lost, gammas = images.lost(auto), [run.gamma for run in auto.runs]
    what = f"{name}, gamma auto, tolerance {AUTO_TOLERANCE}"
    yield Claim(f"{what}: points lost", lost, AUTO_LOSS)
    yield Claim(f"{what}: 1/8 over the smallest gamma", float(LADDER[0] / min(gammas)), 1.0)
    rows.append((titled, "no data", *losses[0], None, None))
    rows.append((titled, "calibrated", *losses[1], f"{lost:.2f}", ", ".join(map(str, gammas))))


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
        self.seconds: list[float] = []
        self.top1_percent = self.top1(self.network)

    def plan(self, config: ConversionConfig) -> ConversionPlan:
        return plan_architecture(self.name, num_classes=10, config=config)

    def calibrate(
        self, plan: ConversionPlan, form: RuleForm = FORMS[-1], *, timed: bool = True
    ) -> CalibrationResult:
        result = calibrate(plan, self.network, self._batches, CalibrationConfig(form=form))
        assert result.num_steps <= MAX_STEPS
        if timed:
            self.seconds.append(result.seconds)
        _say(f"{result}\n")
        return result

    def lost(self, plan: ConversionPlan) -> float:
        return self.top1_percent - self.top1(convert(self.network, plan=plan))

    def top1(self, network: nn.Module) -> float:
        return evaluate(network, *self._test, IMAGENET).top1_percent


def _efficientnet() -> Iterator[Finding]:
    network = efficientnet_lite0()
    shown = to_input(photos("val")[0], LITE0)
    plan = plan_conversion(network, shown[:2], ConversionConfig(gamma=0.5))
    with torch.no_grad():
        answers = network(shown).log_softmax(dim=1)

    def judged(plan: ConversionPlan) -> tuple[int, float]:
        with torch.no_grad():
            own = convert(network, plan=plan).eval()(shown).log_softmax(dim=1)
        kept = int((own.argmax(dim=1) == answers.argmax(dim=1)).sum())
        divergence = nn.functional.kl_div(own, answers, reduction="batchmean", log_target=True)
        return kept, float(divergence)

    found = {"no data": judged(plan)}
    given = (
        ("photos", photos("train")[0], 16),
        (f"parts of them, {NUM_CROPS} of each", photo_crops("train", NUM_CROPS), 32),
    )
    for what, images, batch in given:
        # One folder after the other would leave one class to judge with.
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        result = calibrate(plan, network, list(to_input(images, LITE0)[order].split(batch)))
        _say(f"{result}\n")
        found[f"calibrated on {len(images):,} {what}"] = judged(result.plan)
    title = f"Answers of EfficientNet-Lite0 kept at gamma 1/2, of {len(shown)} photos"
    rows = tuple((what, kept, f"{apart:.4f}") for what, (kept, apart) in found.items())
    yield Table("photos", title, ("", "kept", "divergence"), rows)
    last, (kept, _) = found.popitem()
    changed = 100.0 * (1 - kept / len(shown))
    yield Claim(f"EfficientNet-Lite0, {last}: % of answers that change", changed, 2.0)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
