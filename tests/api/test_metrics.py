"""GET /metrics: what is planted in a record is told, number by number, to whoever may know it."""

from __future__ import annotations

import re
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event, update

from api.app import create_app
from tests.api.conftest import served
from tests.api.test_keys import ZOO, bearer
from worker.contract.collector import Collector
from worker.contract.job import JobError, Stage
from worker.contract.key_store import Scope
from worker.contract.messages import CONVERT_QUEUE, LANES
from worker.contract.settings import Settings
from worker.contract.tables import events, jobs, workers
from worker.contract.worker_store import SILENT_SECONDS, Device

QUEUE = {"queue": CONVERT_QUEUE}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def settings(request, settings) -> Settings:
    if request.param == "sqlite":
        return settings
    url = request.getfixturevalue("postgres_url")
    return settings.model_copy(update={"database_url": url})


@pytest.fixture
def application(settings):
    application = create_app(settings)
    yield application
    application.state.service.store.engine.dispose()


def families(client, headers=None):
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {one.name: one for one in text_string_to_metric_families(answer.text)}


def samples(client, headers=None) -> dict[tuple, float]:
    """All numbers of the service, by name and labels."""
    return {
        key(one.name, **one.labels): one.value
        for family in families(client, headers).values()
        for one in family.samples
        if one.name.startswith("momentum_")
    }


def key(name: str, **labels: str) -> tuple:
    return name.removeprefix("momentum_"), *sorted(labels.items())


def submit(client, headers=None, **options) -> str:
    return client.post("/convert", json=ZOO | options, headers=headers).json()["id"]


@pytest.fixture
def end(service, claims, finish):
    """Have a job end as given, with times that are known."""

    def end(job_id: str, *, wait: float, stages: dict[Stage, float], peaks=None) -> None:
        claim = claims.claim(job_id, worker="w")
        for stage in stages:
            claims.enter_stage(claim, stage, progress=0.1)
            claims.record_progress(claim, progress=0.2, data={"step": 1})
        claims.succeed(claim, result={"peak_bytes": peaks} if peaks else {}, files=[])
        set_times(service, job_id, wait, list(stages.values()))

    return end


def set_times(service, job_id: str, wait: float, took: list[float]) -> None:
    """Give a job's events the times that they would have had."""
    started = time.time() - sum(took)
    with service.store.engine.begin() as connection:
        mine = events.select().where(events.c.job_id == job_id).order_by(events.c.number)
        num_stages = 0
        for row in connection.execute(mine).all():
            before = sum(took[:num_stages])
            if row.kind == "progress":  # it is in the middle of the stage, and ends nothing
                before -= took[num_stages - 1] / 2
            num_stages += row.kind == "stage"
            connection.execute(
                update(events)
                .where(events.c.job_id == job_id, events.c.number == row.number)
                .values(at=started + before)
            )
        times = {
            "created_at": started - wait,
            "started_at": started,
            "finished_at": started + sum(took),
        }
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(times))


def test_an_empty_service_has_no_numbers_but_zeros(client, settings):
    found = samples(client)
    assert found.pop(key("momentum_disk_free_bytes")) > 0
    [version] = [one for one in found if one[0] == "build_info"]
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", dict(version[1:])["version"])
    assert found.pop(version) == 1
    assert set(found.values()) == {0}
    # What may come to be is there from the start: an alert on what is not there never fires.
    states = {"jobs_finished_total": 3, "webhook_deliveries": 3, "workers": 6, "stored_bytes": 2}
    for name, number in states.items():
        assert sum(one[0] == name for one in found) == number, name


def test_jobs_are_counted_by_where_they_are(client, service, claims):
    ids = [submit(client) for _ in range(9)]
    claims.succeed(claims.claim(ids[0], worker="w"), result={}, files=[])
    for job_id in ids[1:3]:
        error = JobError(code="internal_error", message="m")
        claims.fail(claims.claim(job_id, worker="w"), error)
    for job_id in ids[3:6]:
        client.post(f"/jobs/{job_id}/cancel")
    claims.claim(ids[6], worker="w")
    submit(client, worker={"device": "cuda"})
    with service.store.engine.begin() as connection:
        for job_id, seconds in ((ids[6], 5000), (ids[7], 700), (ids[8], 10)):
            asked_for = time.time() - seconds
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(created_at=asked_for))
    found = samples(client)
    assert found[key("momentum_jobs_finished_total", state="succeeded")] == 1
    assert found[key("momentum_jobs_finished_total", state="failed")] == 2
    assert found[key("momentum_jobs_finished_total", state="cancelled")] == 3
    assert found[key("momentum_jobs_running", **QUEUE)] == 1
    assert found[key("momentum_jobs_queued", **QUEUE)] == 3
    assert found[key("momentum_queue_wait_seconds", **QUEUE)] == pytest.approx(700, abs=10)
    waits = {lane: key("momentum_lane_wait_seconds", **QUEUE, lane=lane) for lane in LANES}
    assert found[waits["any"]] == pytest.approx(700, abs=10)
    assert 0 < found[waits["cuda"]] < 10
    assert found[waits["cpu"]] == 0


