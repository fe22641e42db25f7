"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_URL = "http://127.0.0.1:8000"

Url = Annotated[
    str, typer.Option("--url", envvar="MOMENTUM_URL", help="Where the service answers.")
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="MOMENTUM_KEY",
        help="API key; others on this machine see it here, and not in the variable.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", min=0, help="Seconds to wait at most; the job itself goes on."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder that holds everything the service writes; MOMENTUM_DATA_DIR."),
]
OneJob = Annotated[str, typer.Argument(metavar="JOB", help="Its id, how that begins, or its name.")]
NewestOrJob = Annotated[
    str | None,
    typer.Argument(
        metavar="[JOB]", help="Its id, how that begins, or its name; else the newest job."
    ),
]
SomeJobs = Annotated[
    list[str], typer.Argument(metavar="JOB...", help="Their ids, how these begin, or their names.")
]
