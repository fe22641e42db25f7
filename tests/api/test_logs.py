"""A job's log over HTTP: as JSON and as text, page by page."""

from __future__ import annotations

import logging

import pytest

from tests.api.conftest import problem_of
from tests.api.test_keys import ZOO
from worker.contract.job_logs import Said


@pytest.fixture
def job_id(client, service) -> str:
    job_id = client.post("/convert", json=ZOO).json()["id"]
    lines = [
        Said(seconds_ago=0, level=level, logger="worker.x", message=message)
        for level, message in (
            (logging.INFO, "begins"),
            (logging.WARNING, "two\nlines"),
            (logging.CRITICAL, "ends"),
        )
    ]
    service.logs.append(job_id, lines, attempt=1)
    return job_id


def test_lines_come_in_pages_that_lead_to_the_next(client, job_id):
    answer = client.get(f"/jobs/{job_id}/logs", params={"limit": 2})
    assert [(one["number"], one["level"]) for one in answer.json()["lines"]] == [
        (1, "info"),
        (2, "warning"),
    ]
    assert int(answer.headers["retry-after"]) > 0
    rest = client.get(answer.links["next"]["url"])
    [last] = rest.json()["lines"]
    assert (last["message"], last["level"], last["attempt"]) == ("ends", "error", 1)
    assert client.get(rest.links["next"]["url"]).json()["lines"] == []
    errors = client.get(f"/jobs/{job_id}/logs?level=error").json()["lines"]
    assert [one["number"] for one in errors] == [3]


def test_text_is_one_line_for_each_and_further_ones_are_indented(client, job_id):
    answer = client.get(f"/jobs/{job_id}/logs", headers={"Accept": "text/plain"})
    assert answer.headers["content-type"].startswith("text/plain")
    first, second, more, third = answer.text.splitlines()
    assert first.endswith(" INFO worker.x: begins")
    assert second.endswith(" WARNING worker.x: two")
    assert more == "    lines"
    assert third.endswith(" ERROR worker.x: ends")


def test_what_is_wrong_with_a_request_is_said(client, job_id, claims, service, finish):
    problem_of(client.get(f"/jobs/{'0' * 32}/logs"), 404, "job_not_found")
    problem_of(client.get(f"/jobs/{job_id}/logs?after=-1"), 422, "invalid_request")
    problem_of(client.get(f"/jobs/{job_id}/logs?level=loud"), 422, "invalid_request")
    finish(service, claims, job_id)
    assert "retry-after" not in client.get(f"/jobs/{job_id}/logs").headers
    assert client.get(f"/jobs/{job_id}").json()["links"]["logs"] == f"/jobs/{job_id}/logs"
