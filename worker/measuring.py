"""The measuring part of a job: one training step by each method, and what a GPU would take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from momentum_core.architectures import named_input_shape
from momentum_core.comparison import (
    MemoryComparison,
    MemoryPrediction,
    OwnDevice,
    measure_memory,
    predict_memory,
)
from momentum_core.comparison.methods import MOMENTUM, ORIGINAL, methods_of
from momentum_core.config import MeasurementConfig
from momentum_core.errors import DataError
from momentum_core.memory import StepMeasurement, predict_training_step
from worker.device import describe_device, memory_of

METHOD = (
    "every tensor of one training step (forward pass, backward pass, optimizer step, float32) "
    "counted from the operator that returns it until it is freed; what kernels use inside is not "
    "seen; peaks are above parameters, gradients, buffers, input and optimizer state"
)
_COMPARED = ("activation_bytes", "peak_bytes", "seconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredMemory:
    """What a training step costs."""

    images: Tensor
    """The measured batch."""

    optimizer: str
    comparison: MemoryComparison
    predicted_peaks: dict[str, int] = field(default_factory=dict)
    """Of the same step on a CPU, by method: the prediction, to be held against the measurement."""

    prediction: MemoryPrediction | None = None
    """For GPUs."""

    not_predicted: str = "it was not asked for"
    """Why there is no prediction."""


def measure_step(
    original: nn.Module,
    momentum: nn.Module,
    config: MeasurementConfig,
    *,
    architecture: str,
    num_classes: int,
    device: torch.device,
    seed: int = 0,
    on_round: Callable[[int], None] | None = None,
) -> MeasuredMemory:
    """Measure a step of every method on `device`, and predict it for GPUs.

    Args:
        original: the network, on `device`.
        momentum: what `convert` made of it.
        config: batch, image size, repetitions, optimizer.
        architecture: whose input shape is used.
        num_classes: outputs of the network.
        device: where it is measured.
        seed: of the images, which are random: memory and time do not depend on what they show.
        on_round: called with the number of repetitions that are done; may raise to stop.

    Raises:
        DataError: `measurement_failed`, when the network cannot be trained on such a batch.
        ReversibilityError: it cannot be reversed on the images.
    """
    channels, side, _ = named_input_shape(architecture)
    side = config.image_size or side
    generator = torch.Generator().manual_seed(seed)
    shape = (config.batch_size, channels, side, side)
    images = torch.randn(shape, generator=generator).to(device)
    labels = torch.randint(num_classes, shape[:1], generator=generator).to(device)
    comparison = measure_memory(
        original,
        momentum,
        images,
        labels,
        repeats=config.repeats,
        optimizer=config.optimizer,
        rivals=config.rivals,
        on_round=on_round,
    )
    measured = MeasuredMemory(images=images, optimizer=config.optimizer, comparison=comparison)
    return _predicted(measured, original, momentum, config) if config.predict else measured


def own_device(device: torch.device) -> OwnDevice:
    """Return the device of this process, with its whole memory."""
    return OwnDevice(kind=device.type, name=describe_device(device), memory_bytes=memory_of(device))


def memory_json(measured: MeasuredMemory) -> dict[str, Any]:
    """Return the report's section `memory`: what was measured."""
    figures = {
        name: _figures(one, measured.comparison, name, measured.predicted_peaks.get(name))
        for name, one in measured.comparison.measured.items()
    }
    before, after = figures.pop(ORIGINAL), figures.pop(MOMENTUM)
    return {
        "basis": "measured",
        "device": str(measured.images.device),
        "batch_size": measured.images.shape[0],
        "image_shape": list(measured.images.shape[1:]),
        "optimizer": measured.optimizer,
        "method": METHOD,
        "original": before,
        "momentum": after,
        "rivals": figures,
        "not_measured": dict(measured.comparison.not_measured),
        "ratios": {name: after[name] / before[name] for name in _COMPARED},
    }


def prediction_json(measured: MeasuredMemory) -> dict[str, Any]:
    """Return the report's section `prediction`: what a GPU would take."""
    if measured.prediction is None:
        return {"basis": "not predicted", "reason": measured.not_predicted}
    return measured.prediction.to_json()


def _predicted(
    measured: MeasuredMemory, original: nn.Module, momentum: nn.Module, config: MeasurementConfig
) -> MeasuredMemory:
    try:
        peaks = _predicted_peaks(original, momentum, measured.images, config)
        prediction = predict_memory(
            original,
            momentum,
            measured.images,
            batch_size=config.batch_size,
            optimizer=config.optimizer,
            rivals=config.rivals,
            device=own_device(measured.images.device),
        )
    except DataError as error:
        return replace(measured, not_predicted=str(error))
    return replace(measured, predicted_peaks=peaks, prediction=prediction)


def _figures(
    one: StepMeasurement, comparison: MemoryComparison, name: str, predicted: int | None
) -> dict[str, Any]:
    held = {part or "outside": dict(sizes) for part, sizes in one.held_by_part.items()}
    return asdict(one) | {
        "held_by_part": held,
        "total_bytes": one.total_bytes,
        "time_ratio": comparison.time_ratio(name),
        "peak_ratio": one.peak_bytes / comparison.original.peak_bytes,
        "predicted_peak_bytes": predicted,
    }


def _predicted_peaks(
    original: nn.Module, momentum: nn.Module, images: Tensor, config: MeasurementConfig
) -> dict[str, int]:
    if images.device.type != "cpu":
        return {}  # another device's kernels hold other things
    peaks = {}
    for method in methods_of(original, momentum, rivals=config.rivals):
        if method.model is None:
            continue
        try:
            step = predict_training_step(method.model, images, optimizer=config.optimizer)
        except DataError:
            if method.name in (ORIGINAL, MOMENTUM):
                raise
            continue
        peaks[method.name] = step.peak_bytes
    return peaks
