"""`momentum keys`: API keys, for whoever runs the service."""

from __future__ import annotations

from typing import Annotated

import typer

from api.commands.access import connected
from api.commands.options import DEFAULT_URL, Json, Key, Url
from api.commands.output import local_time, print_json, print_table, say, say_aside

app = typer.Typer(no_args_is_help=True, help="API keys; takes one with the scope admin.")


@app.command("list")
def list_keys(url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """List all keys, without their secrets."""
    with connected(url, key, as_json=as_json) as client:
        found = client.keys()
    if as_json:
        print_json({"keys": [one.raw for one in found]})
        return
    print_table(
        ("id", "name", "tenant", "scopes", "created", "holds"),
        [
            (
                one.id,
                one.name,
                one.tenant,
                ",".join(one.scopes),
                local_time(one.created_at),
                f"revoked {local_time(one.revoked_at)}"
                if one.revoked_at
                else f"until {local_time(one.expires_at)}"
                if one.expires_at
                else "for ever",
            )
            for one in found
        ],
    )


@app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    tenant: Annotated[str, typer.Option(help="Whose jobs it sees.")] = "default",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="read, write or admin; may be repeated. Else read and write."),
    ] = None,
    days: Annotated[float | None, typer.Option(min=0, help="Until it expires; else never.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Make a key and print its secret, which is not shown again."""
    with connected(url, key, as_json=as_json) as client:
        scopes = tuple(scope or ("read", "write"))
        made = client.create_key(name, tenant=tenant, scopes=scopes, expires_in_days=days)
    if as_json:
        print_json(made.raw)
        return
    # The secret alone is the result: it can be piped to where it is needed.
    say_aside(f"key {made.id} of the tenant {made.tenant}; it is shown this once:")
    say(made.secret or "")


@app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """End a key at once, and for good."""
    with connected(url, key, as_json=as_json) as client:
        client.revoke_key(key_id)
    if as_json:
        print_json({"revoked": key_id})
    else:
        say(f"{key_id} does not hold any more")
