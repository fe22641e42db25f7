"""Measure a training step: bytes held after the forward pass and at the peak, and seconds.

The peak is above parameters, gradients, buffers and input, all of which exist before the step; so
the figures of two models can be compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from momentum_core.errors import DataError, MomentumError
from momentum_core.memory.tracker import Category, MemoryTracker
from momentum_core.reversible import held_state


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMeasurement:
    """Bytes and seconds of one training step (forward and backward pass)."""

    parameter_bytes: int
    gradient_bytes: int
    buffer_bytes: int
    input_bytes: int
    activation_bytes: int
    """Held at the end of the forward pass for the backward pass."""

    peak_bytes: int
    """Most that was ever held at once, above parameters, gradients, buffers and input."""

    peak_by_category: Mapping[Category, int]
    """What was alive at the peak; all but the first four kinds above add up to `peak_bytes`."""

    seconds: float
    """Median over the repetitions, measured without counting."""


def measure_training_step(
    model: nn.Module, images: Tensor, labels: Tensor, *, repeats: int = 5
) -> StepMeasurement:
    """Measure a training step of `model`; see `measure_side_by_side`."""
    return measure_side_by_side([model], images, labels, repeats=repeats)[0]


def measure_side_by_side(
    models: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    repeats: int = 5,
    on_round: Callable[[int], None] | None = None,
) -> list[StepMeasurement]:
    """Measure a training step of each model: cross-entropy, forward and backward pass.

    The timed steps take turns, so that whatever else the machine does meets all models alike; their
    ratio is worth more than the seconds. Weights, buffers, gradients and training flags are as
    before afterwards.

    Args:
        models: classifiers, on one device.
        images: shape (B, C, H, W), on the models' device.
        labels: class numbers, shape (B,), int64.
        repeats: timed repetitions.
        on_round: called with the number of repetitions that are done; may raise to stop.

    Raises:
        DataError: `measurement_failed`, when a model cannot be trained on such a batch.
        ReversibilityError: it cannot be reversed on the images.
    """
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(_prepared(model))
            _first_step(model, images, labels)
        rounds = []
        for done in range(repeats):
            rounds.append([_timed_step(model, images, labels) for model in models])
            if on_round is not None:
                on_round(done + 1)
        return [
            _measurement(model, images, labels, statistics.median(seconds))
            for model, seconds in zip(models, zip(*rounds, strict=True), strict=True)
        ]


@contextmanager
def _prepared(model: nn.Module) -> Iterator[None]:
    """Give the model gradients to add to, in training mode; put everything back afterwards."""
    was_training = model.training
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = [p.grad for p in parameters]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    random_state = torch.get_rng_state()
    model.train()
    try:
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        yield
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        model.train(was_training)
        torch.set_rng_state(random_state)


def _measurement(
    model: nn.Module, images: Tensor, labels: Tensor, seconds: float
) -> StepMeasurement:
    parameters = [p for p in model.parameters() if p.requires_grad]
    activation_bytes, tracker = _count_step(model, images, labels)
    return StepMeasurement(
        parameter_bytes=_num_bytes(model.parameters()),
        gradient_bytes=_num_bytes(parameters),
        buffer_bytes=_num_bytes(model.buffers()),
        input_bytes=_num_bytes([images, labels]),
        activation_bytes=activation_bytes,
        peak_bytes=tracker.peak_bytes,
        peak_by_category=tracker.peak_by_category,
        seconds=seconds,
    )


def _first_step(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Make what every later step reuses, and find out whether there can be one."""
    try:
        _step(model, images, labels)
    except (MomentumError, torch.OutOfMemoryError):
        raise
    except (ValueError, RuntimeError) as error:
        if "can't allocate memory" in str(error):
            raise
        reason = (str(error).splitlines() or [""])[0][:200]
        raise DataError(
            f"a training step on a batch of shape {tuple(images.shape)} fails: {reason}; try "
            "another batch_size or image_size",
            code="measurement_failed",
        ) from error


def _step(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]


def _timed_step(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    _synchronize(images.device)
    start = time.perf_counter()
    _step(model, images, labels)
    _synchronize(images.device)
    return time.perf_counter() - start


def _count_step(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[int, MemoryTracker]:
    """Return the bytes held after the forward pass, and the tracker of the whole step."""
    known: dict[Category, Iterable[Tensor]] = {
        Category.PARAMETERS: list(model.parameters()),
        Category.GRADIENTS: [p.grad for p in model.parameters() if p.grad is not None],
        Category.BUFFERS: list(model.buffers()),
        Category.INPUT: [images, labels],
    }
    with MemoryTracker(known) as tracker:
        loss = F.cross_entropy(model(images), labels)
        activation_bytes = tracker.current_bytes
        tracker.file(held_state(loss), Category.REVERSIBLE_STATE)
        tracker.category = Category.TEMPORARIES
        loss.backward()  # type: ignore[no-untyped-call]
    return activation_bytes, tracker


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
