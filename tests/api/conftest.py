"""The application on a record and a store of its own; no broker is needed to take jobs."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from api.app import create_app
from api.http_protocol import bounded_protocol
from tests.conftest import ROOT
from tests.end_to_end.conftest import serving
from worker.contract.job import Artifact
from worker.contract.job_claims import JobClaims
from worker.contract.settings import Settings

WEIGHTS = b"weights" * 1000
FILES = {"model.safetensors": "application/vnd.safetensors"}


@pytest.fixture(scope="session")
def running(tmp_path_factory):
    """The whole service, worker included, for tests of its clients; they leave it running."""
    # Where no zoo answers: what is not shipped cannot be had.
    elsewhere = {"MOMENTUM_ZOO_BASE_URL": "http://127.0.0.1:9/models"}
    with serving(tmp_path_factory.mktemp("running"), OMP_NUM_THREADS="1", **elsewhere) as service:
        yield service


@pytest.fixture(scope="session")
def url_of_running_service(running) -> str:
    return str(running.client.base_url)


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data", broker_url="redis://127.0.0.1:1/0", min_free_bytes=0
    )


@pytest.fixture
def application(settings):
    return create_app(settings)


@contextmanager
def served(
    application,
    *,
    head_seconds: float = 30.0,
    min_bytes_per_second: float = 1000.0,
    root_path: str = "",
    send_buffer: int | None = None,
) -> Iterator[httpx.Client]:
    """Serve an application over real HTTP on a free port, as api/server.py does."""
    listener = socket.create_server(("127.0.0.1", 0))
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    http = bounded_protocol(head_seconds, min_bytes_per_second)
    server = uvicorn.Server(
        uvicorn.Config(application, http=http, root_path=root_path, log_level="warning")
    )
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        hooks = {"response": [check_documented]}
        with httpx.Client(base_url=url, timeout=30, event_hooks=hooks) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@cache
def documented_paths() -> dict[str, Any]:
    """The committed document's; another test shows that it is the application's."""
    document = json.loads((ROOT / "docs" / "openapi.json").read_text())
    return dict(document["paths"])


def check_documented(answer: httpx.Response) -> None:
    """Check that the OpenAPI document foresees a problem, whichever test meets it."""
    if answer.headers.get("content-type") != "application/problem+json":
        return
    asked = answer.request
    if asked.method == "HEAD":
        return  # no body, and GET's problems
    answer.read()
    code = answer.json()["code"]
    if code in ("not_found", "method_not_allowed"):
        return
    path = asked.url.path
    paths = documented_paths()
    for template in sorted(paths, key=lambda one: one.count("{")):  # a fixed path goes first
        if re.fullmatch(re.sub(r"\{[a-z_]+\}", "[^/]+", template), path):
            responses = paths[template][asked.method.lower()]["responses"]
            known = responses.get(str(answer.status_code), responses["default"])["x-codes"]
            assert code in known, f"{asked.method} {template} answers {code}; known are {known}"
            return


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
def finish():
    """Let a job succeed with `WEIGHTS` (or others), as a worker would record it."""

    def succeed(service, claims: JobClaims, job_id: str, weights: bytes = WEIGHTS) -> None:
        with service.files.temporary_folder() as folder:
            (folder / "w").write_bytes(weights)
            stored = service.files.put(folder / "w")
        artifacts = [
            Artifact(
                name=name, sha256=stored.sha256, num_bytes=stored.num_bytes, media_type=media_type
            )
            for name, media_type in FILES.items()
        ]
        claims.succeed(claims.claim(job_id, worker="w"), result={"a": 1}, files=artifacts)

    return succeed


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
