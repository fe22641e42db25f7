"""Refinement: the momentum model learns to answer as the original does, until the goal is met."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from momentum_core.config import Preprocessing, RefinementConfig
from momentum_core.conversion import plan_of
from momentum_core.refinement.batches import Batches
from momentum_core.refinement.checkpoints import Checkpoints
from momentum_core.refinement.gamma_schedule import GammaSchedule
from momentum_core.refinement.goal import Judge
from momentum_core.refinement.objective import Distillation
from momentum_core.refinement.processes import Processes
from momentum_core.refinement.recipe import Recipe, held_back_share, resolve
from momentum_core.refinement.resumption import Resumption, identity_of
from momentum_core.refinement.start import OnPreparing, Start, prepare_start, start_of_first
from momentum_core.refinement.step import Stepper
from momentum_core.refinement.train import train
from momentum_core.refinement.training import (
    Evaluated,
    StepProgress,
    Stopped,
    Training,
    TrainingState,
)
from momentum_core.refinement.training_images import (
    Split,
    SplitRecord,
    TrainingImages,
    split_images,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RefinementResult:
    """How refinement went; `dataclasses.asdict` gives JSON values."""

    goal_met: bool | None
    """Whether the kept weights meet the goal on the held-back images; None without a goal."""

    stopped: Stopped
    """What ended training; `diverged`: loss or activations were no numbers any more."""

    num_steps: int
    """Steps made."""

    best_step: int
    """Step whose weights were kept; 0 are those of the start."""

    metric: str
    """`top1`, or `agreement` with the original; the percentages below are of held-back images."""

    original_percent: float
    target_percent: float | None
    converted_percent: float
    """Of the model as it was converted."""

    start_percent: float
    """After calibration, before the first step."""

    refined_percent: float
    """Of the kept weights."""

    synthetic: bool
    """Whether the images were made up: then no percentage says much about real ones."""

    evaluations: tuple[Evaluated, ...]
    """Step, percentage, and mean KL divergence from the original."""

    series: tuple[dict[str, Any], ...]
    """Loss, its parts and the learning rate of every `series_stride`-th step."""

    series_stride: int
    split: SplitRecord
    recipe: Recipe
    """The values that were used, with those that `auto` gave."""

    calibration: dict[str, Any] | None
    """What calibration found; None if it was not tried."""

    is_calibrated: bool
    """Whether calibration was kept: it was better on the held-back images."""

    is_re_estimated: bool
    """Whether re-estimated normalisation statistics were kept, for the same reason."""

    micro_batch_size: int
    """Images in memory at once, at the end."""

    seconds: float
    """Spent on steps and evaluations."""

    resumed_at: tuple[int, ...]
    """Steps at which it went on after an interruption."""


@dataclass(frozen=True, slots=True)
class Refinement:
    """A refined model, and how it went."""

    model: nn.Module
    """In evaluation mode; its `plan` may differ from that of the model that was given."""

    result: RefinementResult


def refine(
    momentum: nn.Module,
    original: nn.Module,
    data: TrainingImages,
    preprocessing: Preprocessing,
    config: RefinementConfig | None = None,
    *,
    test_images: NDArray[np.uint8] | None = None,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    on_preparing: OnPreparing | None = None,
    on_step: Callable[[StepProgress], None] | None = None,
) -> Refinement:
    """Train a copy of a momentum model until it answers as the original does.

    It is calibrated first, and distilled then (see `Distillation` for the loss). Everything is
    judged on a part of the training images that is held back; the best weights seen are kept, those
    of the start included. Normalisation statistics stay fixed while it learns.

    Args:
        momentum: a converted model; it stays as it is. Where its gamma is `auto`, calibration
            chooses one for each run.
        original: what it was made from.
        data: what to train with.
        preprocessing: mean and standard deviation for each channel.
        config: goal, budget, hyper-parameters.
        test_images: what accuracy is measured on afterwards: training images among them are left
            out. They are not looked at otherwise.
        seed: of the split, the order of images and their augmentation.
        checkpoints: where the state is kept now and then, and when `on_step` raises. The same call
            with the same folder goes on from there, and on a CPU ends with the same bits.
        on_preparing: told what is done before the first step; may raise to stop.
        on_step: called after each step; may raise to stop.

    Raises:
        ConfigError: an option needs what is not there, such as labels.
        DataError: the images cannot be trained with.
        ConversionError: the models do not belong together.
        StateRangeError: the momentum model's activations do not fit its integer state.
    """
    config = config or RefinementConfig()
    split = split_images(data, share=held_back_share(config), seed=seed, test_images=test_images)
    device = next(momentum.parameters()).device
    recipe = resolve(config, data, num_train=len(split.train), device=device)
    judge = _judge(original, data, split, preprocessing, recipe)
    resumption = None
    if checkpoints is not None:
        told = {"recipe": _decisive(recipe), "split": asdict(split.record), "seed": seed}
        told |= {"calibrate": config.calibrate, "preprocessing": asdict(preprocessing)}
        identity = identity_of((momentum, original), data, plan=_plan(momentum), **told)
        resumption = Resumption(checkpoints, identity)

    def prepare() -> Start:
        return prepare_start(
            momentum,
            original,
            data.images[np.random.default_rng([seed, 3]).permutation(split.train)],
            preprocessing,
            judge,
            calibrated=config.calibrate,
            on_preparing=on_preparing or _say_nothing,
        )

    with resumption.threads() if resumption is not None else nullcontext():
        if resumption is not None and resumption.has_state:
            start = Start.from_json(resumption.extra, momentum, original)
        else:
            start = start_of_first(momentum, original, Processes.current(), prepare)
        training = Training(
            recipe=recipe,
            batches=Batches(data, split.train, recipe.batch_size, seed, recipe.shift),
            judge=judge,
            stepper=Stepper(
                Distillation(original, start.model, recipe),
                preprocessing,
                recipe,
                recipe.micro_batch_size,
            ),
            schedule=(
                GammaSchedule(start.model, recipe.gamma_steps) if recipe.gamma_steps else None
            ),
            on_step=on_step,
        )
        if resumption is not None:
            resumption.extra = start.to_json()
        state = train(start.model, start.score, training, resumption)
    return Refinement(start.model, _result(state, training, start, split.record, data, resumption))


def _decisive(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe without what older states did not know, where it means nothing."""
    told = asdict(recipe)
    if not recipe.gamma_steps:
        del told["gamma_steps"]
    return told


