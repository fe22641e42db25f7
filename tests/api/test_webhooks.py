"""Webhooks over HTTP."""

from __future__ import annotations

import pytest

from api.app import create_app
from tests.api.conftest import problem_of, served
from worker.contract.settings import Settings

URL = "https://1.1.1.1/hook"
ZOO = {"source": {"zoo": "resnet50"}}


def test_a_webhook_is_made_with_a_secret_that_is_shown_once(client):
    answer = client.post("/webhooks", json={"url": URL})
    made = answer.json()
    assert answer.status_code == 201
    assert made["secret"].startswith("whsec_")
    assert made["events"] == ["cancelled", "failed", "succeeded"]
    shown = {name: value for name, value in made.items() if name != "secret"}
    assert client.get("/webhooks").json() == {"webhooks": [shown]}
    assert client.get(f"/webhooks/{made['id']}").json() == shown
    assert client.delete(f"/webhooks/{made['id']}").status_code == 204
    problem_of(client.get(f"/webhooks/{made['id']}"), 404, "webhook_not_found")
    assert client.get("/webhooks").json() == {"webhooks": []}


def test_its_messages_can_be_looked_at_and_sent_again(client):
    hook = client.post("/webhooks", json={"url": URL, "events": ["cancelled"]}).json()
    job = client.post("/convert", json=ZOO).json()["id"]
    client.post(f"/jobs/{job}/cancel")
    path = f"/webhooks/{hook['id']}/deliveries"
    [message] = client.get(path).json()["deliveries"]
    assert (message["job_id"], message["event"], message["state"]) == (job, "cancelled", "pending")
    again = client.post(f"{path}/{message['id']}/redeliver")
    assert (again.status_code, again.json()["attempts"]) == (202, 0)
    for unknown in ("999", "x", "9" * 99):
        problem_of(client.post(f"{path}/{unknown}/redeliver"), 404, "delivery_not_found")


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "https://[::1]/", "ftp://1.1.1.1/", "x"])
def test_a_url_that_may_not_be_called_is_refused_at_once(client, url):
    detail = problem_of(client.post("/webhooks", json={"url": url}), 422, "refused_address")
    assert "the url is refused" in detail
    assert client.get("/webhooks").json() == {"webhooks": []}


@pytest.mark.parametrize(
    "wrong", [{"url": URL, "events": []}, {"url": URL, "events": ["x"]}, {}, {"url": URL, "a": 1}]
)
def test_a_wrong_request_is_refused(client, wrong):
    problem_of(client.post("/webhooks", json=wrong), 422, "invalid_request")


def test_the_operator_may_allow_private_receivers(tmp_path):
    settings = Settings(data_dir=tmp_path / "d", webhook_networks=["127.0.0.1"])
    with served(create_app(settings)) as client:
        assert client.post("/webhooks", json={"url": "http://127.0.0.1:1/"}).status_code == 201


def test_there_is_an_end_to_webhooks(client):
    for _ in range(20):
        assert client.post("/webhooks", json={"url": URL}).status_code == 201
    problem_of(client.post("/webhooks", json={"url": URL}), 429, "too_many_webhooks")


def test_a_receiver_that_is_gone_is_sent_nothing_again(client, service):
    hook = client.post("/webhooks", json={"url": URL, "events": ["cancelled"]}).json()["id"]
    job = client.post("/convert", json=ZOO).json()["id"]
    client.post(f"/jobs/{job}/cancel")
    [message] = client.get(f"/webhooks/{hook}/deliveries").json()["deliveries"]
    service.webhooks.disable(hook)
    again = client.post(f"/webhooks/{hook}/deliveries/{message['id']}/redeliver")
    problem_of(again, 409, "webhook_disabled")
