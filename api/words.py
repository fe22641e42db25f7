"""What commands and web pages say alike: of jobs, their progress, their figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from api.client import JobRecord
    from api.schemas.jobs import JobSummary

    AnyJob = JobRecord | JobSummary

_WAITING = {
    "queue": "its queue is paused",
    "space": "the disk was full",
    "worker": "it needs another worker",
}


def size(num_bytes: float) -> str:
    """Return a number of bytes as people write it."""
    value = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def waiting_words(reason: str) -> str:
    """Return what a queued job waits for besides a free worker."""
    return _WAITING.get(reason, f"waits for {reason}")


def state_words(job: AnyJob) -> str:
    """Return the state, with what is known besides."""
    if job.state == "running":
        stage = f" {job.stage}" if job.stage else ""
        ending = ", to be cancelled" if job.cancel_requested else ""
        return f"running{stage} {100 * job.progress:.0f} %{ending}"
    if job.state == "queued" and job.waiting_for is not None:
        return f"queued, {waiting_words(job.waiting_for)}"
    if job.state == "failed" and job.error is not None:
        return f"failed {job.error.code}"
    return job.state


def memory_words(job: AnyJob) -> str:
    """Return the activation memory after the conversion as a multiple of that before."""
    memory = (job.result or {}).get("activation_bytes")
    return f"{memory['momentum'] / memory['original']:.2f}x" if memory else "-"


def accuracy_words(job: AnyJob) -> str:
    """Return the accuracy of the original and after refinement, or how often both agree."""
    result = job.result or {}
    for name in ("top1_percent", "agreement_percent"):
        percents = result.get(name) or {}
        after = percents.get("refined", percents.get("converted"))
        if after is not None:
            before = percents.get("original")
            start = "" if before is None else f"{before:.2f} → "
            return f"{start}{after:.2f} %"
    return "-"


def result_pairs(job: AnyJob) -> list[tuple[str, str]]:
    """Return what a job came to."""
    if job.error is not None:
        return [("error", job.error.code), ("", job.error.message)]
    result = job.result
    if result is None:
        return []
    pairs = []
    for name, label in (("activation_bytes", "activation memory"), ("peak_bytes", "peak memory")):
        memory = result.get(name)
        if memory:
            before, after = memory["original"], memory["momentum"]
            ratio = f"{after / before:.2f}x"
            pairs.append((label, f"{size(before)} -> {size(after)}  ({ratio})"))
    if result.get("step_time_ratio") is not None:
        pairs.append(("time of a training step", f"{result['step_time_ratio']:.2f}x"))
    made_up = "made-up" if result.get("synthetic") else "test"
    for name, label in (("top1_percent", "top-1"), ("agreement_percent", "agreement")):
        percents = result.get(name)
        if percents:
            figures = ", ".join(
                f"{model} {percent:.2f} %"
                for model, percent in percents.items()
                if percent is not None
            )
            pairs.append((f"{label} of {result.get('num_test_images')} {made_up} images", figures))
    return pairs + _goal_pairs(result.get("refinement"))


def _goal_pairs(refinement: dict[str, Any] | None) -> list[tuple[str, str]]:
    if not refinement or refinement.get("goal_met") is None:
        return []
    met = "met" if refinement["goal_met"] else "missed; these are the best weights found"
    return [
        (
            "goal",
            f"{met}  ({refinement['metric']} of held-back images "
            f"{refinement['refined_percent']:.2f} %, wanted {refinement['target_percent']:.2f} %)",
        )
    ]


def progress_words(figures: Mapping[str, Any]) -> str:
    """Return what a progress event says."""
    if "loss" in figures:
        words = f"step {figures['step']} of {figures['max_steps']}  loss {figures['loss']:.4f}"
        if figures.get("network"):
            words = f"{figures['network']}: {words}"
        if figures.get("metric_percent") is not None:
            words += f"  held-back images {figures['metric_percent']:.2f} %"
        if figures.get("target_percent") is not None:
            words += f" (goal {figures['target_percent']:.2f} %)"
        if figures.get("eta_seconds") is not None:
            words += f"  {duration(figures['eta_seconds'])} left at most"
        if figures.get("memory_bytes") is not None:
            words += f"  {size(figures['memory_bytes'])} held"
        return words
    if "num_images" in figures:
        return f"{figures['num_images']:,} of {figures['total_images']:,} images"
    if "preparing" in figures:
        return f"{str(figures['preparing']).replace('_', ' ')} ..."
    return ""


def path_words(path: str) -> str:
    """Return a JSON pointer as words with dots between."""
    return path.removeprefix("/").replace("/", ".")


def value_words(path: str, value: Any) -> str:
    """Return a figure or an option, which stands at a path, as people write it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and "_bytes" in path:
        return size(value)
    if isinstance(value, float):
        return f"{value:,.4g}" if "percent" not in path else f"{value:.2f} %"
    return f"{value:,}" if isinstance(value, int) else str(value)
