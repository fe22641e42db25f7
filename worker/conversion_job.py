"""The work of one job, stage by stage: load, plan, convert, measure, refine, evaluate, package."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from momentum_core.conversion import convert, plan_architecture, plan_of
from momentum_core.refinement import Checkpoints
from worker.active_job import ActiveJob
from worker.contract.artifact_names import REPORT_FILE
from worker.contract.file_store import FileStore
from worker.contract.job import Artifact, Job, Stage, Upload
from worker.contract.request import ConvertRequest
from worker.finetuning import FinetuningWork
from worker.measuring import measure_step
from worker.model_source import ModelSources
from worker.packaging import package_bundle, package_weights, store_artifacts
from worker.refining import Recovery
from worker.report import Findings, make_report, summarise, write_report
from worker.training_group import TrainingGroup, TrainingPlace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Workplace:
    """Where a job is carried out."""

    files: FileStore
    sources: ModelSources
    device: torch.device
    group: TrainingGroup
    """Of devices, the one above the first, that train a job's network together."""

    checkpoint_seconds: float
    """Least time between two states of a refinement that are kept."""


@dataclass(slots=True)
class _Clock:
    """Seconds of each stage; a stage that comes twice adds up."""

    seconds: dict[str, float] = field(default_factory=dict)
    _stage: Stage | None = None
    _since: float = 0.0

    def enter(self, stage: Stage | None) -> None:
        now = time.monotonic()
        if self._stage is not None:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = stage, now


def convert_for_job(
    job: Job,
    checkpoint: Upload | None,
    data: Upload | None,
    *,
    workplace: Workplace,
    active: ActiveJob,
) -> tuple[dict[str, Any], list[Artifact]]:
    """Carry out a job; its files are in the store afterwards, and not published yet.

    Args:
        job: what was asked for.
        checkpoint: the weights that were sent; None for a zoo entry.
        data: the data set that was sent.
        workplace: store, sources and device.
        active: told of every stage and step; raises when the job is to stop.

    Returns:
        The summary for the job's record, and its files.

    Raises:
        MomentumError: the job cannot be done; the message is for the user.
        ClaimLostError: the job is somebody else's.
    """
    request, clock = ConvertRequest.from_json(job.request), _Clock()

    def enter(stage: Stage) -> None:
        clock.enter(stage)
        active.enter(stage)

    with workplace.files.temporary_folder() as folder:
        enter(Stage.LOADING)
        workplace.files.bring_unfinished(job.id)
        source = workplace.sources.load(request, checkpoint, data, folder)
        original = source.model.to(workplace.device)
        logger.info("%s with %d classes", source.facts.architecture, source.facts.num_classes)
        enter(Stage.PLANNING)
        plan = plan_architecture(
            source.facts.architecture,
            num_classes=source.facts.num_classes,
            config=request.conversion,
        )
        logger.info("%d runs of blocks become reversible", len(plan.runs))
        enter(Stage.CONVERTING)
        momentum = convert(original, plan=plan)
        states = Checkpoints(
            workplace.files.unfinished_path(job.id),
            every_seconds=workplace.checkpoint_seconds,
            on_discarded=lambda why: active.note("checkpoint_discarded", reason=why),
            on_saved=lambda: workplace.files.share_unfinished(job.id),
        )
        place = TrainingPlace(workplace.group, states, folder)
        accuracy, refinement, finetuned = None, None, None
        if request.task == "finetune":
            finetuned = FinetuningWork(request, source, place, enter, active).run(momentum)
            source, accuracy = finetuned.source, finetuned.accuracy
            original, momentum = source.model, finetuned.momentum
        enter(Stage.MEASURING)
        memory = measure_step(
            original,
            momentum,
            request.measurement,
            architecture=source.facts.architecture,
            num_classes=source.facts.num_classes,
            device=workplace.device,
            seed=request.seed,
            on_round=lambda done: active.advance(done / request.measurement.repeats),
        )
        if finetuned is None and source.dataset is not None:
            recovered = Recovery.of(request, source, place, enter, active).run(original, momentum)
            momentum = recovered.momentum
            accuracy, refinement = recovered.accuracy, recovered.refinement
        enter(Stage.PACKAGING)
        difference = package_weights(folder, momentum, source, memory.images, accuracy)
        clock.enter(None)
        took = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in clock.seconds.items())
        logger.info("time: %s", took)
        findings = Findings(
            source=source,
            plan=plan_of(momentum),
            memory=memory,
            accuracy=accuracy,
            refinement=refinement,
            finetuning=None if finetuned is None else finetuned.to_json(request),
            max_logit_difference=difference,
            seconds=clock.seconds,
        )
        report = make_report(job, findings)
        write_report(folder / REPORT_FILE, report)
        summary = summarise(report)
        package_bundle(folder, momentum, source, memory.images, job.request, summary)
        return summary, store_artifacts(folder, workplace.files)
