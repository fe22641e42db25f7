"""The report of a job: what was found, as JSON with a version, and the summary of it."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict, dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from momentum_core.conversion import ConversionPlan
from momentum_core.refinement import Evaluation, RefinementResult
from worker.contract.artifact_names import HISTORY_FILE, PAGE_FILE, TABLE_FILE
from worker.contract.job import Job
from worker.device import describe_device
from worker.measuring import MeasuredMemory, memory_json, prediction_json
from worker.model_source import LoadedSource
from worker.report_blocks import blocks_json
from worker.report_page import csv_text, html_text, summary

SCHEMA = 4

_SHOWN = (
    *("goal_met", "stopped", "num_steps", "best_step", "metric"),
    *("original_percent", "target_percent", "start_percent", "refined_percent"),
)
"""What a job's record shows of refinement; percentages are of images held back from training."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The three models on the test images."""

    original: Evaluation
    converted: Evaluation | None
    """Before any training step; None after fine-tuning, when the head was still random."""
    refined: Evaluation


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """All that a job found out."""

    source: LoadedSource
    plan: ConversionPlan
    memory: MeasuredMemory
    accuracy: Accuracy | None
    refinement: RefinementResult | None
    finetuning: dict[str, Any] | None
    """How fine-tuning went, where that was asked for."""
    max_logit_difference: float
    """Between the refined model and its saved form, loaded again."""
    seconds: dict[str, float]
    """By stage."""


def make_report(job: Job, findings: Findings) -> dict[str, Any]:
    """Return the report as JSON values."""
    report = {
        "schema": SCHEMA,
        "job": job.id,
        "attempt": job.attempt,
        "request": job.request,
        "source": findings.source.to_json(),
        "data": findings.source.data,
        "plan": findings.plan.to_json(),
        "blocks": blocks_json(findings.plan, findings.memory.comparison.measured),
        "memory": memory_json(findings.memory),
        "prediction": prediction_json(findings.memory),
        "accuracy": findings.accuracy
        and _accuracy(findings.accuracy) | {"synthetic": findings.source.is_synthetic},
        "refinement": findings.refinement and asdict(findings.refinement),
        "finetuning": findings.finetuning,
        "gamma_search": _gamma_search(findings.refinement),
        "verification": {
            "max_logit_difference": findings.max_logit_difference,
            "explanation": "largest difference between the logits of the model in the worker and "
            "of the same model loaded from the weights file",
        },
        "environment": _environment(findings.memory.images.device),
        "seconds": findings.seconds,
    }
    return {"schema": SCHEMA, "summary": summary(report)} | report


def local_report(
    source: dict[str, Any],
    plan: ConversionPlan,
    memory: MeasuredMemory,
    *,
    request: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """Return the report of a network that was measured without a job: what a job adds is null.

    Args:
        source: where the weights come from; with `architecture`, `num_classes`, `num_parameters`.
        plan: what became of the network's parts.
        memory: what was measured.
        request: the options.
        seconds: that all of it took.
    """
    report = {
        "schema": SCHEMA,
        "job": None,
        "attempt": None,
        "request": request,
        "source": source,
        "data": None,
        "plan": plan.to_json(),
        "blocks": blocks_json(plan, memory.comparison.measured),
        "memory": memory_json(memory),
        "prediction": prediction_json(memory),
        "accuracy": None,
        "refinement": None,
        "finetuning": None,
        "gamma_search": [],
        "verification": None,
        "environment": _environment(memory.images.device),
        "seconds": {"measuring": seconds},
    }
    return {"schema": SCHEMA, "summary": summary(report)} | report


def summarise(report: dict[str, Any]) -> dict[str, Any]:
    """Return what a job's record shows of its report."""
    memory, accuracy = report["memory"], report["accuracy"]
    return {
        "architecture": report["source"]["architecture"],
        "num_classes": report["source"]["num_classes"],
        "num_parameters": report["source"]["num_parameters"],
        "activation_bytes": {
            model: memory[model]["activation_bytes"] for model in ("original", "momentum")
        },
        "peak_bytes": {model: memory[model]["peak_bytes"] for model in ("original", "momentum")},
        "step_time_ratio": memory["ratios"]["seconds"],
        "seconds_per_image": {
            model: memory[model]["seconds"] / memory["batch_size"]
            for model in ("original", "momentum")
        },
        "device": report["environment"]["device"],
        "top1_percent": accuracy and _percents(accuracy, "top1_percent"),
        "agreement_percent": accuracy and _percents(accuracy, "agreement_percent"),
        "synthetic": accuracy and accuracy["synthetic"],
        "num_test_images": accuracy and accuracy["num_images"],
        "refinement": report["refinement"]
        and {name: report["refinement"][name] for name in _SHOWN},
        "largest_batch": report["finetuning"] and report["finetuning"]["largest_batch"],
    }


def _percents(accuracy: dict[str, Any], name: str) -> dict[str, float] | None:
    """Return a figure of each model; None where there are no labels for it."""
    models: tuple[str, ...] = ("original", "converted", "refined")
    percents = {model: accuracy[model][name] for model in models if model in accuracy}
    return None if None in percents.values() else percents


def history_of(report: dict[str, Any]) -> dict[str, Any] | None:
    """Return how losses and figures went over the steps, by network; None without training."""
    tuned = report.get("finetuning")
    networks = {
        "original": tuned and tuned["original"],
        "momentum": tuned["momentum"] if tuned else report.get("refinement"),
    }
    names = ("evaluations", "series", "series_stride", "resumed_at")
    found = {
        network: {name: one[name] for name in names} for network, one in networks.items() if one
    }
    return found or None


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write the report as JSON, and beside it the page, the table, and the history of training."""
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    path.write_text(text)
    written = json.loads(text)  # page and table show what the file says
    path.with_name(PAGE_FILE).write_text(html_text(written))
    path.with_name(TABLE_FILE).write_text(csv_text(written))
    if (history := history_of(written)) is not None:
        path.with_name(HISTORY_FILE).write_text(json.dumps(history, indent=2) + "\n")


def _gamma_search(refinement: RefinementResult | None) -> list[dict[str, Any]]:
    """Return what calibration tried where gamma was `auto`: costs and answers kept."""
    calibration = refinement.calibration if refinement is not None else None
    found = []
    for trial in (calibration or {}).get("trials", ()):
        gammas = [Fraction(gamma) for gamma in trial["gammas"]]
        bits = [math.log2(gamma.denominator / gamma.numerator) for gamma in gammas]
        found.append(
            {
                "gammas": list(trial["gammas"]),
                "bits_per_element": sum(bits) / len(bits),
                "agreement_percent": 100.0 * trial["fidelity"]["agreement"],
            }
        )
    return found


def _accuracy(accuracy: Accuracy) -> dict[str, Any]:
    models = {
        "original": accuracy.original,
        "converted": accuracy.converted,
        "refined": accuracy.refined,
    }
    return {"num_images": accuracy.original.num_images} | {
        name: _of(one, accuracy.original) for name, one in models.items() if one is not None
    }


def _of(evaluation: Evaluation, original: Evaluation) -> dict[str, float | None]:
    same = evaluation.logits.argmax(dim=1) == original.logits.argmax(dim=1)
    return {
        "top1_percent": evaluation.top1_percent,
        "agreement_percent": 100.0 * float(same.double().mean()),
    }


def _environment(device: torch.device) -> dict[str, Any]:
    return {
        "device": describe_device(device),
        "num_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {
            name: version(name) for name in ("momentum-zoo", "torch", "torchvision", "safetensors")
        },
    }
