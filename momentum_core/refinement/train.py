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
HEAD_FACTOR = 10.0
"""Of a new head's learning rate: it starts from nothing, the rest from weights that are good."""


def train(
    model: nn.Module,
    score: Score,
    training: Training,
    resumption: Resumption | None,
    *,
    head: str | None = None,
) -> TrainingState:
    """Train a model in place, in evaluation mode, and leave it with its best weights.

    Args:
        model: what is trained.
        score: its own, before the first step.
        training: how.
        resumption: keeps the state, and has one if the training was interrupted.
        head: name of a new layer, which learns faster than the others; None has none.
    """
    model.eval()  # statistics stay, and there is no dropout
    optimizer = new_optimizer(model, training.recipe, head)
    if resumption is not None and resumption.has_state:
        state = resumption.restore(model, optimizer, training.stepper)
    else:
        state = TrainingState.start(model, optimizer, score)
    training.stepper.processes.align(model)
    if resumption is None:
        training.run(state)
        return state

    def keep(state: TrainingState, is_last_chance: bool) -> None:
        resumption.keep(state, training.stepper, is_last_chance=is_last_chance)

    with resumption.threads():
        replace(training, on_safe=keep).run(state)
    return state


def new_optimizer(model: nn.Module, recipe: Recipe, head: str | None) -> torch.optim.Optimizer:
    """Return SGD for the parameters that are trained, those of a new head apart."""
    new = [] if head is None else list(model.get_submodule(head).parameters())
    own = {id(parameter) for parameter in new}
    old = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
    groups = [{"params": old, "factor": 1.0}]
    if new:
        groups.append({"params": new, "factor": HEAD_FACTOR})
    return torch.optim.SGD(
        groups,
        lr=recipe.learning_rate,
        momentum=SGD_MOMENTUM,
        nesterov=True,
        weight_decay=recipe.weight_decay,
    )
