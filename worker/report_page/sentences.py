"""What a report says, in plain language; every figure is a path into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.report_page.numbers import Numbers

_SHOWN_BUDGET = 24
"""GiB: what a large consumer card has."""


def sentences(report: Mapping[str, Any]) -> list[str]:
    """Return the summary's sentences, with placeholders `{path|form}`."""
    found = [
        "{/source/architecture|text} trains in {/memory/ratios/activation_bytes|ratio} the "
        "activation memory: {/memory/momentum/activation_bytes|bytes} in place of "
        "{/memory/original/activation_bytes|bytes} are kept from the forward to the backward pass, "
        "with a batch of {/memory/batch_size|count}.",
        "The most that a step holds at once, above weights, gradients, input and optimizer, is "
        "{/memory/momentum/peak_bytes|bytes} in place of {/memory/original/peak_bytes|bytes}, "
        f"{{/memory/ratios/peak_bytes|ratio}}. {_where(report)}",
        _largest_batch(report),
        "One step takes {/memory/ratios/seconds|ratio} as long as the original's.",
        _rivals(report),
        _accuracy(report),
        _goal(report),
    ]
    return [sentence for sentence in found if sentence]


def summary(report: Mapping[str, Any]) -> list[str]:
    """Return the sentences as plain text."""
    numbers = Numbers(report)
    return [numbers.fill_text(sentence) for sentence in sentences(report)]


def is_gpu(report: Mapping[str, Any]) -> bool:
    """Whether the step was measured on a GPU."""
    return str(report["memory"]["device"]).startswith("cuda")


def _where(report: Mapping[str, Any]) -> str:
    if is_gpu(report):
        return "Measured on the GPU {/environment/device|text}, every tensor counted."
    return (
        "Measured on the processor (CPU) of the worker, every tensor counted; this is not GPU "
        "memory, which was not measured."
    )


def _largest_batch(report: Mapping[str, Any]) -> str:
    prediction = report["prediction"]
    for at, budget in enumerate(prediction.get("budgets", ())):
        if budget["gib"] == _SHOWN_BUDGET:
            path = f"/prediction/budgets/{at}"
            return (
                f"On a GPU of {{{path}/gib|gib}} the largest batch goes from "
                f"{{{path}/largest_batch/original|count}} to "
                f"{{{path}/largest_batch/momentum|count}} (predicted, not measured)."
            )
    return "" if "budgets" in prediction else "The largest batches of GPUs were not predicted."


def _rivals(report: Mapping[str, Any]) -> str:
    memory = report["memory"]
    if not memory["rivals"]:
        return ""
    peaks = {name: one["peak_bytes"] for name, one in memory["rivals"].items()}
    peaks["momentum"] = memory["momentum"]["peak_bytes"]
    best = min(peaks, key=lambda name: peaks[name])
    if best == "momentum":
        return "Of all methods that were measured, the momentum network has the lowest peak."
    return (
        f"The lowest peak of all methods has {LABELS[best]}, with "
        f"{{/memory/rivals/{best}/peak_bytes|bytes}} and "
        f"{{/memory/rivals/{best}/time_ratio|ratio}} the original's time."
    )


def _accuracy(report: Mapping[str, Any]) -> str:
    if not report["accuracy"]:
        return "Accuracy was not measured: there were no test images."
    figure, name = "top1_percent", "Top-1 accuracy"
    if report["accuracy"]["original"]["top1_percent"] is None:
        figure, name = "agreement_percent", "Agreement with the original"
    images = "made-up images (real ones may tell otherwise)"
    if not report["accuracy"].get("synthetic"):
        images = "test images"
    told = (
        f"{name} on {{/accuracy/num_images|count}} {images} goes from "
        f"{{/accuracy/original/{figure}|percent}} to {{/accuracy/refined/{figure}|percent}}"
    )
    if "converted" not in report["accuracy"]:
        return f"{told}, both fine-tuned."
    return f"{told} (right after the conversion it was {{/accuracy/converted/{figure}|percent}})."


def _goal(report: Mapping[str, Any]) -> str:
    refinement = report["refinement"] or {}
    met = refinement.get("goal_met")
    if met is None or refinement.get("target_percent") is None:
        return ""
    verdict = "was met" if met else "was not met; these are the best weights that were found"
    return f"The goal of {{/refinement/target_percent|percent}} on held-back images {verdict}."


LABELS = {
    "original": "original",
    "checkpoint_each_block": "checkpoint each block",
    "checkpoint_sqrt": "checkpoint sqrt(n) segments",
    "momentum": "momentum network",
    "momentumnet": "momentumnet 0.10 (authors' library)",
}
"""How methods are called."""
