"""Asking for a conversion: from a call's arguments to files sent ahead and one request."""

from __future__ import annotations

import dataclasses
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from api.client.effects import Op, Pause, Request, place
from api.client.errors import FILE_NOT_USABLE, INVALID_ARGUMENT, TIMEOUT, ApiError
from api.client.files_ahead import OnProgress, delete_upload, upload
from api.client.records import Inspection, JobRecord, read
from api.client.retrying import RetryPolicy, exchange

EXAMINATION_SECONDS = 900.0
"""The service reads the files before it answers."""

INSPECTION_SECONDS = 600.0
POLL_SECONDS = 1.0
"""Between two looks for an answer that takes longer."""

ZOO, UPLOAD = "zoo:", "upload:"
REGISTERED, SYNTHETIC = "registered:", "synthetic:"

Options = Mapping[str, Any]
"""Options by their names in docs/api.md; or one of the dataclasses of `momentum_core.config`."""

_GOAL = re.compile(r"(\d+(?:\.\d+)?) ?(%?)")


def convert(
    policy: RetryPolicy,
    source: str | Path,
    *,
    data: str | Path | None = None,
    gamma: float | Literal["auto"] | None = None,
    goal: float | str | Options | None = None,
    max_steps: int | None = None,
    refinement: Options | Literal[False] | None = None,
    conversion: Options | None = None,
    measurement: Options | None = None,
    finetuning: Options | None = None,
    task: Literal["convert", "finetune"] | None = None,
    architecture: str | None = None,
    preprocessing: Options | None = None,
    labelled: bool | None = None,
    worker: Options | None = None,
    priority: Literal["high", "normal", "low"] | None = None,
    seed: int | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
    idempotency_key: str | None = None,
    on_progress: OnProgress | None = None,
) -> Op[JobRecord]:
    """Ask for a conversion; return as soon as the job is durable.

    Files are sent ahead, go on where they stopped when the connection breaks, and are compared by
    their SHA-256. The request has an `Idempotency-Key`, so that it is never carried out twice.
    Options that are left out take the service's defaults (docs/api.md).

    Args:
        source: path of a checkpoint; or `zoo:NAME`, or `upload:ID`.
        data: path of a data set; or `upload:ID`, `registered:NAME` for one of the operator's, or
            `synthetic:COUNT` for images that are made up.
        gamma: momentum term between 0 and 1, or `auto`.
        goal: what accuracy may be lost: `0.5` in points, `"0.5%"` of the original's figure;
            `"none"` trains for the whole budget. Or `refinement.goal` itself.
        max_steps: optimizer steps at most, of the refinement, or of the task `finetune`.
        refinement: further options of the refinement; False leaves it out.
        conversion: further options of the conversion.
        measurement: options of the measurement.
        finetuning: options of the task `finetune`.
        task: `convert`, or `finetune`.
        architecture: what the checkpoint is; found from names and shapes without it.
        preprocessing: `mean` and `std`, a number for each channel, for pixels in 0..1.
        labelled: False takes the original's answers as the measure, though there are labels.
        worker: what it asks of its worker: `device` (`cpu`, `cuda`), `memory_bytes`.
        priority: which of your jobs is taken first.
        seed: of every random choice.
        name: free text to find the job by.
        tags: words to find jobs by.
        idempotency_key: of your own, to ask again later; one is made without it.
        on_progress: told while files are sent how many bytes have gone, and of how many.

    Raises:
        ApiError: a file cannot be read, or the service refuses it or an option; `code` says why.
    """
    request = options_of(
        gamma=gamma,
        goal=goal,
        max_steps=max_steps,
        refinement=refinement,
        conversion=conversion,
        measurement=measurement,
        finetuning=finetuning,
        task=task,
        architecture=architecture,
        preprocessing=preprocessing,
        worker=worker,
        priority=priority,
        seed=seed,
        name=name,
        tags=tags,
    )
    sent = yield from _send_files(policy, request, source, data, labelled, on_progress)
    asked = Request(
        method="POST",
        path="/convert",
        json=request,
        headers={"Idempotency-Key": idempotency_key or str(uuid.uuid4())},
        read_seconds=EXAMINATION_SECONDS,
    )
    try:
        answer = yield from exchange(asked, policy)
    finally:
        # The job keeps what it needs of them. With a key of the user's own they stay: the same
        # request is the same files.
        if idempotency_key is None:
            yield from _forget(policy, sent)
    return read(JobRecord, answer.json())


