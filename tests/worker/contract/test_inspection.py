"""Inspections in the record: asked, sent, answered once, given up, forgotten."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from worker.contract.database import database_now
from worker.contract.inspection import MAX_SENT, InspectionStore, Question, StepSpeed
from worker.contract.job import JobError
from worker.contract.request import ConvertRequest, Source
from worker.contract.tables import inspections as table

QUESTION = Question(
    architecture="cifar_resnet20",
    num_classes=10,
    request=ConvertRequest(source=Source(upload="0" * 32), tags=("a",)),
    num_train=9,
    num_test=4,
    speed=StepSpeed(original=0.5, momentum=1.5, device="x", num_jobs=2),
)
NO = JobError(code="c", message="m")


@pytest.fixture
def inspections(engine) -> InspectionStore:
    return InspectionStore(engine)


def age(engine, column, seconds) -> None:
    with engine.begin() as connection:
        connection.execute(update(table).values({column: database_now() - seconds}))


def test_a_question_comes_to_the_worker_as_it_was_asked(inspections):
    asked = inspections.ask(QUESTION, tenant="a")
    assert inspections.question(asked) == QUESTION
    found = inspections.get(asked, tenant="a")
    assert (found.answer, found.error, found.finished_at) == (None, None, None)
    with pytest.raises(LookupError):
        inspections.get(asked, tenant="b")
    assert (inspections.count_open("a"), inspections.count_open("b")) == (1, 0)


def test_the_first_answer_stays(inspections):
    asked = inspections.ask(QUESTION, tenant="a")
    inspections.answer(asked, {"n": 1})
    inspections.answer(asked, {"n": 2})
    inspections.refuse(asked, NO)
    found = inspections.get(asked, tenant="a")
    assert (found.answer, found.error) == ({"n": 1}, None)
    assert found.finished_at >= found.created_at
    assert inspections.question(asked) is None, "a message too many finds nothing to do"
    assert inspections.count_open("a") == 0


def test_a_refusal_is_kept(inspections):
    asked = inspections.ask(QUESTION, tenant="a")
    inspections.refuse(asked, NO)
    assert inspections.get(asked, tenant="a").error == NO


def test_a_lost_message_is_sent_again_and_in_the_end_given_up(inspections, engine):
    first = inspections.ask(QUESTION, tenant="a")
    second = inspections.ask(QUESTION, tenant="a")
    assert inspections.waiting() == [first, second]
    inspections.answer(second, {})
    for _ in range(MAX_SENT):
        assert inspections.waiting() == [first]
        inspections.mark_sent(first)
        assert inspections.waiting() == []
        inspections.sweep()
        assert inspections.get(first, tenant="a").finished_at is None
        age(engine, table.c.sent_at, 61)
    assert inspections.waiting() == []
    inspections.sweep()
    assert inspections.get(first, tenant="a").error.code == "inspection_not_answered"


def test_an_old_inspection_is_forgotten_an_open_one_never(inspections, engine):
    done, waiting = (inspections.ask(QUESTION, tenant="a") for _ in range(2))
    inspections.answer(done, {"n": 1})
    inspections.sweep()
    assert inspections.get(done, tenant="a").answer == {"n": 1}
    age(engine, table.c.created_at, 9000)
    with engine.begin() as connection:
        connection.execute(
            update(table).where(table.c.id == done).values(finished_at=database_now() - 3601)
        )
    inspections.sweep()
    with pytest.raises(LookupError):
        inspections.get(done, tenant="a")
    assert inspections.get(waiting, tenant="a").finished_at is None
