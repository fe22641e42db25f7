"""Commands that say what the service has, and what it is."""

from __future__ import annotations

from typing import Annotated

import typer

from api.commands.access import connected
from api.commands.options import DEFAULT_URL, Json, Key, Url
from api.commands.output import (
    is_terminal,
    print_json,
    print_pairs,
    print_table,
    say,
)
from api.words import size


def zoo(
    text: Annotated[str | None, typer.Argument(help="Part of the name.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List what can be converted by name."""
    with connected(url, key, as_json=as_json) as client:
        found = client.zoo()
    wanted = (text or "").lower()
    entries = [one for one in found.entries if wanted in one.name.lower()]
    if as_json:
        shown = {"entries": [one.raw for one in entries]}
        print_json(found.raw | shown)
        return
    print_table(
        ("name", "short", "classes", "image", "top-1", "data", "weights"),
        [
            (
                one.name,
                one.architecture if one.is_default else "",
                f"{one.num_classes:,}",
                f"{one.image_size} px",
                "-"
                if one.published_top1_percent is None
                else f"{one.published_top1_percent:.2f} %",
                "yes" if one.has_data else "no",
                "shipped" if one.is_shipped else "fetched",
            )
            for one in entries
        ],
        numbers=(2, 3, 4),
    )
    if is_terminal() and entries:
        say(f"\nconvert one: momentum convert zoo:{entries[0].name}")


def datasets(url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """List the data sets that the operator registered."""
    with connected(url, key, as_json=as_json) as client:
        found = client.datasets()
    if as_json:
        print_json({"datasets": [one.raw for one in found]})
        return
    print_table(
        ("name", "workers"), [(one.name, str(one.num_workers)) for one in found], numbers=(1,)
    )
    if is_terminal():
        say(
            f"\nuse one: momentum convert mine.pt --data registered:{found[0].name}"
            if found
            else "none; a worker's folder MOMENTUM_DATASETS_DIR holds them"
        )


def limits(url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Show what may be asked for, and what is used of it."""
    with connected(url, key, as_json=as_json) as client:
        found = client.limits()
    if as_json:
        print_json(found.raw)
        return
    most = (
        "as the disk has room" if found.max_tenant_bytes is None else size(found.max_tenant_bytes)
    )
    print_pairs(
        [
            ("a request", f"{size(found.max_upload_bytes)} at most"),
            ("a file sent ahead", f"kept for {found.upload_hours:g} hours"),
            ("unfinished jobs", f"{found.used.unfinished_jobs} of {found.max_unfinished_jobs}"),
            ("stored", f"{size(found.used.stored_bytes)}{most}"),
        ]
    )


def version(url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Show the versions of this command and of the service."""
    from importlib.metadata import version as version_of

    own = version_of("momentum-zoo")
    with connected(url, key, as_json=as_json) as client:
        found = client.version()
    if as_json:
        print_json({"client": own, "service": found.raw})
        return
    print_pairs([("command", own), ("service", f"{found.version} (Python {found.python}), {url}")])
