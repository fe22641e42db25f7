"""Counted bytes against counts by hand and against torch's own profiler."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer

from momentum_core import ConversionConfig, convert
from momentum_core.architectures import build
from momentum_core.comparison import checkpointed
from momentum_core.conversion import plan_architecture
from momentum_core.memory import Category, MemoryTracker, measure_training_step
from momentum_core.reversible import MomentumStack
from tests.profiled import profiled


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


def test_a_reversible_run_holds_what_a_hand_counts() -> None:
    # Three blocks at gamma 1/2 on 8 x 4 numbers: position and velocity of 4 bytes, and a byte for
    # the bits that two multiplications lose. A checksum of the start: two int64. Then log-softmax
    # 8 x 4, the loss and its total weight.
    blocks = [nn.Linear(4, 4) for _ in range(3)]
    model = MomentumStack(blocks, gamma=0.5, skip=False)
    result = measure_training_step(model, torch.randn(8, 4), torch.zeros(8, dtype=torch.int64))
    state = 8 * 4 * (4 + 4 + 1)
    assert result.activation_bytes == state + 2 * 8 + 4 * (8 * 4 + 1 + 1)
    # At the peak a block is differentiated: the floats that it saw stand for the position.
    assert result.peak_by_category[Category.REVERSIBLE_STATE] == state - 8 * 4 * 4
    assert result.peak_by_category[Category.PARAMETERS] == result.parameter_bytes == 3 * 4 * 20


def test_categories_at_the_peak_add_up() -> None:
    model = build("cifar_resnet20", num_classes=3)
    images, labels = torch.randn(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64)
    result = measure_training_step(model, images, labels, repeats=1)
    parts = result.peak_by_category
    assert parts[Category.PARAMETERS] == result.parameter_bytes
    assert parts[Category.GRADIENTS] == result.gradient_bytes
    assert parts[Category.BUFFERS] == result.buffer_bytes
    assert parts[Category.INPUT] == result.input_bytes
    assert Category.REVERSIBLE_STATE not in parts
    # The peak comes early in the backward pass: nearly every activation is still there.
    assert 0.8 * result.activation_bytes < parts[Category.ACTIVATIONS] <= result.activation_bytes
    made = parts[Category.ACTIVATIONS] + parts[Category.TEMPORARIES]
    assert made == result.peak_bytes


def test_filing_reaches_back_to_the_peak_for_what_was_alive_then() -> None:
    with MemoryTracker() as tracker:
        kept, dropped = torch.zeros(100), torch.zeros(50)
        del dropped
        late = torch.zeros(10)
        tracker.file([kept, late], Category.REVERSIBLE_STATE)
        assert tracker.current_bytes == 440
    assert tracker.peak_by_category == {
        Category.REVERSIBLE_STATE: 400,
        Category.ACTIVATIONS: 200,
    }


@pytest.mark.parametrize(
    ("make", "num_indices"),
    [
        (lambda at, start, one: torch.sparse_coo_tensor(torch.stack((at, at)), one), 2 * 8),
        (lambda at, start, one: torch.sparse_csr_tensor(start, at, one), 9 + 8),
        (lambda at, start, one: torch.sparse_csc_tensor(start, at, one), 9 + 8),
    ],
    ids=["coordinates", "compressed rows", "compressed columns"],
)
@pytest.mark.filterwarnings("ignore:Sparse .*:UserWarning")
def test_of_a_sparse_tensor_indices_and_values_are_counted(
    make: Callable[..., torch.Tensor], num_indices: int
) -> None:
    with MemoryTracker() as tracker:
        sparse = make(torch.arange(8), torch.arange(9), torch.ones(8))
        assert tracker.current_bytes == 8 * num_indices + 4 * 8
        del sparse
        assert tracker.current_bytes == 0


def test_sparse_gradients_can_be_measured() -> None:
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Flatten())
    numbers, labels = torch.tensor([[1], [2]]), torch.zeros(2, dtype=torch.int64)
    with MemoryTracker([*model.parameters(), numbers, labels]) as tracker:
        nn.functional.cross_entropy(model(numbers), labels).backward()
    assert tracker.peak_bytes > 0


def test_tensors_without_memory_are_not_counted() -> None:
    with MemoryTracker() as tracker:
        _ = torch.zeros(100, device="meta") + 1
    assert tracker.peak_bytes == 0


def test_activation_memory_is_within_one_percent_of_the_profiler():
    model = build("resnet50", num_classes=10).train()
    images, labels = torch.randn(2, 3, 96, 96), torch.zeros(2, dtype=torch.int64)
    counted = measure_training_step(model, images, labels, repeats=1).activation_bytes
    seen = profiled(lambda: nn.functional.cross_entropy(model(images), labels))
    assert counted == pytest.approx(seen.left, rel=0.01)


def _small_vit() -> nn.Module:
    return VisionTransformer(32, 8, 4, 4, 32, 64, num_classes=5)


_NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (lambda: build("resnet18", num_classes=10), 64),
    "resnet50": (lambda: build("resnet50", num_classes=10), 64),
    "resnext50": (lambda: build("resnext50_32x4d", num_classes=10), 64),
    "cifar_resnet20": (lambda: build("cifar_resnet20", num_classes=10), 32),
    "mobilenet_v2": (lambda: models.mobilenet_v2(num_classes=10), 64),
    "densenet121": (lambda: models.densenet121(num_classes=10), 64),
    "vit": (_small_vit, 32),
    "cifar_resnet20, converted": (lambda: _converted("cifar_resnet20", 32), 32),
    "resnet50, converted": (lambda: _converted("resnet50", 64), 64),
    "cifar_resnet20, checkpointed": (lambda: _checkpointed("cifar_resnet20", 32), 32),
}


def _converted(name: str, side: int) -> nn.Module:
    config = ConversionConfig(plan_memory=False)
    return convert(build(name, num_classes=10), torch.zeros(2, 3, side, side), config)


def _checkpointed(name: str, side: int) -> nn.Module:
    model = build(name, num_classes=10)
    plan = plan_architecture(name, num_classes=10, config=ConversionConfig(plan_memory=False))
    return checkpointed(model, plan, "each_block")


@pytest.mark.parametrize("name", _NETWORKS)
def test_the_peak_is_that_of_the_profiler_between_operators(name: str) -> None:
    # Within an operator the profiler sees workspaces as well: one backward pass of a convolution
    # takes 9 MB for a moment, which no tensor ever shows.
    torch.manual_seed(0)
    make, side = _NETWORKS[name]
    model = make().train()
    # Each checkpoint keeps the state of the random numbers, 5 kB that no operator returns: much
    # beside two small images.
    size = 8 if "checkpointed" in name else 2
    images, labels = torch.randn(size, 3, side, side), torch.zeros(size, dtype=torch.int64)
    counted = measure_training_step(model, images, labels, repeats=1, optimizer="sgd_momentum")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9)

    def step() -> None:
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    step()  # gradients and the optimizer's numbers are there from now on
    assert counted.peak_bytes == pytest.approx(profiled(step).peak, rel=0.01)
