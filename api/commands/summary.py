"""A job in words: what it came to, or how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from api.commands.output import duration, local_time, seconds_since, size

if TYPE_CHECKING:
    from api.client import JobRecord


def state_words(job: JobRecord) -> str:
    """Return the state, with what is known besides."""
    if job.state == "running":
        stage = f" {job.stage}" if job.stage else ""
        ending = ", to be cancelled" if job.cancel_requested else ""
        return f"running{stage} {100 * job.progress:.0f} %{ending}"
    if job.state == "failed" and job.error is not None:
        return f"failed {job.error.code}"
    return job.state


def took_words(job: JobRecord) -> str:
    """Return how long the job ran, or has been running."""
    if job.started_at is None:
        return "-"
    return duration(max(0.0, seconds_since(job.started_at, job.finished_at)))


def network_words(job: JobRecord) -> str:
    """Return which network it is, as far as that is known."""
    if job.result is not None:
        return str(job.result.get("architecture", "-"))
    source = job.request.get("source") or {}
    return str(source.get("zoo") or job.request.get("architecture") or "-")


def memory_words(job: JobRecord) -> str:
    """Return the activation memory after the conversion as a multiple of that before."""
    memory = (job.result or {}).get("activation_bytes")
    return f"{memory['momentum'] / memory['original']:.2f}x" if memory else "-"


def job_pairs(job: JobRecord) -> list[tuple[str, str]]:
    """Return all that `momentum show` says of a job, but its files."""
    pairs = [("job", job.id)]
    pairs += [("name", job.name)] if job.name else []
    pairs += [("tags", ", ".join(job.tags))] if job.tags else []
    pairs += [("state", state_words(job)), ("network", network_words(job))]
    pairs += [("retry of", job.retry_of)] if job.retry_of else []
    pairs += [("created", local_time(job.created_at)), ("took", took_words(job))]
    pairs += [("attempt", str(job.attempt))] if job.attempt > 1 else []
    pairs += [(f"sent {part}", f"SHA-256 {digest}") for part, digest in job.sent.items()]
    return pairs + result_pairs(job)


def result_pairs(job: JobRecord) -> list[tuple[str, str]]:
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
