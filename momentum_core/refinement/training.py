"""The loop: steps, evaluations at intervals, and the best weights seen."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from torch import Tensor, nn

from momentum_core.errors import StateRangeError
from momentum_core.memory.resident import memory_held
from momentum_core.refinement.batches import Batches
from momentum_core.refinement.gamma_schedule import GammaSchedule
from momentum_core.refinement.goal import Judge, Score
from momentum_core.refinement.processes import NotFiniteError
from momentum_core.refinement.recipe import Recipe
from momentum_core.refinement.series import Series
from momentum_core.refinement.step import Stepper

logger = logging.getLogger(__name__)

Stopped = Literal["goal_met", "max_steps", "max_minutes", "diverged"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepProgress:
    """Where training stands after a step."""

    step: int
    max_steps: int
    epoch: float
    """How often each training image has been shown."""

    loss: float
    loss_parts: dict[str, float]
    learning_rate: float
    images_per_second: float
    eta_seconds: float
    """Time to the end of the budget; the goal may end it sooner."""

    metric_percent: float
    """Of the last evaluation, on the held-back images."""

    target_percent: float | None

    memory_bytes: int | None
    """On a GPU the most that was allocated so far; elsewhere what the process has in physical
    memory, if the system tells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """One evaluation on the held-back images."""

    step: int
    percent: float
    loss: float