def test_a_paused_queue_is_told(client, service):
    service.queues.set_paused(CONVERT_QUEUE, paused=True)
    assert samples(client)[key("momentum_queue_paused", **QUEUE)] == 1


def test_jobs_that_are_forgotten_still_count(client, service, claims, settings):
    kept, deleted, expired, unfinished = (submit(client) for _ in range(4))
    for job_id in (kept, deleted, expired):
        claims.succeed(claims.claim(job_id, worker="w"), result={}, files=[])
    assert client.delete(f"/jobs/{unfinished}").status_code == 409
    assert client.delete(f"/jobs/{deleted}").status_code == 204
    with service.store.engine.begin() as connection:
        long_ago = update(jobs).where(jobs.c.id == expired).values(finished_at=1.0)
        connection.execute(long_ago)
    collector = Collector(service.store.engine, service.files, keep_seconds=1000)
    assert collector.drop_expired() == 1
    found = samples(client)
    assert found[key("momentum_jobs_finished_total", state="succeeded")] == 3
    assert found[key("momentum_jobs_finished_total", state="failed")] == 0
    assert found[key("momentum_jobs_queued", **QUEUE)] == 1


def test_waits_stages_and_memory_are_those_of_the_jobs_that_ended_lately(client, service, end):
    for number in range(1, 21):  # waits of 1 to 20 seconds
        end(
            submit(client),
            wait=number,
            stages={Stage.LOADING: 2 * number, Stage.MEASURING: 3.0, Stage.PACKAGING: 1.0},
            peaks={"original": number * 2**32, "momentum": number * 2**20},
        )
    before = submit(client)
    end(before, wait=9999, stages={Stage.LOADING: 9999})
    with service.store.engine.begin() as connection:
        an_hour_ago = time.time() - 3700
        connection.execute(update(jobs).where(jobs.c.id == before).values(finished_at=an_hour_ago))
    client.post(f"/jobs/{submit(client)}/cancel")  # it has no times
    found = samples(client)

    def quantiles(name: str, **labels: str) -> list[float]:
        names = ("0.5", "0.95", "1")
        return [found[key(f"momentum_recent_{name}", quantile=one, **labels)] for one in names]

    def about(*values: float):
        return pytest.approx(values, abs=1e-3)  # times are seconds since 1970

    assert quantiles("queue_wait_seconds") == about(10, 19, 20)
    assert quantiles("stage_duration_seconds", stage="loading") == about(20, 38, 40)
    assert quantiles("stage_duration_seconds", stage="measuring") == about(3, 3, 3)
    assert quantiles("stage_duration_seconds", stage="packaging") == about(1, 1, 1)
    assert quantiles("job_duration_seconds") == about(24, 42, 44)
    peaks = [number * 2**32 for number in (10, 19, 20)]
    assert quantiles("step_peak_bytes", network="original") == peaks
    assert quantiles("step_peak_bytes", network="momentum") == [one / 2**12 for one in peaks]
    assert not any("refining" in str(one) for one in found)


def test_only_the_newest_jobs_are_looked_at_and_found_by_an_index(
    client, service, monkeypatch, end
):
    monkeypatch.setattr("worker.contract.service_figures.MAX_RECENT", 2)
    ids = [submit(client) for _ in range(3)]
    for wait, job_id in enumerate(ids, start=1):
        end(job_id, wait=wait, stages={Stage.LOADING: 1.0})
    with service.store.engine.begin() as connection:
        oldest = update(jobs).where(jobs.c.id == ids[2]).values(finished_at=time.time() - 60)
        connection.execute(oldest)
    asked = asked_for(service.store.engine)
    found = samples(client)
    assert found[key("momentum_recent_queue_wait_seconds", quantile="1")] == pytest.approx(2, 1e-3)
    if service.store.engine.dialect.name == "sqlite":
        [(statement, values)] = [one for one in asked if "ORDER BY jobs.finished_at" in one[0]]
        with service.store.engine.connect() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
        assert "USING INDEX ix_jobs_finished_at" in str(plan)
        assert "TEMP B-TREE" not in str(plan)


