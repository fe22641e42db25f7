"""What a library's name means, asked of a process that may import torch: for `convert --local`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from api.client import ApiError
from api.library_names import TenantNames, refused
from worker.contract.inspection import NameQuestion
from worker.contract.job import JobError
from worker.contract.lifeline import tied_command


def local_names() -> TenantNames:
    """Return names that are looked up here."""
    return TenantNames(_ask)


def _ask(question: NameQuestion) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "worker.tell_name", question.kind, question.name]
    done = subprocess.run(tied_command(command), stdin=subprocess.DEVNULL, capture_output=True)
    try:
        told = json.loads(done.stdout)
    except ValueError:
        end = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
        raise ApiError(
            "worker_lost", "nobody says what the name means: " + "\n".join(end)
        ) from None
    if "error" in told:
        raise refused(JobError(**told["error"]))
    return dict(told["answer"])
