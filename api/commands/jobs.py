"""Commands on jobs: find them, look at them, follow them, end them, forget them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.commands.access import PATIENT_TRIES, QUICK_TRIES, connected, find_job
from api.commands.exit_codes import exit_code_of_state
from api.commands.job_display import showing
from api.commands.options import (
    DEFAULT_URL,
    Json,
    Key,
    NewestOrJob,
    OneJob,
    SomeJobs,
    Timeout,
    Url,
)
from api.commands.output import (
    is_terminal,
    local_time,
    print_json,
    print_json_line,
    print_pairs,
    print_table,
    say,
    short_id,
)
from api.commands.summary import (
    job_pairs,
    network_words,
    print_comparison,
    took_words,
)
from api.words import memory_words, result_pairs, size, state_words

if TYPE_CHECKING:
    from api.client import Job

USUAL_FILES = ("model.safetensors", "report.html", "report.json")


def jobs(
    state: Annotated[
        list[str] | None,
        typer.Option(help="queued, running, succeeded, failed or cancelled; may be repeated."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="A tag that they have; may be repeated.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Part of the name, or how the id begins.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List jobs, the newest first."""
    with connected(url, key, as_json=as_json) as client:
        found = list(client.jobs(state=state or (), tag=tag or (), text=text, limit=limit))
    if as_json:
        print_json({"jobs": [job.record.raw for job in found]})
        return
    # Whoever pipes wants whole ids.
    shown = short_id if is_terminal() else str
    print_table(
        ("id", "name", "state", "network", "memory", "took", "created"),
        [
            (
                shown(job.id),
                job.record.name or "-",
                state_words(job.record),
                network_words(job.record),
                memory_words(job.record),
                took_words(job.record),
                local_time(job.record.created_at),
            )
            for job in found
        ],
        numbers=(4, 5),
    )


def show(
    job: NewestOrJob = None, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False
) -> None:
    """Show a job: its state, what it came to, its files."""
    with connected(url, key, as_json=as_json) as client:
        found = find_job(client, job)
    if as_json:
        print_json(found.record.raw)
        return
    print_pairs(job_pairs(found.record))
    if found.record.artifacts:
        say()
        print_table(
            ("file", "size", "SHA-256"),
            [(one.name, size(one.num_bytes), one.sha256) for one in found.record.artifacts],
            numbers=(1,),
        )


