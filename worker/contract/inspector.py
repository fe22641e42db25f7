"""Inspects one file in a process of its own, behind walls.

The request is one line of JSON on standard input, the answer one line on standard output. Files
come as descriptors that are open already, so this process opens none.

    {"task": "checkpoint", "architecture": null, "signature": null, ...}
    {"task": "dataset", "num_classes": 10, "form": {...}, ...}
    {"task": "sandbox", ...}
    each with "limits": {...}, "allowance": {...}

    {"facts": {...}}    or    {"error": {"kind": "CheckpointError", "code": ..., "message": ...}}
"""

from __future__ import annotations

import codecs
import errno
import gc
import hashlib
import json
import sys
from collections.abc import Mapping
from typing import Any

from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.inspection import inspect_open_checkpoint
from momentum_core.checkpoint.library_signature import LibrarySignature
from momentum_core.checkpoint.limits import Limits
from momentum_core.errors import CheckpointError, DataError, MomentumError
from momentum_core.image_archive import ImageForm
from momentum_core.image_archive.inspection import inspect_open_dataset
from worker.contract.sandbox import Allowance, SandboxError, SandboxReport, close_sandbox

_STANDARD_OUTPUT, _STANDARD_ERROR = 1, 2
_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def prepare() -> None:
    """Load what Python and OpenSSL look for on disk only when it is first used."""
    for name in ("cp437", "ascii", "latin-1", "utf-8", "unicode_escape"):
        codecs.lookup(name)
    hashlib.sha256(b"").digest()


def main(files: Mapping[str, int]) -> int:
    """Answer one request; every refusal is an answer, everything else a crash.

    Args:
        files: descriptors of `source` and `target`, as the task needs them.
    """
    # This process ends with its one file; going through millions of values for cycles is time lost.
    gc.disable()
    request: dict[str, Any] = json.loads(sys.stdin.readline()) | dict(files)
    try:
        answer: dict[str, Any] = {"facts": _answer(request)}
    except MomentumError as error:
        answer = {"error": _refusal(request, error.code, str(error), type(error))}
    except MemoryError:
        message = "reading the file takes more memory than it may"
        answer = {"error": _refusal(request, "too_complex", message)}
    except SandboxError as error:
        answer = {"error": {"kind": "SandboxError", "code": "", "message": str(error)}}
    except OSError as error:
        # A full or broken disk is not the file's fault; anything else is a crash.
        if error.errno not in _STORAGE_ERRORS:
            raise
        answer = {"error": {"kind": "OSError", "code": error.errno, "message": error.strerror}}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Open what is needed, put up the walls, and only then look into the file."""
    limits = Limits(**request["limits"])
    if request["task"] == "sandbox":
        return _close(request).to_json()
    # Its size is asked for here; behind the walls it could not be.
    source = ByteSource(request["source"])
    if request["task"] == "checkpoint":
        _close(request)
        signature = request["signature"]
        return inspect_open_checkpoint(
            source,
            request["target"],
            architecture=request["architecture"],
            limits=limits,
            signature=signature and LibrarySignature.from_json(signature),
        ).to_json()
    _close(request)
    return inspect_open_dataset(
        source,
        request["target"],
        num_classes=request["num_classes"],
        form=ImageForm(**request["form"]),
        limits=limits,
    ).to_json()


def _close(request: dict[str, Any]) -> SandboxReport:
    files = [request[name] for name in ("source", "target") if name in request]
    return close_sandbox(
        Allowance(**request["allowance"]), keep=[_STANDARD_OUTPUT, _STANDARD_ERROR, *files]
    )


def _refusal(
    request: dict[str, Any],
    code: str,
    message: str,
    kind: type[MomentumError] = CheckpointError,
) -> dict[str, str]:
    # A data set is refused in its own words, with the code of the rule it broke.
    if request["task"] == "dataset" and kind is CheckpointError:
        kind = DataError
    return {"kind": kind.__name__, "code": code, "message": message}
