"""`momentum report` and `momentum predict`: without a service, in a process that imports torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

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
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
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
        as_json=as_json,
    )


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
