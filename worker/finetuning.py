"""The fine-tuning part of a job: both networks learn the user's classes, and are compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from momentum_core.architectures import named_input_shape
from momentum_core.comparison.budget import largest
from momentum_core.errors import DataError
from momentum_core.memory.batch_profile import BatchProfile, profile_batches
from momentum_core.refinement import (
    Evaluation,
    FinetuningResult,
    StepProgress,
    TrainingImages,
    evaluate,
)
from worker.active_job import ActiveJob
from worker.contract.job import Stage
from worker.contract.request import ConvertRequest
from worker.model_source import LoadedSource
from worker.refining import Enter
from worker.report import Accuracy
from worker.training_calls import FinetuneCall
from worker.training_group import TrainingPlace

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Finetuned:
    """Both networks for the new classes, and what was measured."""

    source: LoadedSource
    """The original network with its new head."""

    momentum: nn.Module
    accuracy: Accuracy
    result: FinetuningResult

    def to_json(self, request: ConvertRequest) -> dict[str, Any]:
        """Return the report's account: training, and the largest batches of a memory budget."""
        return asdict(self.result) | {"largest_batch": self._largest_batches(request)}

    def _largest_batches(self, request: ConvertRequest) -> dict[str, Any]:
        channels, side, _ = named_input_shape(self.source.facts.architecture)
        example = torch.empty(2, channels, side, side, device="meta")
        original, momentum = (
            profile_batches(model.train(), example, device=_device(model))
            for model in (self.source.model, self.momentum)
        )
        budget = _budget(request, original, self.result.recipe.batch_size)
        return {
            "budget_bytes": budget,
            "original": _largest(original, budget),
            "momentum": _largest(momentum, budget),
            "method": "predicted: all tensors of a training step with SGD and momentum, among them "
            "parameters, gradients and what the optimizer keeps",
        }


@dataclass(frozen=True, slots=True)
class FinetuningWork:
    """Fine-tunes within a job."""

    request: ConvertRequest
    source: LoadedSource
    place: TrainingPlace
    enter: Enter
    active: ActiveJob

    def run(self, momentum: nn.Module) -> Finetuned:
        """Train both networks by the same recipe, and evaluate them on the test images.

        Raises:
            DataError: there are no labelled images, or they cannot be trained with.
        """
        dataset, preprocessing = self.source.dataset, self.source.preprocessing
        if dataset is None or dataset.y_train is None or preprocessing is None:
            raise DataError("fine-tuning needs images with labels, and there are none; send some")
        assert dataset.y_test is not None, "a file has all labels or none"
        num_classes = 1 + int(max(dataset.y_train.max(), dataset.y_test.max()))
        self.enter(Stage.REFINING)
        call = FinetuneCall(
            momentum=momentum,
            original=self.source.model,
            data=TrainingImages(dataset.x_train, dataset.y_train),
            preprocessing=preprocessing,
            config=self.request.finetuning,
            num_classes=num_classes,
            test_images=dataset.x_test,
            seed=self.request.seed,
        )
        with self.place.helping(call):
            done = call.run(
                self.place.checkpoints,
                on_preparing=lambda part: self.active.advance(0.0, preparing=part),
                on_step=self._tell,
            )
        self.enter(Stage.EVALUATING)

        def look(model: nn.Module, number: int) -> Evaluation:
            return evaluate(
                model,
                dataset.x_test,
                dataset.y_test,
                preprocessing,
                on_batch=lambda seen: self.active.advance(
                    (number + seen / len(dataset.x_test)) / 2
                ),
            )

        accuracy = Accuracy(look(done.original, 0), None, look(done.momentum, 1))
        facts = replace(self.source.facts, num_classes=num_classes)
        source = replace(self.source, model=done.original, facts=facts)
        return Finetuned(source, done.momentum, accuracy, done.result)

    def _tell(self, which: str, progress: StepProgress) -> None:
        share = progress.step / progress.max_steps
        self.active.advance((share + (which == "momentum")) / 2, network=which, **asdict(progress))


def _device(model: nn.Module) -> str:
    return next(model.parameters()).device.type


def _budget(request: ConvertRequest, original: BatchProfile, batch_size: int) -> int:
    asked = request.finetuning.memory_budget_mib
    return original.total_bytes(batch_size) if asked == "auto" else int(asked * MIB)


def _largest(profile: BatchProfile, budget: int) -> int:
    return largest(lambda size: budget - profile.total_bytes(size))