def asked_for(engine) -> list[tuple]:
    """A list that fills with what the database is asked, and with which values."""
    found: list[tuple] = []

    def note(_, __, statement, values, *rest):
        found.append((statement, values))

    event.listen(engine, "before_cursor_execute", note)
    return found


def test_bytes_are_those_of_files_and_of_the_disk(client, service, claims, finish, settings):
    client.post("/uploads", content=1000 * b"x")
    client.post("/uploads", content=234 * b"x")
    for weights in (b"weights", 10_000 * b"w"):
        finish(service, claims, submit(client), weights)
    found = samples(client)
    assert found[key("momentum_stored_bytes", kind="uploads")] == 1234
    assert found[key("momentum_stored_bytes", kind="artifacts")] == 10_007
    free = service.files.free_bytes()
    assert found[key("momentum_disk_free_bytes")] == pytest.approx(free, rel=0.1)
    changed = create_app(settings.model_copy(update={"min_free_bytes": 12345}))
    with served(changed) as other:
        assert samples(other)[key("momentum_disk_reserve_bytes")] == 12345
    changed.state.service.store.engine.dispose()


def test_messages_to_webhooks_are_counted_by_what_became_of_them(client, service, claims):
    store = service.webhooks
    store.create(tenant="default", url="u", kinds=["succeeded"])
    for _ in range(4):
        claims.succeed(claims.claim(submit(client), worker="w"), result={}, files=[])
    first, second, third, _ = store.take_due()
    store.record(first.delivery, status=200, problem=None)
    store.record(second.delivery, status=204, problem=None)
    store.record(third.delivery, status=500, problem="x")  # tried again
    found = samples(client)
    assert found[key("momentum_webhook_deliveries", state="delivered")] == 2
    assert found[key("momentum_webhook_deliveries", state="pending")] == 2
    assert found[key("momentum_webhook_deliveries", state="failed")] == 0


def test_workers_are_counted_by_device_and_by_what_may_be_expected_of_them(client, service):
    devices = {
        **{f"cpu-{number}": "cpu" for number in range(3)},
        **{f"gpu-{number}": f"cuda:{number}" for number in range(2)},
        "other": "mps",
        "new": None,
    }
    for name, device in devices.items():
        service.workers.announce(name, queues=["q"], version="1", torch_version="2")
        if device is not None:
            found = Device(name=device, model="M", memory_bytes=1, num_threads=1)
            service.workers.describe(name, found)
    for name in ("cpu-0", "gpu-1"):
        service.workers.set_draining(name, draining=True)
    with service.store.engine.begin() as connection:
        long_ago = time.time() - SILENT_SECONDS - 5
        for name in ("cpu-0", "cpu-1"):  # one that drains and is gone is gone
            connection.execute(
                update(workers).where(workers.c.name == name).values(seen_at=long_ago)
            )
    found = {one[1:]: number for one, number in samples(client).items() if one[0] == "workers"}
    told = {(dict(one)["device"], dict(one)["state"]): number for one, number in found.items()}
    assert {one: number for one, number in told.items() if number} == {
        ("cpu", "alive"): 1,
        ("cpu", "silent"): 2,
        ("cuda", "alive"): 1,
        ("cuda", "draining"): 1,
        ("mps", "alive"): 1,
        ("unknown", "alive"): 1,
    }


def test_two_api_processes_tell_the_same(client, application, settings, end):
    end(submit(client), wait=3, stages={Stage.LOADING: 2.0})
    submit(client)
    second = create_app(settings)
    with served(second) as other:
        here, there = samples(client), samples(other)
    second.state.service.store.engine.dispose()
    changing = ("queue_wait_seconds", "lane_wait_seconds", "disk_free_bytes")
    for name in [one for one in here if one[0] in changing]:
        assert there.pop(name) == pytest.approx(here.pop(name), abs=10, rel=0.1)
    assert here == there
    assert here[key("momentum_jobs_finished_total", state="succeeded")] == 1


def test_it_names_no_tenant_no_job_and_no_worker(client, service, claims):
    _, secret = service.keys.create(tenant="acme", name="k", scopes=[Scope.READ, Scope.WRITE])
    job_id = submit(client, bearer(secret))
    service.workers.announce("host:1", queues=["q"], version="1", torch_version="2")
    claims.claim(job_id, worker="host:1")
    answer = client.get("/metrics")
    assert answer.status_code == 200
    text = answer.text
    for word in ("acme", job_id, "host", "default"):
        assert word not in text
