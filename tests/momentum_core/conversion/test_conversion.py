"""A converted network: what became of each part, its function, its gradients, its weights."""

from __future__ import annotations

import copy
from fractions import Fraction
from functools import cache

import pytest
import torch
from torch import nn
from torchvision import models

from momentum_core import ConversionConfig, convert, plan_conversion
from momentum_core.architectures import build
from momentum_core.conversion import (
    ConversionPlan,
    load_original_state_dict,
    original_state_dict,
    plan_architecture,
    plan_of,
    restore,
)
from momentum_core.errors import ConversionError
from momentum_core.reversible import MomentumStack

IMAGES = {"resnet50": (2, 3, 64, 64), "cifar_resnet20": (4, 3, 32, 32), "resnet18": (2, 3, 64, 64)}


def _network(name: str) -> nn.Module:
    torch.manual_seed(3)
    network = build(name, num_classes=10)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def _images(name: str) -> torch.Tensor:
    return torch.randn(IMAGES[name], generator=torch.Generator().manual_seed(5))


@cache
def _plan(name: str) -> ConversionPlan:
    """Planning memory takes longer than a step."""
    return plan_conversion(_network(name), _images(name))


def test_the_plan_of_resnet50_says_what_becomes_of_every_block():
    with torch.device("meta"):
        plan = plan_conversion(
            models.resnet50(), torch.empty(2, 3, 224, 224), ConversionConfig(gamma=0.9)
        )
    assert {run.gamma for run in plan.runs} == {Fraction(9, 10)}
    assert [run.blocks for run in plan.runs] == [
        ("layer1.1", "layer1.2"),
        ("layer2.1", "layer2.2", "layer2.3"),
        tuple(f"layer3.{i}" for i in range(1, 6)),
        ("layer4.1", "layer4.2"),
    ]
    assert [one.name for one in plan.unconverted] == [f"layer{i}.0" for i in (1, 2, 3, 4)]
    assert plan.recomputed[0] == ("conv1", "bn1", "relu", "maxpool")
    assert "run layer3.1 .. layer3.5: 5 blocks of 1024x14x14" in str(plan)


def test_single_blocks_stay_and_the_plan_says_why():
    plan = plan_architecture("resnet18", num_classes=5)
    assert [run.name for run in plan.runs] == ["layer1.0"]
    reasons = {one.name: one.reason for one in plan.unconverted}
    assert "saves nothing" in reasons["layer2.1"]
    assert reasons["layer2.0"] == "64x56x56 -> 128x28x28"


def test_the_coefficients_give_every_block_its_full_weight():
    run = plan_architecture("cifar_resnet20", num_classes=2).runs[0]
    # c_i = (1/2) / (1 - 2^-(N-i)) for N = 3
    assert run.rule.coefficients == pytest.approx((4 / 7, 2 / 3, 1.0))


@pytest.mark.parametrize("name", IMAGES)
def test_weights_keep_their_original_keys_and_values(name):
    network = _network(name)
    before = copy.deepcopy(network.state_dict())
    converted = convert(network, plan=_plan(name))
    after = original_state_dict(converted)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(torch.equal(network.state_dict()[key], before[key]) for key in before)
    other = convert(build(name, num_classes=10), plan=plan_of(converted))
    load_original_state_dict(other, after)
    x = _images(name)
    with torch.no_grad():
        assert torch.equal(other.eval()(x), converted.eval()(x))


@pytest.mark.parametrize("name", IMAGES)
def test_all_gradients_and_statistics_are_those_of_stored_activations(name):
    """The rival path: the same stacks with `stored`, stem and transitions without recomputation."""
    reversible = convert(_network(name), plan=_plan(name))
    stored = copy.deepcopy(reversible)
    for module in stored.modules():
        if isinstance(module, MomentumStack):
            module.backward_mode = "stored"
    for chain in plan_of(stored).recomputed:
        parent, _, child = chain[0].rpartition(".")
        holder = stored.get_submodule(parent)
        setattr(holder, child, nn.Sequential(*getattr(holder, child)))
    labels = torch.arange(IMAGES[name][0])
    losses = []
    for network in (reversible, stored):
        loss = nn.functional.cross_entropy(network(_images(name)), labels)
        loss.backward()
        losses.append(loss)
    assert torch.equal(*losses)
    pairs = list(zip(reversible.named_parameters(), stored.named_parameters(), strict=True))
    assert all(torch.equal(one.grad, other.grad) for (_, one), (_, other) in pairs)
    for (key, one), (_, other) in zip(
        reversible.named_buffers(), stored.named_buffers(), strict=True
    ):
        assert torch.equal(one, other), key
    moved = dict(reversible.named_buffers())
    assert all(int(b) == 1 for key, b in moved.items() if key.endswith("num_batches_tracked"))


def test_a_small_gamma_leaves_nearly_the_original_function():
    network = _network("cifar_resnet20").eval()
    x = _images("cifar_resnet20")
    configs = [ConversionConfig(gamma=gamma) for gamma in (1 / 256, 1 / 16, 0.5)]
    plans = [_plan("cifar_resnet20").with_config(config) for config in configs]
    with torch.no_grad():
        original = network(x)
        errors = [float((convert(network, plan=one)(x) - original).norm()) for one in plans]
    assert errors[0] < errors[1] < errors[2]
    assert errors[0] < 0.02 * float(original.norm())


@pytest.mark.parametrize("name", IMAGES)
def test_trained_weights_go_back_into_the_original_architecture(name):
    original = _network(name)
    converted = convert(original, plan=_plan(name))
    optimizer = torch.optim.SGD(converted.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(
            converted(_images(name)), torch.arange(IMAGES[name][0])
        ).backward()
        optimizer.step()
    restored = restore(converted)
    assert type(restored) is type(original)
    assert list(restored.state_dict()) == list(original.state_dict())
    fresh = build(name, num_classes=10)
    fresh.load_state_dict(restored.state_dict(), strict=True)
    weights = original_state_dict(converted)
    assert all(torch.equal(fresh.state_dict()[key], weights[key]) for key in weights)
    assert any(not torch.equal(weights[key], original.state_dict()[key]) for key in weights)
    x = _images(name)
    with torch.no_grad():
        assert torch.equal(restored.eval()(x), fresh.eval()(x))
    assert isinstance(plan_of(converted).runs, tuple), "the converted model is as it was"


def test_neither_example_nor_plan_or_both_are_refused():
    network = build("cifar_resnet20", num_classes=2)
    plan = plan_architecture("cifar_resnet20", num_classes=2)
    with pytest.raises(ConversionError, match="neither was given"):
        convert(network)
    with pytest.raises(ConversionError, match="both was given"):
        convert(network, torch.zeros(1, 3, 32, 32), plan=plan)


def test_a_converted_model_is_not_converted_again():
    x = torch.zeros(2, 3, 32, 32)
    converted = convert(build("cifar_resnet20", num_classes=2), x)
    with pytest.raises(ConversionError, match="already"):
        convert(converted, x)


def test_a_plan_is_asked_of_converted_models_only():
    with pytest.raises(ConversionError, match="not a converted model"):
        plan_of(nn.Linear(1, 1))


def test_weights_of_another_architecture_are_refused_and_named():
    converted = convert(build("cifar_resnet20", num_classes=2), torch.zeros(2, 3, 32, 32))
    with pytest.raises(ConversionError, match=r"layer1\.3"):
        load_original_state_dict(converted, build("cifar_resnet32", num_classes=2).state_dict())
