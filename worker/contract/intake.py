"""Inspection of what strangers sent, in a child process that can hurt nobody.

The child gets the file as an open descriptor, walls (`sandbox`), a clock, and an empty environment.
Whatever goes wrong in it is a refusal of the file: there is no second way to read it. Each file
gets a child of its own, so that nothing of one file can reach the next.
"""

from __future__ import annotations

import json
import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import momentum_core
from momentum_core.checkpoint import DEFAULT_LIMITS, CheckpointFacts, DatasetFacts, Limits
from momentum_core.checkpoint.limits import MEBIBYTE
from momentum_core.errors import ArchitectureError, CheckpointError, DataError, MomentumError
from worker.contract.durable_files import new_file
from worker.contract.sandbox import Allowance, SandboxError, SandboxReport

__all__ = [
    "CheckpointFacts",
    "DatasetFacts",
    "SandboxError",
    "inspect_checkpoint",
    "inspect_dataset",
    "sandbox_report",
]

BASE_SECONDS = 15.0
BYTES_PER_SECOND = 20 * MEBIBYTE
"""A child gets 15 s, and one more for every 20 MiB of the file."""

IMAGE_BYTES_PER_SECOND = 4 * MEBIBYTE
"""Images have to be decoded: a data set gives one second more for every 4 MiB."""

COMMAND = (sys.executable, "-P", "-s", "-B", "-m", "worker.contract.inspector")
"""-P: no module is looked for in the current folder; -s: nor in the user's; -B: none is written."""

_ERRORS: dict[str, type[MomentumError]] = {
    kind.__name__: kind for kind in (CheckpointError, ArchitectureError, DataError)
}
_MAX_ANSWER_BYTES = 4 * MEBIBYTE
_MAX_MESSAGE = 10_000
_OUTPUT_SLACK_BYTES = 16 * MEBIBYTE


def inspect_checkpoint(
    source: Path,
    target: Path,
    *,
    architecture: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> CheckpointFacts:
    """Check a checkpoint and write its weights as canonical safetensors.

    Safe to call from several threads at once. `target` appears complete or not at all.

    Args:
        source: the file as it was sent; its name does not matter.
        target: the canonical file; its folder exists.
        architecture: what the weights are said to be; None finds it.
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
    image_side: int = 224,
    resize_side: int | None = None,
    channels: int = 3,
    limits: Limits = DEFAULT_LIMITS,
) -> DatasetFacts:
    """Check a data set, and write the images of an archive as a canonical `.npz`.

    An `.npz` that was sent stays as it is (`facts.format` is then `npz`, and there is no `target`).

    Args:
        source: the file as it was sent: an `.npz`, or an archive of class folders.
        target: the canonical file of an archive; its folder exists.
        num_classes: outputs of the network; labels must be below, class folders as many.
        image_side: height and width that the images of an archive get.
        resize_side: their shorter side before the centre is cut out; `image_side` if None.
        channels: 1 for grey, 3 for colour.
        limits: how much the file may ask for.

    Raises:
        DataError: the file is refused; `code` says why.
        SandboxError: this machine cannot inspect files safely.
    """
    with _open_source(source) as descriptor, new_file(target) as output:
        num_bytes = _checked_size(descriptor, limits, DataError)
        form = {
            "side": image_side,
            "resize_side": resize_side or image_side,
            "channels": channels,
        }
        request = {
            "task": "dataset",
            "source": descriptor,
            "target": output,
            "num_classes": num_classes,
            "form": form,
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
    line = json.dumps(
        request | {"parent": os.getpid(), "limits": asdict(limits), "allowance": asdict(allowance)}
    )
    child = _start_child(tuple(request[name] for name in ("source", "target") if name in request))
    try:
        answer = _converse(child, line.encode() + b"\n", deadline=time.monotonic() + seconds)
    except TimeoutError:
        raise refusal(
            "reading the file takes longer than it may; send fewer tensors or images",
            code="too_complex",
        ) from None
    except OverflowError:
        raise _crashed(refusal) from None
    finally:
        _end_child(child)
    return _facts(answer, child.returncode, refusal)


def _start_child(descriptors: tuple[int, ...]) -> subprocess.Popen[bytes]:
    root = str(Path(momentum_core.__file__).resolve().parents[1])
    return subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PYTHONPATH": root, "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"}
        | {"OPENBLAS_NUM_THREADS": "1"},
        cwd="/",
        pass_fds=descriptors,
        start_new_session=True,
    )


def _converse(child: subprocess.Popen[bytes], line: bytes, *, deadline: float) -> bytes:
    """Send the request, wait for the answer and the end.

    Raises:
        TimeoutError: the deadline has passed.
        OverflowError: the answer is longer than any can be.
    """
    assert child.stdin is not None
    assert child.stdout is not None
    with suppress(BrokenPipeError):
        child.stdin.write(line)
        child.stdin.close()
    answer = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while len(answer) <= _MAX_ANSWER_BYTES:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            piece = os.read(child.stdout.fileno(), 1 << 16)
            if not piece:
                break
            answer += piece
        else:
            raise OverflowError
    try:
        child.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    return bytes(answer)


def _end_child(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()


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
