"""The OpenAPI document: as committed, complete, and what the running service keeps to."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api.app import create_app
from api.supervisor.valkey import embedded_broker
from tests.api.conftest import served
from tests.architecture.write_documents import openapi_text
from tests.conftest import ROOT
from worker.contract.inspection import NameQuestion
from worker.contract.job import JobError
from worker.contract.job_claims import JobClaims
from worker.contract.key_store import Scope
from worker.contract.settings import Settings

METHODS = {"get", "post", "put", "patch", "delete", "head", "options"}
NUM_EXAMPLES = 25
SEED = 1

HOOKS = Path(__file__).with_name("schemathesis_hooks.py")
# No schema says what a file must hold, or that two fields have to fit.
CONFIGURATION = """
hooks = "{hooks}"

[[operations]]
include-operation-id = [
  "get_weights", "get_bundle", "get_report", "get_artifact", "get_job", "list_events",
  "list_logs"
]
parameters = {{ job_id = "{job}", name = "model.safetensors" }}

# The audit log shows the ids of keys: the one that it comes with must not be revoked.
[[operations]]
include-operation-id = "revoke_key"
parameters = {{ key_id = "{key}" }}

[[operations]]
include-operation-id = ["drain_worker", "resume_worker"]
parameters = {{ worker_name = "host:1" }}

[[operations]]
include-operation-id = ["pause_queue", "resume_queue"]
parameters = {{ queue_name = "momentum-convert" }}

[[operations]]
include-operation-id = ["convert", "inspect"]
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 404, 409, 415, 422, 429]

[[operations]]
include-operation-id = "create_webhook"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 422, 429]

[[operations]]
include-operation-id = "append_to_upload"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 404, 409, 413]
[operations.checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 409, 412, 415, 422]
"""


def operations(document) -> list[tuple[str, str, dict]]:
    return [
        (method, path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


def test_the_committed_document_is_the_service():
    committed = (ROOT / "docs/openapi.json").read_text()
    assert committed == openapi_text(), "run: python -m tests.architecture.write_documents"


def test_every_operation_has_a_name_a_summary_and_its_problems(application):
    found = operations(application.openapi())
    names = [operation["operationId"] for _, _, operation in found]
    assert len(names) == len(set(names)) >= 20
    for method, path, operation in found:
        assert operation["summary"], path
        assert operation["description"], path
        responses = operation["responses"]
        assert "default" in responses, path
        if operation.get("security"):
            assert {"401", "403"} <= responses.keys(), (method, path)
        if "{" in path:
            assert "404" in responses, (method, path)
        for status, response in responses.items():
            if status == "default" or int(status) >= 400:
                is_problem = "application/problem+json" in response["content"]
                assert is_problem or path == "/readyz", (method, path, status)


def test_what_needs_no_key_is_a_short_list(application):
    found = operations(application.openapi())
    is_open = {(method, path) for method, path, one in found if not one.get("security")}
    paths = ("/healthz", "/readyz", "/zoo", "/version")
    assert is_open == {("get", path) for path in paths} | {("options", "/uploads")}


@pytest.fixture
def broker_url(tmp_path):
    broker = embedded_broker(tmp_path)
    process = subprocess.Popen(broker.command(), stdout=subprocess.DEVNULL)
    try:
        broker.wait(threading.Event())
        yield broker.url
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def answered(inspections) -> Iterator[None]:
    """Answer every question at once, so that their number is no limit; no name is known."""
    ended = threading.Event()

    def answer() -> None:
        while not ended.wait(0.02):
            for each in inspections.waiting():
                if isinstance(inspections.question(each), NameQuestion):
                    error = JobError(code="unknown_architecture", message="there is none")
                    inspections.refuse(each, error)
                else:
                    inspections.answer(each, {"summary": ["s"]})

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_schemathesis_finds_nothing(tmp_path, broker_url, finish):
    """All its checks: examples, edges of the schema, random requests, and chains of requests."""
    settings = Settings(
        data_dir=tmp_path / "data",
        broker_url=broker_url,
        min_free_bytes=0,
        require_keys=True,
        inspect_seconds=60.0,
    )
    application = create_app(settings)
    service = application.state.service
    _, secret = service.keys.create(tenant="default", name="all", scopes=list(Scope))
    other, _ = service.keys.create(tenant="default", name="to revoke", scopes=[Scope.READ])
    headers = {"Authorization": f"Bearer {secret}"}
    with served(application) as client, answered(service.inspections):
        asked = {"source": {"zoo": "digits_resnet26"}}
        job = client.post("/convert", json=asked, headers=headers).json()["id"]
        finish(service, JobClaims(service.store.engine, lease_seconds=30), job)
        service.workers.announce("host:1", queues=["q"], version="1", torch_version="2")
        config = tmp_path / "schemathesis.toml"
        config.write_text(CONFIGURATION.format(job=job, key=other.id, hooks=HOOKS))
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", config, "run"]
        options = [
            "--seed",
            str(SEED),
            "--checks",
            "all",
            "--max-examples",
            str(NUM_EXAMPLES),
            "--no-color",
            "--request-timeout",
            "120",
        ]
        url = f"{client.base_url}/openapi.json"
        result = subprocess.run(
            [*command, *options, "--header", f"Authorization:{headers['Authorization']}", url],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert result.returncode == 0, result.stdout[-20000:] + result.stderr[-2000:]
    assert "Stateful" in result.stdout
    assert "Failures" not in result.stdout
