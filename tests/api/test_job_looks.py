"""Looks at the record that many share."""

from __future__ import annotations

import asyncio
import threading

import pytest

from api.job_looks import JobLooks
from worker.contract.job import JobState


class Record:
    """A record that answers when it is let, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []
        self.revision = 1
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.error: Exception | None = None

    def look_at(self, job_ids):
        self.asked.append(set(job_ids))
        revision = self.revision
        assert self.may_answer.wait(10)
        if self.error:
            raise self.error
        return {one: ("t", revision, JobState.RUNNING) for one in job_ids if one != "unknown"}


@pytest.fixture
def record() -> Record:
    return Record()


async def _begun(record: Record, number: int) -> None:
    while len(record.asked) < number:
        await asyncio.sleep(0.005)


def test_who_asks_during_a_look_shares_the_next_one_and_sees_what_is_newer(record):
    async def ask() -> None:
        looks = JobLooks(record)
        record.may_answer.clear()
        first = asyncio.create_task(looks.look("a", tenant="t"))
        await _begun(record, 1)
        others = [asyncio.create_task(looks.look(one, tenant="t")) for one in ("a", "b", "a")]
        await asyncio.sleep(0)
        record.revision = 2
        record.may_answer.set()
        assert await first == (1, JobState.RUNNING)
        assert await asyncio.gather(*others) == [(2, JobState.RUNNING)] * 3
        assert record.asked == [{"a"}, {"a", "b"}]
        # And the next one is looked for anew.
        record.revision = 3
        assert (await looks.look("a", tenant="t"))[0] == 3

    asyncio.run(ask())


def test_what_is_unknown_or_anothers_is_not_found(record):
    async def ask() -> None:
        looks = JobLooks(record)
        for job_id, tenant in (("unknown", "t"), ("a", "other")):
            with pytest.raises(LookupError):
                await looks.look(job_id, tenant=tenant)

    asyncio.run(ask())


def test_an_error_is_told_to_each_and_the_next_look_works(record):
    async def ask() -> None:
        looks = JobLooks(record)
        record.error = OSError("the disk")
        asked = [looks.look(one, tenant="t") for one in ("a", "b")]
        for found in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(found, OSError)
        record.error = None
        assert await looks.look("a", tenant="t")

    asyncio.run(ask())


def test_who_leaves_holds_up_nobody(record):
    async def ask() -> None:
        looks = JobLooks(record)
        record.may_answer.clear()
        leaving = asyncio.create_task(looks.look("a", tenant="t"))
        staying = asyncio.create_task(looks.look("a", tenant="t"))
        await _begun(record, 1)
        leaving.cancel()
        record.may_answer.set()
        assert await staying == (1, JobState.RUNNING)

    asyncio.run(ask())
