"""Names of architectures and weights that a library has: the inspection worker knows them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from api.polling import RETRY_SECONDS
from api.problems import Problem
from momentum_core.checkpoint import LibrarySignature
from momentum_core.errors import ArchitectureError, CheckpointError, MomentumError
from worker.contract.inspection import InspectionStore, NameQuestion
from worker.contract.job import JobError
from worker.contract.zoo import ZooEntry, find_zoo_entry, is_of_library

KEPT_SECONDS = 600.0
"""How long an answer is believed: an operator may change what a name means."""

ZOO_UNAVAILABLE = "zoo_unavailable"

MAX_KEPT = 1000
MAX_NAME_CHARACTERS = 250


@dataclass(frozen=True, slots=True)
class TenantNames:
    """What a tenant asks by."""

    ask: Callable[[NameQuestion], dict[str, Any]]

    def signature(self, architecture: str | None) -> LibrarySignature | None:
        """Return what is to be known of a library's architecture; None for one of the table.

        Raises:
            Problem: 503, when the inspection worker does not answer.
            ArchitectureError: there is no such architecture.
        """
        if architecture is None or not is_of_library(architecture):
            return None
        return LibrarySignature.from_json(self._ask("architecture", architecture))

    def zoo_entry(self, name: str) -> ZooEntry:
        """Return a zoo entry; one from a hub has its commit in its name.

        Raises:
            Problem: 503, when the inspection worker does not answer.
            ArchitectureError: there is no such entry.
            CheckpointError: `zoo_unavailable`.
        """
        if not is_of_library(name):
            return find_zoo_entry(name)
        return ZooEntry.from_json(self._ask("zoo_entry", name))

    def _ask(self, kind: Literal["architecture", "zoo_entry"], name: str) -> dict[str, Any]:
        if len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
            raise ArchitectureError(
                f"{name[:80]!a} is no name; it has at most {MAX_NAME_CHARACTERS} printable "
                "characters",
                code=_UNKNOWN[kind],
            )
        return self.ask(NameQuestion(kind=kind, name=name))


@dataclass(frozen=True, slots=True)
class LibraryNames:
    """Asks for names, and remembers the answers."""

    inspections: InspectionStore
    seconds: float
    """How long to wait for an answer."""

    _known: dict[NameQuestion, tuple[float, dict[str, Any]]] = field(default_factory=dict)
    _changing: threading.Lock = field(default_factory=threading.Lock)

    def of(self, tenant: str) -> TenantNames:
        """Return the names as a tenant asks for them."""
        return TenantNames(lambda question: self._answer(question, tenant))

    def _answer(self, question: NameQuestion, tenant: str) -> dict[str, Any]:
        told_at, answer = self._known.get(question, (-KEPT_SECONDS, {}))
        if time.monotonic() - told_at < KEPT_SECONDS:
            return answer
        asked = self.inspections.ask(question, tenant=tenant)
        found = self.inspections.wait(asked, tenant=tenant, seconds=self.seconds)
        if found.error is not None and found.error.code in (*_REFUSALS, ZOO_UNAVAILABLE):
            raise refused(found.error)
        if found.answer is None:
            raise Problem(
                503,
                "inspection_not_answered",
                f"the inspection worker has not said what {question.name!a} is; try again, or have "
                "the operator look at its log",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        with self._changing:
            if len(self._known) >= MAX_KEPT:
                self._known.clear()
            self._known[question] = (time.monotonic(), found.answer)
        return found.answer


def refused(error: JobError) -> MomentumError:
    """Make the error of a name that means nothing, or that nobody can be asked for now."""
    kind = CheckpointError if error.code == ZOO_UNAVAILABLE else ArchitectureError
    return kind(error.message, code=error.code)


_UNKNOWN = {"architecture": "unknown_architecture", "zoo_entry": "unknown_zoo_entry"}
_REFUSALS = ("unknown_architecture", "unknown_zoo_entry", "library_missing")
