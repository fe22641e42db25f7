"""A network and its momentum form learn new classes by the same recipe."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import nn

from momentum_core.config import FinetuningConfig
from momentum_core.conversion import original_state_dict, plan_of
from momentum_core.errors import ConfigError, ConversionError, DataError
from momentum_core.refinement import Checkpoints, TrainingImages, evaluate, finetune, to_input
from momentum_core.refinement.head import find_head, with_new_head
from tests.momentum_core.refinement.conftest import equal_states, state_of

CONFIG = FinetuningConfig(max_steps=24, batch_size=16, learning_rate=0.02, calibrate=False)


@pytest.fixture(scope="module")
def halves(digits):
    """Which of two groups of digits a picture shows: another task, with the same pictures."""
    dataset = digits.dataset
    images = TrainingImages(dataset.x_train[:300], (dataset.y_train[:300] >= 5).astype(np.int64))
    return images, dataset.x_test[:200], (dataset.y_test[:200] >= 5).astype(np.int64)


def test_both_networks_learn_the_new_classes(digits, halves):
    images, shown, truth = halves
    before = state_of(digits.network)
    steps = []
    done = finetune(
        digits.momentum(gamma=0.5),
        digits.network,
        images,
        digits.preprocessing,
        CONFIG,
        test_images=shown,
        on_step=lambda which, progress: steps.append((which, progress.step)),
    )
    assert equal_states(before, state_of(digits.network))
    result = done.result
    for model, trained in ((done.original, result.original), (done.momentum, result.momentum)):
        assert evaluate(model, shown, truth, digits.preprocessing).top1_percent > 93
        assert evaluate(model, shown, truth, digits.preprocessing).logits.shape == (200, 2)
        assert trained.trained_percent > trained.start_percent
    assert (result.head, result.num_classes, result.head_steps) == ("linear", 2, 8)
    assert steps == [(which, n) for which in ("original", "momentum") for n in range(1, 25)]
    assert set(original_state_dict(done.momentum)) == set(done.original.state_dict())
    assert [str(run.gamma) for run in plan_of(done.momentum).runs] == ["1/2", "1/2"]
    json.dumps(asdict(result), allow_nan=False)


def test_the_head_learns_alone_first(digits, halves):
    config = replace(CONFIG, max_steps=4, head_steps=4)
    done = finetune(
        digits.momentum(gamma=0.5), digits.network, halves[0], digits.preprocessing, config
    )
    old = original_state_dict(digits.momentum(gamma=0.5))
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for network in (done.original.state_dict(), original_state_dict(done.momentum)):
        moved = {
            key
            for key, tensor in network.items()
            if not key.endswith(statistics) and not torch.equal(tensor, old[key])
            if tensor.shape == old[key].shape
        }
        assert moved == set()
        assert network["linear.weight"].abs().sum() > 0
    longer = finetune(
        digits.momentum(gamma=0.5),
        digits.network,
        halves[0],
        digits.preprocessing,
        replace(config, max_steps=6),
    )
    assert not torch.equal(
        original_state_dict(longer.momentum)["conv1.weight"], old["conv1.weight"]
    )
    rule = [key for key in longer.momentum.state_dict() if key.endswith("coefficients")]
    assert rule == [], "numbers of the rule are no weights"


def test_an_interrupted_fine_tuning_goes_on_with_the_same_bits(digits, halves, tmp_path):
    config = replace(CONFIG, max_steps=6)
    arguments = (digits.network, halves[0], digits.preprocessing, config)
    expected = finetune(digits.momentum(), *arguments)

    def checkpoints(which):
        return Checkpoints(tmp_path / which, every_seconds=3600)

    def stop(which, progress):
        if (which, progress.step) in stops:
            stops.remove((which, progress.step))
            raise KeyboardInterrupt

    stops = [("original", 2), ("momentum", 3)]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            finetune(digits.momentum(), *arguments, checkpoints=checkpoints, on_step=stop)
    steps = []
    done = finetune(
        digits.momentum(),
        *arguments,
        checkpoints=checkpoints,
        on_step=lambda which, progress: steps.append((which, progress.step)),
    )
    assert steps == [("momentum", 4), ("momentum", 5), ("momentum", 6)]
    assert equal_states(state_of(expected.original), state_of(done.original))
    assert equal_states(state_of(expected.momentum), state_of(done.momentum))


@pytest.mark.parametrize(
    ("labels", "num_classes", "words"),
    [
        (None, None, "have no labels"),
        (np.zeros(300, np.int64), None, "two classes"),
        (np.arange(300) % 3, 2, "labels are from 0 to 2"),
        (np.arange(300) % 3 - 1, 3, "labels are from -1"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(digits, halves, labels, num_classes, words):
    images = TrainingImages(halves[0].images, labels)
    with pytest.raises(DataError, match=words):
        finetune(
            digits.momentum(),
            digits.network,
            images,
            digits.preprocessing,
            CONFIG,
            num_classes=num_classes,
            on_preparing=lambda _: pytest.fail("it began"),
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_steps": 0}, "max_steps"),
        ({"head_steps": 101}, "head_steps"),
        ({"memory_budget_mib": 0}, "memory_budget_mib"),
        ({"learning_rate": -1}, "learning_rate"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        FinetuningConfig(**options)


def test_a_head_is_found_where_the_classes_come_out(digits):
    example = to_input(digits.dataset.x_train[:2], digits.preprocessing)
    assert find_head(digits.network, example) == "linear"
    convolutional = nn.Sequential(nn.Conv2d(1, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert find_head(convolutional, example) == "0"
    changed = with_new_head(convolutional, "0", 5, seed=1)
    assert changed(example).shape == (2, 5)
    assert convolutional(example).shape == (2, 3)
    with pytest.raises(ConversionError, match="the head of Sequential is not found"):
        find_head(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.GLU()), example
        )
