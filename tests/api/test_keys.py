"""Who is let in: with a key, without one, from elsewhere, and from a page of another site."""

from __future__ import annotations

import logging
import stat
import time

import pytest

from api.app import FIRST_KEY_FILE, create_app
from api.known_keys import HOLD_SECONDS
from tests.api.conftest import problem_of, served
from worker.contract.database import open_database
from worker.contract.key_store import KeyStore, Scope

ZOO = {"source": {"zoo": "digits_resnet26"}}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
def locked(settings):
    """A service that lets nobody in without a key, and its first key."""
    application = create_app(settings.model_copy(update={"require_keys": True}))
    secret = (settings.data_folder / FIRST_KEY_FILE).read_text().strip()
    with served(application) as client:
        yield client, secret


def new_key(client, secret: str, **options) -> str:
    answer = client.post("/keys", json={"name": "n"} | options, headers=bearer(secret))
    assert answer.status_code == 201, answer.json()
    return answer.json()["secret"]


def test_without_a_key_nothing_but_the_public_pages_answer(locked):
    client, secret = locked
    for method, path in (("GET", "/jobs"), ("POST", "/convert"), ("GET", "/keys")):
        answer = client.request(method, path)
        problem_of(answer, 401, "missing_key")
        assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/healthz", "/zoo", "/openapi.json"):
        assert client.get(path).status_code == 200
    assert client.get("/jobs", headers=bearer(secret)).status_code == 200


@pytest.mark.parametrize(
    "header", ["Bearer mz_wrong", "Bearer", "Basic eDp5", "mz_x", "", "Bearer \u00e4"]
)
def test_a_key_that_does_not_hold_is_refused_wherever_it_comes_from(client, header):
    answer = client.get("/jobs", headers={"Authorization": header.encode()})
    problem_of(answer, 401, "invalid_key")


def test_the_first_key_is_its_owners_alone_and_made_once(settings, caplog):
    wanted = settings.model_copy(update={"require_keys": True})
    with caplog.at_level(logging.WARNING):
        create_app(wanted)
    path = settings.data_folder / FIRST_KEY_FILE
    secret = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert str(path) in caplog.text
    assert secret.strip() not in caplog.text
    create_app(wanted)
    assert path.read_text() == secret


def test_a_scope_allows_what_it_names(locked):
    client, admin = locked
    reader = bearer(new_key(client, admin, scopes=["read"]))
    writer = bearer(new_key(client, admin, scopes=["read", "write"]))
    problem_of(client.post("/convert", json=ZOO, headers=reader), 403, "insufficient_scope")
    made = client.post("/convert", json=ZOO, headers=writer)
    assert made.status_code == 202
    at = made.headers["location"]
    assert client.get(at, headers=reader).status_code == 200
    for method, path in (("POST", f"{at}/cancel"), ("POST", f"{at}/retry"), ("DELETE", at)):
        problem_of(client.request(method, path, headers=reader), 403, "insufficient_scope")
    for method, path in (("GET", "/keys"), ("POST", "/keys"), ("DELETE", f"/keys/{'0' * 32}")):
        answer = client.request(method, path, headers=writer, json={"name": "n"})
        problem_of(answer, 403, "insufficient_scope")
    assert client.post(f"{at}/cancel", headers=writer).status_code == 200


def test_a_key_is_shown_once_and_ends_when_it_is_revoked(locked):
    client, admin = locked
    secret = new_key(client, admin, tenant="lab", expires_in_days=1)
    listed = client.get("/keys", headers=bearer(admin))
    assert secret not in listed.text
    key = listed.json()["keys"][0]
    assert (key["tenant"], key["scopes"]) == ("lab", ["read", "write"])
    assert client.get("/jobs", headers=bearer(secret)).status_code == 200
    assert client.delete(f"/keys/{key['id']}", headers=bearer(admin)).status_code == 204
    problem_of(client.get("/jobs", headers=bearer(secret)), 401, "invalid_key")
    problem_of(client.delete("/keys/x", headers=bearer(admin)), 404, "key_not_found")


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"name": ""},
        {"name": "n", "tenant": "A b"},
        {"name": "n", "scopes": ["all"]},
        {"name": "n", "scopes": []},
        {"name": "n", "expires_in_days": 0},
        {"name": "n", "x": 1},
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(client, wanted):
    problem_of(client.post("/keys", json=wanted), 422, "invalid_request")