def watch(
    job: NewestOrJob = None,
    timeout: Timeout = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Follow a job until it ends; the exit code says how. With --json, a line for each event."""
    with connected(url, key, as_json=as_json, max_tries=PATIENT_TRIES) as client:
        found = find_job(client, job)
        follow(found, timeout_seconds=timeout, as_json=as_json)
        if not as_json:
            print_end(found)
    raise typer.Exit(exit_code_of_state(found.state))


def logs(
    job: NewestOrJob = None,
    follow_it: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")
    ] = False,
    level: Annotated[str, typer.Option(help="At least this: info, warning or error.")] = "info",
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Print what a job's worker said. With --json, a line for each line."""
    tries = PATIENT_TRIES if follow_it else QUICK_TRIES
    with connected(url, key, as_json=as_json, max_tries=tries) as client:
        for line in find_job(client, job).logs(level=level, follow=follow_it):
            if as_json:
                print_json_line(line.raw)
            else:
                text = line.message.replace("\n", "\n    ")
                say(f"{local_time(line.at)}  {line.level:<7}  {line.logger}: {text}")


def compare(jobs: SomeJobs, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Hold jobs that have succeeded side by side; the best of each figure has a star."""
    if len(jobs) < 2:
        raise typer.BadParameter("comparing takes two jobs or more")
    with connected(url, key, as_json=as_json) as client:
        found = client.compare([find_job(client, one).id for one in jobs])
    if as_json:
        print_json(found.raw)
    else:
        print_comparison(found)


def cancel(jobs: SomeJobs, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Stop jobs: those that wait at once, those that run within seconds."""
    with connected(url, key, as_json=as_json) as client:
        found = [find_job(client, one).cancel() for one in jobs]
    if as_json:
        print_json({"jobs": [one.record.raw for one in found]})
        return
    for one in found:
        ended = "is cancelled" if one.record.is_final else "is being cancelled"
        say(f"{one.id} {ended}")


def retry(
    job: OneJob,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the new job to its end.")] = False,
    timeout: Timeout = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Ask for the same again: a new job with the request and the files of one that has ended."""
    with connected(url, key, as_json=as_json, max_tries=PATIENT_TRIES) as client:
        again = find_job(client, job).retry()
        hand_over(again, wait=wait, timeout_seconds=timeout, as_json=as_json)


def delete(jobs: SomeJobs, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Forget jobs that have ended, with their events and files."""
    with connected(url, key, as_json=as_json) as client:
        found = [find_job(client, one) for one in jobs]
        for one in found:
            one.delete()
    if as_json:
        print_json({"deleted": [one.id for one in found]})
        return
    for one in found:
        say(f"{one.id} is forgotten")


def download(
    job: NewestOrJob = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder; else named as the job's id begins."),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(help="Which file, as `show` lists them; may be repeated."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of the job's files.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Download a job's weights and report; goes on where an earlier download stopped.

    Each file's SHA-256 is compared before it gets its name.
    """
    with connected(url, key, as_json=as_json, max_tries=PATIENT_TRIES) as client:
        found = find_job(client, job)
        folder = output or Path(short_id(found.id))
        names = tuple(file or ()) or (() if every else USUAL_FILES)
        paths = fetch(found, folder, names, is_quiet=as_json)
    if as_json:
        print_json({"job": found.id, "files": [str(path) for path in paths]})
        return
    for path in paths:
        say(str(path))


def hand_over(
    job: Job,
    *,
    wait: bool,
    timeout_seconds: float | None,
    as_json: bool,
    output: Path | None = None,
) -> None:
    """Say which job it is; wait for it and fetch its files, if that is wanted.

    With JSON, one document is printed: the job, as it is then.
    """
    if not wait:
        if as_json:
            print_json(job.record.raw)
        else:
            say(job.id)
            if is_terminal():
                say(f"follow it: momentum watch {short_id(job.id)}")
        return
    if not as_json:
        say(job.id)
    follow(job, timeout_seconds=timeout_seconds, as_json=False, is_quiet=as_json)
    paths = []
    if output is not None and job.state == "succeeded":
        paths = fetch(job, output, USUAL_FILES, is_quiet=as_json)
    if as_json:
        print_json(job.record.raw | ({"files": [str(path) for path in paths]} if paths else {}))
    else:
        print_end(job, files=[str(path) for path in paths])
    raise typer.Exit(exit_code_of_state(job.state))


def follow(
    job: Job, *, timeout_seconds: float | None, as_json: bool, is_quiet: bool = False
) -> None:
    """Show what happens to a job until it has ended."""
    with showing(lambda: job.refresh().record, as_json=as_json, is_quiet=is_quiet) as on_event:
        job.wait(on_event=on_event, timeout_seconds=timeout_seconds)


def print_end(job: Job, files: list[str] | None = None) -> None:
    """Say what a job came to, and what can be done next."""
    pairs = result_pairs(job.record)
    if pairs:
        say()
        print_pairs(pairs)
    for path in files or ():
        say(path)
    if job.state == "succeeded" and not files and is_terminal():
        say(f"\nget its files: momentum download {short_id(job.id)}")


def fetch(job: Job, folder: Path, names: tuple[str, ...], *, is_quiet: bool) -> list[Path]:
    """Download files, with a bar for each at a terminal."""
    if is_quiet or not is_terminal():
        return job.download_all(folder, names=names)
    from api.commands.transfer_bars import bars

    with bars() as show_progress:
        return job.download_all(folder, names=names, on_progress=show_progress)
