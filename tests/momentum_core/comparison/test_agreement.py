"""Predicted peaks against measured ones, for every method, over many networks and batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.vision_transformer import VisionTransformer

from momentum_core import ConversionConfig, convert
from momentum_core.architectures import build
from momentum_core.comparison import measure_memory
from momentum_core.comparison.methods import methods_of
from momentum_core.memory import predict_training_step


def _chain(block) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Sequential(*(block() for _ in range(9))),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


NETWORKS = {
    "cifar_resnet20": (lambda: build("cifar_resnet20", num_classes=5), 32),
    "basic blocks": (lambda: _chain(lambda: BasicBlock(16, 16)), 24),
    "bottlenecks": (lambda: _chain(lambda: Bottleneck(16, 4)), 24),
    "vision transformer": (lambda: VisionTransformer(32, 8, 6, 4, 32, 64, num_classes=5), 32),
}


@pytest.mark.parametrize("batch_size", [2, 16])
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_predicted_is_measured_to_one_percent(name, batch_size):
    torch.manual_seed(0)
    make, side = NETWORKS[name]
    original = make()
    images, labels = torch.randn(batch_size, 3, side, side), torch.zeros(batch_size, dtype=int)
    momentum = convert(original, images[:2], ConversionConfig(plan_memory=False))
    found = measure_memory(original, momentum, images, labels, repeats=1)
    models = {one.name: one.model for one in methods_of(original, momentum)}
    for method in ("original", "checkpoint_each_block", "checkpoint_sqrt", "momentum"):
        step = predict_training_step(models[method], images.to("meta"), optimizer="sgd_momentum")
        measured = found.measured[method]
        assert step.peak_bytes == pytest.approx(measured.peak_bytes, rel=0.01), method
        assert step.optimizer_bytes == measured.optimizer_bytes