@pytest.mark.parametrize(
    "headers",
    [{"X-Forwarded-For": "127.0.0.1"}, {"Forwarded": "for=127.0.0.1"}, {"X-Real-IP": "10.0.0.1"}],
)
def test_what_comes_through_a_proxy_needs_a_key(client, headers):
    problem_of(client.get("/jobs", headers=headers), 401, "missing_key")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://example.org"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Host": "example.org"},
        {"Host": "127.0.0.1.example.org"},
        {"Host": ""},
    ],
)
def test_a_page_of_another_site_is_not_let_in_without_a_key(client, service, headers):
    problem_of(client.post("/convert", json=ZOO, headers=headers), 403, "foreign_site")
    _, secret = service.keys.create(tenant="a", name="n", scopes=[Scope.WRITE])
    answer = client.post("/convert", json=ZOO, headers=headers | bearer(secret))
    assert answer.status_code == 202


def test_a_page_of_this_service_is_let_in(client):
    origin = str(client.base_url).rstrip("/")
    assert client.post("/convert", json=ZOO, headers={"Origin": origin}).status_code == 202


def test_a_tenant_has_so_many_jobs_at_once_and_no_more(settings):
    with served(create_app(settings.model_copy(update={"max_unfinished_jobs": 2}))) as client:
        made = [client.post("/convert", json=ZOO) for _ in range(2)]
        answer = client.post("/convert", json=ZOO)
        problem_of(answer, 429, "too_many_jobs")
        assert int(answer.headers["retry-after"]) > 0
        client.post(f"{made[0].headers['location']}/cancel")
        assert client.post("/convert", json=ZOO).status_code == 202
        problem_of(client.post(f"{made[0].headers['location']}/retry"), 429, "too_many_jobs")


def test_a_tenant_keeps_so_many_bytes_and_no_more(settings):
    with served(create_app(settings.model_copy(update={"max_tenant_bytes": 1000}))) as client:
        sent = client.post("/uploads", content=b"x" * 900)
        assert sent.status_code == 201
        problem_of(client.post("/uploads", content=b"x" * 200), 429, "quota_exceeded")
        assert client.delete(sent.headers["location"]).status_code == 204
        assert client.post("/uploads", content=b"x" * 200).status_code == 201


def test_a_key_that_was_revoked_by_another_process_ends_within_a_second(locked, settings):
    client, _ = locked
    elsewhere = KeyStore(open_database(settings.database))
    key, secret = elsewhere.create(tenant="default", name="n", scopes=[Scope.READ])
    assert client.get("/jobs", headers=bearer(secret)).status_code == 200
    elsewhere.revoke(key.id)
    time.sleep(HOLD_SECONDS)
    problem_of(client.get("/jobs", headers=bearer(secret)), 401, "invalid_key")


def test_a_look_up_that_a_revocation_overtakes_is_not_remembered(service, monkeypatch):
    """The key is found, revoked and forgotten, and only then remembered: it must not be."""
    key, secret = service.keys.create(tenant="default", name="n", scopes=[Scope.READ])
    find = service.keys.find

    def find_and_be_overtaken(wanted: str):
        found = find(wanted)
        service.keys.revoke(key.id)
        service.known_keys.forget()
        return found

    monkeypatch.setattr(service.keys, "find", find_and_be_overtaken)
    assert service.known_keys.find(secret).id == key.id
    assert service.known_keys.recent(secret) is None


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_an_open_event_stream_ends_with_its_key(locked, settings, is_elsewhere, monkeypatch):
    monkeypatch.setattr("api.routes.events.KEEP_ALIVE_SECONDS", 1000.0)
    client, admin = locked
    secret = new_key(client, admin)
    made = client.post("/convert", json=ZOO, headers=bearer(secret)).json()["id"]
    key_id = client.get("/keys", headers=bearer(admin)).json()["keys"][0]["id"]
    headers = bearer(secret) | {"Accept": "text/event-stream"}
    with client.stream("GET", f"/jobs/{made}/events", headers=headers) as stream:
        lines = stream.iter_lines()
        while not next(lines).startswith("event: queued"):
            pass
        if is_elsewhere:
            KeyStore(open_database(settings.database)).revoke(key_id)
        else:
            client.delete(f"/keys/{key_id}", headers=bearer(admin))
        started = time.monotonic()
        for _ in lines:
            assert time.monotonic() - started < 30
        assert time.monotonic() - started < 30
    # A key that was looked up just before is believed for a second.
    while (answer := client.get(f"/jobs/{made}", headers=bearer(secret))).status_code == 200:
        assert time.monotonic() - started < 30
        time.sleep(0.05)
    problem_of(answer, 401, "invalid_key")
