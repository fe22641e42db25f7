"""What would become of a network: planned and predicted, without weights and without a job."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from momentum_core.architectures import (
    build_without_memory,
    library_signature,
    named_input_shape,
)
from momentum_core.checkpoint import read_dataset
from momentum_core.comparison import predict_memory
from momentum_core.comparison.methods import MOMENTUM, ORIGINAL
from momentum_core.conversion import ConversionPlan, convert, plan_architecture
from momentum_core.errors import DataError
from worker.contract.inspection import AnyQuestion, Question
from worker.contract.zoo import find_zoo_entry, is_of_library
from worker.figures.forms import written_bytes
from worker.library_zoo import Hub, find_entry
from worker.report_blocks import blocks_json
from worker.time_estimate import estimate_time
from worker.zoo import shipped_dataset

_SHOWN_BUDGET = 8.0
"""GiB of the GPU in the summary."""


def answer_any(question: AnyQuestion, hub: Hub) -> dict[str, Any]:
    """Return the answer to any question, as JSON values.

    Args:
        question: what is asked.
        hub: where repositories of weights are found.

    Raises:
        MomentumError: there is nothing of that name, or a job would fail.
    """
    if isinstance(question, Question):
        return answer_question(question)
    if question.kind == "zoo_entry":
        return find_entry(question.name, hub).to_json()
    signature = library_signature(question.name)
    assert signature is not None, "only names of libraries are asked for"
    return signature.to_json()


def answer_question(question: Question) -> dict[str, Any]:
    """Return what a job would do, as JSON values.

    Args:
        question: the architecture, the options, and how many images there are.

    Raises:
        MomentumError: the job would fail; the message says why.
    """
    started = time.monotonic()
    request = question.request
    plan = plan_architecture(
        question.architecture, num_classes=question.num_classes, config=request.conversion
    )
    memory = _memory(question, plan)
    planning = time.monotonic() - started
    question = _with_shipped_data(question)
    shapes = build_without_memory(question.architecture, num_classes=question.num_classes)
    num_parameters = sum(one.numel() for one in shapes.parameters())
    estimate = estimate_time(question, num_parameters, planning)
    answer = {
        "architecture": question.architecture,
        "num_classes": question.num_classes,
        "num_parameters": num_parameters,
        "num_train": question.num_train,
        "num_test": question.num_test,
        "plan": plan.to_json(),
        "blocks": blocks_json(plan, {}),
        "memory": memory,
        "time": estimate and estimate.to_json(),
    }
    return {"summary": _summary(answer, plan)} | answer


def _memory(question: Question, plan: ConversionPlan) -> dict[str, Any]:
    measurement = question.request.measurement
    channels, side, _ = named_input_shape(question.architecture)
    side = measurement.image_size or side
    original = build_without_memory(question.architecture, num_classes=question.num_classes)
    images = torch.empty(2, channels, side, side, device="meta")
    try:
        return predict_memory(
            original,
            convert(original, plan=plan),
            images,
            batch_size=measurement.batch_size,
            optimizer=measurement.optimizer,
            rivals=measurement.rivals,
            depth_factors=(),
        ).to_json()
    except DataError as error:
        if error.code != "prediction_failed":
            raise
        return {"basis": "not predicted", "reason": str(error)}


def _with_shipped_data(question: Question) -> Question:
    """Count the images that the service would take by itself."""
    request = question.request
    if question.num_train is not None or request.dataset_name is not None:
        return question
    if count := request.num_synthetic:
        return replace(question, num_train=count, num_test=count // 2)
    if request.zoo_name is None or is_of_library(request.zoo_name):
        return question
    path = shipped_dataset(find_zoo_entry(request.zoo_name))
    if path is None:
        return question
    data = read_dataset(path)
    return replace(question, num_train=len(data.x_train), num_test=len(data.x_test))


def _summary(answer: dict[str, Any], plan: ConversionPlan) -> list[str]:
    runs, num_blocks = len(plan.runs), sum(len(run.blocks) for run in plan.runs)
    sentences = [
        f"{answer['architecture']}: {num_blocks} residual blocks in {runs} "
        f"run{'s' if runs != 1 else ''} would be converted, {len(plan.unconverted)} other parts "
        "stay as they are."
    ]
    memory = answer["memory"]
    if memory["basis"] == "predicted":
        sentences += _memory_sentences(memory)
    else:
        sentences.append(f"Memory could not be predicted: {memory['reason']}")
    if answer["time"] is None:
        sentences.append(
            "How long a job would take says the first one: the network is too large to be stepped "
            "here."
        )
    else:
        total, basis = answer["time"]["total_seconds"], answer["time"]["basis"]
        sentences.append(f"The job would take about {_duration(total)} ({basis}).")
    return sentences


def _memory_sentences(memory: dict[str, Any]) -> list[str]:
    size = memory["batch_size"]
    peaks = {
        name: next(
            point["peak_bytes"]
            for point in memory["methods"][name]["points"]
            if point["batch_size"] == size
        )
        for name in (ORIGINAL, MOMENTUM)
    }
    before, after = peaks[ORIGINAL], peaks[MOMENTUM]
    found = [
        f"At batch {size} a training step's peak would go from {written_bytes(before)} to "
        f"{written_bytes(after)}, {after / before:.2f}x (predicted)."
    ]
    for budget in memory["budgets"]:
        if budget["gib"] == _SHOWN_BUDGET:
            largest = budget["largest_batch"]
            found.append(
                f"On a GPU of {_SHOWN_BUDGET:g} GiB the largest batch would go from "
                f"{largest[ORIGINAL]:,} to {largest[MOMENTUM]:,} (predicted)."
            )
    return found


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
