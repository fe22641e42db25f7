"""Commands for whoever runs the service: workers, queues, and who did what."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from api.commands.access import connected
from api.commands.options import DEFAULT_URL, Json, Key, Url
from api.commands.output import (
    local_time,
    print_json,
    print_table,
    say,
    short_id,
)
from api.words import duration, size

workers = typer.Typer(no_args_is_help=True, help="The processes that carry jobs out.")
queues = typer.Typer(no_args_is_help=True, help="Where jobs wait.")

WorkerName = Annotated[str, typer.Argument(metavar="NAME", help="As `list` shows it.")]
QueueName = Annotated[str, typer.Argument(metavar="NAME", help="As `list` shows it.")]


@workers.command("list")
def list_workers(url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """List all workers: what they compute on, and what they do."""
    with connected(url, key, as_json=as_json) as client:
        found = client.workers()
    if as_json:
        print_json({"workers": [one.raw for one in found]})
        return
    rows = []
    for one in found:
        device = one.device
        doing = short_id(one.current_job) if one.current_job else "busy" if one.busy else "free"
        rows.append(
            (
                one.name,
                one.state,
                f"{doing}, draining" if one.draining else doing,
                "-" if device is None else f"{device.name} ({device.model})",
                "-" if device is None else size(device.memory_bytes),
                ",".join(one.queues),
                one.torch_version,
                local_time(one.seen_at),
            )
        )
    headings = ("name", "heard of", "job", "device", "memory", "queues", "torch", "seen")
    print_table(headings, rows, numbers=(4,))


@workers.command("drain")
def drain_worker(
    name: WorkerName, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False
) -> None:
    """Have a worker finish its job and take no other; takes the scope admin."""
    with connected(url, key, as_json=as_json) as client:
        found = client.drain_worker(name)
    if as_json:
        print_json(found.raw)
    else:
        say(f"{found.name} takes no other job")


@workers.command("resume")
def resume_worker(
    name: WorkerName, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False
) -> None:
    """Have a worker take jobs again; takes the scope admin."""
    with connected(url, key, as_json=as_json) as client:
        found = client.resume_worker(name)
    if as_json:
        print_json(found.raw)
    else:
        say(f"{found.name} takes jobs")


@queues.command("list")
def list_queues(url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """List all queues: how many jobs of all tenants wait and run."""
    with connected(url, key, as_json=as_json) as client:
        found = client.queues()
    if as_json:
        print_json({"queues": [one.raw for one in found]})
        return
    rows = [
        (
            one.name,
            str(one.queued),
            str(one.running),
            "-" if one.oldest_wait_seconds is None else duration(one.oldest_wait_seconds),
            f"paused since {local_time(one.paused_at)}" if one.paused else "open",
        )
        for one in found
    ]
    print_table(("name", "waiting", "running", "longest wait", ""), rows, numbers=(1, 2, 3))


@queues.command("pause")
def pause_queue(
    name: QueueName, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False
) -> None:
    """Let no job of a queue start; those that run go on. Takes the scope admin."""
    with connected(url, key, as_json=as_json) as client:
        found = client.pause_queue(name)
    if as_json:
        print_json(found.raw)
    else:
        say(f"{found.name} is paused; {found.queued} jobs wait")


@queues.command("resume")
def resume_queue(
    name: QueueName, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False
) -> None:
    """Let the jobs of a paused queue start; takes the scope admin."""
    with connected(url, key, as_json=as_json) as client:
        found = client.resume_queue(name)
    if as_json:
        print_json(found.raw)
    else:
        say(f"{found.name} is open; {found.queued} jobs wait")


def audit(
    tenant: Annotated[str | None, typer.Option(help="Of whom.")] = None,
    key_id: Annotated[str | None, typer.Option(help="With which key.")] = None,
    operation: Annotated[str | None, typer.Option(help="Such as cancel_job.")] = None,
    outcome: Annotated[str | None, typer.Option(help="How it went.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Not before; UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Before; UTC.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List who did what, the newest first; takes the scope admin."""
    with connected(url, key, as_json=as_json) as client:
        found = list(
            client.audit(
                tenant=tenant,
                key_id=key_id,
                operation=operation,
                outcome=outcome,
                since=since,
                until=until,
                limit=limit,
            )
        )
    if as_json:
        print_json({"entries": [one.raw for one in found]})
        return
    rows = [
        (
            local_time(one.at),
            one.tenant or "-",
            short_id(one.key_id) if one.key_id else "-",
            one.address or "-",
            one.operation,
            one.target,
            str(one.status),
            one.outcome,
        )
        for one in found
    ]
    headings = ("at", "tenant", "key", "address", "operation", "target", "status", "outcome")
    print_table(headings, rows, numbers=(6,))
