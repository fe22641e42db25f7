"""The choice of what parts keep, against every other choice and against measured steps."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from momentum_core import ConversionConfig, convert, plan_conversion
from momentum_core.conversion import memory_plan
from momentum_core.conversion.memory_plan import (
    PartChoices,
    choose_strategies,
    peak,
    slowdown,
)
from momentum_core.errors import ConfigError
from momentum_core.memory import measure_training_step
from momentum_core.memory.part import PartProfile
from momentum_core.reversible import MomentumStack

STRATEGIES = ("reverse", "recompute", "recompute_whole", "store")


def _network() -> nn.Module:
    torch.manual_seed(1)
    network = ResNet(Bottleneck, [3, 4, 1, 1])
    network.layer3, network.layer4, network.fc = nn.Identity(), nn.Identity(), nn.Linear(512, 5)
    return network


def _parts() -> tuple[PartChoices, ...]:
    """A stem, a short run of large activations, a long run of small ones."""
    return (
        PartChoices(
            "stem", 1.0, {"recompute": PartProfile(0, 30, 60), "store": PartProfile(40, 45, 60)}
        ),
        PartChoices(
            "wide",
            2.0,
            {
                "reverse": PartProfile(28, 50, 90),
                "recompute": PartProfile(25, 60, 75),
                "store": PartProfile(80, 100, 110),
            },
        ),
        PartChoices(
            "deep",
            6.0,
            {
                "reverse": PartProfile(9, 20, 50),
                "recompute": PartProfile(60, 70, 95),
                "store": PartProfile(300, 310, 320),
            },
        ),
    )


@pytest.mark.parametrize("limit", [1.05, 1.1, 1.2, 1.3, 4 / 3])
def test_no_other_choice_within_the_limit_has_a_lower_peak(limit):
    parts = _parts()
    chosen, time = choose_strategies(parts, max_slowdown=limit, fixed={})
    assert time == slowdown(parts, chosen) <= limit
    every = [
        dict(zip((part.name for part in parts), combination, strict=True))
        for combination in itertools.product(*(part.profiles for part in parts))
    ]
    best = min(peak(parts, one) for one in every if slowdown(parts, one) <= limit)
    assert peak(parts, chosen) == best


def test_one_more_forward_pass_of_everything_is_four_thirds_of_the_time():
    parts = _parts()
    everything = {"stem": "recompute", "wide": "reverse", "deep": "recompute"}
    assert slowdown(parts, everything) == pytest.approx(4 / 3)
    # The stem is 1/9 of the forward pass, which is 1/3 of the step.
    stored = everything | {"stem": "store"}
    assert slowdown(parts, stored) == pytest.approx(1 + 8 / 27)


def test_a_limit_that_cannot_be_kept_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_slowdown 1\.1 cannot be kept"):
        choose_strategies(_parts(), max_slowdown=1.1, fixed={"deep": "reverse"})


def test_the_short_run_of_large_activations_keeps_its_blocks_inputs() -> None:
    plan = plan_conversion(_network(), torch.empty(8, 3, 64, 64))
    assert plan.strategies["layer1.1"] == "recompute"
    assert plan.memory is not None
    text = str(plan)
    assert "layer1.1: recompute, its blocks' inputs are kept (reverse would add" in text
    assert "predicted peak of a step, batch 8:" in text
    report = plan.to_json()["memory"]
    assert report["converted_peak_bytes"] < 0.6 * report["original_peak_bytes"]
    assert {part["name"] for part in report["parts"]} == set(plan.strategies)


def test_the_predicted_peak_is_the_measured_one() -> None:
    network = _network()
    images, labels = torch.randn(4, 3, 64, 64), torch.zeros(4, dtype=torch.int64)
    converted = convert(network, images)
    memory = converted.plan.memory
    measured = measure_training_step(converted, images, labels, repeats=1)
    assert memory.converted_peak_bytes == pytest.approx(measured.peak_bytes, rel=0.01)
    original = measure_training_step(network, images, labels, repeats=1)
    assert memory.original_peak_bytes == pytest.approx(original.peak_bytes, rel=0.01)


def _step(network: nn.Module) -> list[torch.Tensor]:
    network = copy.deepcopy(network).train()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    output = network(images)
    output.square().sum().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None for gradient in gradients)
    return [output.detach(), *gradients, *network.buffers()]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_outputs_gradients_and_statistics_do_not_depend_on_the_strategy(strategy):
    example = torch.empty(4, 3, 32, 32)
    runs = ("layer1.1", "layer2.1")
    converted = [
        convert(
            _network(),
            example,
            ConversionConfig(plan_memory=False, strategies=dict.fromkeys(runs, one)),
        )
        for one in ("store", strategy)
    ]
    stored, other = (_step(network) for network in converted)
    assert all(torch.equal(a, b) for a, b in zip(stored, other, strict=True))


def test_the_caller_decides_and_the_rest_is_planned_around_it() -> None:
    config = ConversionConfig(strategies={"layer1.0": "store", "layer2.1": "store"})
    converted = convert(_network(), torch.empty(8, 3, 64, 64), config)
    assert isinstance(converted.layer1[0], Bottleneck)
    assert converted.plan.recomputed[0][0] == "conv1"
    assert all(chain[0] != "layer1.0" for chain in converted.plan.recomputed)
    stacks = [m for m in converted.modules() if isinstance(m, MomentumStack)]
    assert stacks[1].backward_mode == "stored"
    assert "as was asked for" in str(converted.plan)
    assert converted.plan.memory.slowdown < 4 / 3


@pytest.mark.parametrize(
    ("strategies", "message"),
    [
        ({"layer9.0": "store"}, "which is no run"),
        ({"layer1.0": "reverse"}, "cannot have the strategy"),
    ],
)
@pytest.mark.parametrize("predicted", [True, False])
def test_a_decision_that_cannot_be_carried_out_is_refused(strategies, message, predicted):
    config = ConversionConfig(strategies=strategies, plan_memory=predicted)
    with pytest.raises(ConfigError, match=message):
        plan_conversion(_network(), torch.empty(2, 3, 32, 32), config)


def test_max_slowdown_stores_what_adds_least() -> None:
    config = ConversionConfig(max_slowdown=1.2)
    plan = plan_conversion(_network(), torch.empty(8, 3, 64, 64), config)
    assert plan.memory is not None
    assert plan.memory.slowdown <= 1.2
    assert "store" in plan.strategies.values()
    free = plan_conversion(_network(), torch.empty(8, 3, 64, 64))
    assert free.memory is not None
    assert free.memory.converted_peak_bytes < plan.memory.converted_peak_bytes


def _masked_encoder(num_layers: int) -> tuple[nn.Module, dict[str, object]]:
    torch.manual_seed(2)
    layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
    return encoder, {"src": torch.randn(2, 40, 32), "mask": torch.zeros(40, 40), "is_causal": False}


class _Translating(nn.Module):
    """Blocks that take their input second, and return a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Shifting() for _ in range(6))

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x, _ = block(shift, x)
        return x


