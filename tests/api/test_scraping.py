"""Who may scrape GET /metrics, how often that asks the record, and what the answer looks like."""

from __future__ import annotations

import re
import time

import pytest
from sqlalchemy import event

from api import metrics
from api.app import create_app
from tests.api.conftest import problem_of, served
from tests.api.test_keys import ZOO, bearer
from tests.api.test_metrics import QUEUE, asked_for, families, key, samples, submit
from worker.contract.key_store import Scope
from worker.contract.settings import Settings

TOKEN = "t0ken-" + 20 * "x"


def test_whoever_scrapes_more_often_does_not_load_the_database(client, service, monkeypatch):
    asked, now = asked_for(service.store.engine), time.monotonic()

    def later(seconds: float):
        monkeypatch.setattr(metrics.time, "monotonic", lambda: now + seconds)

    later(0)
    first = samples(client)
    num_asked = len(asked)
    assert 0 < num_asked <= 12
    submit(client)
    del asked[:]
    assert samples(client)[key("momentum_jobs_queued", **QUEUE)] == 0
    assert asked == []
    later(metrics.CURRENT_SECONDS + 10)
    assert samples(client)[key("momentum_jobs_queued", **QUEUE)] == 1
    assert 0 < len(asked) < num_asked / 2
    later(metrics.SLOW_SECONDS + 20)
    del asked[:]
    assert samples(client).keys() == first.keys()
    assert len(asked) == num_asked


def test_only_who_runs_the_service_may_look(settings):
    application = create_app(
        settings.model_copy(update={"require_keys": True, "metrics_token": TOKEN})
    )
    keys = application.state.service.keys
    secrets = {scope: keys.create(tenant="default", name="k", scopes=[scope])[1] for scope in Scope}
    with served(application) as client:
        assert samples(client, bearer(TOKEN))
        assert samples(client, bearer(secrets[Scope.ADMIN]))
        assert client.head("/metrics", headers=bearer(TOKEN)).status_code == 200
        problem_of(client.get("/metrics"), 401, "missing_key")
        for wrong in (TOKEN[:-1], TOKEN + "x", "x", "\u00e4"):
            sent = {"Authorization": f"Bearer {wrong}".encode()}
            problem_of(client.get("/metrics", headers=sent), 401, "invalid_key")
        for scope in (Scope.READ, Scope.WRITE):
            answer = client.get("/metrics", headers=bearer(secrets[scope]))
            problem_of(answer, 403, "insufficient_scope")
        # The token is no key.
        for path in ("/jobs", "/keys", "/workers"):
            problem_of(client.get(path, headers=bearer(TOKEN)), 401, "invalid_key")
        problem_of(client.post("/convert", json=ZOO, headers=bearer(TOKEN)), 401, "invalid_key")
    application.state.service.store.engine.dispose()


def test_without_a_token_none_is_taken(client):
    for sent in ("Bearer", "Bearer None", "Basic eDp5"):
        answer = client.get("/metrics", headers={"Authorization": sent})
        problem_of(answer, 401, "invalid_key")


def test_a_token_that_can_be_guessed_is_no_setting():
    for short in ("", "x", 19 * "x"):
        with pytest.raises(ValueError, match="at least 20 characters"):
            Settings(metrics_token=short)


def test_a_database_that_is_away_is_said(client, service, monkeypatch):
    engine = service.store.engine
    assert samples(client)

    def refuse(*_):
        raise engine.dialect.loaded_dbapi.OperationalError("away")

    event.listen(engine, "do_connect", refuse)
    engine.dispose()
    # After the time for which the answer before is taken for true.
    now = time.monotonic()
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now + 1000)
    problem_of(client.get("/metrics"), 503, "database_unavailable")
    event.remove(engine, "do_connect", refuse)
    assert samples(client)


def test_the_process_that_answers_is_told_too(client):
    found = families(client)
    assert found["process_resident_memory_bytes"].samples[0].value > 1e6
    assert found["process_cpu_seconds"].type == "counter"
    assert found["process_open_fds"].samples[0].value > 3


def test_names_follow_the_rules_of_prometheus(client):
    for family in families(client).values():
        if family.name.startswith("process_"):
            continue
        assert re.fullmatch("momentum_[a-z_]+", family.name)
        assert len(family.documentation) > 10
        [kind] = {one.name.endswith("_total") for one in family.samples} or [False]
        assert (family.type == "counter") == kind, family.name
        assert not re.search("_(ms|minutes|hours|kb|mb|percent|count)$", family.name)
