"""The event stream: what happened, what happens, and nothing twice or never."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from tests.api.conftest import problem_of
from worker.contract.job import JobError, Stage

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def job_id(client) -> str:
    return client.post("/convert", json={"source": {"zoo": "digits_resnet26"}}).json()["id"]


def read(client, job_id: str, *, after: int = 0, most: int | None = None) -> list[dict[str, Any]]:
    """Follow a stream to its end, or until so many events have come."""
    headers = STREAM | ({"Last-Event-ID": str(after)} if after else {})
    found: list[dict[str, Any]] = []
    with client.stream("GET", f"/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        event: dict[str, Any] = {}
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line == "" and "data" in event:
                found.append(event)
                event = {}
                if len(found) == most:
                    break
            elif name in ("id", "event", "data"):
                event[name] = value
    return found


def end(claims, claim) -> None:
    claims.fail(claim, JobError(code="x", message="a\nb"))


def test_a_stream_tells_what_was_and_what_comes_and_ends_with_the_job(
    client, claims, job_id, monkeypatch
):
    # Or a stream that nobody wakes would go on when it says that it lives.
    monkeypatch.setattr("api.routes.events.KEEP_ALIVE_SECONDS", 1000.0)

    def work() -> None:
        claim = claims.claim(job_id, worker="w")
        for stage in (Stage.LOADING, Stage.PLANNING):
            time.sleep(0.3)
            claims.enter_stage(claim, stage, progress=0.1)
        time.sleep(0.3)
        end(claims, claim)

    thread = threading.Thread(target=work)
    thread.start()
    found = read(client, job_id)
    thread.join()
    assert [one["event"] for one in found] == ["queued", "started", "stage", "stage", "failed"]
    assert [one["id"] for one in found] == list("12345")
    page = client.get(f"/jobs/{job_id}/events").json()["events"]
    assert [json.loads(one["data"]) for one in found] == page


@pytest.mark.fault(31)
def test_who_comes_back_gets_the_rest(client, claims, job_id):
    claim = claims.claim(job_id, worker="w")
    first = read(client, job_id, most=2)
    for number in range(20):
        claims.record_progress(claim, progress=0.1, data={"step": number})
    end(claims, claim)
    rest = read(client, job_id, after=2)
    assert [int(one["id"]) for one in first + rest] == list(range(1, 24))


def test_more_events_than_a_page_holds_are_streamed(client, claims, job_id, monkeypatch):
    monkeypatch.setattr("worker.contract.job_store.MAX_EVENTS", 5)
    monkeypatch.setattr("api.routes.events.MAX_EVENTS", 5)
    claim = claims.claim(job_id, worker="w")
    for _ in range(8):
        claims.record_progress(claim, progress=0.1, data={})
    end(claims, claim)
    assert len(client.get(f"/jobs/{job_id}/events").json()["events"]) == 5
    assert [int(one["id"]) for one in read(client, job_id)] == list(range(1, 12))


def test_who_has_seen_the_end_is_told_not_to_come_back(client, claims, job_id):
    end(claims, claims.claim(job_id, worker="w"))
    headers = STREAM | {"Last-Event-ID": "3"}
    assert client.get(f"/jobs/{job_id}/events", headers=headers).status_code == 204


def test_a_stream_ends_when_its_job_is_forgotten(client, claims, job_id, service):
    """Also one that has seen everything but the end."""
    claims.claim(job_id, worker="w")
    found = []
    with client.stream("GET", f"/jobs/{job_id}/events", headers=STREAM) as answer:
        for line in answer.iter_lines():
            if line.startswith("event: "):
                found.append(line.removeprefix("event: "))
                if len(found) == 2:
                    with service.store.engine.begin() as connection:
                        connection.exec_driver_sql("DELETE FROM jobs")
    assert found == ["queued", "started"]


def test_a_silent_stream_says_that_it_lives(client, job_id, monkeypatch):
    monkeypatch.setattr("api.routes.events.KEEP_ALIVE_SECONDS", 0.1)
    with client.stream("GET", f"/jobs/{job_id}/events", headers=STREAM) as answer:
        lines = answer.iter_lines()
        assert any(line.startswith(": ") for line in (next(lines) for _ in range(20)))


def test_nobody_is_watched_when_nobody_follows(client, claims, job_id, service, monkeypatch):
    # Who left is noticed with the next sign of life; often, but not always, with the first look.
    monkeypatch.setattr("api.routes.events.KEEP_ALIVE_SECONDS", 0.1)
    watcher = service.watcher
    assert (dict(watcher._bells), watcher._task) == ({}, None)
    read(client, job_id, most=1)
    deadline = time.monotonic() + 60
    while watcher._bells or watcher._task:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.fault(31)
def test_many_follow_one_job(client, claims, job_id):
    found: list[list[dict[str, Any]]] = []
    threads = [
        threading.Thread(target=lambda: found.append(read(client, job_id))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    claim = claims.claim(job_id, worker="w")
    end(claims, claim)
    for thread in threads:
        thread.join()
    assert [[one["event"] for one in each] for each in found] == [
        ["queued", "started", "failed"]
    ] * 20


@pytest.mark.parametrize("number", ["x", "-1", "1.5", str(2**54)])
def test_a_last_event_that_is_no_number_is_refused(client, job_id, number):
    headers = STREAM | {"Last-Event-ID": number}
    problem_of(client.get(f"/jobs/{job_id}/events", headers=headers), 422, "invalid_request")


def test_a_stream_of_no_job_is_refused(client):
    answer = client.get(f"/jobs/{'0' * 32}/events", headers=STREAM)
    problem_of(answer, 404, "job_not_found")


def test_a_stream_that_comes_back_goes_on_where_it_was_not_where_it_began(client, service, claims):
    job_id = client.post("/convert", json={"source": {"zoo": "digits_resnet26"}}).json()["id"]
    claims.succeed(claims.claim(job_id, worker="w"), result={}, files=[])
    newest = client.get(f"/jobs/{job_id}").headers["etag"].strip('"')
    headers = {"Accept": "text/event-stream", "Last-Event-ID": newest}
    # A browser sends the URL as it was, and says besides what it has seen since.
    again = client.get(f"/jobs/{job_id}/events", params={"after": 1}, headers=headers)
    assert again.status_code == 204


def test_text_that_no_database_can_hold_is_refused(client):
    for query in ({"text": "a\x00"}, {"tag": "\x00"}):
        problem_of(client.get("/jobs", params=query), 422, "invalid_request")
