"""The application on a record and a store of its own; no broker is needed to take jobs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from api.app import create_app
from worker.contract.job_claims import JobClaims
from worker.contract.settings import Settings


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data", broker_url="redis://127.0.0.1:1/0", min_free_bytes=0
    )


@pytest.fixture
def application(settings):
    return create_app(settings)


@contextmanager
def served(application) -> Iterator[httpx.Client]:
    """Serve an application over real HTTP on a free port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture
def client(application):
    with served(application) as client:
        yield client


@pytest.fixture
def service(application):
    return application.state.service


@pytest.fixture
def claims(service) -> JobClaims:
    return JobClaims(service.store.engine, lease_seconds=30)


@pytest.fixture
def stored_files(settings):
    """All files below the data folder that hold what users sent."""

    def find() -> list[Path]:
        folder = settings.data_folder
        return [
            path
            for name in ("blobs", "received", "tmp")
            for path in (folder / name).rglob("*")
            if path.is_file()
        ]

    return find


def problem_of(answer, status: int, code: str) -> str:
    """Check that an answer is a problem; return its sentence."""
    body = answer.json()
    assert (answer.status_code, body["code"]) == (status, code), body
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["status"] == status
    assert body["title"]
    return body["detail"]