def _plan(momentum: nn.Module) -> dict[str, Any]:
    """Return what of a plan decides the results: not what it predicts."""
    told = plan_of(momentum).to_json()
    return {name: told[name] for name in ("gamma_requested", "scheme", "runs", "recomputed")}


def _judge(
    original: nn.Module,
    data: TrainingImages,
    split: Split,
    preprocessing: Preprocessing,
    recipe: Recipe,
) -> Judge:
    return Judge(
        data.images[split.held_back],
        None if data.labels is None else data.labels[split.held_back],
        preprocessing,
        original=original,
        metric=recipe.metric,
        goal=recipe.goal,
    )


def _result(
    state: TrainingState,
    training: Training,
    start: Start,
    split: SplitRecord,
    data: TrainingImages,
    resumption: Resumption | None,
) -> RefinementResult:
    judge = training.judge
    assert state.stopped is not None
    assert judge.original_percent is not None
    return RefinementResult(
        goal_met=judge.is_met(state.best_score),
        stopped=state.stopped,
        num_steps=state.step,
        best_step=state.best_step,
        metric=training.recipe.metric,
        original_percent=judge.original_percent,
        target_percent=judge.target_percent,
        converted_percent=start.converted_score.percent,
        start_percent=start.score.percent,
        refined_percent=state.best_score.percent,
        synthetic=data.synthetic,
        evaluations=tuple(state.evaluations),
        series=tuple(state.series.points),
        series_stride=state.series.stride,
        split=split,
        recipe=training.recipe,
        calibration=start.calibration,
        is_calibrated=start.is_calibrated,
        is_re_estimated=start.is_re_estimated,
        micro_batch_size=training.stepper.micro_batch_size,
        seconds=state.seconds,
        resumed_at=() if resumption is None else tuple(resumption.resumed_at),
    )


def _say_nothing(_: str) -> None:
    """Take the place of `on_preparing`."""
