"""A plan's rules: one gamma and one set of numbers for each run, built, stored and refused."""

from __future__ import annotations

import json
from fractions import Fraction
from functools import cache

import pytest
import torch

from momentum_core import ConversionConfig, convert
from momentum_core.architectures import build
from momentum_core.conversion import (
    ConversionPlan,
    RunRule,
    original_state_dict,
    plan_architecture,
    restore,
)
from momentum_core.errors import ConfigError, ConversionError


@cache
def _plan() -> ConversionPlan:
    plan = plan_architecture("cifar_resnet20", num_classes=4)
    numbers = torch.Generator().manual_seed(2)

    def per_channel(channels: int) -> tuple[tuple[float, ...], ...]:
        drawn = 0.1 * torch.randn(2, channels, generator=numbers)
        return tuple(map(tuple, drawn.tolist()))

    return plan.with_rules(
        (
            RunRule(gamma=Fraction(1, 8), coefficients=(0.9, 0.8, 1.1)),
            RunRule(gamma=Fraction(1, 2), coefficients=per_channel(32), offsets=per_channel(32)),
            RunRule(gamma=Fraction(9, 10), coefficients=(0.7, 0.9), predictors=per_channel(64)),
        )
    )


def _by_hand(network: torch.nn.Module, plan: ConversionPlan, x: torch.Tensor) -> torch.Tensor:
    """The network, with every run by the rule as it is written down."""
    x = network.relu(network.bn1(network.conv1(x)))
    blocks = dict(network.named_modules())
    for name, stage in (
        ("layer1", network.layer1),
        ("layer2", network.layer2),
        ("layer3", network.layer3),
    ):
        run = next(run for run in plan.runs if run.name.startswith(name))
        if run.name.endswith(".1"):
            x = stage[0](x)
        rule, v = run.rule, torch.zeros(())
        for i, block in enumerate(run.blocks):
            c, b, p = (
                0.0 if numbers is None else torch.tensor(numbers[i]).view(-1, 1, 1)
                for numbers in (rule.coefficients, rule.offsets, rule.predictors)
            )
            v = float(run.gamma) * v + c * (blocks[block](x) - x) + b + p * x
            x = x + v
    return network.linear(x.mean(dim=(2, 3)))


def test_the_stacks_follow_each_runs_own_rule():
    torch.manual_seed(0)
    network, plan, x = (
        build("cifar_resnet20", num_classes=4).eval(),
        _plan(),
        torch.randn(2, 3, 32, 32),
    )
    with torch.no_grad():
        torch.testing.assert_close(convert(network, plan=plan)(x), _by_hand(network, plan, x))


def test_the_weights_are_the_originals_alone():
    network = build("cifar_resnet20", num_classes=4)
    converted = convert(network, plan=_plan())
    assert any(key.endswith("stack.offsets") for key in converted.state_dict())
    assert original_state_dict(converted).keys() == network.state_dict().keys()
    assert restore(converted).state_dict().keys() == network.state_dict().keys()


def test_a_rule_comes_back_from_json_bit_for_bit():
    for run in _plan().runs:
        assert RunRule.from_json(json.loads(json.dumps(run.rule.to_json()))) == run.rule


def test_a_new_gamma_goes_to_every_run_and_drops_what_was_calibrated():
    plan = _plan().with_config(ConversionConfig(gamma=0.75))
    assert {run.gamma for run in plan.runs} == {Fraction(3, 4)}
    assert not any(plan.is_calibrated(run) for run in plan.runs)
    assert all(_plan().is_calibrated(run) for run in _plan().runs)


def test_the_plan_says_which_gamma_each_run_has():
    assert "gamma 9/10, calibrated" in str(_plan())
    assert "gamma 1/2" in str(plan_architecture("cifar_resnet20", num_classes=4))


def test_rules_for_other_runs_are_refused():
    plan = _plan()
    with pytest.raises(ConversionError, match=r"runs of \[3\] blocks"):
        plan.with_rules([plan.runs[0].rule])


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"gamma": Fraction(1, 1000)}, "gamma"),
        ({"gamma": 0.5}, "Fraction"),
        ({"coefficients": ()}, "coefficients"),
        ({"coefficients": (1.0, float("nan"))}, "finite"),
        ({"coefficients": (1.0, (1.0, 2.0))}, "as many for all"),
        ({"offsets": ((1.0,), (1.0, 2.0))}, "as many for all"),
        ({"predictors": (0.0,)}, "predictors"),
    ],
)
def test_numbers_that_make_no_rule_are_refused(values, match):
    good = {"gamma": Fraction(1, 2), "coefficients": (1.0, 1.0)}
    RunRule(**good)
    with pytest.raises(ConfigError, match=match):
        RunRule(**good | values)
