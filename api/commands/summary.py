"""Jobs in words: how far they are, what they came to or would come to, and how they compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.commands.output import local_time, print_table, say, seconds_since, short_id
from api.words import duration, path_words, result_pairs, state_words, value_words

if TYPE_CHECKING:
    from api.client import Comparison, Figure, Inspection, JobRecord


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
                _part_words(one.get("modules") or [one["name"]]),
                "converted" if one["converted"] else "stays",
                one["gamma"] or "-",
                one["strategy"].replace("_", " "),
                one["reason"],
            )
            for one in blocks
        ]
        print_table(("part", "becomes", "gamma", "strategy", "reason"), rows)


def _part_words(modules: list[str]) -> str:
    """Return the name of a part, or of its first and last module."""
    return modules[0] if len(modules) == 1 else f"{modules[0]} .. {modules[-1]}"


def print_comparison(found: Comparison) -> None:
    """Print jobs side by side; the best of each figure has a star."""
    headings = ["", *(job.name or short_id(job.id) for job in found.jobs)]
    columns = range(1, len(headings))
    rows = [
        [path_words(one.path), *(value_words(one.path, value) for value in one.values)]
        for one in found.request_differences
    ]
    if rows:
        say("asked for differently:")
        print_table(headings, rows, numbers=columns)
        say()
    rows = [
        [path_words(one.path), *(_figure_words(one, at) for at in range(len(one.values)))]
        for one in found.figures
        if any(value is not None for value in one.values)
    ]
    print_table(headings, rows, numbers=columns)


def _figure_words(figure: Figure, at: int) -> str:
    is_best = at in figure.best and len(figure.best) < len(figure.values)
    return value_words(figure.path, figure.values[at]) + (" *" if is_best else "  ")
