"""Where training starts: calibrated and re-estimated where that is better on held-back images."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from momentum_core.calibration import CalibrationResult, calibrate
from momentum_core.config import Preprocessing
from momentum_core.conversion import RunRule, convert, plan_of
from momentum_core.errors import ConfigError
from momentum_core.refinement.batch_norm import batch_norms, re_estimate
from momentum_core.refinement.evaluate import to_input
from momentum_core.refinement.goal import Judge, Score
from momentum_core.refinement.processes import Processes

MAX_IMAGES = 1024
MAX_PIXELS = 2**24
"""In all images of calibration: 334 of 224 x 224."""

MAX_BATCH, MIN_BATCH, BATCH_PIXELS = 64, 8, 2**20
"""Batches of calibration have about 2^20 pixels: 20 images of 224 x 224."""

logger = logging.getLogger(__name__)

OnPreparing = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """A model to train, and how it was made."""

    model: nn.Module
    score: Score
    converted_score: Score
    """Of the model as it was converted."""

    calibration: dict[str, Any] | None
    """What calibration found, without the plan; None if it was not tried."""

    is_calibrated: bool
    """Whether it was kept."""

    is_re_estimated: bool
    """Whether normalisation statistics were re-estimated, and kept."""

    def to_json(self) -> dict[str, Any]:
        """Return all but the weights as JSON values."""
        told = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "model"}
        told["rules"] = [run.rule.to_json() for run in plan_of(self.model).runs]
        return told | {name: asdict(told[name]) for name in ("score", "converted_score")}

    @classmethod
    def from_json(cls, values: dict[str, Any], momentum: nn.Module, original: nn.Module) -> Self:
        """Make a start, whose weights are to be loaded, of what `to_json` gave."""
        told = dict(values)
        plan = plan_of(momentum)
        rules = tuple(RunRule.from_json(rule) for rule in told.pop("rules"))
        is_same = rules == tuple(run.rule for run in plan.runs)
        model = (
            copy.deepcopy(momentum) if is_same else convert(original, plan=plan.with_rules(rules))
        )
        scores = {name: Score(**told[name]) for name in ("score", "converted_score")}
        return cls(model=model, **told | scores)


def start_of_first(
    momentum: nn.Module, original: nn.Module, processes: Processes, prepare: Callable[[], Start]
) -> Start:
    """Return the start that the first of several processes prepares; the others wait for it.

    Weights are the first one's once training begins.
    """
    if processes.count == 1:
        return prepare()
    made: list[Start] = []

    def tell() -> dict[str, Any]:
        made.append(prepare())
        return made[0].to_json()

    told = processes.from_first(tell)
    return made[0] if made else Start.from_json(told, momentum, original)


def prepare_start(
    momentum: nn.Module,
    original: nn.Module,
    images: NDArray[np.uint8],
    preprocessing: Preprocessing,
    judge: Judge,
    *,
    calibrated: bool,
    on_preparing: OnPreparing,
) -> Start:
    """Make the model that training starts from; the arguments stay as they are.

    Args:
        momentum: as it was converted.
        original: what it was made from.
        images: training images; the first are used.
        preprocessing: mean and standard deviation for each channel.
        judge: decides what is better.
        calibrated: whether to calibrate.
        on_preparing: told of each part; may raise to stop.

    Raises:
        ConfigError: gamma is to be chosen, but not by calibration.
    """
    is_chosen = plan_of(momentum).gamma_requested == "auto"
    if is_chosen and not calibrated:
        raise ConfigError(
            "gamma 'auto' is chosen by calibration, which refinement.calibrate leaves out; set "
            "it to true, or give a number"
        )
    on_preparing("evaluating")
    model, converted_score = copy.deepcopy(momentum), judge.score(momentum)
    score, result, is_kept = converted_score, None, False
    if calibrated:
        on_preparing("calibrating")
        result = calibrate(momentum, original, _batches(original, images, preprocessing))
        candidate = convert(original, plan=result.plan)
        on_preparing("evaluating")
        candidate_score = judge.score(candidate)
        # Calibration has judged by itself, on other images; here both must agree.
        is_kept = result.kept and candidate_score.is_better_than(score)
        logger.info(
            "calibration %s: divergence of the held-back images %.4f, %.4f without it",
            "is kept" if is_kept else "does not help",
            candidate_score.loss,
            score.loss,
        )
        if is_kept or is_chosen:
            model, score = candidate, candidate_score
    is_re_estimated = False
    if batch_norms(model):
        on_preparing("re-estimating")
        candidate = copy.deepcopy(model)
        re_estimate(candidate, images[:MAX_IMAGES], preprocessing)
        candidate_score = judge.score(candidate)
        if candidate_score.is_better_than(score):
            model, score, is_re_estimated = candidate, candidate_score, True
    return Start(
        model=model,
        score=score,
        converted_score=converted_score,
        calibration=None if result is None else _told(result),
        is_calibrated=is_kept,
        is_re_estimated=is_re_estimated,
    )


def _batches(
    original: nn.Module, images: NDArray[np.uint8], preprocessing: Preprocessing
) -> list[Any]:
    pixels = images.shape[1] * images.shape[2]
    num_images = min(len(images), MAX_IMAGES, max(2 * MIN_BATCH, MAX_PIXELS // pixels))
    size = min(MAX_BATCH, max(MIN_BATCH, BATCH_PIXELS // pixels), max(1, num_images // 4))
    device = next(original.parameters()).device
    return list(torch.split(to_input(images[:num_images], preprocessing, device), size))


def _told(result: CalibrationResult) -> dict[str, Any]:
    told = result.to_json()
    del told["plan"]  # the report has the plan of the model that training ended with
    return told
