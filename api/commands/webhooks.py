"""`momentum webhooks`: URLs that are told of jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from api.commands.access import connected
from api.commands.options import DEFAULT_URL, Json, Key, Url
from api.commands.output import local_time, print_json, print_table, say, say_aside

app = typer.Typer(no_args_is_help=True, help="URLs that are told when jobs end.")

WebhookId = Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")]


@app.command("list")
def list_webhooks(url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """List all webhooks, without their secrets."""
    with connected(url, key, as_json=as_json) as client:
        found = client.webhooks()
    if as_json:
        print_json({"webhooks": [one.raw for one in found]})
        return
    print_table(
        ("id", "url", "events", "created", "disabled"),
        [
            (
                one.id,
                one.url,
                ",".join(one.events),
                local_time(one.created_at),
                local_time(one.disabled_at),
            )
            for one in found
        ],
    )


@app.command("create")
def create_webhook(
    target: Annotated[str, typer.Argument(metavar="RECEIVER", help="Its URL.")],
    event: Annotated[
        list[str] | None,
        typer.Option(help="started, succeeded, failed or cancelled; may be repeated."),
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Have a URL told; print the secret that messages are signed with, which is not shown again."""
    with connected(url, key, as_json=as_json) as client:
        made = client.create_webhook(target, events=event or ())
    if as_json:
        print_json(made.raw)
        return
    say_aside(f"webhook {made.id} for {', '.join(made.events)}; its secret is shown this once:")
    say(made.secret or "")


@app.command("delete")
def delete_webhook(
    webhook_id: WebhookId, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False
) -> None:
    """Tell a URL nothing more."""
    with connected(url, key, as_json=as_json) as client:
        client.delete_webhook(webhook_id)
    if as_json:
        print_json({"deleted": webhook_id})
    else:
        say(f"{webhook_id} is told nothing more")


@app.command("deliveries")
def list_deliveries(
    webhook_id: WebhookId, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False
) -> None:
    """List the newest messages to a URL, and what it said."""
    with connected(url, key, as_json=as_json) as client:
        found = client.deliveries(webhook_id)
    if as_json:
        print_json({"deliveries": [one.raw for one in found]})
        return
    print_table(
        ("number", "job", "event", "state", "attempts", "status", "problem", "created"),
        [
            (
                str(one.id),
                one.job_id,
                one.event,
                one.state,
                str(one.attempts),
                "-" if one.status is None else str(one.status),
                one.problem or "-",
                local_time(one.created_at),
            )
            for one in found
        ],
        numbers=(0, 4),
    )


@app.command("redeliver")
def redeliver(
    webhook_id: WebhookId,
    number: Annotated[int, typer.Argument(help="The message's, as `deliveries` shows it.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Send a message once more."""
    with connected(url, key, as_json=as_json) as client:
        again = client.redeliver(webhook_id, number)
    if as_json:
        print_json(again.raw)
    else:
        say(f"message {again.id} is {again.state}")
