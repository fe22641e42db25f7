"""Each process started by hand, with the machine's own Redis and PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

from tests.conftest import ROOT
from tests.end_to_end.conftest import Serving


def commands(port: int) -> tuple[tuple[str, ...], ...]:
    """Return what `python` is given for each process; docs/running.md says the same."""
    return (
        ("-m", "api.server", "--port", str(port)),
        ("-m", "worker.relay"),
        ("-m", "celery", "--app", "worker.celery_app", "worker"),
        (
            *("-m", "celery", "--app", "worker.inspection_app", "worker"),
            *("--hostname", "inspection@%h"),
        ),
    )


def wait_until_ready(service: Serving) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            if service.client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass  # it does not listen yet
        time.sleep(0.2)
    pytest.fail("the API is not ready")


@pytest.mark.redis
@pytest.mark.postgres
def test_a_worker_on_redis_and_postgresql_does_the_same_job(redis_url, postgres_url, tmp_path):
    service = Serving(tmp_path / "data")
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MOMENTUM_DATA_DIR": str(service.data_dir),
        "MOMENTUM_BROKER_URL": redis_url,
        "MOMENTUM_DATABASE_URL": postgres_url,
    }
    (service.data_dir / "logs").mkdir(parents=True)
    log = (service.data_dir / "logs" / "worker.log").open("w")
    processes = [
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        for command in commands(service.port)
    ]
    try:
        wait_until_ready(service)
        location = service.submit(
            {
                "source": {"zoo": "digits_resnet26"},
                "measurement": {"rivals": False, "predict": False},
                "refinement": {"max_steps": 20},
            }
        )
        job = service.wait_for(location, "succeeded", seconds=400)
        assert job["result"]["top1_percent"]["original"] == pytest.approx(99.2)
        assert job["result"]["top1_percent"]["refined"] > 98
        assert service.client.get(job["links"]["weights"]).status_code == 200
        assert not (service.data_dir / "momentum.db").exists()
        asked = service.client.post("/inspect", json={"source": {"zoo": "digits_resnet26"}}).json()
        found = service.wait_for_inspection(asked["links"]["self"], seconds=240)
        assert found["state"] == "answered", found["error"]
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(90)
        log.close()
        service.client.close()
