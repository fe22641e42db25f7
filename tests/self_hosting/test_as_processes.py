"""The services of docker-compose.yml, started as their file says, and killed in turn."""

from __future__ import annotations

import os
import runpy
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.postgres_server import find_programs
from tests.self_hosting.compose import Composed
from worker.contract.settings import Settings

pytestmark = pytest.mark.timeout(900)

make_secrets = runpy.run_path(str(ROOT / "docker" / "make_secrets.py"))["make"]
JOB = {
    "source": {"zoo": "digits_resnet26"},
    "conversion": {"plan_memory": False},
    "measurement": {"repeats": 1, "batch_size": 8, "rivals": False, "predict": False},
    "refinement": {"max_steps": 3, "batch_size": 64, "goal": None, "calibrate": False},
}
LONG = JOB | {"refinement": JOB["refinement"] | {"max_steps": 400}}


@pytest.fixture(scope="session")
def postgres_programs() -> None:
    """This machine has PostgreSQL's programs."""
    if find_programs() is None:
        # A server alone, as on another machine, would not do: it is killed here.
        pytest.skip("no PostgreSQL programs in /usr/lib/postgresql or the PATH")


@pytest.fixture
def composed(tmp_path, postgres_programs) -> Iterator[Composed]:
    with running(tmp_path / "compose") as found:
        yield found


@contextmanager
def running(folder: Path, *, restored: Path | None = None) -> Iterator[Composed]:
    """Run the services, on what a backup has if one is named."""
    folder.mkdir()
    found = Composed(folder)
    try:
        if restored is not None:
            found.up("database")
            _restore(found, restored)
        found.up()
        yield found
    finally:
        found.down()


