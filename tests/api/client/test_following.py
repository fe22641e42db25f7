"""Following a job: every event once, in order, whatever happens to the line."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.client import ApiError, AsyncClient, Client
from api.client.following import SseParser
from tests.api.client.cutting_proxy import cutting_proxy
from worker.contract.job import Stage


@pytest.fixture
def job_id(client) -> str:
    return client.post("/convert", json={"source": {"zoo": "resnet50"}}).json()["id"]


@pytest.fixture
def worked_at(claims, job_id):
    """Do the job's work in a thread: 40 events, and an end."""

    def work() -> None:
        claim = claims.claim(job_id, worker="w")
        claims.enter_stage(claim, Stage.REFINING, progress=0.1)
        for step in range(40):
            claims.record_progress(claim, progress=step / 40, data={"step": step})
            time.sleep(0.02)
        claims.succeed(claim, result={"a": 1}, files=[])

    thread = threading.Thread(target=work)
    yield thread
    thread.join()


def test_events_come_while_they_happen(call, job_id, worked_at):
    worked_at.start()
    told = []
    job = call(
        "job", "wait", args=(job_id,), on_event=lambda e: told.append((e, worked_at.is_alive()))
    )
    assert (job.state, job.result) == ("succeeded", {"a": 1})
    assert [event.number for event, _ in told] == list(range(1, 45))
    assert [event.kind for event, _ in told][:3] == ["queued", "started", "stage"]
    assert told[-1][0].kind == "succeeded"
    assert sum(is_early for _, is_early in told) > 20  # and not all of them at the end


def test_a_line_that_breaks_loses_no_event(call_at, port, job_id, worked_at):
    with cutting_proxy(port, cuts=(3000, 1500, 1500, 1500)) as proxy:
        worked_at.start()
        numbers = [one.number for one in call_at(proxy.url)("job", "events", args=(job_id,))]
        assert proxy.num_cut >= 2
    assert numbers == list(range(1, 45))


def test_a_callback_may_be_a_coroutine_function(url, job_id, worked_at):
    worked_at.start()
    told = []

    async def on_event(event):
        told.append(event.kind)

    async def wait():
        async with AsyncClient(url) as client:
            await (await client.job(job_id)).wait(on_event=on_event)

    asyncio.run(wait())
    assert told[-1] == "succeeded"


def test_known_events_are_not_told_again(call, job_id, worked_at):
    worked_at.start()
    worked_at.join()
    assert [one.number for one in call("job", "events", args=(job_id,), after=42)] == [43, 44]
    assert call("job", "events", args=(job_id,), after=44) == []
    assert call("job", "wait", args=(job_id,), after=44).state == "succeeded"


def test_waiting_ends_in_time(call, job_id):
    told = []
    asked_at = time.monotonic()
    with pytest.raises(ApiError, match=r"has not ended after 0\.7 seconds; it goes on") as ended:
        call("job", "wait", args=(job_id,), timeout_seconds=0.7, on_event=told.append)
    assert ended.value.code == "timeout"
    assert 0.6 < time.monotonic() - asked_at < 40
    assert [event.kind for event in told] == ["queued"]


def test_a_short_wait_sees_the_end(call, job_id, worked_at):
    worked_at.start()
    told = []
    job = call("job", "wait", args=(job_id,), timeout_seconds=20, on_event=told.append)
    assert job.state == "succeeded"
    assert [event.number for event in told] == list(range(1, 45))


def test_a_job_that_is_not_there_is_an_error(call, job_id):
    with pytest.raises(ApiError, match="job_not_found"):
        call("job", args=("f" * 32,))


def test_whoever_stops_looking_leaves_nothing_open(url, job_id, worked_at):
    worked_at.start()
    with Client(url) as client:
        for event in client.job(job_id).events():
            if event.kind == "stage":
                break
        assert client.version().version


STREAM = (
    b'retry: 1500\n\n: hello\r\n\r\nid: 1\nevent: queued\ndata: {"a": 1}\n\n'
    b"id: 2\r\ndata: one\r\ndata: two \xc3\xa9\r\n\r\nevent: x\n\ndata:last\r\rdata: cut off"
)


@given(st.lists(st.integers(0, len(STREAM))))
def test_a_stream_reads_the_same_in_pieces_of_any_size(cuts):
    parser, found = SseParser(), []
    places = sorted({0, *cuts, len(STREAM)})
    for start, end in itertools.pairwise(places):
        found += parser.feed(STREAM[start:end])
    assert [(one.id, one.event, one.text) for one in found] == [
        ("1", "queued", '{"a": 1}'),
        ("2", "", "one\ntwo é"),
        ("2", "", "last"),
    ]
    assert parser.retry_seconds == 1.5
