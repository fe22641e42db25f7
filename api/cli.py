"""The command `momentum`: a light shell that never imports torch."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import httpx
import typer
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from api.demo import run_demo
from api.supervisor import LocalService, ServiceError
from worker.contract.database import open_database
from worker.contract.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder that holds everything the service writes; MOMENTUM_DATA_DIR."),
]

Model = Annotated[
    str,
    typer.Argument(help="A checkpoint file; or a zoo entry or an architecture (random weights)."),
]
Gamma = Annotated[float, typer.Option(help="Momentum term between 0 and 1.")]
BatchSize = Annotated[int, typer.Option(help="Images in the step.", min=1, max=4096)]
ImageSize = Annotated[
    int | None, typer.Option(help="Side of the images; else the architecture's.", min=8, max=2048)
]
OptimizerName = Annotated[str, typer.Option(help="sgd, sgd_momentum or adam.")]
_MOST_GIB = 2**20


@app.callback()
def main() -> None:
    """Convert pretrained residual networks to Momentum ResNets, and refine them."""


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    data_dir: DataDir = None,
) -> None:
    """Run broker, worker and API on this machine until Ctrl-C.

    With MOMENTUM_BROKER_URL or MOMENTUM_DATABASE_URL set, those are used instead of the embedded
    ones.
    """
    stopped = _stop_on_signals()
    with (
        _errors_in_one_line(),
        LocalService(_settings(data_dir), host=host, port=port, stopped=stopped) as service,
    ):
        typer.echo(f"Momentum Zoo is ready: {service.url}  (API: {service.url}/docs)")
        typer.echo(f"Logs: {service.logs}  Stop with Ctrl-C.")
        service.watch(stopped, typer.echo)
        typer.echo("Stopping ...")


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option(help="Folder for the downloaded weights and report.")
    ] = Path(".momentum/demo"),
) -> None:
    """Convert the shipped network through a service of its own, and show what came back."""
    with _errors_in_one_line():
        succeeded = run_demo(output, say=typer.echo)
    raise typer.Exit(0 if succeeded else 1)


@app.command()
def report(
    model: Model,
    output: Annotated[Path, typer.Option(help="Folder for page, JSON and CSV.")] = Path("report"),
    gamma: Gamma = 0.5,
    batch_size: BatchSize = 8,
    image_size: ImageSize = None,
    optimizer: OptimizerName = "sgd_momentum",
    repeats: Annotated[int, typer.Option(help="Timed repetitions.", min=1, max=100)] = 5,
    rivals: Annotated[bool, typer.Option(help="Measure checkpointing beside it.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
) -> None:
    """Measure a training step of a network by each method, and write the memory report."""
    _in_torch(
        command="report",
        model=model,
        output=str(output),
        gamma=gamma,
        batch_size=batch_size,
        image_size=image_size,
        optimizer=optimizer,
        repeats=repeats,
        rivals=rivals,
        device=device,
    )


@app.command()
def predict(
    model: Model,
    gpu: Annotated[
        list[str] | None,
        typer.Option(help="Memory of a GPU, such as 24GiB; may be repeated. Else the usual sizes."),
    ] = None,
    gamma: Gamma = 0.5,
    batch_size: BatchSize = 8,
    image_size: ImageSize = None,
    optimizer: OptimizerName = "sgd_momentum",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict GPU memory and the largest batches of a network, without a GPU."""
    sizes = [_gibibytes(one) for one in gpu or ()]
    _in_torch(
        command="predict",
        model=model,
        gpus_gib=sizes,
        gamma=gamma,
        batch_size=batch_size,
        image_size=image_size,
        optimizer=optimizer,
        dtype=dtype,
        as_json=as_json,
    )


@app.command()
def migrate(data_dir: DataDir = None) -> None:
    """Bring the job record's schema up to date (every process does so when it starts)."""
    with _errors_in_one_line():
        open_database(_settings(data_dir).database).dispose()
    typer.echo("the job record is up to date")


def _in_torch(**order: Any) -> NoReturn:
    """Have a process that may import torch carry out an order; end with its exit code."""
    # -P: where the user stands there may be folders of the same names as our packages.
    command = [sys.executable, "-P", "-m", "worker.memory_command", json.dumps(order)]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


def _gibibytes(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(?:GiB|G)?", text, re.IGNORECASE)
    if found is None or not 0 < float(found[1]) <= _MOST_GIB:
        raise typer.BadParameter(f"{text!r} is no memory of a GPU; write 24GiB, say")
    return float(found[1])


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """Say what a user can mend in one line, and end with exit code 1."""
    try:
        yield
    except ValidationError as error:
        wrong = ", ".join(f"MOMENTUM_{one['loc'][0]}".upper() for one in error.errors())
        _end(f"{wrong} cannot be used: {error.errors()[0]['msg']}; see docs/settings.md")
    except SQLAlchemyError as error:
        _end(f"the database cannot be used ({type(error).__name__}); look at MOMENTUM_DATABASE_URL")
    except (ServiceError, OSError, httpx.HTTPError) as error:
        _end(str(error))


def _end(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)


def _settings(data_dir: Path | None) -> Settings:
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
