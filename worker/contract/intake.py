"""Inspection of what strangers sent, in a child process that can hurt nobody.

The child gets the file as an open descriptor, a time and memory limit, and an empty environment.
Whatever goes wrong in it is a refusal of the file: there is no second way to read it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import momentum_core
from momentum_core.checkpoint import DEFAULT_LIMITS, CheckpointFacts, DatasetFacts, Limits
from momentum_core.errors import ArchitectureError, CheckpointError, DataError, MomentumError
from worker.contract.durable_files import new_file

__all__ = [
    "CheckpointFacts",
    "DatasetFacts",
    "inspect_checkpoint",
    "inspect_dataset",
]

BASE_SECONDS = 15.0
BYTES_PER_SECOND = 20 << 20
"""A child gets 15 s, and one more for every 20 MiB of the file."""

_ERRORS: dict[str, type[MomentumError]] = {
    kind.__name__: kind for kind in (CheckpointError, ArchitectureError, DataError)
}
_MAX_ANSWER_BYTES = 1 << 20


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
    """
    with _open_source(source) as descriptor, new_file(target) as output:
        request = {"task": "checkpoint", "target": output, "architecture": architecture}
        answer = _ask_child(request, descriptor, (output,), limits)
        try:
            return CheckpointFacts.from_json(answer)
        except (KeyError, TypeError):
            raise _crashed(CheckpointError) from None


def inspect_dataset(
    source: Path, *, num_classes: int | None = None, limits: Limits = DEFAULT_LIMITS
) -> DatasetFacts:
    """Check a data set (`.npz`) and state its facts.

    Args:
        source: the file as it was sent.
        num_classes: outputs of the network; labels must be below.
        limits: how much the file may ask for.

    Raises:
        DataError: the file is refused; `code` says why.
    """
    with _open_source(source) as descriptor:
        request = {"task": "dataset", "num_classes": num_classes}
        answer = _ask_child(request, descriptor, (), limits, DataError)
        try:
            return DatasetFacts.from_json(answer)
        except (KeyError, TypeError, ValueError):
            raise _crashed(DataError) from None


@contextmanager
def _open_source(source: Path) -> Iterator[int]:
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _ask_child(
    request: dict[str, Any],
    source: int,
    outputs: tuple[int, ...],
    limits: Limits,
    refusal: type[MomentumError] = CheckpointError,
) -> dict[str, Any]:
    """Run the child on one request; return its facts or raise what it answered."""
    num_bytes = os.fstat(source).st_size
    if num_bytes > limits.max_file_bytes:
        raise refusal(
            f"the file has {num_bytes} bytes; the limit is {limits.max_file_bytes}",
            code="upload_too_large",
        )
    line = json.dumps(request | {"source": source, "limits": asdict(limits)}) + "\n"
    child = _start_child((source, *outputs))
    try:
        answer, _ = child.communicate(
            line.encode(), timeout=BASE_SECONDS + num_bytes / BYTES_PER_SECOND
        )
    except subprocess.TimeoutExpired:
        raise refusal(
            "reading the file takes longer than it may; save it again with fewer tensors",
            code="too_complex",
        ) from None
    finally:
        _end_child(child)
    return _facts(answer, child.returncode, refusal)


def _start_child(descriptors: tuple[int, ...]) -> subprocess.Popen[bytes]:
    root = str(Path(momentum_core.__file__).resolve().parents[1])
    return subprocess.Popen(
        # -P: no module is looked for in the current folder. -s: nor in the user's.
        [sys.executable, "-P", "-s", "-B", "-m", "momentum_core.checkpoint"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PYTHONPATH": root, "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"}
        | {"OPENBLAS_NUM_THREADS": "1"},
        cwd="/",
        pass_fds=descriptors,
        start_new_session=True,
    )


def _end_child(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()


def _facts(answer: bytes, return_code: int, refusal: type[MomentumError]) -> dict[str, Any]:
    try:
        parsed = json.loads(answer) if len(answer) <= _MAX_ANSWER_BYTES else None
    except ValueError:
        parsed = None
    if return_code in (-signal.SIGXCPU, -signal.SIGKILL):
        raise refusal("reading the file takes more than it may", code="too_complex")
    error = parsed.get("error") if isinstance(parsed, dict) else None
    if return_code == 0 and isinstance(error, dict) and error.get("kind") in _ERRORS:
        raise _ERRORS[error["kind"]](str(error.get("message")), code=str(error.get("code")))
    facts = parsed.get("facts") if isinstance(parsed, dict) else None
    if return_code != 0 or not isinstance(facts, dict):
        raise _crashed(refusal)
    return facts


def _crashed(refusal: type[MomentumError]) -> MomentumError:
    return refusal(
        "the file makes its inspection fail; save the weights with "
        "torch.save(model.state_dict(), path) or with safetensors",
        code="inspection_crashed",
    )
