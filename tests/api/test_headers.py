"""Headers that every answer has."""

from __future__ import annotations

import pytest

from api.app import create_app
from tests.api.conftest import served


@pytest.mark.parametrize("path", ["/healthz", "/jobs", "/jobs/unknown", "/nowhere", "/docs"])
def test_every_answer_has_the_security_headers(client, path):
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    # Pages send their origin to this service, or it could not tell its own forms from others.
    assert headers["referrer-policy"] == ("same-origin" if path == "/docs" else "no-referrer")
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert ("script-src" in policy) == (path == "/docs")
    assert "strict-transport-security" not in headers  # over plain HTTP it would mean nothing


def test_an_error_of_the_service_has_them_too(client, service, monkeypatch):
    monkeypatch.setattr(service.store, "look_at", lambda *_, **__: 1 / 0)
    answer = client.get(f"/jobs/{'0' * 32}")
    assert answer.status_code == 500
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_behind_a_proxy_places_are_below_its_path(settings):
    with served(create_app(settings), root_path="/zoo") as client:
        asked = {"source": {"zoo": "digits_resnet26"}}
        made = client.post("/convert", json=asked)
        assert made.headers["location"] == f"/zoo/jobs/{made.json()['id']}"
        upload = client.post("/uploads", content=b"x")
        assert upload.headers["location"] == f"/zoo/uploads/{upload.json()['id']}"
        assert client.put("/convert").headers["allow"] == "POST"


def test_what_may_be_kept_says_so_itself(client):
    job = client.post("/convert", json={"source": {"zoo": "digits_resnet26"}})
    assert job.headers["cache-control"] == "no-store"
    assert client.get(f"/jobs/{job.json()['id']}").headers["cache-control"] == "no-cache"


def test_no_other_site_may_read_answers(client):
    answer = client.get("/healthz", headers={"Origin": "https://example.org"})
    assert not [name for name in answer.headers if name.startswith("access-control-")]
