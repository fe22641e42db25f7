"""Measure training steps: bytes by phase and category, and seconds, several models in turns.

Peaks are above parameters, gradients, buffers, input and what the optimizer keeps, all of which
exist before the step; so the figures of two models can be compared.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from momentum_core.config import Optimizer
from momentum_core.errors import DataError, MomentumError
from momentum_core.memory.count import PHASES, StepCount, count_step
from momentum_core.memory.cuda import CudaPeaks, cuda_peaks
from momentum_core.memory.optimizers import make_optimizer, state_tensors
from momentum_core.memory.resident import resident_growth
from momentum_core.memory_errors import is_out_of_memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Seconds:
    """Of repetitions."""

    minimum: float
    median: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Seconds:
        """Return the spread of what was timed."""
        return cls(minimum=min(values), median=statistics.median(values), maximum=max(values))


@dataclass(frozen=True, kw_only=True, slots=True)
class StepMeasurement(StepCount):
    """Bytes and seconds of one training step (forward pass, backward pass, optimizer step)."""

    seconds: float
    """Median over the repetitions, measured without counting."""

    step_seconds: Seconds
    phase_seconds: Mapping[str, Seconds]
    """By phase."""

    resident_growth_bytes: int | None
    """By which the process grew in a step, at most; None where the system does not tell."""

    cuda: CudaPeaks | None
    """None: it was not measured on a GPU."""


def measure_training_step(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    repeats: int = 5,
    optimizer: Optimizer = "sgd",
) -> StepMeasurement:
    """Measure a training step of `model`; see `measure_side_by_side`."""
    return measure_side_by_side([model], images, labels, repeats=repeats, optimizer=optimizer)[0]


def measure_side_by_side(
    models: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    repeats: int = 5,
    optimizer: Optimizer = "sgd",
    parts: Sequence[Mapping[str, nn.Module]] | None = None,
    on_round: Callable[[int], None] | None = None,
) -> list[StepMeasurement]:
    """Measure a training step of each model: cross-entropy, both passes, the optimizer's step.

    The timed steps take turns, so that whatever else the machine does meets all models alike; their
    ratio is worth more than the seconds. Weights, buffers, gradients and training flags are as
    before afterwards.

    Args:
        models: classifiers, on one device; they may share parameters.
        images: shape (B, C, H, W), on the models' device.
        labels: class numbers, shape (B,), int64.
        repeats: timed repetitions.
        optimizer: what makes the step.
        parts: for each model, modules whose share of the activations is wanted, by name.
        on_round: called with the number of repetitions that are done; may raise to stop.

    Raises:
        ConfigError: there is no such optimizer.
        DataError: `measurement_failed`, when a model cannot be trained on such a batch.
        ReversibilityError: it cannot be reversed on the images.
    """
    with _prepared(models):
        optimizers = _optimizers(models, optimizer)
        steps = [
            _Step(model, images, labels, rule)
            for model, rule in zip(models, optimizers, strict=True)
        ]
        for step in steps:
            _first_step(step)
        rounds = []
        for done in range(repeats):
            rounds.append([step.time() for step in steps])
            if on_round is not None:
                on_round(done + 1)
        watched = parts or [{} for _ in models]
        return [
            _measurement(step, seconds, of_step)
            for step, seconds, of_step in zip(
                steps, zip(*rounds, strict=True), watched, strict=True
            )
        ]


@dataclass(frozen=True, slots=True)
class _Step:
    model: nn.Module
    images: Tensor
    labels: Tensor
    optimizer: torch.optim.Optimizer

    def loss(self) -> Tensor:
        return F.cross_entropy(self.model(self.images), self.labels)

    def run(self) -> None:
        self.loss().backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def time(self) -> tuple[float, float, float]:
        """Return the seconds of the three phases."""
        marks = [self._now()]
        loss = self.loss()
        marks.append(self._now())
        loss.backward()  # type: ignore[no-untyped-call]
        marks.append(self._now())
        self.optimizer.step()
        marks.append(self._now())
        return marks[1] - marks[0], marks[2] - marks[1], marks[3] - marks[2]

    def _now(self) -> float:
        if self.images.device.type == "cuda":
            torch.cuda.synchronize(self.images.device)
        return time.perf_counter()


@contextmanager
def _prepared(models: Sequence[nn.Module]) -> Iterator[None]:
    """Give the models gradients to add to, in training mode; put everything back afterwards."""
    was_training = [(module, module.training) for model in models for module in model.modules()]
    parameters = list(dict.fromkeys(p for model in models for p in model.parameters()))
    gradients = [parameter.grad for parameter in parameters]
    changed = [*parameters, *dict.fromkeys(b for model in models for b in model.buffers())]
    # On the CPU: what a GPU holds is being measured.
    before = [tensor.detach().to("cpu", copy=True) for tensor in changed]
    random_state = torch.get_rng_state()
    try:
        for model in models:
            model.train()
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        yield
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        with torch.no_grad():
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)
        for module, flag in was_training:
            module.training = flag
        torch.set_rng_state(random_state)


def _optimizers(models: Sequence[nn.Module], name: Optimizer) -> list[torch.optim.Optimizer]:
    """Return an optimizer for each model; models with the same parameters share one."""
    made: dict[tuple[int, ...], torch.optim.Optimizer] = {}
    found = []
    for model in models:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        key = tuple(sorted(map(id, trained)))
        if key not in made:
            made[key] = make_optimizer(name, trained)
        found.append(made[key])
    return found


def _measurement(
    step: _Step, rounds: Sequence[tuple[float, float, float]], parts: Mapping[str, nn.Module]
) -> StepMeasurement:
    grown = resident_growth(step.run)
    peaks = cuda_peaks(step.run, step.images.device)
    count, _ = count_step(
        step.model,
        step.loss,
        [step.images, step.labels],
        kept=state_tensors(step.optimizer),
        update=step.optimizer.step,
        parts=parts,
    )
    whole = Seconds.of([sum(phases) for phases in rounds])
    counted = {field.name: getattr(count, field.name) for field in dataclasses.fields(count)}
    return StepMeasurement(
        **counted,
        seconds=whole.median,
        step_seconds=whole,
        phase_seconds={
            phase: Seconds.of(values)
            for phase, values in zip(PHASES, zip(*rounds, strict=True), strict=True)
        },
        resident_growth_bytes=grown,
        cuda=peaks,
    )


def _first_step(step: _Step) -> None:
    """Make what every later step reuses, and find out whether there can be one."""
    try:
        step.run()
    except MomentumError:
        raise
    except (ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [""])[0][:200]
        raise DataError(
            f"a training step on a batch of shape {tuple(step.images.shape)} fails: {reason}; try "
            "another batch_size or image_size",
            code="measurement_failed",
        ) from error
