"""Refinement brings a model nearer to its original, stops at the goal, and never makes it worse."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from importlib import import_module

import numpy as np
import pytest
import torch

from momentum_core.config import Preprocessing, RefinementConfig, RefinementGoal
from momentum_core.conversion import plan_of
from momentum_core.errors import ConfigError, DataError
from momentum_core.refinement import TrainingImages, evaluate, refine, to_input
from momentum_core.refinement.start import prepare_start
from tests.momentum_core.refinement.conftest import equal_states, state_of

PLAIN = RefinementConfig(
    max_steps=16,
    batch_size=32,
    learning_rate=0.02,
    evaluation_interval=2,
    calibrate=False,
    goal=None,
)


def test_pixels_become_floats_as_the_formula_says():
    images = np.array([[[[0], [255]]]], dtype=np.uint8)
    expected = torch.tensor([[[[(0 - 0.3) / 0.4, (1 - 0.3) / 0.4]]]])
    assert torch.allclose(to_input(images, Preprocessing(mean=(0.3,), std=(0.4,))), expected)


def test_top1_is_the_share_of_right_answers(digits):
    images, labels = digits.dataset.x_test, digits.dataset.y_test
    network = digits.momentum().train()
    result = evaluate(network, images, labels, digits.preprocessing)
    assert all(module.training for module in network.modules())
    with torch.no_grad():
        logits = network.eval()(to_input(images, digits.preprocessing))
    assert torch.allclose(result.logits, logits, atol=1e-4)
    expected = 100 * (logits.argmax(1).numpy() == labels).mean()
    assert result.top1_percent == pytest.approx(expected)


def test_the_model_comes_nearer_and_the_same_seed_gives_the_same_bits(digits):
    before = state_of(digits.network)
    found = [
        refine(digits.rough(), digits.network, digits.images(), digits.preprocessing, PLAIN)
        for _ in range(2)
    ]
    assert equal_states(before, state_of(digits.network))
    assert equal_states(state_of(found[0].model), state_of(found[1].model))
    other = refine(
        digits.rough(), digits.network, digits.images(), digits.preprocessing, PLAIN, seed=1
    )
    assert not equal_states(state_of(found[0].model), state_of(other.model))
    result = found[0].result
    losses = {one.step: one.loss for one in result.evaluations}
    assert result.best_step > 0
    assert losses[result.best_step] == min(losses.values()) < 0.3 * losses[0]
    assert (result.stopped, result.num_steps, result.goal_met) == ("max_steps", 16, None)
    assert sorted(losses) == list(range(0, 17, 2))
    # Images that nothing of this has seen.
    shown = (digits.dataset.x_test, digits.dataset.y_test, digits.preprocessing)
    assert evaluate(digits.rough(), *shown).top1_percent < 40
    assert evaluate(found[0].model, *shown).top1_percent > 90


def test_calibration_is_the_start_and_may_meet_the_goal_without_a_step(digits):
    config = RefinementConfig(max_steps=4, goal=RefinementGoal(tolerable_loss=1))
    momentum, told = digits.momentum(), []
    weights = state_of(momentum)
    found = refine(
        momentum,
        digits.network,
        digits.images(),
        digits.preprocessing,
        config,
        on_preparing=told.append,
    )
    result = found.result
    assert (result.goal_met, result.stopped, result.num_steps) == (True, "goal_met", 0)
    assert result.is_calibrated
    assert result.converted_percent < result.target_percent <= result.start_percent
    assert result.target_percent == result.original_percent - 1
    assert any(plan_of(found.model).is_calibrated(run) for run in plan_of(found.model).runs)
    assert equal_states(weights, state_of(momentum))
    assert told == ["evaluating", "calibrating", "evaluating", "re-estimating"]
    json.dumps(asdict(result), allow_nan=False)


def test_a_goal_that_is_missed_gives_the_best_weights(digits):
    # The original's own answers on every held-back image cannot be had in two steps.
    goal = RefinementGoal(metric="agreement", tolerable_loss=0)
    config = replace(PLAIN, max_steps=2, learning_rate=1e-6, goal=goal)
    result = refine(
        digits.rough(), digits.network, digits.images(), digits.preprocessing, config
    ).result
    assert (result.goal_met, result.stopped) == (False, "max_steps")
    assert result.metric == "agreement"
    assert result.original_percent == result.target_percent == 100


def test_training_stops_at_the_evaluation_that_meets_the_goal(digits):
    config = replace(PLAIN, max_steps=40, goal=RefinementGoal(tolerable_loss=6))
    steps = []
    result = refine(
        digits.rough(),
        digits.network,
        digits.images(),
        digits.preprocessing,
        config,
        on_step=lambda progress: steps.append(progress),
    ).result
    assert (result.goal_met, result.stopped) == (True, "goal_met")
    assert 0 < result.num_steps < 40
    assert result.best_step == result.num_steps == steps[-1].step
    percents = [one.percent for one in result.evaluations]
    assert percents[-1] >= result.target_percent > max(percents[:-1])
    assert steps[-1].metric_percent == percents[-1]
    assert steps[0].loss == pytest.approx(sum(steps[0].loss_parts.values()))
    assert steps[0].eta_seconds > 0


def test_without_labels_the_originals_answers_are_the_measure(digits):
    config = replace(PLAIN, goal=RefinementGoal())
    images = digits.images(labelled=False)
    result = refine(digits.rough(), digits.network, images, digits.preprocessing, config).result
    assert (result.metric, result.recipe.label_weight) == ("agreement", 0)
    assert set(result.series[0]) == {"step", "loss", "distillation", "learning_rate"}
    assert result.refined_percent > result.converted_percent


def test_training_that_diverges_gives_back_the_weights_of_the_start(digits):
    momentum = digits.momentum(gamma=0.1)
    config = replace(PLAIN, max_steps=6, learning_rate=10.0)
    found = refine(momentum, digits.network, digits.images(), digits.preprocessing, config)
    assert found.result.best_step == 0
    # Statistics may have been re-estimated before the first step.
    pairs = zip(momentum.parameters(), found.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_loss_that_is_no_number_stops_with_the_last_good_weights(digits, monkeypatch):
    module, models = import_module("momentum_core.refinement.refine"), []

    def remember(*arguments, **options):
        start = prepare_start(*arguments, **options)
        models.append(start.model)
        return start

    def poison(progress):
        if progress.step == 5:
            with torch.no_grad():
                models[0].linear.weight.fill_(float("nan"))

    monkeypatch.setattr(module, "prepare_start", remember)
    found = refine(
        digits.rough(),
        digits.network,
        digits.images(),
        digits.preprocessing,
        replace(PLAIN, max_steps=8),
        on_step=poison,
    )
    assert (found.result.stopped, found.result.num_steps) == ("diverged", 5)
    assert all(bool(one.isfinite().all()) for one in state_of(found.model).values())
    assert found.result.best_step == 4


def test_gradients_of_small_pieces_add_up_to_those_of_the_batch(digits):
    results = [
        refine(
            digits.rough(),
            digits.network,
            digits.images(),
            digits.preprocessing,
            replace(PLAIN, max_steps=1, micro_batch_size=size, feature_weight=0.5),
        )
        for size in (32, 9)
    ]
    assert [one.result.micro_batch_size for one in results] == [32, 9]
    whole, pieces = (state_of(one.model) for one in results)
    start = state_of(digits.rough())
    moved = [(whole[key] - start[key]).norm() for key in whole if whole[key].is_floating_point()]
    apart = [(whole[key] - pieces[key]).norm() for key in whole if whole[key].is_floating_point()]
    assert sum(apart) < 1e-4 * sum(moved)


@pytest.mark.fault(22)
def test_memory_that_runs_out_halves_the_piece_once(digits):
    network = digits.network

    class Small(torch.nn.Module):
        """The original on a device with room for so many images with gradients."""

        def __init__(self, room):
            super().__init__()
            self.inner, self.room = network, room

        def forward(self, x):
            if len(x) > self.room and len(x) <= 32:  # evaluations have larger batches
                raise torch.OutOfMemoryError("out of memory")
            return self.inner(x)

    arguments = (digits.images(), digits.preprocessing, replace(PLAIN, max_steps=2))
    result = refine(digits.rough(), Small(16), *arguments).result
    assert (result.micro_batch_size, result.num_steps) == (16, 2)
    with pytest.raises(torch.OutOfMemoryError):
        refine(digits.rough(), Small(8), *arguments)


def test_minutes_are_a_budget_too(digits):
    config = replace(PLAIN, max_steps=10_000, max_minutes=0.01)
    result = refine(
        digits.rough(), digits.network, digits.images(), digits.preprocessing, config
    ).result
    assert result.stopped == "max_minutes"
    assert 0 < result.num_steps < 100
    assert result.evaluations[-1].step == result.num_steps


def test_activations_at_the_runs_ends_can_be_matched(digits):
    config = replace(PLAIN, feature_weight=1.0)
    found = refine(digits.rough(), digits.network, digits.images(), digits.preprocessing, config)
    features = [one["features"] for one in found.result.series]
    assert features[-1] < 0.7 * features[0]


def test_gamma_is_chosen_by_calibration(digits):
    momentum = digits.momentum(gamma="auto", tolerance=0.05)
    arguments = (digits.network, digits.images(300), digits.preprocessing)
    with pytest.raises(ConfigError, match="chosen by calibration"):
        refine(momentum, *arguments, PLAIN)
    found = refine(momentum, *arguments, replace(PLAIN, calibrate=True, max_steps=1))
    assert len(found.result.calibration["trials"]) > 2
    chosen = found.result.calibration["trials"][-1]["gammas"]
    assert [str(run.gamma) for run in plan_of(found.model).runs] == chosen


@pytest.mark.parametrize(
    ("count", "config", "error", "words"),
    [
        (2, PLAIN, DataError, "at least 3"),
        (1, PLAIN, DataError, "at least 3"),
        (30, replace(PLAIN, goal=RefinementGoal(metric="top1")), ConfigError, "have no labels"),
        (30, replace(PLAIN, label_weight=0.5), ConfigError, "have no labels"),
    ],
)
def test_what_cannot_be_trained_with_is_refused_before_any_step(
    digits, count, config, error, words
):
    def told(_):
        pytest.fail("it began")

    with pytest.raises(error, match=words):
        refine(
            digits.rough(),
            digits.network,
            digits.images(count, labelled=False),
            digits.preprocessing,
            config,
            on_preparing=told,
            on_step=told,
        )


def test_labels_must_be_as_many_as_images(digits):
    with pytest.raises(DataError, match="give one for each"):
        TrainingImages(digits.dataset.x_train, digits.dataset.y_train[:5])
