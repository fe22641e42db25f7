"""Fine-tuning by the library's recipe, with accuracy noted by the time that training has taken."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from momentum_core.config import FinetuningConfig, Preprocessing
from momentum_core.memory import MemoryTracker
from momentum_core.memory.count import num_bytes
from momentum_core.memory.optimizers import state_tensors
from momentum_core.refinement import TrainingImages, evaluate, split_images
from momentum_core.refinement.batches import Batches
from momentum_core.refinement.objective import CrossEntropy
from momentum_core.refinement.recipe import resolve
from momentum_core.refinement.step import Stepper
from momentum_core.refinement.train import new_optimizer
from momentum_core.refinement.training import learning_rate
from tests.benchmarks.networks import Labelled

TRACKED_STEPS = 3
"""Steps after a training whose memory is counted: counting takes time, so not the timed ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Images to train with, and images that measure and choose nothing."""

    train: TrainingImages
    val: Labelled
    preprocessing: Preprocessing


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What a training may show, and how it is looked at."""

    shown: int
    """Images."""

    evaluations: int
    """At equal distances, after the one before the first step; their time does not count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """One training."""

    num_steps: int
    shown: tuple[int, ...]
    """Images shown before each evaluation."""

    seconds: tuple[float, ...]
    """Of training before each evaluation."""

    percents: tuple[float, ...]
    """Accuracy on the images that measure."""

    step_seconds: float
    """Median."""

    peak_bytes: int
    """Most that a step held, weights and all else included."""

    def percent_at(self, seconds: float) -> float:
        """Return the accuracy after this time, on the line between two evaluations."""
        return float(np.interp(seconds, self.seconds, self.percents))


def train_in_turns(
    models: Mapping[str, nn.Module],
    head: str,
    data: Data,
    budget: Budget,
    batches: Mapping[str, int],
    *,
    seed: int,
) -> dict[str, Trained]:
    """Train all weights of each model in place; statistics of normalisation stay fixed.

    Between two evaluations the models take turns, so that whatever else the machine does meets all
    alike.

    Args:
        models: with a new head, by name.
        head: its name; it learns faster than the rest.
        data: to train and to measure with.
        budget: how many images each is shown.
        batches: images in a step by name; the learning rate is in proportion.
        seed: of the order of the images and of their augmentation.
    """
    trainings = {
        name: _Training.start(model.eval(), head, data, budget, batches[name], seed)
        for name, model in models.items()
    }
    for share in np.linspace(0, 1, budget.evaluations + 1):
        for training in trainings.values():
            training.go_on(share)
            training.look(data)
    return {name: training.done() for name, training in trainings.items()}


@dataclass(frozen=True, slots=True)
class _Training:
    model: nn.Module
    optimizer: torch.optim.Optimizer
    stepper: Stepper
    batches: Batches
    times: list[float] = field(default_factory=list)
    """Seconds of each step."""

    looks: list[tuple[int, float, float]] = field(default_factory=list)
    """Images shown, seconds and accuracy of each evaluation."""

    @classmethod
    def start(
        cls, model: nn.Module, head: str, data: Data, budget: Budget, batch: int, seed: int
    ) -> _Training:
        # One image is held back; images that measure would be left out.
        train = split_images(data.train, share=0.0, seed=seed, test_images=data.val[0]).train
        config = FinetuningConfig(max_steps=budget.shown // batch, batch_size=batch, head_steps=0)
        options = config.as_refinement(num_images=len(train))
        device = next(model.parameters()).device
        recipe = resolve(options, data.train, num_train=len(train), device=device)
        return cls(
            model,
            new_optimizer(model, recipe, head),
            Stepper(CrossEntropy(), data.preprocessing, recipe, batch),
            Batches(data.train, train, batch, seed, recipe.shift),
        )

    def go_on(self, share: float) -> None:
        """Train until this share of the steps is done."""
        while len(self.times) < round(share * self.stepper.recipe.max_steps):
            started_at = time.perf_counter()
            self._step(len(self.times))
            self.times.append(time.perf_counter() - started_at)

    def look(self, data: Data) -> None:
        """Note the accuracy."""
        percent = evaluate(self.model, *data.val, data.preprocessing).top1_percent
        assert percent is not None, "the images have labels"
        self.looks.append((len(self.times) * self.batches.size, sum(self.times), percent))

    def done(self) -> Trained:
        """Count the memory of further steps, and return all that was noted."""
        num_steps = len(self.times)
        shown, seconds, percents = zip(*self.looks, strict=True)
        return Trained(
            num_steps=num_steps,
            shown=shown,
            seconds=seconds,
            percents=percents,
            step_seconds=float(np.median(self.times)),
            peak_bytes=max(self._tracked_step(num_steps + more) for more in range(TRACKED_STEPS)),
        )

    def _step(self, step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.stepper.recipe, step) * group["factor"]
        self.stepper.take(self.model, self.optimizer, *self.batches.of_step(step))

    def _tracked_step(self, step: int) -> int:
        """Take a step and return the most bytes that were held in it, everything included."""
        there = [*self.model.parameters(), *self.model.buffers(), *state_tensors(self.optimizer)]
        # The last step's gradients are freed at the start of this one, whose own are counted.
        with MemoryTracker([*there, *_gradients(self.model)]) as tracker:
            self._step(step)
        return tracker.peak_bytes + num_bytes(there)


def _gradients(model: nn.Module) -> list[torch.Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]
