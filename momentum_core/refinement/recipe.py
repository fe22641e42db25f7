"""What `auto` stands for: every value of a training, as it is used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from momentum_core.config import RefinementConfig, RefinementGoal
from momentum_core.errors import ConfigError
from momentum_core.refinement.training_images import TrainingImages

USUAL_BATCH = 128
USUAL_LEARNING_RATE = 0.03
"""For `USUAL_BATCH` images, and in proportion for others (Goyal et al. 2017, arXiv:1706.02677)."""

USUAL_TEMPERATURE = 4.0
USUAL_LABEL_WEIGHT = 0.1
USUAL_WEIGHT_DECAY = 1e-4
USUAL_HELD_BACK = 0.1
NUM_EVALUATIONS = 8
MAX_INTERVAL = 25


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """The values of a training; their sentences are those of `RefinementConfig`."""

    goal: RefinementGoal | None
    metric: Literal["top1", "agreement"]
    max_steps: int
    max_minutes: float | None
    batch_size: int
    micro_batch_size: int
    learning_rate: float
    weight_decay: float
    temperature: float
    label_weight: float
    feature_weight: float
    shift: bool
    evaluation_interval: int
    precision: Literal["float32", "bfloat16"]
    gamma_steps: int = 0
    """Fine-tuning has none."""


def held_back_share(config: RefinementConfig) -> float:
    """Return the share of the training images that judge."""
    return USUAL_HELD_BACK if config.held_back == "auto" else config.held_back


def resolve(
    config: RefinementConfig, data: TrainingImages, *, num_train: int, device: torch.device
) -> Recipe:
    """Put values in the place of every `auto`.

    Args:
        config: what was asked for.
        data: what there is to train with.
        num_train: images that train.
        device: where the models are.

    Raises:
        ConfigError: an option needs labels or a device that are not there.
    """
    has_labels = data.labels is not None
    usual_batch = max(2, min(USUAL_BATCH, num_train // 4))
    batch = min(num_train, usual_batch if config.batch_size == "auto" else config.batch_size)
    micro = batch if config.micro_batch_size == "auto" else min(config.micro_batch_size, batch)
    if config.label_weight not in ("auto", 0) and not has_labels:
        raise ConfigError(
            f"label_weight is {config.label_weight}, but the training images have no labels; give "
            "labels, or leave it out"
        )
    usual_interval = min(MAX_INTERVAL, math.ceil(config.max_steps / NUM_EVALUATIONS))
    return Recipe(
        goal=config.goal,
        metric=_metric(config.goal, has_labels=has_labels),
        max_steps=config.max_steps,
        max_minutes=config.max_minutes,
        batch_size=batch,
        micro_batch_size=micro,
        learning_rate=_or(config.learning_rate, USUAL_LEARNING_RATE * batch / USUAL_BATCH),
        weight_decay=_or(config.weight_decay, USUAL_WEIGHT_DECAY),
        temperature=_or(config.temperature, USUAL_TEMPERATURE),
        label_weight=_or(config.label_weight, USUAL_LABEL_WEIGHT if has_labels else 0.0),
        feature_weight=_or(config.feature_weight, 0.0),
        shift=config.augmentation != "none",
        evaluation_interval=(
            usual_interval if config.evaluation_interval == "auto" else config.evaluation_interval
        ),
        precision=_precision(config, device),
        gamma_steps=0 if config.gamma_steps == "auto" else config.gamma_steps,
    )


def _or(value: float | Literal["auto"], usual: float) -> float:
    return usual if value == "auto" else value


def _metric(goal: RefinementGoal | None, *, has_labels: bool) -> Literal["top1", "agreement"]:
    if goal is None or goal.metric == "auto":
        return "top1" if has_labels else "agreement"
    if goal.metric == "top1" and not has_labels:
        raise ConfigError(
            "goal.metric is 'top1', but the training images have no labels to count right answers "
            "with; give labels, or take 'agreement', which compares with the original's answers"
        )
    return goal.metric


def _precision(config: RefinementConfig, device: torch.device) -> Literal["float32", "bfloat16"]:
    has_it = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if config.precision == "auto":
        return "bfloat16" if has_it else "float32"
    if config.precision == "bfloat16" and device.type == "cuda" and not has_it:
        raise ConfigError("precision is bfloat16, which this GPU does not have; take 'auto'")
    return config.precision
