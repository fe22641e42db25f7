"""Counted bytes against counts by hand and against torch's own profiler."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from momentum_core.architectures import build
from momentum_core.memory import MemoryTracker, measure_training_step


def test_a_linear_layer_and_a_relu_hold_what_a_hand_counts():
    # Held for the backward pass: the linear layer's output, overwritten by relu in place: 8 x 5
    # floats; log-softmax 8 x 5; the loss and its total weight, one float each.
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True))
    result = measure_training_step(model, torch.randn(8, 3), torch.zeros(8, dtype=torch.int64))
    assert result.activation_bytes == 4 * (8 * 5 + 8 * 5 + 1 + 1)
    assert result.parameter_bytes == result.gradient_bytes == 4 * (3 * 5 + 5)
    assert result.input_bytes == 4 * 8 * 3 + 8 * 8
    assert result.buffer_bytes == 0


def test_the_tracker_counts_a_storage_once_until_it_is_freed():
    with MemoryTracker() as tracker:
        a = torch.zeros(100)
        view = a[10:].reshape(9, 10)
        assert tracker.current_bytes == 400
        b = view + 1
        assert tracker.current_bytes == 400 + 360
        del a
        assert tracker.current_bytes == 400 + 360
        del view
        assert tracker.current_bytes == 360
        del b
    assert tracker.current_bytes == 0
    assert tracker.peak_bytes == 760


def test_known_tensors_are_not_counted():
    weight = torch.zeros(50)
    with MemoryTracker([weight]) as tracker:
        weight.add_(1)
        _ = weight.view(5, 10)
        assert tracker.current_bytes == 0


def test_a_convolution_and_batch_norm_hold_what_a_hand_counts():
    # conv output 2x4x5x5, batch norm's output likewise, its saved mean and inverse deviation of
    # 4 channels each; the mean over pixels 2x4; log-softmax 2x4; loss and total weight.
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.bn(self.conv(x))
            return (y * y).mean(dim=(2, 3))

    result = measure_training_step(
        Net(), torch.randn(2, 3, 5, 5), torch.zeros(2, dtype=torch.int64)
    )
    logits_are_freed = 4 * (2 * 4 + 1 + 1)
    assert result.activation_bytes == 4 * (200 + 200 + 4 + 4) + logits_are_freed


def test_measuring_leaves_the_model_as_it_was():
    model = build("cifar_resnet20", num_classes=3).eval()
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    state = torch.get_rng_state()
    measure_training_step(model, images, torch.zeros(2, dtype=torch.int64))
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in before)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_activation_memory_is_within_one_percent_of_the_profiler():
    model = build("resnet50", num_classes=10).train()
    images, labels = torch.randn(2, 3, 96, 96), torch.zeros(2, dtype=torch.int64)
    counted = measure_training_step(model, images, labels, repeats=1).activation_bytes

    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        loss = nn.functional.cross_entropy(model(images), labels)
    assert loss.grad_fn is not None
    profiled = sum(
        event.nbytes()
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]"
    )
    assert counted == pytest.approx(profiled, rel=0.01)
