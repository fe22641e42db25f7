"""Jobs in words: how far they are, what they came to or would come to, and how they compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from api.commands.output import (
    duration,
    local_time,
    print_table,
    say,
    seconds_since,
    short_id,
    size,
)

if TYPE_CHECKING:
    from api.client import Comparison, Figure, Inspection, JobRecord


def state_words(job: JobRecord) -> str:
    """Return the state, with what is known besides."""
    if job.state == "running":
        stage = f" {job.stage}" if job.stage else ""
        ending = ", to be cancelled" if job.cancel_requested else ""
        return f"running{stage} {100 * job.progress:.0f} %{ending}"
    if job.state == "queued" and job.waiting_for is not None:
        return f"queued, its {job.waiting_for} is paused"
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


def print_inspection(found: Inspection) -> None:
    """Print what a conversion would do."""
    for sentence in found.summary or ():
        say(sentence)
    if found.error is not None:
        say(f"a job would fail: {found.error.message} [{found.error.code}]")
    blocks = (found.answer or {}).get("blocks") or ()
    if blocks:
        say()
        rows = [
            (
                one["name"],
                "converted" if one["converted"] else "stays",
                one["gamma"] or "-",
                one["strategy"].replace("_", " "),
                one["reason"],
            )
            for one in blocks
        ]
        print_table(("part", "becomes", "gamma", "strategy", "reason"), rows)


def print_comparison(found: Comparison) -> None:
    """Print jobs side by side; the best of each figure has a star."""
    headings = ["", *(job.name or short_id(job.id) for job in found.jobs)]
    columns = range(1, len(headings))
    rows = [
        [_path_words(one.path), *(_value_words(one.path, value) for value in one.values)]
        for one in found.request_differences
    ]
    if rows:
        say("asked for differently:")
        print_table(headings, rows, numbers=columns)
        say()
    rows = [
        [_path_words(one.path), *(_figure_words(one, at) for at in range(len(one.values)))]
        for one in found.figures
        if any(value is not None for value in one.values)
    ]
    print_table(headings, rows, numbers=columns)


def _figure_words(figure: Figure, at: int) -> str:
    is_best = at in figure.best and len(figure.best) < len(figure.values)
    return _value_words(figure.path, figure.values[at]) + (" *" if is_best else "  ")


def _path_words(path: str) -> str:
    return path.removeprefix("/").replace("/", ".")


def _value_words(path: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and "_bytes" in path:
        return size(value)
    if isinstance(value, float):
        return f"{value:,.4g}" if "percent" not in path else f"{value:.2f} %"
    return f"{value:,}" if isinstance(value, int) else str(value)
