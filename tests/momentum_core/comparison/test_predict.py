"""Predictions for a GPU against single predictions, brute force and the rule for depth."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from momentum_core import ConversionConfig, convert, plan_conversion
from momentum_core.comparison import CudaTarget, OwnDevice, predict_memory
from momentum_core.comparison.budget import GIB, device_terms, largest
from momentum_core.comparison.checkpointing import checkpointed
from momentum_core.memory.batch_profile import profile_batches

EXAMPLE = torch.empty(2, 3, 32, 32, device="meta")


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    original = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Sequential(*(BasicBlock(16, 16) for _ in range(4))),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )
    config = ConversionConfig(plan_memory=False)
    return original, convert(original, torch.zeros(2, 3, 32, 32), config)


@pytest.fixture(scope="module")
def prediction(models):
    device = OwnDevice(kind="cpu", name="this machine", memory_bytes=3 * GIB)
    return predict_memory(*models, EXAMPLE, budgets_gib=(1, 8), device=device, batch_size=24)


def test_the_largest_batch_fits_and_one_more_does_not(models, prediction):
    profile = profile_batches(models[1], EXAMPLE)
    for gib, size in zip((1, 8), prediction.methods["momentum"].largest_batches, strict=True):
        assert device_terms(profile, size, CudaTarget()).total <= gib * GIB
        more = size + (1 if size < 1000 else size // 400)
        assert device_terms(profile, more, CudaTarget()).total > gib * GIB
    on_device = prediction.methods["momentum"].largest_on_device
    # A CPU has no context, no cache and no workspaces.
    assert profile.total_bytes(on_device) <= 3 * GIB < profile.total_bytes(on_device + 1)


def test_terms_are_apart_and_add_up(models, prediction):
    [point] = [one for one in prediction.methods["original"].points if one.batch_size == 24]
    terms = point.terms
    assert terms.tensors == profile_batches(models[0], EXAMPLE).total_bytes(24)
    assert terms.tensors == point.peak_bytes + prediction.methods["original"].fixed_bytes
    assert (terms.workspaces, terms.context) == (256 << 20, 512 << 20)
    assert terms.allocator > 0
    assert terms.total == terms.tensors + terms.allocator + terms.workspaces + terms.context


def test_checkpointing_is_predicted_and_the_authors_reason_given(models, prediction):
    assert list(prediction.methods) == [
        "original",
        "checkpoint_each_block",
        "checkpoint_sqrt",
        "momentum",
    ]
    plan = models[1].plan
    for cut in ("each_block", "sqrt"):
        alone = profile_batches(checkpointed(models[0], plan, cut), EXAMPLE)
        predicted = prediction.methods[f"checkpoint_{cut}"]
        assert predicted.activation_bytes == alone.activation_bytes(24)
    assert "momentumnet" in prediction.not_predicted


def test_longer_runs_are_predicted_as_if_built(models, prediction):
    depth = prediction.depth
    assert (depth.run, [point.num_blocks for point in depth.points]) == ("1.0", [4, 8, 16])
    torch.manual_seed(0)
    longer = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Sequential(*(BasicBlock(16, 16) for _ in range(16))),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )
    config = ConversionConfig(plan_memory=False)
    plan = plan_conversion(longer, torch.zeros(2, 3, 32, 32), config)
    built = {
        "original": longer,
        "momentum": convert(longer, plan=plan),
        "checkpoint_each_block": checkpointed(longer, plan, "each_block"),
    }
    for name, model in built.items():
        expected = profile_batches(model, EXAMPLE).peak_bytes(24)
        assert depth.points[-1].peak_bytes[name] == pytest.approx(expected, rel=1e-4)


def test_a_run_that_does_not_end_a_sequence_has_no_depth(models):
    original, _ = models
    other = nn.Sequential(*original[:1], *original[1], *original[2:])
    config = ConversionConfig(plan_memory=False)
    momentum = convert(other, torch.zeros(2, 3, 32, 32), config)
    found = predict_memory(other, momentum, EXAMPLE, budgets_gib=(8,), rivals=False)
    assert found.depth is None
    assert list(found.methods) == ["original", "momentum"]


def test_the_search_finds_what_trying_all_finds():
    generator = random.Random(1)
    for _ in range(200):
        lines = [(generator.uniform(0, 50), generator.uniform(0.01, 9)) for _ in range(3)]
        budget = generator.uniform(0, 1000)

        def spare(size, lines=lines, budget=budget):
            return int(budget - max(a + b * size for a, b in lines) - 7 * (size % 3 == 1))

        tried = [size for size in range(500) if spare(size) >= 0]
        found = largest(spare, at_most=499)
        assert found == 0 or spare(found) >= 0
        # Where memory falls for a moment, the search may stop one or two short.
        assert max(tried, default=0) - found <= 7 / min(b for _, b in lines) + 1


def test_a_budget_that_nothing_fits_gives_zero(models):
    found = predict_memory(*models, EXAMPLE, budgets_gib=(0.5,), rivals=False, depth_factors=())
    assert found.methods["original"].largest_batches == (0,)
