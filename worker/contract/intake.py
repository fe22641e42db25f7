"""Inspection of what strangers sent, in a child process that can hurt nobody.

The child gets the file as an open descriptor, walls (`sandbox`), a clock, and an empty environment.
Whatever goes wrong in it is a refusal of the file: there is no second way to read it. Each file
gets a child of its own, so that nothing of one file can reach the next.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from momentum_core.checkpoint import (
    DEFAULT_LIMITS,
    CheckpointFacts,
    DatasetFacts,
    LibrarySignature,
    Limits,
)
from momentum_core.checkpoint.limits import MEBIBYTE
from momentum_core.durable_files import new_file
from momentum_core.errors import ArchitectureError, CheckpointError, DataError, MomentumError
from momentum_core.image_archive import ImageForm
from worker.contract.inspectors import HostLostError, Inspectors
from worker.contract.sandbox import Allowance, SandboxError, SandboxReport

__all__ = [
    "CheckpointFacts",
    "DatasetFacts",
    "SandboxError",
    "inspect_checkpoint",
    "inspect_dataset",
    "sandbox_report",
]

_USUAL_FORM = ImageForm()

BASE_SECONDS = 15.0
BYTES_PER_SECOND = 20 * MEBIBYTE
"""A child gets 15 s, and one more for every 20 MiB of the file."""

IMAGE_BYTES_PER_SECOND = 4 * MEBIBYTE
"""Images have to be decoded: a data set gives one second more for every 4 MiB."""

COMMAND = (sys.executable, "-P", "-s", "-B", "-m", "worker.contract.inspector_host")
"""-P: no module is looked for in the current folder; -s: nor in the user's; -B: none is written."""

_ERRORS: dict[str, type[MomentumError]] = {
    kind.__name__: kind for kind in (CheckpointError, ArchitectureError, DataError)
}
_MAX_MESSAGE = 10_000
_OUTPUT_SLACK_BYTES = 16 * MEBIBYTE

_shared: Inspectors | None = None
_is_starting = threading.Lock()


