"""What holds for every batch, against predictions of single batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from momentum_core import ConversionConfig, convert
from momentum_core.errors import DataError
from momentum_core.memory import predict_training_step
from momentum_core.memory.batch_profile import profile_batches
from momentum_core.memory.prediction import predict_changes
from momentum_core.reversible import imagined_on


def _network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.Sequential(*(BasicBlock(32, 32) for _ in range(4))),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


@pytest.mark.parametrize("converted", [False, True], ids=["original", "converted"])
@pytest.mark.parametrize("batch_size", [1, 3, 96, 1000])
def test_every_batch_is_predicted_as_if_alone(converted, batch_size):
    model, example = _network(), torch.empty(2, 3, 32, 32, device="meta")
    if converted:
        plain = ConversionConfig(plan_memory=False, gamma=0.7)
        model = convert(model, torch.zeros(2, 3, 32, 32), plain)
    profile = profile_batches(model, example, optimizer="adam")
    with imagined_on("cuda"):
        alone, _ = predict_changes(
            model, example, batch_size=batch_size, optimizer="adam", foreach=True
        )
    assert profile.total_bytes(batch_size) == pytest.approx(alone.total_bytes, rel=1e-4)
    assert profile.peak_bytes(batch_size) == pytest.approx(alone.peak_bytes, rel=1e-4)
    assert profile.fixed_bytes(batch_size) == alone.fixed_bytes
    assert profile.activation_bytes(batch_size) == pytest.approx(alone.activation_bytes, rel=1e-4)


def test_a_gpu_updates_whole_states_and_a_cpu_piece_by_piece():
    example = torch.empty(64, 3, 64, 64, device="meta")
    model = convert(_network(), torch.zeros(2, 3, 64, 64), ConversionConfig(plan_memory=False))
    cpu = predict_training_step(model, example)
    with imagined_on("cuda"):
        gpu = predict_training_step(model, example)
    assert gpu.activation_bytes == pytest.approx(cpu.activation_bytes, rel=1e-5)
    assert gpu.peak_bytes > cpu.peak_bytes


def test_what_depends_on_the_batch_size_is_refused():
    class Gate(nn.Module):
        def forward(self, x):
            return x * 2 + 1 if x.shape[0] > 10 else x * 2

    with pytest.raises(DataError, match="another batch") as caught:
        profile_batches(nn.Sequential(nn.Linear(3, 3), Gate()), torch.zeros(2, 3))
    assert caught.value.code == "prediction_failed"
