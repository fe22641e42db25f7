"""The broker is killed, wiped, frozen, filled and cut off: it is only a bell."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.api.client.cutting_proxy import CuttingProxy
from tests.faults.broker import Broker
from tests.faults.stack import LONG, SMALL, Stack, stack, wait_until
from worker.broker import create_celery_app
from worker.contract.messages import CONVERT_QUEUE, CONVERT_TASK

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with stack(tmp_path_factory.mktemp("stack"), own_broker=True) as service:
        yield service


@pytest.fixture
def broker(service: Stack) -> Broker:
    assert service.broker is not None
    return service.broker


def submit_quickly(service: Stack) -> str:
    """Submit a job, which never takes long: the broker is not asked."""
    started = time.monotonic()
    location = service.submit(SMALL)
    assert time.monotonic() - started < 10
    return location


def settle(broker: Broker) -> None:
    """Wait until the worker holds no message of an earlier job: it would take the next one."""
    with broker.client() as client:
        for _ in range(2):  # a message on its way is in neither place
            wait_until(
                lambda: not client.llen(CONVERT_QUEUE) and not client.hlen("unacked"),
                "messages are left",
                seconds=120,
            )
            time.sleep(1)


@pytest.mark.slow
@pytest.mark.fault(5)
def test_a_broker_that_lost_everything_loses_no_job(service: Stack, broker, undisturbed):
    os.kill(service.pid("worker"), signal.SIGSTOP)
    locations = [service.submit(SMALL) for _ in range(4)]
    with broker.client() as client:
        # The worker that is stopped may have been given the first one.
        wait_until(lambda: client.llen(CONVERT_QUEUE) >= 3, "not sent", seconds=60)
    broker.kill()
    broker.wipe()
    broker.start()
    os.kill(service.pid("worker"), signal.SIGCONT)
    started = time.monotonic()
    with broker.client() as client:
        wait_until(lambda: client.llen(CONVERT_QUEUE) >= 2, "not sent again", seconds=60)
    assert time.monotonic() - started < 60
    for location in locations:
        service.end_of(location)
    service.check(dict.fromkeys(locations, undisturbed))


@pytest.mark.fault(6)
def test_a_frozen_broker_delays_jobs_and_nobody_else(service: Stack, broker, undisturbed):
    settle(broker)
    broker.freeze()
    locations = [submit_quickly(service) for _ in range(3)]
    assert service.status("/healthz") == 200
    assert service.status("/readyz") == 503
    time.sleep(3)
    assert [service.job(location)["state"] for location in locations] == ["queued"] * 3
    broker.thaw()
    for location in locations:
        service.end_of(location)
    service.check(dict.fromkeys(locations, undisturbed))


@pytest.mark.slow
@pytest.mark.fault(7)
def test_a_running_job_does_without_the_broker(service: Stack, broker):
    location = service.submit(LONG)
    service.wait_for_stage(location, "refining")
    broker.kill()
    waiting = submit_quickly(service)
    service.end_of(location)
    assert service.kinds(location).count("started") == 1
    broker.start()
    service.end_of(waiting)
    service.check()


@pytest.mark.fault(8)
@pytest.mark.parametrize("how", ["no memory", "no disk"])
def test_a_broker_that_takes_nothing_is_seen_and_waited_for(
    service: Stack, broker, undisturbed, how
):
    settle(broker)
    with broker.client() as client:
        if how == "no memory":
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1")
        else:
            client.config_set("min-replicas-to-write", "1")  # answers as after a failed write
        location = submit_quickly(service)
        ready = service.client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["broker"].startswith("failed")
        time.sleep(2)
        assert service.job(location)["state"] == "queued"
        client.config_set("maxmemory", "0")
        client.config_set("min-replicas-to-write", "0")
    service.end_of(location)
    service.check({location: undisturbed})


@pytest.mark.fault(10)
def test_ten_messages_are_one_execution(service: Stack, broker, undisturbed):
    app = create_celery_app(broker.url)

    def ring(location: str) -> None:
        for _ in range(10):
            job = location.rpartition("/")[2]
            app.send_task(CONVERT_TASK, args=[job], queue=CONVERT_QUEUE)

    service.arm("step.refining", "sleep 2")
    location = service.submit(SMALL)
    ring(location)
    service.wait_hit("step.refining")
    ring(location)
    service.end_of(location)
    ring(location)
    app.close()
    with broker.client() as client:
        wait_until(lambda: client.llen(CONVERT_QUEUE) == 0, "not taken", seconds=60)
    service.end_of(service.submit(SMALL))
    assert service.kinds(location).count("started") == 1
    service.check({location: undisturbed})


@pytest.mark.slow
@pytest.mark.fault(9)
def test_cut_connections_are_made_again(tmp_path):
    broker = Broker(tmp_path / "behind-the-proxy")
    broker.start()
    proxy = CuttingProxy(broker.port, cuts=(), bytes_per_second=None)
    url = f"redis://127.0.0.1:{proxy.port}/0"
    try:
        with stack(tmp_path, MOMENTUM_BROKER_URL=url) as service:
            service.end_of(service.submit(SMALL))
            running = service.submit(LONG)
            service.wait_for_stage(running, "refining")
            for _ in range(3):
                proxy.cut_all()
                service.submit(SMALL)
                time.sleep(0.5)
            for location in service.locations:
                service.end_of(location)
            assert service.kinds(running).count("started") == 1
            service.check()
    finally:
        proxy.close()
        broker.stop()
