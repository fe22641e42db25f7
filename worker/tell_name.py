"""`python -m worker.tell_name KIND NAME`: what a name means, as JSON, without a service.

`{"answer": {...}}`, or `{"error": {"code": ..., "message": ...}}`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from momentum_core.errors import MomentumError
from worker.contract.inspection import NameQuestion
from worker.contract.settings import Settings
from worker.inspection import answer_any
from worker.names import hub_of, register_architectures


def main(kind: str, name: str) -> None:
    """Print the answer."""
    settings = Settings()
    told: dict[str, Any]
    try:
        register_architectures(settings)
        question = NameQuestion.from_json({"kind": kind, "name": name})
        told = {"answer": answer_any(question, hub_of(settings))}
    except MomentumError as error:
        told = {"error": {"code": error.code, "message": str(error)}}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
