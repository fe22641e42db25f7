"""The refining part of a job: evaluate the original, refine, evaluate what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Self

from torch import nn

from momentum_core.checkpoint import Dataset
from momentum_core.config import Preprocessing
from momentum_core.errors import CheckpointError
from momentum_core.refinement import (
    Evaluation,
    RefinementResult,
    StepProgress,
    TrainingImages,
    evaluate,
)
from worker.active_job import ActiveJob
from worker.contract.job import Stage
from worker.contract.request import ConvertRequest
from worker.model_source import LoadedSource
from worker.report import Accuracy
from worker.training_calls import RefineCall
from worker.training_group import TrainingPlace

Enter = Callable[[Stage], None]
"""Told of each stage as it begins."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """A refined model and what was measured."""

    momentum: nn.Module
    accuracy: Accuracy
    refinement: RefinementResult | None
    """None if it was not asked for."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """Brings a converted network's accuracy back, within a job."""

    request: ConvertRequest
    dataset: Dataset
    is_synthetic: bool
    """Whether its images are made up."""

    preprocessing: Preprocessing
    place: TrainingPlace
    enter: Enter
    active: ActiveJob

    @classmethod
    def of(
        cls,
        request: ConvertRequest,
        source: LoadedSource,
        place: TrainingPlace,
        enter: Enter,
        active: ActiveJob,
    ) -> Self:
        """Prepare it for a source that came with data."""
        assert source.dataset is not None, "there is nothing to refine with"
        assert source.preprocessing is not None, "the API lets no data pass without it"
        return cls(
            request,
            source.dataset,
            source.is_synthetic,
            source.preprocessing,
            place,
            enter,
            active,
        )

    def run(self, original: nn.Module, momentum: nn.Module) -> Recovered:
        """Evaluate, refine as the request says, and evaluate again.

        Args:
            original: the network as it was sent.
            momentum: its converted form.

        Raises:
            CheckpointError: `non_finite_output`.
            MomentumError: it cannot be refined with these data.
        """
        self.enter(Stage.EVALUATING)
        before = self._look(original, 0)
        if not bool(before.logits.isfinite().all()):
            raise CheckpointError(
                "the original network's output is not finite for the test images; look at its "
                "weights and running statistics, and at preprocessing",
                code="non_finite_output",
            )
        converted = self._look(momentum, 1)
        if self.request.refinement is None:
            # The logits are stored side by side: no two of them may share memory.
            same = replace(converted, logits=converted.logits.clone())
            return Recovered(momentum, Accuracy(before, converted, same), None)
        self.enter(Stage.REFINING)
        call = RefineCall(
            momentum=momentum,
            original=original,
            data=TrainingImages(self.dataset.x_train, self.dataset.y_train, self.is_synthetic),
            preprocessing=self.preprocessing,
            config=self.request.refinement,
            test_images=self.dataset.x_test,
            seed=self.request.seed,
        )
        with self.place.helping(call):
            found = call.run(
                self.place.checkpoints,
                on_preparing=lambda part: self.active.advance(0.0, preparing=part),
                on_step=self._tell,
            )
        self.enter(Stage.EVALUATING)
        accuracy = Accuracy(before, converted, self._look(found.model, 1))
        return Recovered(found.model, accuracy, found.result)

    def _look(self, model: nn.Module, number: int) -> Evaluation:
        """Evaluate one of two models that are seen one after the other."""
        count = len(self.dataset.x_test)
        return evaluate(
            model,
            self.dataset.x_test,
            self.dataset.y_test,
            self.preprocessing,
            on_batch=lambda seen: self.active.advance(
                (number * count + seen) / (2 * count),
                num_images=number * count + seen,
                total_images=2 * count,
            ),
        )

    def _tell(self, progress: StepProgress) -> None:
        self.active.advance(progress.step / progress.max_steps, **asdict(progress))
