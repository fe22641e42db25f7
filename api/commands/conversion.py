"""`momentum convert` and `momentum inspect`: what is asked for, and of whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.commands.access import PATIENT_TRIES, connected, ending_well
from api.commands.exit_codes import ExitCode
from api.commands.jobs import hand_over
from api.commands.options import DEFAULT_URL, Json, Key, Timeout, Url
from api.commands.output import is_terminal, print_json
from api.commands.summary import print_inspection

if TYPE_CHECKING:
    from api.client import Client, Job

_SECTIONS = ("conversion", "measurement", "refinement", "finetuning", "worker")


Source = Annotated[
    str,
    typer.Argument(
        metavar="FILE|zoo:NAME", help="A checkpoint, or an entry of the zoo (momentum zoo)."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        help="An .npz or an archive of images; or registered:NAME (momentum datasets), or "
        "synthetic:COUNT to make some up."
    ),
]
Gamma = Annotated[str | None, typer.Option(help="Momentum term between 0 and 1, or auto.")]
Goal = Annotated[
    str | None,
    typer.Option(
        help="What accuracy may be lost: 0.5 in points, 0.5% of the original's figure; none "
        "trains for the whole budget."
    ),
]
MaxSteps = Annotated[int | None, typer.Option(min=1, help="Optimizer steps at most.")]
Refine = Annotated[
    bool, typer.Option("--refine/--no-refine", help="Train until the accuracy is back.")
]
Finetune = Annotated[
    bool, typer.Option("--finetune", help="Train a new head for the classes of the data.")
]
Labelled = Annotated[
    bool, typer.Option("--labelled/--unlabelled", help="Whether the data's labels count.")
]
Architecture = Annotated[str | None, typer.Option(help="What the checkpoint is; else found out.")]
Mean = Annotated[
    str | None, typer.Option(help="Of each channel, for pixels in 0..1: 0.485,0.456,0.406.")
]
Std = Annotated[str | None, typer.Option(help="Of each channel: 0.229,0.224,0.225.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any option of docs/api.md; may be repeated."),
]


def convert(
    source: Source,
    data: Data = None,
    gamma: Gamma = None,
    goal: Goal = None,
    max_steps: MaxSteps = None,
    refine: Refine = True,
    finetune: Finetune = False,
    labelled: Labelled = True,
    architecture: Architecture = None,
    mean: Mean = None,
    std: Std = None,
    option: Set = None,
    priority: Annotated[
        str | None, typer.Option(help="Which of your jobs is taken first: high, normal or low.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of every random choice.")] = None,
    name: Annotated[str | None, typer.Option(help="Free text to find the job by.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="A word to find the job by; may be repeated.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job to its end.")] = False,
    timeout: Timeout = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Wait, and put weights and report into this folder."),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Do it here and now, without a service.")
    ] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Convert a checkpoint or a zoo entry; print the job's id, or follow it to its end."""
    asked = _asked(option, gamma, goal, max_steps, refine, finetune, architecture, mean, std)
    asked |= {"priority": priority, "seed": seed, "name": name, "tags": tag or ()}
    if local:
        from api.commands.local_conversion import convert_here

        with ending_well(as_json=as_json):
            convert_here(source, data, asked, labelled=labelled, output=output, as_json=as_json)
        return
    with connected(url, key, as_json=as_json, max_tries=PATIENT_TRIES) as client:
        asked["labelled"] = None if labelled else False
        job = _send(client, source, data, asked, is_quiet=as_json)
        hand_over(
            job,
            wait=wait or output is not None,
            timeout_seconds=timeout,
            as_json=as_json,
            output=output,
        )


def inspect(
    source: Source,
    data: Data = None,
    gamma: Gamma = None,
    goal: Goal = None,
    max_steps: MaxSteps = None,
    refine: Refine = True,
    finetune: Finetune = False,
    labelled: Labelled = True,
    architecture: Architecture = None,
    mean: Mean = None,
    std: Std = None,
    option: Set = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Say what a conversion would do: plan, reasons, memory, time. Nothing is kept."""
    asked = _asked(option, gamma, goal, max_steps, refine, finetune, architecture, mean, std)
    with connected(url, key, as_json=as_json, max_tries=PATIENT_TRIES) as client:
        found = client.inspect(source, data=data, labelled=None if labelled else False, **asked)
    if as_json:
        print_json(found.raw)
    else:
        print_inspection(found)
    raise typer.Exit(ExitCode.OK if found.error is None else ExitCode.JOB_FAILED)


def _asked(
    option: list[str] | None,
    gamma: str | None,
    goal: str | None,
    max_steps: int | None,
    refine: bool,
    finetune: bool,
    architecture: str | None,
    mean: str | None,
    std: str | None,
) -> dict[str, Any]:
    """Return what the options mean, as arguments of the client's `convert`."""
    sections = _sections(option or ())
    return {
        "gamma": _gamma(gamma),
        "goal": goal,
        "max_steps": max_steps,
        "refinement": (sections["refinement"] or None) if refine else False,
        "conversion": sections["conversion"],
        "measurement": sections["measurement"],
        "finetuning": sections["finetuning"],
        "worker": sections["worker"],
        "task": "finetune" if finetune else None,
        "architecture": architecture,
        "preprocessing": _preprocessing(mean, std),
    }


def _send(
    client: Client, source: str, data: str | None, asked: dict[str, Any], *, is_quiet: bool
) -> Job:
    has_files = any(one is not None and Path(one).expanduser().is_file() for one in (source, data))
    if is_quiet or not is_terminal() or not has_files:
        return client.convert(source, data=data, **asked)
    from api.commands.transfer_bars import bars

    with bars() as show:
        # A file is known by its size here: they are sent one after the other.
        return client.convert(
            source,
            data=data,
            on_progress=lambda sent, total: show(f"sending {total:,} bytes", sent, total),
            **asked,
        )


def _sections(options: list[str] | tuple[()]) -> dict[str, dict[str, Any]]:
    """Return what `--set` says, as the sections of a request."""
    sections: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
    for one in options:
        name, equals, text = one.partition("=")
        first, *rest = name.strip().split(".")
        if not equals or first not in _SECTIONS or not all(rest) or not rest:
            raise typer.BadParameter(
                f"--set takes SECTION.NAME=VALUE with a section of {', '.join(_SECTIONS)}, got "
                f"{one!r}; --set measurement.batch_size=64, say"
            )
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        place = sections[first]
        for step in rest[:-1]:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise typer.BadParameter(f"--set {one!r} contradicts another --set")
        place[rest[-1]] = value
    return sections


def _gamma(text: str | None) -> float | str | None:
    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"--gamma is {text!r}; give a number between 0 and 1, or auto"
        ) from None


def _preprocessing(mean: str | None, std: str | None) -> dict[str, list[float]] | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise typer.BadParameter("--mean and --std go together; give both")
    return {"mean": _numbers("--mean", mean), "std": _numbers("--std", std)}


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(one) for one in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{name} is {text!r}; give a number for each channel, such as 0.485,0.456,0.406"
        ) from None
