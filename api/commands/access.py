"""From a command's options to a client, and from what goes wrong to a line and an exit code."""

from __future__ import annotations

import json
import os
import string
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import typer

from api.commands.exit_codes import ExitCode, exit_code_of

if TYPE_CHECKING:
    from api.client import ApiError, Client, Job

QUICK_TRIES = 3
"""Of commands that somebody looks at: they say within two seconds that nothing answers."""

PATIENT_TRIES = 8
"""Of commands that transfer or wait: they outlast a restart of the service."""

_ID_CHARACTERS = 32
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@contextmanager
def connected(
    url: str, key: str | None, *, as_json: bool = False, max_tries: int = QUICK_TRIES
) -> Iterator[Client]:
    """Yield a client; what goes wrong meanwhile ends the command.

    Args:
        url: where the service answers.
        key: an API key; without it, the one that a service of this machine wrote, if it did.
        as_json: whether errors are JSON, too.
        max_tries: of each request.
    """
    from api.client import Client, RetryPolicy

    policy = RetryPolicy(max_tries=max_tries)
    client = Client(url, key=key or local_key(url), policy=policy)
    with ending_well(as_json=as_json), client:
        yield client


@contextmanager
def ending_well(*, as_json: bool = False) -> Iterator[None]:
    """Say what went wrong in a line (in JSON, if asked), and end with its exit code."""
    from api.client import ApiError

    try:
        yield
    except ApiError as error:
        end(error, as_json=as_json)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def end(error: ApiError, *, as_json: bool) -> NoReturn:
    """End the command because of an error."""
    if as_json:
        sys.stderr.write(json.dumps({"error": error.to_json()}) + "\n")
    else:
        # Whoever runs the service finds it in its log under this name.
        is_theirs = error.request_id is not None and (error.status or 0) >= 500
        name = f", request {error.request_id}" if is_theirs else ""
        sys.stderr.write(f"error: {error.detail} [{error.code}{name}]\n")
    raise typer.Exit(exit_code_of(error))


def local_key(url: str) -> str | None:
    """Return the first key of a service of this machine, if it wrote one that may be read.

    It is for this machine alone: no other address ever gets it.
    """
    if urlsplit(url).hostname not in LOCAL_HOSTS:
        return None
    folder = Path(os.environ.get("MOMENTUM_DATA_DIR") or ".momentum").expanduser()
    try:
        return (folder / "first-key").read_text().strip() or None
    except OSError:
        return None


def find_job(client: Client, wanted: str | None) -> Job:
    """Return the job that is meant.

    Args:
        client: whom to ask.
        wanted: an id, how one begins, or a name; None for the newest job.

    Raises:
        ApiError: there is none, or there are several.
    """
    from api.client import ApiError

    if wanted is None:
        for job in client.jobs(limit=1):
            return client.job(job.id)
        raise ApiError("job_not_found", "there are no jobs yet; momentum convert makes one")
    if len(wanted) == _ID_CHARACTERS and set(wanted.lower()) <= set(string.hexdigits):
        return client.job(wanted.lower())
    candidates = list(client.jobs(text=wanted, limit=200)) if wanted else []
    found = [job for job in candidates if job.id.startswith(wanted.lower())]
    found = found or [job for job in candidates if job.record.name == wanted]
    if len(found) == 1:
        return client.job(found[0].id)
    if not found:
        raise ApiError(
            "job_not_found",
            f"there is no job {wanted!r}; momentum jobs lists them",
            status=404,
        )
    ids = ", ".join(job.id[:12] for job in found[:5])
    raise ApiError(
        "ambiguous_job", f"{len(found)} jobs are meant by {wanted!r} ({ids} ...); give more of it"
    )