class _Shifting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32))

    def forward(self, shift: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + self.inner(x + shift), shift


@pytest.mark.parametrize(
    ("model", "example"),
    [
        _masked_encoder(4),
        (_Translating(), {"x": torch.randn(2, 40, 32), "shift": torch.randn(40, 32)}),
    ],
)
def test_of_a_run_with_further_arguments_the_smallest_way_is_chosen(model, example):
    plan = plan_conversion(model, example)
    assert plan.memory is not None, plan.notes
    [run] = plan.runs
    assert not run.takes_input_only
    peaks = {}
    for strategy in ("reverse", "recompute", "store"):
        config = ConversionConfig(strategies={run.name: strategy})
        peaks[strategy] = plan_conversion(model, example, config).memory.converted_peak_bytes
    assert len(set(peaks.values())) == 3
    assert plan.memory.converted_peak_bytes == min(peaks.values())
    assert plan.memory.slowdown > 1, "what the run costs is counted"


def test_the_mask_of_a_run_is_not_looked_into_however_the_choice_is_searched(monkeypatch):
    model, example = _masked_encoder(3)
    chosen = []
    for most_compared in (10_000, 0):
        monkeypatch.setattr(memory_plan, "_MOST_COMPARED", most_compared)
        plan = plan_conversion(model, example)
        assert plan.memory is not None, plan.notes
        chosen.append([plan.strategy_of(run) for run in plan.runs])
    assert chosen[0] == chosen[1]
