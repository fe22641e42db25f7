"""`momentum doctor` names what is wrong, each thing for itself, with what to do."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import text

from api.commands.exit_codes import ExitCode
from api.diagnosis import machine
from api.diagnosis.configuration import check_settings
from api.diagnosis.connection import check_connection
from tests.api.client.scripted_server import Scripted, scripted_server
from tests.api.commands.conftest import run_momentum
from worker.contract.database import open_database
from worker.contract.job_store import JobStore
from worker.contract.request import ConvertRequest, Source
from worker.contract.settings import Settings

NOWHERE = "http://127.0.0.1:9"


def findings_of(done) -> dict[str, list[dict[str, str]]]:
    found = json.loads(done.stdout)
    by_check: dict[str, list[dict[str, str]]] = {}
    for one in found["findings"]:
        by_check.setdefault(one["check"], []).append(one)
    faults = [one for one in found["findings"] if one["verdict"] == "fault"]
    assert found["faults"] == len(faults)
    assert all(one["remedy"] for one in faults)
    return by_check


def test_nothing_is_wrong_with_a_service_that_runs(running, tmp_path):
    url = str(running.client.base_url)
    done = run_momentum(url, tmp_path, "doctor", "--data-dir", running.data_dir, "--json")
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    found = findings_of(done)
    assert {one["verdict"] for each in found.values() for one in each} == {"ok"}
    checks = ["settings", "data folder", "disk", "database", "broker", "relay", "sandbox"]
    assert list(found) == [*checks, "device", "worker", "inspection worker", "service", "key"]
    assert list(tmp_path.iterdir()) == []  # looking makes nothing


def test_eight_faults_at_once_are_each_named(tmp_path):
    (tmp_path / "file").write_text("a file where a folder should be")
    done = run_momentum(
        NOWHERE,
        tmp_path,
        "doctor",
        "--json",
        MOMENTUM_DATA_DIR=str(tmp_path / "file"),
        MOMENTUM_LEASE_SECONDS="soon",
        MOMENTUM_DEVISE="cpu",
        MOMENTUM_MIN_FREE_BYTES=str(1 << 60),
        MOMENTUM_DATABASE_URL="postgresql+psycopg://nobody@127.0.0.1:1/none",
        MOMENTUM_BROKER_URL="redis://:hidden@127.0.0.1:1/0",
        MOMENTUM_DEVICE="cuda:7",
    )
    assert done.returncode == ExitCode.FAILED
    found = findings_of(done)
    unknown, wrong = found["settings"]
    assert "MOMENTUM_DEVISE" in unknown["detail"]
    assert "MOMENTUM_DEVICE" in unknown["remedy"]
    assert "MOMENTUM_LEASE_SECONDS is 'soon'" in wrong["detail"]
    for check, words in (
        ("data folder", "file is a file"),
        ("disk", "uploads need more than"),
        ("database", "Connection refused"),
        ("broker", "127.0.0.1:1"),
        ("device", "cuda:7"),
        ("service", "nothing answers"),
    ):
        [one] = found[check]
        assert (one["verdict"], words in one["detail"]) == ("fault", True), one
    assert "hidden" not in done.stdout + done.stderr


@pytest.mark.redis
def test_jobs_without_relay_and_worker_are_seen(running, redis_url, tmp_path):
    settings = Settings(data_dir=tmp_path / "data")
    engine = open_database(settings.database)
    JobStore(engine).submit(ConvertRequest(source=Source(zoo="resnet50")), tenant="default")
    with engine.begin() as connection:
        connection.execute(text("UPDATE outbox SET created_at = created_at - 60"))
    done = run_momentum(
        str(running.client.base_url),
        tmp_path,
        "doctor",
        MOMENTUM_DATA_DIR=str(tmp_path / "data"),
        MOMENTUM_BROKER_URL=redis_url,
        MOMENTUM_KEY="mz_wrong",
    )
    assert done.returncode == ExitCode.FAILED
    lines = done.stdout.splitlines()
    [relay] = [line for line in lines if line.startswith("fault    relay ")]
    assert "a job has waited for 1 min" in relay
    assert "fault    worker             none answers; 1 jobs wait" in lines
    assert any(line.startswith("fault    key ") for line in lines)
    assert "python -m worker.relay" in done.stdout
    assert lines[-1] == "4 to be mended"


def test_of_a_service_elsewhere_only_the_connection_is_looked_at(tmp_path):
    done = run_momentum("http://192.0.2.1.invalid", tmp_path, "doctor", "--json")
    assert done.returncode == ExitCode.FAILED
    assert list(findings_of(done)) == ["service", "key"]


def database_of(settings: Settings) -> machine.Finding:
    return machine.check_database(settings)[1]


def test_a_damaged_record_is_told_from_one_of_a_newer_version(tmp_path):
    settings = Settings(data_dir=tmp_path)
    assert "not there yet" in database_of(settings).detail
    assert list(tmp_path.iterdir()) == []
    engine = open_database(settings.database)
    assert database_of(settings).verdict == "ok"
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    newer = database_of(settings)
    assert (newer.verdict, "9999" in newer.detail) == ("fault", True)
    engine.dispose()
    for left in tmp_path.iterdir():
        left.unlink()
    (tmp_path / "momentum.db").write_bytes(b"no database " * 1000)
    damaged = database_of(settings)
    assert (damaged.verdict, "is damaged" in damaged.detail) == ("fault", True)
    assert "nonsense" in database_of(Settings(database_url="nonsense")).detail or (
        database_of(Settings(database_url="nonsense")).verdict == "fault"
    )


def test_a_folder_that_others_can_look_into_is_a_warning(tmp_path):
    tmp_path.chmod(0o755)
    found = machine.check_data_folder(Settings(data_dir=tmp_path))
    assert (found.verdict, found.remedy) == ("warning", f"chmod 700 {tmp_path}")
    tmp_path.chmod(0o700)
    assert machine.check_data_folder(Settings(data_dir=tmp_path)).verdict == "ok"


def test_a_place_where_nothing_can_be_written_is_a_fault():
    found = machine.check_data_folder(Settings(data_dir="/proc/momentum"))
    assert (found.verdict, "/proc cannot be written to" in found.detail) == ("fault", True)


def test_something_else_at_the_url_is_no_service():
    with scripted_server() as server:
        server.answer_with(Scripted(200, b"<html>hello</html>"))
        service, _ = check_connection(server.url, None)
    assert (service.verdict, "is not Momentum Zoo" in service.detail) == ("fault", True)


def test_a_service_that_cannot_work_says_which_part_fails():
    checks = {"database": "ok", "storage": "ok", "broker": "failed: ConnectionError"}
    with scripted_server() as server:
        server.answer_with(Scripted(503, {"status": "degraded", "checks": checks}))
        found, *_ = check_connection(server.url, None)
    assert (found.check, found.verdict) == ("service's broker", "fault")
    assert "ConnectionError" in found.detail


def test_a_paused_queue_is_a_warning_with_the_way_out(client):
    client.post("/queues/momentum-convert/pause")
    found = check_connection(str(client.base_url), None)[-1]
    assert (found.verdict, found.remedy) == ("warning", "momentum queues resume momentum-convert")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("MOMENTUM_DATADIR", "MOMENTUM_DATA_DIR"), ("MOMENTUM_BROKERURL", "MOMENTUM_BROKER_URL")],
)
def test_a_misspelt_setting_is_named_with_what_was_meant(name, meant):
    _, [found] = check_settings({name: "x", "MOMENTUM_URL": "x", "MOMENTUM_KEY": "y"}, None)
    assert (found.verdict, found.remedy) == ("fault", f"was {meant} meant?")
