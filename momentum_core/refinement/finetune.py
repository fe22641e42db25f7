"""Fine-tuning: a network and its momentum form learn the user's own classes by the same recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from momentum_core.config import FinetuningConfig, Preprocessing
from momentum_core.conversion import (
    convert,
    load_original_state_dict,
    original_state_dict,
    plan_of,
)
from momentum_core.errors import DataError
from momentum_core.refinement.batches import Batches
from momentum_core.refinement.checkpoints import Checkpoints
from momentum_core.refinement.evaluate import to_input
from momentum_core.refinement.goal import Judge
from momentum_core.refinement.head import find_head, with_new_head
from momentum_core.refinement.objective import CrossEntropy
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

Which = Literal["original", "momentum"]
OnFinetuningStep = Callable[[Which, StepProgress], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedNetwork:
    """How one network's training went; percentages are top-1 of held-back images."""

    stopped: Stopped
    num_steps: int
    best_step: int
    """Step whose weights were kept: those with the lowest cross-entropy on held-back images."""

    start_percent: float
    trained_percent: float
    evaluations: tuple[Evaluated, ...]
    """Step, percentage and cross-entropy."""

    series: tuple[dict[str, Any], ...]
    series_stride: int
    micro_batch_size: int
    seconds: float
    resumed_at: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuningResult:
    """How fine-tuning went; `dataclasses.asdict` gives JSON values."""

    num_classes: int
    head: str
    """Name of the layer that was replaced."""

    head_steps: int
    """Steps in which it alone learned."""

    original: TrainedNetwork
    momentum: TrainedNetwork
    split: SplitRecord
    recipe: Recipe
    """Of both."""

    calibration: dict[str, Any] | None
    is_calibrated: bool
    is_re_estimated: bool


@dataclass(frozen=True, slots=True)
class Finetuning:
    """Two networks for the same classes, in evaluation mode, and how they came about."""

    original: nn.Module
    momentum: nn.Module
    result: FinetuningResult


def finetune(
    momentum: nn.Module,
    original: nn.Module,
    data: TrainingImages,
    preprocessing: Preprocessing,
    config: FinetuningConfig | None = None,
    *,
    num_classes: int | None = None,
    test_images: NDArray[np.uint8] | None = None,
    seed: int = 0,
    checkpoints: Callable[[Which], Checkpoints] | None = None,
    on_preparing: OnPreparing | None = None,
    on_step: OnFinetuningStep | None = None,
) -> Finetuning:
    """Give copies of both networks a head for the user's classes, and train them alike.

    The momentum network is calibrated first, with the head that it has. The new head has the same
    random numbers in both; order of images, augmentation, steps and learning rate are the same.
    The loss is the cross-entropy. Normalisation statistics stay fixed, dropout is off.

    Args:
        momentum: a converted model; it stays as it is.
        original: what it was made from.
        data: images with labels.
        preprocessing: mean and standard deviation for each channel.
        config: budget and hyper-parameters.
        num_classes: outputs of the new head; None takes the largest label plus one.
        test_images: what accuracy is measured on afterwards; see `refine`.
        seed: of the head, the split, the order of images and their augmentation.
        checkpoints: gives the place where each network's training keeps its state.
        on_preparing: told what is done before the first step; may raise to stop.
        on_step: called after each step; may raise to stop.

    Raises:
        ConfigError: an option needs what is not there.
        DataError: the images or labels cannot be trained with.
        ConversionError: the models do not belong together, or have no head.
    """
    config = config or FinetuningConfig()
    num_classes = _checked_classes(data, num_classes)
    share = held_back_share(config.as_refinement())
    split = split_images(data, share=share, seed=seed, test_images=test_images)
    device = next(original.parameters()).device
    options = config.as_refinement(num_images=len(split.train))
    recipe = resolve(options, data, num_train=len(split.train), device=device)
    head = find_head(original, to_input(data.images[:2], preprocessing, device))
    start = _momentum_start(momentum, original, data, split, preprocessing, config, on_preparing)
    models = _with_heads(start.model, original, head, num_classes, seed)
    judge = Judge(
        data.images[split.held_back],
        None if data.labels is None else data.labels[split.held_back],
        preprocessing,
        original=None,
        metric="top1",
        goal=None,
    )
    batches = Batches(data, split.train, recipe.batch_size, seed, recipe.shift)
    trained: dict[Which, TrainedNetwork] = {}
    for which, model in models.items():
        training = Training(
            recipe=recipe,
            batches=batches,
            judge=judge,
            stepper=Stepper(CrossEntropy(), preprocessing, recipe, recipe.micro_batch_size),
            prepare_step=_head_first(model, head, config.num_head_steps),
            on_step=_telling(on_step, which),
        )
        resumption = None
        if checkpoints is not None:
            told = {"config": str(config), "split": str(split.record), "which": which}
            identity = identity_of((model,), data, **told)
            resumption = Resumption(checkpoints(which), identity)
        score = judge.score_of_first(model, training.stepper.processes)
        state = train(model, score, training, resumption, head=head)
        trained[which] = _trained(state, training, resumption)
    return Finetuning(
        models["original"],
        models["momentum"],
        FinetuningResult(
            num_classes=num_classes,
            head=head,
            head_steps=config.num_head_steps,
            original=trained["original"],
            momentum=trained["momentum"],
            split=split.record,
            recipe=recipe,
            calibration=start.calibration,
            is_calibrated=start.is_calibrated,
            is_re_estimated=start.is_re_estimated,
        ),
    )


