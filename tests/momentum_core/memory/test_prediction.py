"""Predictions against measurements of the same step, byte by byte."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.vision_transformer import VisionTransformer

from momentum_core import convert
from momentum_core.architectures import build
from momentum_core.config import ConversionConfig
from momentum_core.errors import ConfigError, DataError
from momentum_core.memory import measure_training_step, predict_training_step

SIDES = {"resnet50": 64, "vit": 32, "chain": 16}


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(*(BasicBlock(8, 8) for _ in range(12)))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


def _network(name):
    torch.manual_seed(0)
    if name == "resnet50":
        return build("resnet50", num_classes=5)
    if name == "vit":
        return VisionTransformer(32, 8, 4, 4, 32, 64, num_classes=5)
    return Chain()


@pytest.mark.parametrize("converted", [False, True], ids=["original", "converted"])
@pytest.mark.parametrize("name", SIDES)
def test_a_prediction_is_what_is_measured(name, converted):
    side = SIDES[name]
    model = _network(name)
    if converted:
        example = torch.empty(4, 3, side, side)
        model = convert(model, example, ConversionConfig(plan_memory=False))
    images, labels = torch.randn(4, 3, side, side), torch.zeros(4, dtype=torch.int64)
    measured = measure_training_step(model, images, labels, repeats=1)
    predicted = predict_training_step(model, images.to("meta"))
    assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, rel=0.01)
    assert predicted.activation_bytes == pytest.approx(measured.activation_bytes, rel=0.01)
    assert predicted.parameter_bytes == measured.parameter_bytes
    assert predicted.gradient_bytes == measured.gradient_bytes
    assert predicted.buffer_bytes == measured.buffer_bytes


def test_activations_grow_with_the_batch_and_nothing_is_allocated() -> None:
    model = Chain().to("meta")
    example = torch.empty(2, 3, 16, 16, device="meta")
    small, huge = (predict_training_step(model, example, batch_size=n) for n in (16, 16 * 2**20))
    assert huge.activation_bytes / small.activation_bytes == pytest.approx(2**20, rel=0.01)
    assert huge.activation_bytes > 2**40  # no machine that runs this test has a terabyte
    assert huge.parameter_bytes == small.parameter_bytes


def test_half_precision_and_the_optimizer_are_counted() -> None:
    model, example = Chain(), torch.empty(2, 3, 16, 16)
    single = predict_training_step(model, example)
    half = predict_training_step(model, example, dtype=torch.bfloat16, optimizer="adam")
    assert half.parameter_bytes == single.parameter_bytes / 2
    # Batch norm keeps its means in single precision, whatever it is given.
    assert half.activation_bytes == pytest.approx(single.activation_bytes / 2, rel=0.02)
    assert half.optimizer_bytes == 2 * half.parameter_bytes + 4 * len(list(model.parameters()))
    assert single.optimizer_bytes == 0
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_what_depends_on_values_cannot_be_predicted() -> None:
    class Gate(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum().item() > 0 else x

    model = nn.Sequential(nn.Linear(3, 3), Gate())
    with pytest.raises(DataError, match="cannot be predicted") as caught:
        predict_training_step(model, torch.zeros(2, 3))
    assert caught.value.code == "prediction_failed"


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ConfigError, match="sgd_momentum"):
        predict_training_step(nn.Linear(3, 3), torch.zeros(2, 3), optimizer="lion")  # type: ignore[arg-type]