@dataclass(slots=True)
class TrainingState:
    """All that a training has come to; with it and the images it goes on."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    best: dict[str, Tensor]
    """The best weights seen, those of the start included."""

    best_score: Score
    best_step: int = 0
    step: int = 0
    """Steps that were taken."""

    seconds: float = 0.0
    """Spent on steps and evaluations."""

    evaluations: list[Evaluated] = field(default_factory=list)
    series: Series = field(default_factory=Series)
    stopped: Stopped | None = None

    @classmethod
    def start(cls, model: nn.Module, optimizer: torch.optim.Optimizer, score: Score) -> Self:
        """Begin with a model whose score is known."""
        first = Evaluated(step=0, percent=score.percent, loss=score.loss)
        return cls(model, optimizer, weights_of(model), score, evaluations=[first])


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What does not change while a training goes on."""

    recipe: Recipe
    batches: Batches
    judge: Judge
    stepper: Stepper
    prepare_step: Callable[[int], None] | None = None
    """Called before each step with its number, counted from 0."""

    schedule: GammaSchedule | None = None
    """Moves gamma; what is judged and kept has its own."""

    on_step: Callable[[StepProgress], None] | None = None
    """Called after each step; may raise to stop."""

    on_safe: Callable[[TrainingState, bool], None] | None = None
    """Called where training could go on later: with the state, and whether it is about to stop."""

    def run(self, state: TrainingState) -> None:
        """Train until the goal is met or a budget is used up; leave the best weights in the model.

        Raises:
            StateRangeError: an activation does not fit the integer state at the very first step:
                nothing was trained, the network itself does not fit.
        """
        if state.step == 0:
            self._judge_end(state, state.evaluations[-1])
        is_kept = self.on_safe is not None and self.stepper.processes.is_first
        if self.on_safe is not None and is_kept and state.stopped is None:
            self.on_safe(state, False)
        with _own_random_numbers(state.model):
            self._train(state)
        if self.on_safe is not None and is_kept:
            self.on_safe(state, True)
        if self.schedule is not None:
            self.schedule.reach()
        state.model.load_state_dict(state.best)

    def _train(self, state: TrainingState) -> None:
        while state.stopped is None:
            started_at = time.monotonic()
            try:
                parts = self._step(state)
            except (NotFiniteError, StateRangeError) as error:
                if state.step == 0 and isinstance(error, StateRangeError):
                    raise
                logger.warning("step %d diverged: %s", state.step + 1, str(error))
                state.stopped = "diverged"
                break
            if state.step % self.recipe.evaluation_interval == 0 or self._is_last(state):
                self._evaluate(state)
            state.seconds += time.monotonic() - started_at
            self._check_time(state)
            self._tell(state, parts, time.monotonic() - started_at)

    def _step(self, state: TrainingState) -> dict[str, float]:
        if self.prepare_step is not None:
            self.prepare_step(state.step)
        if self.schedule is not None:
            self.schedule.follow(state.step)
        rate = learning_rate(self.recipe, state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        images, labels = self.batches.of_step(state.step)
        torch.manual_seed(self.batches.torch_seed(state.step))
        parts = self.stepper.take(state.model, state.optimizer, images, labels)
        state.step += 1
        state.series.add(state.step, {"loss": sum(parts.values()), **parts, "learning_rate": rate})
        return parts

    def _is_last(self, state: TrainingState) -> bool:
        return state.step >= self.recipe.max_steps

    def _evaluate(self, state: TrainingState) -> None:
        if self.schedule is not None:
            self.schedule.reach()
        score = self.judge.score_of_first(state.model, self.stepper.processes)
        if not math.isfinite(score.loss):
            state.stopped = "diverged"
            return
        found = Evaluated(step=state.step, percent=score.percent, loss=score.loss)
        state.evaluations.append(found)
        logger.info(
            "step %d of %d: %.2f %% of the held-back images%s, %s %.4f",
            state.step,
            self.recipe.max_steps,
            found.percent,
            self._wanted(),
            self.judge.loss_name,
            found.loss,
        )
        is_met = self.judge.is_met(score)
        if is_met or score.is_better_than(state.best_score):
            state.best, state.best_score = weights_of(state.model), score
            state.best_step = state.step
        self._judge_end(state, found)

    def _wanted(self) -> str:
        target = self.judge.target_percent
        return "" if target is None else f" ({target:.2f} % wanted)"

    def _judge_end(self, state: TrainingState, found: Evaluated) -> None:
        if self.judge.is_met(Score(found.percent, found.loss)):
            state.stopped = "goal_met"
        elif self._is_last(state):
            state.stopped = "max_steps"

    def _check_time(self, state: TrainingState) -> None:
        limit = self.recipe.max_minutes
        if limit is None or state.stopped is not None:
            return
        state.seconds = self.stepper.processes.from_first(lambda: state.seconds)
        if state.seconds < 60 * limit:
            return
        if state.evaluations[-1].step != state.step:
            self._evaluate(state)
        if state.stopped is None:
            state.stopped = "max_minutes"

    def _tell(self, state: TrainingState, parts: dict[str, float], seconds: float) -> None:
        """Report a step; where that is to stop training, it can go on later."""
        if not self.stepper.processes.is_first:
            return
        try:
            if self.on_step is not None:
                self.on_step(self._progress(state, parts, seconds))
        except BaseException:
            if self.on_safe is not None:
                self.on_safe(state, True)
            raise
        if self.on_safe is not None:
            self.on_safe(state, False)

    def _progress(
        self, state: TrainingState, parts: dict[str, float], seconds: float
    ) -> StepProgress:
        per_step = state.seconds / state.step
        return StepProgress(
            step=state.step,
            max_steps=self.recipe.max_steps,
            epoch=state.step / self.batches.per_epoch,
            loss=sum(parts.values()),
            loss_parts=parts,
            learning_rate=float(state.optimizer.param_groups[0]["lr"]),
            images_per_second=self.batches.size / max(seconds, 1e-9),
            eta_seconds=per_step * (self.recipe.max_steps - state.step),
            metric_percent=state.evaluations[-1].percent,
            target_percent=self.judge.target_percent,
            memory_bytes=memory_held(next(state.model.parameters()).device),
        )


@contextmanager
def _own_random_numbers(model: nn.Module) -> Iterator[None]:
    """Leave the caller's random numbers as they are."""
    device = next(model.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step, counted from 0: half a cosine from the peak to 0."""
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * step / recipe.max_steps))


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