def inspect(
    policy: RetryPolicy,
    /,
    source: str | Path,
    *,
    data: str | Path | None = None,
    labelled: bool | None = None,
    timeout_seconds: float = INSPECTION_SECONDS,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> Op[Inspection]:
    """Ask what a conversion would do, and wait for the answer; nothing is kept.

    To send a large file only once, `upload` it, and name it `upload:ID` here and to `convert`.

    Args:
        source: path of a checkpoint; or `zoo:NAME`, or `upload:ID`.
        data: path of a data set; or `upload:ID`, `registered:NAME` for one of the operator's, or
            `synthetic:COUNT` for images that are made up.
        labelled: False takes the original's answers as the measure, though there are labels.
        timeout_seconds: how long to wait at most.
        on_progress: told while files are sent how many bytes have gone, and of how many.
        options: what `convert` takes besides, from `gamma` to `tags`.

    Raises:
        ApiError: a file cannot be read, the service refuses it or an option, or `timeout`.
    """
    ends_at = time.monotonic() + timeout_seconds
    request = options_of(**options)
    sent = yield from _send_files(policy, request, source, data, labelled, on_progress)
    asked = Request(method="POST", path="/inspect", json=request, read_seconds=EXAMINATION_SECONDS)
    try:
        answer = yield from exchange(asked, policy)
    finally:
        yield from _forget(policy, sent)
    found = read(Inspection, answer.json())
    while found.state == "waiting":
        if time.monotonic() >= ends_at:
            raise ApiError(TIMEOUT, f"there is no answer after {timeout_seconds:g} seconds")
        yield Pause(POLL_SECONDS)
        again = Request(method="GET", path=place("inspections", found.id))
        found = read(Inspection, (yield from exchange(again, policy)).json())
    return found


def options_of(
    *,
    gamma: float | Literal["auto"] | None = None,
    goal: float | str | Options | None = None,
    max_steps: int | None = None,
    refinement: Options | Literal[False] | None = None,
    conversion: Options | None = None,
    measurement: Options | None = None,
    finetuning: Options | None = None,
    task: str | None = None,
    architecture: str | None = None,
    preprocessing: Options | None = None,
    worker: Options | None = None,
    priority: str | None = None,
    seed: int | None = None,
    name: str | None = None,
    tags: Iterable[str] = (),
) -> dict[str, Any]:
    """Return the request that a call of `convert` means, as JSON values, without its files.

    Raises:
        ApiError: `invalid_argument`.
    """
    tuned = _given(finetuning)
    if task == "finetune":
        tuned |= _known(max_steps=max_steps)
        max_steps = None
    sections = {
        "conversion": _given(conversion) | _known(gamma=gamma),
        "measurement": _given(measurement),
        "finetuning": tuned,
        "preprocessing": _given(preprocessing),
        "worker": _given(worker),
        "tags": list(tags),
    }
    request = {name: each for name, each in sections.items() if each}
    request |= _known(task=task, architecture=architecture, priority=priority, seed=seed, name=name)
    if refinement is False:
        if goal is not None or max_steps is not None:
            raise ApiError(
                INVALID_ARGUMENT,
                "refinement is left out, so there is neither a goal nor a number of steps; leave "
                "those out, too",
            )
        return request | {"refinement": None}
    refined = _given(refinement) | _known(max_steps=max_steps)
    if goal is not None:
        wanted = _goal(goal)
        refined["goal"] = wanted and (refined.get("goal") or {}) | wanted
    return request | ({"refinement": refined} if refined else {})


def _send_files(
    policy: RetryPolicy,
    request: dict[str, Any],
    source: str | Path,
    data: str | Path | None,
    labelled: bool | None,
    on_progress: OnProgress | None,
) -> Op[list[str]]:
    """Send the files of this machine ahead, name them in the request; return their ids."""
    sent: list[str] = []
    request["source"] = yield from _place(policy, source, "source", sent, on_progress)
    if data is not None:
        request["data"] = yield from _place(policy, data, "data", sent, on_progress)
    if labelled is not None:
        request["data"] = request.get("data", {}) | {"labelled": labelled}
    return sent


def _place(
    policy: RetryPolicy,
    where: str | Path,
    part: Literal["source", "data"],
    sent: list[str],
    on_progress: OnProgress | None,
) -> Op[dict[str, Any]]:
    """Return what the request says of a file; it is sent ahead if it is one of this machine."""
    named = str(where)
    if named.startswith(UPLOAD):
        return {"upload": named.removeprefix(UPLOAD)}
    if part == "source" and named.startswith(ZOO):
        return {"zoo": named.removeprefix(ZOO)}
    if part == "data" and (data := data_by_name(named)) is not None:
        return data
    path = Path(where).expanduser()
    if not path.is_file():
        raise missing_file(named, part)
    file = yield from upload(policy, path, on_progress=on_progress)
    sent.append(file.id)
    return {"upload": file.id}


def data_by_name(named: str) -> dict[str, Any] | None:
    """Return what a request says of data that are no file, or None if they are one.

    Args:
        named: as the user named them.

    Raises:
        ApiError: `invalid_argument`, for a number of images that is none.
    """
    if named.startswith(REGISTERED):
        return {"registered": named.removeprefix(REGISTERED)}
    if not named.startswith(SYNTHETIC):
        return None
    count = named.removeprefix(SYNTHETIC)
    if not count.isdecimal():
        raise ApiError(
            INVALID_ARGUMENT, f"data is {named!r}; write synthetic: and a number of images"
        )
    return {"synthetic": int(count)}


def missing_file(named: str, part: str) -> ApiError:
    """Make the error of what should be a file, and is none.

    Args:
        named: as the user named it.
        part: `source` or `data`.
    """
    if Path(named).expanduser().is_dir():
        remedy = (
            f"pack its class folders: tar -cf data.tar -C {named} ."
            if part == "data"
            else "name the checkpoint in it"
        )
        return ApiError(FILE_NOT_USABLE, f"{named!r} is a folder; {remedy}")
    hint = f"; for an entry of the zoo write zoo:{named}" if part == "source" else ""
    return ApiError(FILE_NOT_USABLE, f"there is no file {named!r}{hint}")


def _forget(policy: RetryPolicy, sent: list[str]) -> Op[None]:
    for upload_id in sent:
        try:
            yield from delete_upload(policy, upload_id)
        except ApiError:
            return  # they expire by themselves


def _goal(goal: float | str | Options) -> dict[str, Any] | None:
    """Return `refinement.goal`."""
    if isinstance(goal, str):
        if goal == "none":
            return None
        found = _GOAL.fullmatch(goal.strip())
        if found is None:
            raise ApiError(
                INVALID_ARGUMENT,
                f"the goal is {goal!r}; write what may be lost: 0.5 in points, 0.5% of the "
                "original's figure, or none",
            )
        criterion = "relative" if found[2] else "absolute"
        return {"criterion": criterion, "tolerable_loss": float(found[1])}
    if isinstance(goal, int | float):
        return {"criterion": "absolute", "tolerable_loss": float(goal)}
    return _given(goal)


def _given(options: Options | None) -> dict[str, Any]:
    if options is None:
        return {}
    if dataclasses.is_dataclass(options) and not isinstance(options, type):
        return dataclasses.asdict(options)
    return dict(options)


def _known(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
