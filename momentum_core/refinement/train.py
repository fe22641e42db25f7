"""Starts a training, or lets one go on that was interrupted."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from momentum_core.refinement.goal import Score
from momentum_core.refinement.recipe import Recipe
from momentum_core.refinement.resumption import Resumption
from momentum_core.refinement.training import Training, TrainingState

SGD_MOMENTUM = 0.9


def train(
    model: nn.Module, score: Score, training: Training, resumption: Resumption | None
) -> TrainingState:
    """Train a model in place, in evaluation mode, and leave it with its best weights.

    Args:
        model: what is trained.
        score: its own, before the first step.
        training: how.
        resumption: keeps the state, and has one if the training was interrupted.
    """
    model.eval()  # statistics stay, and there is no dropout
    optimizer = new_optimizer(model, training.recipe)
    if resumption is not None and resumption.has_state:
        state = resumption.restore(model, optimizer, training.stepper)
    else:
        state = TrainingState.start(model, optimizer, score)
    parts_may_rest = training.prepare_step is not None
    called = training.stepper.processes.wrapped(model, parts_may_rest=parts_may_rest)
    training = replace(training, called=called)
    if resumption is None:
        training.run(state)
        return state

    def keep(state: TrainingState, is_last_chance: bool) -> None:
        resumption.keep(state, training.stepper, is_last_chance=is_last_chance)

    with resumption.threads():
        replace(training, on_safe=keep).run(state)
    return state


def new_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return SGD for the parameters that are trained."""
    return torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=recipe.learning_rate,
        momentum=SGD_MOMENTUM,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )
