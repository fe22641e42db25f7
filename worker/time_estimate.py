"""How long a job will take: how many images it computes, times what a training step takes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from momentum_core.architectures import build_named, named_input_shape
from momentum_core.refinement.recipe import (
    MAX_INTERVAL,
    NUM_EVALUATIONS,
    USUAL_BATCH,
    USUAL_HELD_BACK,
)
from worker.contract.inspection import Question, StepSpeed
from worker.contract.job import Stage

PROBE_IMAGES, MAX_PROBE_IMAGES = 4, 64
LONG_STEP_SECONDS = 0.1
"""A step of this length says what an image costs; a shorter one, what a step costs beside."""

PROBE_SECONDS = 0.5

MAX_PROBED_PARAMETERS = 400_000_000
"""With its gradients such a network takes 3.2 GB."""

FORWARD = 1 / 3
"""Share of the forward pass in a training step: the backward pass computes twice as much."""

USUAL_RATIO = 2.5
"""A momentum network's step over the original's, where no job has measured it."""

CHECKPOINTING = 1.33
"""A checkpointed step over the original's: one more forward pass."""

CALIBRATION_IMAGES = 4000
"""Images of momentum steps that calibration costs, at most 60 steps of up to 64 images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeEstimate:
    """Seconds of a job by stage; what is downloaded comes on top."""

    seconds: Mapping[Stage, float]
    basis: str
    """What it rests on, as a sentence."""

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as JSON values."""
        return {
            "total_seconds": sum(self.seconds.values()),
            "seconds": {str(stage): seconds for stage, seconds in self.seconds.items()},
            "basis": self.basis,
        }


def estimate_time(question: Question, num_parameters: int, planning: float) -> TimeEstimate | None:
    """Estimate the seconds of a job; None where nothing says how long a step takes.

    Args:
        question: what is asked for, with the numbers of images and what jobs have measured.
        num_parameters: of the network, which is built and stepped here only if it is not too large.
        planning: seconds that planning and predicting took here.
    """
    if question.speed is not None:
        speed = question.speed
        basis = f"{speed.num_jobs} finished jobs with {question.architecture} on {speed.device}"
    elif num_parameters > MAX_PROBED_PARAMETERS:
        return None
    else:
        seconds = _probe(question)
        speed = StepSpeed(original=seconds, momentum=USUAL_RATIO * seconds)
        basis = (
            "a training step of a few images on the processor of the inspection worker; where "
            "jobs run on a GPU, they take less, and the next inspection knows from the first job"
        )
    if question.request.dataset_name is not None and question.num_train is None:
        basis += "; what the images of the registered data set add is not counted"
    return TimeEstimate(seconds=_seconds(question, speed, planning), basis=basis)


def _seconds(question: Question, speed: StepSpeed, planning: float) -> dict[Stage, float]:
    request = question.request
    plain, momentum = speed.original, speed.momentum
    config = request.measurement
    methods = plain + momentum + (2 * CHECKPOINTING * plain if config.rivals else 0.0)
    num_measured = (config.repeats + 1) * config.batch_size
    seconds = {
        Stage.PLANNING: planning,
        Stage.MEASURING: num_measured * methods + (planning if config.predict else 0.0),
    }
    num_train, num_test = question.num_train, question.num_test
    if num_train is None or num_test is None:
        return seconds
    evaluating = num_test * FORWARD * (plain + momentum)
    if request.task == "finetune":
        tuning = request.finetuning.as_refinement(num_images=num_train)
        images = tuning.max_steps * _number(tuning.batch_size, 0)
        seconds[Stage.REFINING] = images * (plain + momentum)  # both networks are tuned
    elif (refinement := request.refinement) is not None:
        evaluating += num_test * FORWARD * momentum
        batch = _number(refinement.batch_size, min(USUAL_BATCH, max(2, num_train // 4)))
        usual_interval = min(MAX_INTERVAL, math.ceil(refinement.max_steps / NUM_EVALUATIONS))
        interval = _number(refinement.evaluation_interval, usual_interval)
        num_looks = refinement.max_steps / interval + 3
        held_back = num_train * _number(refinement.held_back, USUAL_HELD_BACK)
        images = refinement.max_steps * batch
        images += min(num_train, CALIBRATION_IMAGES) if refinement.calibrate else 0
        step = momentum + FORWARD * plain if speed.refining is None else speed.refining
        seconds[Stage.REFINING] = images * step
        seconds[Stage.REFINING] += num_looks * held_back * FORWARD * momentum
    seconds[Stage.EVALUATING] = evaluating
    return seconds


def _number(value: Any, usual: float) -> float:
    return usual if value == "auto" else float(value)


def _probe(question: Question) -> float:
    """Return the seconds of a training step of the original, per image.

    It is stepped at its usual size, whatever size is asked for: that may be too large for here.
    """
    original = build_named(question.architecture, num_classes=question.num_classes)
    channels, side, _ = named_input_shape(question.architecture)

    def step(num_images: int) -> float:
        images = torch.randn(num_images, channels, side, side)
        started = time.perf_counter()
        original(images).square().mean().backward()
        return time.perf_counter() - started

    step(PROBE_IMAGES)  # the first one makes what the others find
    num_images, seconds = PROBE_IMAGES, step(PROBE_IMAGES)
    while seconds < LONG_STEP_SECONDS and num_images < MAX_PROBE_IMAGES:
        num_images *= 2
        seconds = step(num_images)
    taken = [seconds]
    while sum(taken) < PROBE_SECONDS:
        taken.append(step(num_images))
    larger = (question.request.measurement.image_size or side) / side
    return larger**2 * statistics.median(taken) / num_images
