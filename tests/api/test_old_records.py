"""Records of earlier versions: brought up to date with their data, then as good as new."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from api.app import create_app
from tests.api.conftest import served
from tests.conftest import ROOT
from tests.old_record import make_record
from worker.contract.job_claims import JobClaims
from worker.contract.outbox import Outbox
from worker.contract.settings import Settings

FOLDER = ROOT / "tests" / "old_files"
RECORDS = sorted(path.name.removeprefix("record-") for path in FOLDER.glob("record-*"))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database(request, tmp_path) -> str:
    if request.param == "sqlite":
        (tmp_path / "momentum.db").touch()
        return f"sqlite:///{tmp_path / 'momentum.db'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture(params=RECORDS)
def old(request, database, tmp_path):
    """A service on a record that was made by an earlier version; and the rows of that."""
    folder = FOLDER / f"record-{request.param}"
    rows = json.loads((folder / "rows.json").read_text())
    make_record(database, request.param, rows)
    application = create_app(
        Settings(
            data_dir=tmp_path / "data",
            database_url=database,
            broker_url="redis://127.0.0.1:1/0",
            min_free_bytes=0,
        )
    )
    report = folder / "report.json"
    if report.exists():
        _keep(application.state.service.files, report)
    with served(application) as client:
        yield client, rows, application.state.service
    application.state.service.store.engine.dispose()


def _keep(store, file: Path) -> None:
    with store.temporary_folder() as folder:
        copy = folder / file.name
        copy.write_bytes(file.read_bytes())
        store.put(copy)


def test_there_are_records_of_several_generations():
    assert len(RECORDS) >= 4


def test_an_old_record_is_read_and_goes_on(old):
    client, rows, service = old
    listed = client.get("/jobs").json()["jobs"]
    assert {one["id"] for one in listed} == {row["id"] for row in rows["jobs"]}
    ended = [one for one in listed if one["state"] == "succeeded"]
    [waiting] = [one for one in listed if one["state"] == "queued"]
    assert len(ended) == 2
    for job in listed:
        shown = client.get(f"/jobs/{job['id']}").json()
        files = {row["name"] for row in rows["artifacts"] if row["job_id"] == job["id"]}
        assert {file["name"] for file in shown["artifacts"]} == files
        events = client.get(f"/jobs/{job['id']}/events").json()["events"]
        assert len(events) == sum(row["job_id"] == job["id"] for row in rows["events"])
        # The page of the job, too.
        assert client.get(f"/ui/jobs/{job['id']}").status_code == 200
    compared = client.get("/jobs/compare", params={"job": [one["id"] for one in ended]})
    assert compared.status_code == 200, compared.text
    assert client.get("/metrics").status_code == 200
    # What waited then is done now, and what was done then can be asked for again.
    claims = JobClaims(service.store.engine, lease_seconds=60)
    claim = claims.claim(waiting["id"], worker="w")
    assert claim.job_id == waiting["id"]
    claims.succeed(claim, result={}, files=[])
    again = client.post(f"/jobs/{ended[0]['id']}/retry")
    assert again.status_code == 202, again.text
    assert again.json()["id"] in {one.job_id for one in Outbox(service.store.engine).waiting()}
    assert client.delete(f"/jobs/{ended[1]['id']}").status_code == 204


def test_an_old_report_is_handed_out_as_it_was(old):
    client, rows, _ = old
    kept = FOLDER / f"record-{rows['alembic_version'][0]['version_num']}" / "report.json"
    if not kept.exists():
        return  # it is of the same schema as another's
    sha256 = hashlib.sha256(kept.read_bytes()).hexdigest()
    [job_id] = [row["job_id"] for row in rows["artifacts"] if row["blob_sha256"] == sha256]
    assert client.get(f"/jobs/{job_id}/report").content == kept.read_bytes()
    assert client.get(f"/ui/jobs/{job_id}").status_code == 200
