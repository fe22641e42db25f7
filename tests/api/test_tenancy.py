"""Tenants see nothing of each other: every operation with an id, as the OpenAPI document lists it.

A new route is covered by itself; one with a kind of id that is not known here fails the test.
"""

from __future__ import annotations

import pytest

from tests.api.conftest import served
from tests.api.test_keys import ZOO, bearer
from worker.contract.inspection import Question
from worker.contract.key_store import Scope
from worker.contract.request import ConvertRequest, Source

METHODS = ("get", "post", "delete", "put", "patch", "head")
UNKNOWN = "0123456789abcdef" * 2


@pytest.fixture
def tenants(application):
    """A client, and the headers of two tenants; the first has a job and an upload."""
    keys = application.state.service.keys
    scopes = [Scope.READ, Scope.WRITE]
    owner, other = (
        bearer(keys.create(tenant=name, name=name, scopes=scopes)[1]) for name in ("a", "b")
    )
    with served(application) as client:
        yield client, owner, other


def inspected(application) -> str:
    """An inspection of the first tenant's."""
    question = Question(
        architecture="digits_resnet26",
        num_classes=10,
        request=ConvertRequest(source=Source(zoo="digits_resnet26")),
    )
    return application.state.service.inspections.ask(question, tenant="a")


def operations(client, *, for_admins: bool = False) -> list[tuple[str, str]]:
    """Operations with an id: of tenants, or of whoever runs the service."""
    paths = client.get("/openapi.json").json()["paths"]
    return [
        (method.upper(), path)
        for path, item in paths.items()
        for method, operation in item.items()
        if method in METHODS and (operation.get("x-scope") == "admin") == for_admins
        if for_admins or "{" in path
    ]


def test_every_operation_with_anothers_id_is_as_if_it_were_unknown(tenants, application):
    client, owner, other = tenants
    job = client.post("/convert", json=ZOO, headers=owner).json()["id"]
    upload = client.post("/uploads", content=b"x", headers=owner).json()["id"]
    webhook = application.state.service.webhooks.create(tenant="a", url="u", kinds=["failed"])[0]
    names = {"name": "model.safetensors", "delivery_id": "1"}
    ids = {"job_id": job, "upload_id": upload, "webhook_id": webhook.id}
    ids["inspection_id"] = inspected(application)
    theirs, unknown = names | ids, names | dict.fromkeys(ids, UNKNOWN)
    found = operations(client)
    assert len(found) >= 10
    for method, path in found:
        for headers in (other, other | {"Accept": "text/event-stream"}):
            answer = client.request(method, path.format(**theirs), headers=headers)
            expected = client.request(method, path.format(**unknown), headers=headers)
            assert answer.status_code == expected.status_code == 404, (method, path)
            assert answer.content == expected.content, (method, path)
    # Nothing of it has done anything, and the owner sees all.
    assert client.get(f"/jobs/{job}", headers=owner).json()["state"] == "queued"
    assert client.get(f"/uploads/{upload}", headers=owner).status_code == 200


def test_an_operation_with_the_owners_id_is_not_unknown(tenants, application):
    """Or else the test above would prove nothing."""
    client, owner, _ = tenants
    job = client.post("/convert", json=ZOO, headers=owner).json()["id"]
    upload = client.post("/uploads", content=b"x", headers=owner).json()["id"]
    webhooks = application.state.service.webhooks
    webhook = webhooks.create(tenant="a", url="u", kinds=["cancelled"])[0].id
    names = {"job_id": job, "upload_id": upload, "name": "x", "webhook_id": webhook}
    client.post(f"/jobs/{job}/cancel", headers=owner)
    names["inspection_id"] = inspected(application)
    [delivery] = webhooks.deliveries_of(webhook)
    names["delivery_id"] = str(delivery.id)
    found = sorted(operations(client), key=lambda one: (one[0] == "DELETE", one[1]))
    for method, path in found:
        if path.endswith("/events"):
            continue  # a page; the stream would not end
        answer = client.request(method, path.format(**names), headers=owner)
        assert answer.status_code != 404, (method, path, answer.text)


def test_what_is_for_admins_is_refused_to_every_other_key(tenants):
    client, owner, _ = tenants
    found = operations(client, for_admins=True)
    assert {path.split("/")[1] for _, path in found} >= {"keys", "queues", "workers"}
    for method, path in found:
        names = dict.fromkeys(("key_id", "worker_name", "queue_name"), UNKNOWN)
        body = {"json": {"name": "x"}} if method == "POST" else {}
        answer = client.request(method, path.format(**names), headers=owner, **body)
        assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope"), path


def test_lists_and_requests_know_nothing_of_others(tenants):
    client, owner, other = tenants
    job = client.post("/convert", json=ZOO | {"tags": ["t"]}, headers=owner).json()
    upload = client.post("/uploads", content=b"x", headers=owner).json()["id"]
    for filters in ({}, {"tag": "t"}, {"text": job["id"]}, {"state": "queued"}):
        assert client.get("/jobs", params=filters, headers=other).json()["jobs"] == []
    asked = {"source": {"upload": upload}}
    assert client.post("/convert", json=asked, headers=other).json()["code"] == "upload_not_found"
    key = {"Idempotency-Key": "k"}
    first = client.post("/convert", json=ZOO, headers=owner | key).json()["id"]
    assert client.post("/convert", json=ZOO, headers=other | key).json()["id"] != first
