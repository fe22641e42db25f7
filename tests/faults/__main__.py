"""The long forms of the tests of faults.

python -m tests.faults matrix [--postgres]      every row of the matrix
python -m tests.faults chaos --jobs 200 --faults 100 [--seed 7] [--postgres]
python -m tests.faults recovery                 how soon the service is itself again
python -m tests.faults soak --minutes 30        nothing grows
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from tests.conftest import LONG_VARIABLE, postgres_schema
from tests.faults import chaos as chaos_runner
from tests.faults import recovery as recovery_runner
from tests.faults import soak as soak_runner
from tests.faults.stack import STACK_VARIABLE

app = typer.Typer(add_completion=False, no_args_is_help=True)

Postgres = Annotated[bool, typer.Option(help="On PostgreSQL and Redis, in place of SQLite.")]


@app.command()
def matrix(postgres: Postgres = False) -> None:
    """Run every row of the fault matrix."""
    environment = os.environ | {LONG_VARIABLE: "1"}
    if postgres:
        environment[STACK_VARIABLE] = "postgres"
    command = [sys.executable, "-m", "pytest", "-m", "fault", "--durations=20"]
    raise typer.Exit(subprocess.run(command, env=environment, check=False).returncode)


@app.command()
def chaos(
    jobs: int = 200, faults: int = 100, seed: int | None = None, postgres: Postgres = False
) -> None:
    """Run many jobs among many faults."""
    chosen = random.SystemRandom().randrange(10**6) if seed is None else seed
    with _database(postgres) as url:
        chaos_runner.main(jobs, faults, chosen, url)


@app.command()
def recovery(kills: int = 20, jobs: int = 100) -> None:
    """Measure how soon the service is itself again."""
    raise typer.Exit(recovery_runner.main(kills, jobs))


@app.command()
def soak(minutes: float = 30.0) -> None:
    """Work for a while, and see that nothing grows."""
    raise typer.Exit(soak_runner.main(minutes))


@contextmanager
def _database(postgres: bool) -> Iterator[str | None]:
    if not postgres:
        yield None
        return
    with postgres_schema() as url:
        yield url


if __name__ == "__main__":
    app()