def _checked_classes(data: TrainingImages, num_classes: int | None) -> int:
    if data.labels is None:
        raise DataError("fine-tuning learns classes, but the images have no labels; give them")
    largest = int(data.labels.max())
    num_classes = num_classes or largest + 1
    if largest >= num_classes or int(data.labels.min()) < 0:
        raise DataError(
            f"labels are from {int(data.labels.min())} to {largest}, but there are {num_classes} "
            f"classes (labels 0 to {num_classes - 1})"
        )
    if num_classes < 2:
        raise DataError("fine-tuning needs images of two classes at least, got one")
    return num_classes


def _momentum_start(
    momentum: nn.Module,
    original: nn.Module,
    data: TrainingImages,
    split: Split,
    preprocessing: Preprocessing,
    config: FinetuningConfig,
    on_preparing: OnPreparing | None,
) -> Start:
    """Calibrate with the old head: its logits mean something, the new one's do not yet."""
    judge = Judge(
        data.images[split.held_back],
        None,
        preprocessing,
        original=original,
        metric="agreement",
        goal=None,
    )
    order = np.random.default_rng([split.record.seed, 3]).permutation(split.train)
    return start_of_first(
        momentum,
        original,
        Processes.current(),
        lambda: prepare_start(
            momentum,
            original,
            data.images[order],
            preprocessing,
            judge,
            calibrated=config.calibrate,
            on_preparing=on_preparing or (lambda _: None),
        ),
    )


def _with_heads(
    momentum: nn.Module, original: nn.Module, head: str, num_classes: int, seed: int
) -> dict[Which, nn.Module]:
    changed = with_new_head(original, head, num_classes, seed=seed)
    converted = convert(changed, plan=plan_of(momentum))
    # Its statistics may be other than the original's.
    weights = original_state_dict(momentum) | {
        name: tensor for name, tensor in changed.state_dict().items() if name.startswith(f"{head}.")
    }
    load_original_state_dict(converted, weights)
    return {"original": changed.eval(), "momentum": converted.eval()}


def _head_first(model: nn.Module, head: str, num_steps: int) -> Callable[[int], None]:
    """Return what lets the head alone learn in the first steps."""
    own = {id(parameter) for parameter in model.get_submodule(head).parameters()}
    assert own, "the head is called as it was in the original"
    # The numbers of the momentum rule never learn.
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in own]

    def prepare(step: int) -> None:
        for parameter in others:
            parameter.requires_grad_(step >= num_steps)

    return prepare


def _telling(on_step: OnFinetuningStep | None, which: Which) -> Any:
    return None if on_step is None else (lambda progress: on_step(which, progress))


def _trained(
    state: TrainingState, training: Training, resumption: Resumption | None
) -> TrainedNetwork:
    assert state.stopped is not None
    return TrainedNetwork(
        stopped=state.stopped,
        num_steps=state.step,
        best_step=state.best_step,
        start_percent=state.evaluations[0].percent,
        trained_percent=state.best_score.percent,
        evaluations=tuple(state.evaluations),
        series=tuple(state.series.points),
        series_stride=state.series.stride,
        micro_batch_size=training.stepper.micro_batch_size,
        seconds=state.seconds,
        resumed_at=() if resumption is None else tuple(resumption.resumed_at),
    )
