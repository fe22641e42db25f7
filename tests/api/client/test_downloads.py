"""Downloads: whole, resumed, checked; nothing gets its name that is not right."""

from __future__ import annotations

import hashlib
import os

import pytest

from api.client import ApiError
from tests.api.client.cutting_proxy import cutting_proxy
from tests.api.client.scripted_server import Scripted
from worker.contract.job import Artifact

CONTENT = os.urandom(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "model.safetensors"


@pytest.fixture
def job_id(client, service, claims) -> str:
    """A job that succeeded, with files."""
    made = client.post("/convert", json={"source": {"zoo": "resnet50"}}).json()["id"]
    artifacts = []
    for name, content in ((NAME, CONTENT), ("report.json", b'{"a": 1}')):
        with service.files.temporary_folder() as folder:
            (folder / "w").write_bytes(content)
            stored = service.files.put(folder / "w")
        artifacts.append(
            Artifact(
                name=name,
                sha256=stored.sha256,
                num_bytes=stored.num_bytes,
                media_type="application/json" if name.endswith("json") else "x/y",
            )
        )
    claims.succeed(claims.claim(made, worker="w"), result={"a": 1}, files=artifacts)
    return made


def part_of(target):
    return target.with_name(f".{target.name}.{SHA256[:16]}.part")


def test_a_file_goes_into_a_folder_or_to_a_path(call, job_id, tmp_path):
    told = []
    path = call(
        "job", "download", args=(job_id,), target=tmp_path, on_progress=lambda *a: told.append(a)
    )
    assert path == tmp_path / NAME
    assert path.read_bytes() == CONTENT
    assert told[0] == (NAME, 0, len(CONTENT))
    assert told[-1] == (NAME, len(CONTENT), len(CONTENT))
    other = call("job", "download", args=(job_id,), target=tmp_path / "r", name="report.json")
    assert other.read_bytes() == b'{"a": 1}'
    assert call("job", "report", args=(job_id,)) == {"a": 1}
    assert sorted(one.name for one in tmp_path.iterdir() if one.is_file()) == [NAME, "r"]


def test_all_files_go_into_a_folder_that_is_made(call, job_id, tmp_path):
    paths = call("job", "download_all", args=(job_id,), folder=tmp_path / "a" / "b")
    assert [path.name for path in paths] == [NAME, "report.json"]
    [one] = call(
        "job", "download_all", args=(job_id,), folder=tmp_path / "c", names=("report.json",)
    )
    assert one.read_bytes() == b'{"a": 1}'


def test_a_download_goes_on_where_the_line_broke(call_at, port, job_id, tmp_path):
    # The first connection also asks for the job.
    with cutting_proxy(port, cuts=(1_000_000,) * 3) as proxy:
        path = call_at(proxy.url)("job", "download", args=(job_id,), target=tmp_path)
        assert proxy.num_cut >= 2
        # What was on its way when the line broke comes twice.
        assert proxy.num_bytes < 1.6 * len(CONTENT)
    assert path.read_bytes() == CONTENT
    assert list(tmp_path.glob(".*part")) == []


def test_what_an_earlier_program_left_is_taken_up(call_at, port, job_id, tmp_path):
    target = tmp_path / NAME
    part_of(target).write_bytes(CONTENT[:2_900_000])
    with cutting_proxy(port) as proxy:
        call_at(proxy.url)("job", "download", args=(job_id,), target=target)
        assert proxy.num_bytes < 200_000
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"x" * 1000, CONTENT + b"y", b"x" * len(CONTENT)])
def test_what_an_earlier_program_left_damaged_is_fetched_anew(call, job_id, tmp_path, left):
    target = tmp_path / NAME
    part_of(target).write_bytes(left)
    call("job", "download", args=(job_id,), target=target)
    assert target.read_bytes() == CONTENT
    assert not part_of(target).exists()


def test_a_file_that_is_there_is_not_fetched_again_and_another_one_replaced(
    call_at, port, job_id, tmp_path
):
    target = tmp_path / NAME
    target.write_bytes(CONTENT)
    with cutting_proxy(port) as proxy:
        call_at(proxy.url)("job", "download", args=(job_id,), target=tmp_path)
        assert proxy.num_bytes < 20_000
    target.write_bytes(b"another")
    call_at(proxy.url.replace(str(proxy.port), str(port)))(
        "job", "download", args=(job_id,), target=tmp_path
    )
    assert target.read_bytes() == CONTENT


def test_a_file_with_another_digest_does_not_get_its_name(scripted, call_at, tmp_path):
    job = {
        "id": "a" * 32,
        "state": "succeeded",
        "created_at": "2026-11-26T00:00:00Z",
        "artifacts": [{"name": NAME, "num_bytes": 4, "sha256": SHA256}],
    }
    scripted.answer_with(Scripted(200, job), Scripted(200, job), Scripted(200, b"evil"))
    with pytest.raises(ApiError, match="did not arrive as the service has it"):
        call_at(scripted.url)("job", "download", args=("a",), target=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_server_without_ranges_sends_all_of_it_again(scripted, call_at, tmp_path):
    job = {
        "id": "a" * 32,
        "state": "succeeded",
        "created_at": "2026-11-26T00:00:00Z",
        "artifacts": [{"name": NAME, "num_bytes": len(CONTENT), "sha256": SHA256}],
    }
    known = Scripted(200, job)
    half = Scripted(200, CONTENT, cut_after=len(CONTENT) // 2)
    scripted.answer_with(known, known, half, Scripted(200, CONTENT))
    path = call_at(scripted.url)("job", "download", args=("a",), target=tmp_path)
    assert path.read_bytes() == CONTENT
    asked = scripted.asked[-1].headers
    assert asked["If-Range"] == f'"{SHA256}"'
    assert asked["Range"].startswith("bytes=")


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", ".hidden", "a/b", ""])
def test_a_name_that_leads_elsewhere_is_refused(scripted, call_at, tmp_path, name):
    job = {
        "id": "a" * 32,
        "state": "succeeded",
        "created_at": "2026-11-26T00:00:00Z",
        "artifacts": [{"name": name, "num_bytes": 1, "sha256": SHA256}],
    }
    scripted.answer_with(Scripted(200, job))
    with pytest.raises(ApiError, match="say where it is to go"):
        call_at(scripted.url)("job", "download_all", args=("a",), folder=tmp_path / "in")
    assert [one.name for one in tmp_path.rglob("*")] in ([], ["in"])


def test_the_service_says_why_there_is_no_file(call, client, job_id, tmp_path):
    with pytest.raises(ApiError, match=r"it has model\.safetensors, report\.json"):
        call("job", "download", args=(job_id,), target=tmp_path, name="x")
    waiting = client.post("/convert", json={"source": {"zoo": "resnet50"}}).json()["id"]
    for method in ("download", "download_all"):
        with pytest.raises(ApiError) as refused:
            call(
                "job",
                method,
                args=(waiting,),
                **{"target" if method == "download" else "folder": tmp_path},
            )
        assert refused.value.code == "job_not_finished"
    assert list(tmp_path.glob("*.*")) == []


def test_a_target_that_cannot_be_written_is_named(call, job_id, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ApiError, match="cannot be written"):
        call("job", "download", args=(job_id,), target=tmp_path / "file" / "x")


def test_two_programs_do_not_write_the_same_file(call, job_id, tmp_path):
    import fcntl

    with part_of(tmp_path / NAME).open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ApiError, match="another program downloads"):
            call("job", "download", args=(job_id,), target=tmp_path)