def inspect_checkpoint(
    source: Path,
    target: Path,
    *,
    architecture: str | None = None,
    signature: LibrarySignature | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> CheckpointFacts:
    """Check a checkpoint and write its weights as canonical safetensors.

    Safe to call from several threads at once. `target` appears complete or not at all.

    Args:
        source: the file as it was sent; its name does not matter.
        target: the canonical file; its folder exists.
        architecture: what the weights are said to be; None finds it.
        signature: of that architecture, where it is a library's.
        limits: how much the file may ask for.

    Raises:
        CheckpointError: the file is refused; `code` says why.
        ArchitectureError: the weights do not fit `architecture`, or none that is known.
        SandboxError: this machine cannot inspect files safely.
    """
    with _open_source(source) as descriptor, new_file(target) as output:
        num_bytes = _checked_size(descriptor, limits, CheckpointError)
        request = {
            "task": "checkpoint",
            "source": descriptor,
            "target": output,
            "architecture": architecture,
            "signature": signature and signature.to_json(),
        }
        answer = _ask_child(
            request,
            limits=limits,
            seconds=BASE_SECONDS + num_bytes / BYTES_PER_SECOND,
            file_bytes=num_bytes,
            output_bytes=2 * num_bytes + _OUTPUT_SLACK_BYTES,
            refusal=CheckpointError,
        )
        try:
            return CheckpointFacts.from_json(answer)
        except (KeyError, TypeError):
            raise _crashed(CheckpointError) from None


def inspect_dataset(
    source: Path,
    target: Path,
    *,
    num_classes: int | None = None,
    form: ImageForm = _USUAL_FORM,
    limits: Limits = DEFAULT_LIMITS,
) -> DatasetFacts:
    """Check a data set, and write the images of an archive as a canonical `.npz`.

    An `.npz` that was sent stays as it is (`facts.format` is then `npz`, and there is no `target`).

    Args:
        source: the file as it was sent: an `.npz`, or an archive of class folders.
        target: the canonical file of an archive; its folder exists.
        num_classes: outputs of the network; labels must be below, class folders as many.
        form: what the images of an archive become.
        limits: how much the file may ask for.

    Raises:
        DataError: the file is refused; `code` says why.
        SandboxError: this machine cannot inspect files safely.
    """
    with _open_source(source) as descriptor, new_file(target) as output:
        num_bytes = _checked_size(descriptor, limits, DataError)
        request = {
            "task": "dataset",
            "source": descriptor,
            "target": output,
            "num_classes": num_classes,
            "form": asdict(form),
        }
        answer = _ask_child(
            request,
            limits=limits,
            seconds=BASE_SECONDS + num_bytes / IMAGE_BYTES_PER_SECOND,
            file_bytes=num_bytes,
            output_bytes=limits.max_array_bytes + _OUTPUT_SLACK_BYTES,
            refusal=DataError,
        )
        try:
            facts = DatasetFacts.from_json(answer)
        except (KeyError, TypeError, ValueError):
            raise _crashed(DataError) from None
    if facts.format == "npz":
        target.unlink()
    return facts


def sandbox_report() -> SandboxReport:
    """Return which walls an inspector has on this machine, found out by putting them up.

    Raises:
        SandboxError: one that this platform should have cannot be put up.
    """
    answer = _ask_child(
        {"task": "sandbox"},
        limits=DEFAULT_LIMITS,
        seconds=BASE_SECONDS,
        file_bytes=0,
        output_bytes=_OUTPUT_SLACK_BYTES,
        refusal=CheckpointError,
    )
    return SandboxReport(tuple(answer["active"]), answer["missing"])


def _checked_size(descriptor: int, limits: Limits, refusal: type[MomentumError]) -> int:
    num_bytes = os.fstat(descriptor).st_size
    if num_bytes > limits.max_file_bytes:
        raise refusal(
            f"the file has {num_bytes} bytes; the limit is {limits.max_file_bytes}",
            code="upload_too_large",
        )
    return num_bytes


@contextmanager
def _open_source(source: Path) -> Iterator[int]:
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _ask_child(
    request: dict[str, Any],
    *,
    limits: Limits,
    seconds: float,
    file_bytes: int,
    output_bytes: int,
    refusal: type[MomentumError],
) -> dict[str, Any]:
    """Run the child on one request; return its facts or raise what it answered."""
    allowance = Allowance(
        file_bytes=file_bytes, output_bytes=output_bytes, cpu_seconds=math.ceil(seconds)
    )
    line = json.dumps(request | {"limits": asdict(limits), "allowance": asdict(allowance)})
    files = [request[name] for name in ("source", "target") if name in request]
    try:
        ended = _inspectors().ask(line.encode() + b"\n", files, seconds=seconds)
    except TimeoutError:
        raise refusal(
            "reading the file takes longer than it may; send fewer tensors or images",
            code="too_complex",
        ) from None
    except OverflowError:
        raise _crashed(refusal) from None
    except HostLostError as error:
        raise SandboxError(str(error)) from error
    return _facts(ended.answer, ended.exit_code, refusal)


def _inspectors() -> Inspectors:
    """Return this process's inspectors; a forked process gets its own."""
    global _shared
    with _is_starting:
        if _shared is not None:
            is_ours = _shared.process_id == os.getpid() and _shared.command == COMMAND
            if is_ours and _shared.is_alive:
                return _shared
            _shared.close()
        _shared = Inspectors(COMMAND)
        atexit.register(_shared.close)
        return _shared


def _facts(answer: bytes, return_code: int, refusal: type[MomentumError]) -> dict[str, Any]:
    try:
        parsed = json.loads(answer)
    except (ValueError, RecursionError):
        parsed = None
    if return_code in (-signal.SIGXCPU, -signal.SIGKILL):
        raise refusal("reading the file takes more than it may", code="too_complex")
    error = parsed.get("error") if isinstance(parsed, dict) else None
    if return_code == 0 and isinstance(error, dict):
        _raise_answered(error, refusal)
    facts = parsed.get("facts") if isinstance(parsed, dict) else None
    if return_code != 0 or not isinstance(facts, dict):
        raise _crashed(refusal)
    return facts


def _raise_answered(error: dict[str, Any], refusal: type[MomentumError]) -> NoReturn:
    kind, message = error.get("kind"), str(error.get("message"))[:_MAX_MESSAGE]
    if kind == "SandboxError":
        raise SandboxError(message)
    if kind == "OSError" and isinstance(error.get("code"), int):
        raise OSError(error["code"], message)
    if kind in _ERRORS:
        raise _ERRORS[kind](message, code=str(error.get("code")))
    raise _crashed(refusal)


def _crashed(refusal: type[MomentumError]) -> MomentumError:
    return refusal(
        "the file makes its inspection fail; save the weights with "
        "torch.save(model.state_dict(), path) or with safetensors, the data with numpy.savez",
        code="inspection_crashed",
    )
