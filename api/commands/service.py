"""Commands that run the service, or a part of it, on this machine."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from api.commands.options import DataDir

if TYPE_CHECKING:
    from worker.contract.settings import Settings


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    data_dir: DataDir = None,
) -> None:
    """Run broker, worker and API on this machine until Ctrl-C.

    With MOMENTUM_BROKER_URL or MOMENTUM_DATABASE_URL set, those are used instead of the embedded
    ones.
    """
    from api.supervisor import LocalService

    stopped = _stop_on_signals()
    with (
        _errors_in_one_line(),
        LocalService(_settings(data_dir), host=host, port=port, stopped=stopped) as service,
    ):
        typer.echo(f"Momentum Zoo is ready: {service.url}  (API: {service.url}/docs)")
        typer.echo(f"Logs: {service.logs}  Stop with Ctrl-C.")
        service.watch(stopped, typer.echo)
        typer.echo("Stopping ...")


def demo(
    output: Annotated[
        Path, typer.Option(help="Folder for the downloaded weights and report.")
    ] = Path(".momentum/demo"),
) -> None:
    """Convert the shipped network through a service of its own, and show what came back."""
    from api.demo import run_demo

    with _errors_in_one_line():
        succeeded = run_demo(output, say=typer.echo)
    raise typer.Exit(0 if succeeded else 1)


def migrate(data_dir: DataDir = None) -> None:
    """Bring the job record's schema up to date (every process does so when it starts)."""
    from worker.contract.database import open_database

    with _errors_in_one_line():
        open_database(_settings(data_dir).database).dispose()
    typer.echo("the job record is up to date")


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """Say what a user can mend in one line, and end with exit code 1."""
    import httpx
    from pydantic import ValidationError
    from sqlalchemy.exc import SQLAlchemyError

    from api.supervisor import ServiceError
    from momentum_core.errors import MomentumError

    try:
        yield
    except ValidationError as error:
        wrong = ", ".join(f"MOMENTUM_{one['loc'][0]}".upper() for one in error.errors())
        _end(f"{wrong} cannot be used: {error.errors()[0]['msg']}; see docs/settings.md")
    except SQLAlchemyError as error:
        _end(f"the database cannot be used ({type(error).__name__}); look at MOMENTUM_DATABASE_URL")
    except (ServiceError, MomentumError, ValueError, OSError, httpx.HTTPError) as error:
        _end(str(error))


def _end(message: str) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    raise typer.Exit(1)


def _settings(data_dir: Path | None) -> Settings:
    from worker.contract.settings import Settings

    return Settings() if data_dir is None else Settings(data_dir=data_dir)


def _stop_on_signals() -> threading.Event:
    stopped = threading.Event()

    def stop(_: int, __: FrameType | None) -> None:
        if stopped.is_set():
            os._exit(130)  # the second Ctrl-C: the kernel ends the children
        stopped.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    return stopped
