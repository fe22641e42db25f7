"""Gamma moves to its own value while a model is refined; every step is reversed exactly."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import nn

from momentum_core import MomentumStack
from momentum_core.config import RefinementConfig
from momentum_core.conversion import RunRule, convert, plan_of
from momentum_core.errors import ConfigError
from momentum_core.refinement import Checkpoints, refine
from momentum_core.refinement.gamma_schedule import GammaSchedule
from tests.momentum_core.refinement.conftest import equal_states, state_of

CONFIG = RefinementConfig(
    max_steps=32,
    gamma_steps=8,
    batch_size=32,
    learning_rate=0.02,
    evaluation_interval=4,
    calibrate=False,
    goal=None,
)


def block() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh())


def stack_of(gamma, blocks=None, **options) -> MomentumStack:
    torch.manual_seed(0)
    return MomentumStack(blocks or [block(), block()], gamma=gamma, skip=False, **options)


def test_gammas_and_rules_are_those_of_the_formula():
    c, b = torch.tensor([[0.7, 0.8], [1.1, 1.0]]), torch.tensor([[0.5, -0.5], [0.25, 0.0]])
    stack = stack_of(0.5, coefficients=c, offsets=b)
    plain = stack_of(0.5)
    schedule = GammaSchedule(nn.ModuleList([stack, plain]), 8)
    schedule.follow(0)
    # 1/2 * 1/8; the scheme's c: (1 - g) / (1 - g^2), and 1 for the last.
    assert stack.gamma == plain.gamma == Fraction(1, 16)
    g, share = 1 / 16, 1 / 8
    expected = [
        [1 / (1 + g) + share * (0.7 - 1 / 1.5), 1 / (1 + g) + share * (0.8 - 1 / 1.5)],
        [1 + share * 0.1, 1.0],
    ]
    assert torch.allclose(stack.coefficients, torch.tensor(expected))
    assert torch.allclose(stack.offsets, share * b)
    assert plain._scheme_coefficients == pytest.approx((1 / (1 + g), 1.0))
    seen = []
    for step in range(10):
        schedule.follow(step)
        seen.append(stack.gamma)
    assert seen == sorted(seen)
    assert [float(one) for one in seen[:8]] == pytest.approx(
        [0.5 * (1 / 8 + 7 / 64 * level) for level in range(8)], abs=1 / 128
    )
    assert seen[8:] == [Fraction(1, 2)] * 2
    assert torch.equal(stack.coefficients, c)
    assert torch.equal(stack.offsets, b)


def test_a_stack_at_another_gamma_is_one_that_was_built_with_it():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    built, moved = stack_of(0.875), stack_of(0.25)
    moved.set_gamma(0.875)
    results = []
    for stack in (built, moved):
        first = x.clone().requires_grad_()
        y = stack(first)
        y.square().sum().backward()
        results.append((y.detach(), first.grad, *(p.grad for p in stack.parameters())))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    assert built.fixed_point == moved.fixed_point


def test_what_was_computed_before_is_reversed_by_the_gamma_that_it_had():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    expected, stack = stack_of(0.875), stack_of(0.875)
    grads = []
    for one, is_moved in ((expected, False), (stack, True)):
        first = x.clone().requires_grad_()
        y = one(first)
        if is_moved:
            one.set_gamma(0.25)
        y.sum().backward()
        grads.append(first.grad)
    assert torch.equal(*grads)


def test_a_refinement_ends_with_the_models_own_rules_and_the_same_bits(digits, tmp_path):
    plan = plan_of(digits.rough())
    run, count = plan.runs[0], len(plan.runs[0].blocks)
    rules = [one.rule for one in plan.runs]
    rules[0] = RunRule(gamma=run.gamma, coefficients=(0.3,) * count, offsets=(0.01,) * count)
    momentum = convert(digits.network, plan=plan.with_rules(tuple(rules)))
    given = (digits.network, digits.images(), digits.preprocessing, CONFIG)
    seen = []
    whole = refine(momentum, *given, on_step=lambda progress: seen.append(progress.step))
    assert seen == list(range(1, 33))
    stacks = [one for one in whole.model.modules() if isinstance(one, MomentumStack)]
    assert [one.gamma for one in stacks] == [one.gamma for one in rules]
    assert torch.equal(stacks[0].coefficients, torch.full((count,), 0.3))
    assert torch.equal(stacks[0].offsets, torch.full((count,), 0.01))
    assert whole.result.best_step > 8
    losses = [one.loss for one in whole.result.evaluations]
    assert losses[-1] < 0.8 * losses[0]

    def stop(progress):
        if progress.step == 5:
            raise KeyboardInterrupt

    checkpoints = Checkpoints(tmp_path / "state", every_seconds=1e9)
    with pytest.raises(KeyboardInterrupt):
        refine(momentum, *given, checkpoints=checkpoints, on_step=stop)
    resumed = refine(momentum, *given, checkpoints=checkpoints)
    assert resumed.result.resumed_at == (5,)
    assert equal_states(state_of(whole.model), state_of(resumed.model))
    other = refine(momentum, *given[:3], replace(CONFIG, gamma_steps=0))
    assert not equal_states(state_of(whole.model), state_of(other.model))


def test_more_steps_than_there_are_is_an_error():
    with pytest.raises(ConfigError, match="gamma_steps must be"):
        RefinementConfig(max_steps=5, gamma_steps=6)