class Client:
    """Somebody who has the first key."""

    def __init__(self, composed: Composed) -> None:
        key = (composed.volume("data") / "first-key").read_text().strip()
        headers = {"Authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=composed.url, headers=headers, timeout=30)
        self.composed = composed

    def close(self) -> None:
        """Leave."""
        self.http.close()

    def submit(self, job: dict = JOB) -> str:
        """Ask for a job, again and again while nobody answers."""
        until = time.monotonic() + 60
        key = {"Idempotency-Key": os.urandom(16).hex()}
        while True:
            try:
                answer = self.http.post("/convert", json=job, headers=key)
                if answer.status_code == 202:
                    return str(answer.json()["id"])
                assert answer.json()["code"] == "database_unavailable", answer.text
            except httpx.TransportError:
                pass
            assert time.monotonic() < until
            time.sleep(0.5)

    def wait(self, job_id: str, seconds: float = 300) -> dict:
        until = time.monotonic() + seconds
        while True:
            try:
                job = self.http.get(f"/jobs/{job_id}").json()
                if job.get("state") in ("succeeded", "failed", "cancelled"):
                    return job
            except httpx.TransportError:
                job = {}
            assert time.monotonic() < until, (job, self.composed.log("worker-cpu"))
            time.sleep(0.3)


def test_each_service_is_killed_in_turn_and_nothing_is_lost(composed):
    assert httpx.get(f"{composed.url}/jobs").status_code == 401
    with closing(Client(composed)) as client:
        _kill_each(composed, client)


def _kill_each(composed: Composed, client: Client) -> None:
    inspected = client.http.post("/inspect", json=JOB)
    assert inspected.status_code in (200, 202)
    finished = [client.wait(client.submit())]
    for name in ("broker", "database", "api", "relay", "worker-cpu", "inspection"):
        before = client.submit()
        composed.kill(name)
        if name not in ("api", "database"):
            during = client.submit()  # it is taken while the service is away
        composed.start(name)
        if "healthcheck" in composed.services[name]:
            composed.wait_until_healthy(name)
        if name in ("api", "database"):
            during = client.submit()
        finished += [client.wait(before), client.wait(during)]
    assert [one["state"] for one in finished] == ["succeeded"] * len(finished)
    listed = client.http.get("/jobs").json()["jobs"]
    assert {one["id"] for one in listed} == {one["id"] for one in finished}
    for one in finished:
        weights = client.http.get(f"/jobs/{one['id']}/weights")
        assert weights.status_code == 200
    # What Prometheus would be told, with the token that was made for it.
    token = (composed.volume("prometheus-secrets") / "metrics_token").read_text()
    scraped = httpx.get(f"{composed.url}/metrics", headers={"Authorization": f"Bearer {token}"})
    ended = f'momentum_jobs_finished_total{{state="succeeded"}} {len(finished):.1f}'
    assert ended in scraped.text.splitlines(), scraped.text
    # A worker that Compose stops is gone long before it would be killed.
    started = time.monotonic()
    composed.stop("worker-cpu", seconds=60)
    assert time.monotonic() - started < 20


@pytest.mark.slow
def test_a_backup_that_was_taken_while_jobs_ran_is_all_there_is_needed(tmp_path, postgres_programs):
    """As docs/self-hosting.md says: the record, then the files, into an empty installation."""
    backup = tmp_path / "backup"
    backup.mkdir()
    with running(tmp_path / "first") as first, closing(Client(first)) as client:
        finished = client.wait(client.submit())
        undisturbed = client.wait(client.submit(LONG), 300)
        runs = client.submit(LONG)
        waits = client.submit()
        states, until = first.volume("data") / "unfinished" / runs, time.monotonic() + 120
        while not any(int(one.name[:8]) > 1 for one in states.glob("[0-9]*")):
            assert time.monotonic() < until, [*states.glob("*")]
            time.sleep(0.1)
        _back_up(first, backup)
        key = client.http.headers["Authorization"]
    with (
        running(tmp_path / "second", restored=backup) as second,
        closing(Client(second)) as client,
    ):
        # Keys are in the record.
        assert client.http.headers["Authorization"] == key
        ended = {job_id: client.wait(job_id, 300) for job_id in (finished["id"], runs, waits)}
        assert {one["state"] for one in ended.values()} == {"succeeded"}
        assert ended[finished["id"]]["artifacts"] == finished["artifacts"]
        for job_id, one in ended.items():
            for file in one["artifacts"]:
                assert client.http.get(file["url"]).status_code == 200, (job_id, file)
        report = client.http.get(f"/jobs/{runs}/report").json()
        assert report["refinement"]["resumed_at"][0] > 0
        assert weights(ended[runs]) == weights(undisturbed)
        # The new installation works.
        assert client.wait(client.submit())["state"] == "succeeded"


def weights(job: dict) -> str:
    return next(one["sha256"] for one in job["artifacts"] if one["name"] == "model.safetensors")


def _back_up(composed: Composed, folder: Path) -> None:
    server = composed.database
    assert server is not None
    dump = [server.program("pg_dump"), "--username", "momentum", "--format", "custom", "momentum"]
    with (folder / "momentum.dump").open("wb") as file:
        subprocess.run(dump, env=os.environ | server.environment, stdout=file, check=True)
    archive = ["--create", "--file", folder / "momentum-data.tar", "--directory"]
    done = subprocess.run(["tar", *archive, composed.volume("data").parent, "data"], check=False)
    # 1: a file changed or went while it was read, as those of a running job do.
    assert done.returncode in (0, 1)


def _restore(composed: Composed, folder: Path) -> None:
    server = composed.database
    assert server is not None
    restore = [server.program("pg_restore"), "--username", "momentum", "--dbname", "momentum"]
    with (folder / "momentum.dump").open("rb") as file:
        subprocess.run(restore, env=os.environ | server.environment, stdin=file, check=True)
    with tarfile.open(folder / "momentum-data.tar") as archive:
        archive.extractall(composed.volume("data").parent, filter="tar")


def test_a_second_start_finds_the_secrets_of_the_first(tmp_path):
    make_secrets(tmp_path)
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 10
    make_secrets(tmp_path)
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_secrets_that_were_not_finished_are_made_whole_and_the_databases_stays(tmp_path):
    make_secrets(tmp_path)
    password = (tmp_path / "database" / "password").read_text()
    # Killed before the last one, or while it was written: as others than root it may not be.
    (tmp_path / "service" / "momentum_broker_url").unlink()
    (tmp_path / "service" / "momentum_broker_url.new").touch(mode=0o444)
    make_secrets(tmp_path)
    assert (tmp_path / "database" / "password").read_text() == password
    assert password in (tmp_path / "service" / "momentum_database_url").read_text()
    users = (tmp_path / "broker" / "users.acl").read_text()
    broker = (tmp_path / "service" / "momentum_broker_url").read_text()
    assert broker.partition("momentum:")[2].partition("@")[0] in users
    assert not list(tmp_path.rglob("*.new"))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o222 == 0


def test_an_installation_that_is_older_than_a_secret_gets_it_and_keeps_its_own(tmp_path):
    make_secrets(tmp_path)
    folders = [tmp_path / name for name in ("prometheus", "grafana", "service")]
    token = tmp_path / "prometheus" / "metrics_token"
    copy = tmp_path / "service" / "momentum_metrics_token"
    kept = {
        path: path.read_text()
        for folder in (tmp_path / "database", tmp_path / "broker", tmp_path / "service")
        for path in folder.iterdir()
        if path != copy
    }
    for path in (token, copy, tmp_path / "grafana" / "admin_password"):
        path.unlink()
    make_secrets(tmp_path)
    assert {path: path.read_text() for path in kept} == kept
    assert all(path.read_text() for folder in folders for path in folder.iterdir())
    # Whichever side is lost or changed, both have the same again.
    for lost in (token, copy):
        assert token.read_text() == copy.read_text()
        lost.unlink()
        make_secrets(tmp_path)
    assert token.read_text() == copy.read_text()
    assert Settings(metrics_token=token.read_text()).metrics_token
