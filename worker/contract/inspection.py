"""Questions that need torch and an answer at once: what the API asks, and the record of the answer.

A question is small and holds no weights: what is planned and predicted depends on the architecture
and the options alone. So asking twice does no harm, and a lost message is repeated.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from sqlalchemy import ColumnElement, Engine, delete, func, insert, or_, select, update

from worker.contract.database import database_now, reading
from worker.contract.job import JobError
from worker.contract.job_record import new_id
from worker.contract.request import ConvertRequest
from worker.contract.tables import inspections

KEPT_SECONDS = 3600.0
"""How long an inspection is kept."""

REPEAT_SECONDS = 60.0
"""A message whose inspection has no answer after this long is sent again."""

FIRST_LOOK_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 0.25
"""Between two looks for an answer, which grow from the one to the other."""

MAX_SENT = 3
"""Messages after which nobody answers."""

MAX_MESSAGES = 100
"""Messages taken in one round."""

NOT_ANSWERED = JobError(
    code="inspection_not_answered",
    message="the inspection worker does not answer; have the operator look at its log, or send the "
    "request to POST /convert",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSpeed:
    """Seconds of a training step per image, as jobs have measured them."""

    original: float
    momentum: float
    refining: float | None = None
    """Of a step of refinement, the original's answers included; None where no job refined.

    Its batches are larger than those that are measured, which for a small network makes much.
    """

    device: str = ""
    num_jobs: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A conversion that is thought about."""

    architecture: str
    num_classes: int
    request: ConvertRequest
    num_train: int | None = None
    """Training images that were sent; None where none were."""

    num_test: int | None = None

    speed: StepSpeed | None = None
    """What jobs with this architecture have measured, if there were any."""

    def to_json(self) -> dict[str, Any]:
        """Return the question as JSON values."""
        # The request as jobs have it, which older workers read, too.
        return asdict(self) | {"request": self.request.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Make the question of what `to_json` gave."""
        speed = values["speed"]
        return cls(
            **values
            | {
                "request": ConvertRequest.from_json(values["request"]),
                "speed": speed and StepSpeed(**speed),
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class NameQuestion:
    """A name that only a worker knows: of an architecture, or of weights."""

    kind: Literal["architecture", "zoo_entry"]
    name: str

    def to_json(self) -> dict[str, Any]:
        """Return the question as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Make the question of what `to_json` gave."""
        return cls(**values)


AnyQuestion = Question | NameQuestion


def _question_of(values: dict[str, Any]) -> AnyQuestion:
    if "kind" in values:
        return NameQuestion.from_json(values)
    return Question.from_json(values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """A question, and what came of it; times are seconds since 1970, UTC."""

    id: str
    answer: dict[str, Any] | None
    error: JobError | None
    """Why the conversion would fail, or why nobody answered."""
    created_at: float
    finished_at: float | None


class InspectionStore:
    """Inspections in the record."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reader = reading(engine)

    def ask(self, question: AnyQuestion, *, tenant: str) -> str:
        """Record a question, for the relay to send; return its id."""
        inspection_id = new_id()
        with self._engine.begin() as connection:
            connection.execute(
                insert(inspections).values(
                    id=inspection_id,
                    tenant=tenant,
                    question=question.to_json(),
                    created_at=database_now(),
                    num_sent=0,
                )
            )
        return inspection_id

    def get(self, inspection_id: str, *, tenant: str) -> Inspection:
        """Return an inspection.

        Raises:
            LookupError: the tenant has none of this id.
        """
        mine = (inspections.c.id == inspection_id) & (inspections.c.tenant == tenant)
        with self._reader.connect() as connection:
            row = connection.execute(select(inspections).where(mine)).one_or_none()
        if row is None:
            raise LookupError("no such inspection")
        return Inspection(
            id=row.id,
            answer=row.answer,
            error=JobError(code=row.error_code, message=row.error_message)
            if row.error_code
            else None,
            created_at=row.created_at,
            finished_at=row.finished_at,
        )

    def wait(self, inspection_id: str, *, tenant: str, seconds: float) -> Inspection:
        """Return an inspection once it is answered, or as it is when the time is over."""
        until = time.monotonic() + seconds
        pause = FIRST_LOOK_SECONDS
        while True:
            time.sleep(pause)
            found = self.get(inspection_id, tenant=tenant)
            if found.finished_at is not None or time.monotonic() >= until:
                return found
            pause = min(1.5 * pause, LONGEST_PAUSE_SECONDS)

    def count_open(self, tenant: str) -> int:
        """Return how many of a tenant's questions have no answer yet."""
        mine = (inspections.c.tenant == tenant) & inspections.c.finished_at.is_(None)
        with self._reader.connect() as connection:
            return connection.scalar(select(func.count()).where(mine)) or 0

    def question(self, inspection_id: str) -> AnyQuestion | None:
        """Return a question, if it still waits for its answer."""
        query = select(inspections.c.question).where(_is_open(inspection_id))
        with self._reader.connect() as connection:
            values = connection.scalar(query)
        return None if values is None else _question_of(values)

    def answer(self, inspection_id: str, answer: Mapping[str, Any]) -> None:
        """Record the answer, if there is none yet."""
        self._finish(_is_open(inspection_id), {"answer": dict(answer)})

    def refuse(self, inspection_id: str, error: JobError) -> None:
        """Record why there is no answer, if there is none yet."""
        self._finish(_is_open(inspection_id), _error_values(error))

    def waiting(self) -> list[str]:
        """Return ids whose message is to be sent, or to be sent again; oldest first."""
        stale = inspections.c.sent_at < database_now() - REPEAT_SECONDS
        query = (
            select(inspections.c.id)
            .where(
                inspections.c.finished_at.is_(None),
                inspections.c.num_sent < MAX_SENT,
                or_(inspections.c.sent_at.is_(None), stale),
            )
            .order_by(inspections.c.created_at)
            .limit(MAX_MESSAGES)
        )
        with self._reader.connect() as connection:
            return list(connection.scalars(query))

    def mark_sent(self, inspection_id: str) -> None:
        """Record that a message is with the broker."""
        values = {"sent_at": database_now(), "num_sent": inspections.c.num_sent + 1}
        with self._engine.begin() as connection:
            connection.execute(
                update(inspections).where(inspections.c.id == inspection_id).values(values)
            )

    def sweep(self) -> None:
        """End what nobody answers, and forget what is old."""
        stale = inspections.c.sent_at < database_now() - REPEAT_SECONDS
        given_up = inspections.c.finished_at.is_(None) & (inspections.c.num_sent >= MAX_SENT)
        self._finish(given_up & stale, _error_values(NOT_ANSWERED))
        old = inspections.c.finished_at < database_now() - KEPT_SECONDS
        if self._is_any(old):
            with self._engine.begin() as connection:
                connection.execute(delete(inspections).where(old))

    def _finish(self, where: ColumnElement[bool], values: dict[str, Any]) -> None:
        if not self._is_any(where):
            return
        with self._engine.begin() as connection:
            connection.execute(
                update(inspections).where(where).values(finished_at=database_now(), **values)
            )

    def _is_any(self, where: ColumnElement[bool]) -> bool:
        """Look before the lock: in almost every round there is nothing to do."""
        with self._reader.connect() as connection:
            query = select(inspections.c.id).where(where).limit(1)
            return connection.execute(query).one_or_none() is not None


def _is_open(inspection_id: str) -> ColumnElement[bool]:
    return (inspections.c.id == inspection_id) & inspections.c.finished_at.is_(None)


def _error_values(error: JobError) -> dict[str, Any]:
    return {"error_code": error.code, "error_message": error.message}
