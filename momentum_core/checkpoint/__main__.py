"""`python -m momentum_core.checkpoint`: inspect one file in a process of its own.

The request is one line of JSON on standard input, the answer one line on standard output. Files
come as descriptors that the parent has opened, so this process opens none.

    {"task": "checkpoint", "source": 5, "target": 6, "architecture": null, "limits": {...}}
    {"task": "dataset", "source": 5, "num_classes": 10, "limits": {...}}

    {"facts": {...}}    or    {"error": {"kind": "CheckpointError", "code": ..., "message": ...}}
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.inspection import inspect_open_checkpoint
from momentum_core.checkpoint.limits import MEBIBYTE, Limits
from momentum_core.checkpoint.npz_dataset import parse_dataset_facts
from momentum_core.errors import CheckpointError, DataError, MomentumError

_ADDRESS_SPACE_BYTES = 1024 * MEBIBYTE
_MAX_OPEN_FILES = 32


def main() -> int:
    """Answer one request; every refusal is an answer, everything else a crash."""
    request: dict[str, Any] = json.loads(sys.stdin.readline())
    source = ByteSource(request["source"])
    _limit_resources(source.num_bytes)
    try:
        answer: dict[str, Any] = {"facts": _inspect(request, source)}
    except MomentumError as error:
        answer = {"error": _error(request, error)}
    except MemoryError:
        answer = {
            "error": {
                "kind": "CheckpointError",
                "code": "too_complex",
                "message": "reading the file takes more memory than it may",
            }
        }
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _inspect(request: dict[str, Any], source: ByteSource) -> dict[str, Any]:
    limits = Limits(**request["limits"])
    if request["task"] == "dataset":
        return parse_dataset_facts(
            source, num_classes=request["num_classes"], limits=limits
        ).to_json()
    return inspect_open_checkpoint(
        source, request["target"], architecture=request["architecture"], limits=limits
    ).to_json()


def _error(request: dict[str, Any], error: MomentumError) -> dict[str, str]:
    # A data set is refused in its own words, with the code of the rule it broke.
    if request["task"] == "dataset" and isinstance(error, CheckpointError):
        error = DataError(str(error), code=error.code)
    return {"kind": type(error).__name__, "code": error.code, "message": str(error)}


def _limit_resources(num_bytes: int) -> None:
    for limit, value in (
        (resource.RLIMIT_AS, _ADDRESS_SPACE_BYTES + num_bytes),
        (resource.RLIMIT_FSIZE, 2 * num_bytes + 16 * MEBIBYTE),
        (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))


if __name__ == "__main__":
    sys.exit(main())
