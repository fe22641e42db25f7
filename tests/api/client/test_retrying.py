"""What is sent again and what is not, against a real server that fails as it is told."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from api.client import ApiError, Client, RetryPolicy
from tests.api.client.scripted_server import CUT, Scripted, problem
from tests.free_port import free_port

JOB = {"id": "a" * 32, "state": "queued", "created_at": "2026-11-26T00:00:00Z"}
DONE = Scripted(200, {"entries": [], "architectures": []})


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_passing_failure_is_waited_out(scripted, call_at, status):
    scripted.answer_with(problem(status, "busy"), Scripted(status, b"<html>"), CUT, DONE)
    assert call_at(scripted.url)("zoo").entries == ()
    assert len(scripted.asked) == 4


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500])
def test_a_lasting_refusal_is_told_at_once(scripted, call_at, status):
    scripted.answer_with(problem(status, "no_way", **{"X-Request-Id": "r1"}))
    with pytest.raises(ApiError) as refused:
        call_at(scripted.url)("zoo")
    error = refused.value
    assert (error.code, error.title, error.detail) == ("no_way", "T", "why")
    assert (error.status, error.request_id) == (status, "r1")
    assert len(scripted.asked) == 1


def test_waiting_does_not_help_a_full_quota(scripted, call_at):
    scripted.answer_with(problem(429, "quota_exceeded"))
    with pytest.raises(ApiError, match="quota_exceeded"):
        call_at(scripted.url)("zoo")
    assert len(scripted.asked) == 1


def test_patience_ends_with_the_last_failure(scripted, call_at):
    scripted.answer_with(Scripted(502, b"bad gateway"))
    with pytest.raises(ApiError, match=r"bad gateway.*\[http_502\]"):
        call_at(scripted.url)("zoo")
    assert len(scripted.asked) == 4


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_obeyed(scripted, call_at, as_date):
    value = formatdate(time.time() + 2, usegmt=True) if as_date else "1"
    scripted.answer_with(problem(503, "busy", **{"Retry-After": value}), DONE)
    asked_at = time.monotonic()
    call_at(scripted.url)("zoo")
    assert 0.9 <= time.monotonic() - asked_at < 30


def test_who_asks_for_more_patience_than_there_is_is_not_asked_again(scripted, call_at):
    scripted.answer_with(problem(429, "busy", **{"Retry-After": "3600"}))
    with pytest.raises(ApiError) as refused:
        call_at(scripted.url)("zoo")
    assert refused.value.retry_after_seconds == 3600
    assert len(scripted.asked) == 1


def test_pauses_grow_and_are_never_the_same():
    policy = RetryPolicy(first_pause_seconds=1.0, max_tries=99, max_pause_seconds=8.0)
    from api.client.retrying import Failures

    pauses = []
    for _ in range(50):
        failures = Failures(policy)
        pauses.append([failures.pause(ApiError("c", "d")).seconds for _ in range(6)])
    for at, most in enumerate((1, 2, 4, 8, 8, 8)):
        column = [row[at] for row in pauses]
        assert all(most / 2 <= each <= most for each in column)
        assert len(set(column)) > 40


def test_a_conversion_is_sent_again_under_the_same_key(scripted, call_at):
    scripted.answer_with(CUT, problem(504, "busy"), Scripted(202, JOB))
    assert call_at(scripted.url)("convert", args=("zoo:resnet50",)).id == JOB["id"]
    keys = {asked.headers["Idempotency-Key"] for asked in scripted.asked}
    assert (len(scripted.asked), len(keys)) == (3, 1)
    call_at(scripted.url)("convert", args=("zoo:resnet50",))
    assert scripted.asked[-1].headers["Idempotency-Key"] not in keys
    call_at(scripted.url)("convert", args=("zoo:resnet50",), idempotency_key="mine")
    assert scripted.asked[-1].headers["Idempotency-Key"] == "mine"


@pytest.mark.parametrize("failure", [CUT, Scripted(502, b""), Scripted(504, b"")])
def test_what_would_be_done_twice_is_not_sent_twice(scripted, call_at, failure):
    scripted.answer_with(failure)
    with pytest.raises(ApiError):
        call_at(scripted.url)("create_key", args=("k",))
    assert len(scripted.asked) == 1


def test_what_was_surely_not_done_is_sent_again(scripted, call_at):
    key = {"id": "k", "tenant": "t", "name": "n", "scopes": [], "created_at": JOB["created_at"]}
    scripted.answer_with(problem(503, "busy"), Scripted(201, key))
    assert call_at(scripted.url)("create_key", args=("k",)).id == "k"


def test_a_service_that_does_not_answer_is_an_error_of_the_same_kind(call_at):
    port = free_port()
    with pytest.raises(ApiError, match="is it running") as refused:
        call_at(f"http://127.0.0.1:{port}")("version")
    assert (refused.value.code, refused.value.status) == ("connection_failed", None)


def test_a_redirect_is_not_followed_with_the_key(scripted, call_at):
    scripted.answer_with(Scripted(301, b"", {"Location": "https://elsewhere.example/zoo"}))
    with pytest.raises(ApiError, match=r"leads to https://elsewhere\.example/zoo"):
        call_at(scripted.url, key="mz_secret")("zoo")
    assert scripted.asked[0].headers["Authorization"] == "Bearer mz_secret"
    assert len(scripted.asked) == 1


def test_what_a_newer_service_adds_is_kept_aside(scripted, call_at):
    scripted.answer_with(Scripted(200, JOB | {"state": "paused", "mood": "good"}))
    job = call_at(scripted.url)("job", args=("a",))
    assert (job.state, job.record.is_final, job.record.raw["mood"]) == ("paused", False, "good")


@pytest.mark.parametrize("body", [{}, [], {"id": "x"}, JOB | {"created_at": "yesterday"}])
def test_what_is_no_answer_of_the_service_is_said_to_be_none(scripted, call_at, body):
    scripted.answer_with(Scripted(200, body))
    with pytest.raises(ApiError, match="does the URL lead to Momentum Zoo"):
        call_at(scripted.url)("job", args=("a",))


def test_the_path_of_a_proxy_comes_before_every_request(scripted, call_at):
    scripted.answer_with(DONE)
    call_at(f"{scripted.url}/below/")("zoo")
    assert scripted.asked[0].path == "/below/zoo"


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(scripted, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    scripted.answer_with(DONE)
    with Client(scripted.url) as client:
        client.zoo()
