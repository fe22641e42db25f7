"""A stream is sent when what solved its request is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.testclient import TestClient

from api.event_streams import EventStream, EventStreams

events: list[str] = []


def resource() -> Iterator[None]:
    yield
    events.append("released")


async def pieces(client: Request) -> AsyncIterator[bytes]:
    events.append("begun")
    yield b"data: 1\n\n"
    if "broken" in client.query_params:
        raise RuntimeError("the record does not answer")
    yield b"data: 2\n\n"


@pytest.fixture
def client() -> TestClient:
    events.clear()
    app = FastAPI()

    @app.get("/stream")
    def stream(_: Annotated[None, Depends(resource)]) -> EventStream:
        return EventStream(pieces)

    @app.get("/other")
    def other() -> str:
        return "other"

    app.add_middleware(EventStreams)
    return TestClient(app)


def test_a_stream_begins_when_its_route_holds_nothing_any_more(client):
    answer = client.get("/stream")
    assert answer.text == "data: 1\n\ndata: 2\n\n"
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert "content-length" not in answer.headers
    assert events == ["released", "begun"]


def test_other_answers_are_as_they_were(client):
    assert client.get("/other").json() == "other"
    assert client.get("/nothing").status_code == 404


def test_an_error_in_a_stream_is_one_of_the_service(client):
    with pytest.raises(RuntimeError, match="does not answer"):
        client.get("/stream?broken=1")
