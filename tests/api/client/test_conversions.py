"""Asking for conversions, and managing what the service keeps."""

from __future__ import annotations

import hashlib
import json

import pytest

from api.client import ApiError
from api.client.conversion import options_of
from momentum_core.config import ConversionConfig, RefinementConfig, RefinementGoal
from tests.api.client.scripted_server import Scripted, problem
from tests.api.test_convert import PREPROCESSING, images
from tests.corpus.torch_files import honest_zip


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "resnet20.pt"
    path.write_bytes(honest_zip())
    return path


def test_files_go_along_and_leave_no_upload_behind(call, client, checkpoint, tmp_path, settings):
    data = tmp_path / "data.npz"
    data.write_bytes(images())
    job = call(
        "convert",
        args=(checkpoint,),
        data=data,
        gamma=0.75,
        goal="0.5%",
        max_steps=7,
        preprocessing=PREPROCESSING,
        measurement={"repeats": 1},
        name="mine",
        tags=["a", "b"],
        seed=3,
    )
    record = job.record
    assert (job.state, record.name, record.tags) == ("queued", "mine", ("a", "b"))
    assert record.sent["checkpoint"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert record.sent["data"] == hashlib.sha256(data.read_bytes()).hexdigest()
    asked = record.request
    assert (asked["conversion"]["gamma"], asked["seed"]) == (0.75, 3)
    assert asked["refinement"]["max_steps"] == 7
    goal = asked["refinement"]["goal"]
    assert (goal["criterion"], goal["tolerable_loss"]) == ("relative", 0.5)
    assert list((settings.data_folder / "received").iterdir()) == []


def test_an_upload_may_be_named_again(call, checkpoint):
    sent = call("upload", args=(checkpoint,))
    first = call("convert", args=(f"upload:{sent.id}",), refinement=False)
    second = call(
        "convert",
        args=(f"upload:{sent.id}",),
        data="synthetic:64",
        labelled=False,
        preprocessing=PREPROCESSING,
    )
    assert first.id != second.id
    assert first.record.request["refinement"] is None
    assert second.record.request["data"]["synthetic"] == 64


def test_the_same_key_gives_the_same_job(call, checkpoint):
    options = {"args": (checkpoint,), "idempotency_key": "k1", "name": "n"}
    sent = call("upload", args=(checkpoint,))
    options["args"] = (f"upload:{sent.id}",)
    assert call("convert", **options).id == call("convert", **options).id


@pytest.mark.parametrize(
    ("goal", "criterion", "loss"),
    [(0.5, "absolute", 0.5), ("0.5", "absolute", 0.5), ("1 %", "relative", 1), (0, "absolute", 0)],
)
def test_a_goal_is_points_or_percent(goal, criterion, loss):
    assert options_of(goal=goal)["refinement"]["goal"] == {
        "criterion": criterion,
        "tolerable_loss": loss,
    }


def test_options_go_where_they_belong():
    assert options_of() == {}
    assert options_of(goal="none") == {"refinement": {"goal": None}}
    assert options_of(refinement={"goal": {"metric": "top1"}}, goal=1)["refinement"]["goal"] == {
        "metric": "top1",
        "criterion": "absolute",
        "tolerable_loss": 1.0,
    }
    assert options_of(task="finetune", max_steps=3) == {
        "task": "finetune",
        "finetuning": {"max_steps": 3},
    }
    given = options_of(
        refinement=RefinementConfig(goal=RefinementGoal(tolerable_loss=2.0)),
        conversion=ConversionConfig(gamma=0.25),
    )
    assert given["refinement"]["goal"]["tolerable_loss"] == 2.0
    assert given["conversion"]["gamma"] == 0.25


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"goal": "much"}, "write what may be lost"),
        ({"goal": 1, "refinement": False}, "leave those out, too"),
    ],
)
def test_options_that_contradict_are_refused_here(options, words):
    with pytest.raises(ApiError, match=words) as refused:
        options_of(**options)
    assert refused.value.code == "invalid_argument"


@pytest.mark.parametrize(
    ("source", "data", "words"),
    [
        ("resnet50", None, "for an entry of the zoo write zoo:resnet50"),
        (".", None, "is a folder; name the checkpoint in it"),
        ("zoo:resnet50", ".", "is a folder; pack its class folders: tar"),
        ("zoo:resnet50", "none.npz", "there is no file 'none.npz'$"),
        ("zoo:resnet50", "synthetic:many", "a number of images"),
    ],
)
def test_what_is_no_file_is_said_before_anything_is_sent(call_at, source, data, words):
    with pytest.raises(ApiError) as refused:
        call_at("http://127.0.0.1:1")("convert", args=(source,), data=data)
    import re

    assert re.search(words, refused.value.detail)


def test_a_refusal_of_the_service_arrives_with_its_code(call, tmp_path):
    (tmp_path / "evil.pt").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(ApiError) as refused:
        call("convert", args=(tmp_path / "evil.pt",))
    assert refused.value.status in (415, 422)
    with pytest.raises(ApiError) as wrong:
        call("convert", args=("zoo:resnet50",), refinement={"max_step": 3})
    assert "did you mean refinement.max_steps" in wrong.value.detail
    assert wrong.value.errors[0]["pointer"] == "/refinement/max_step"


def test_jobs_are_listed_over_all_pages(call, client, monkeypatch):
    monkeypatch.setattr("api.client.jobs.PAGE_JOBS", 3)
    made = [
        client.post(
            "/convert",
            json={"source": {"zoo": "resnet50"}, "name": f"n{at}", "tags": [f"t{at % 2}"]},
        ).json()["id"]
        for at in range(8)
    ]
    assert [job.id for job in call("jobs")] == made[::-1]
    assert [job.id for job in call("jobs", limit=4)] == made[:3:-1]
    assert [job.id for job in call("jobs", limit=3)] == made[:4:-1]
    assert [job.id for job in call("jobs", tag="t1")] == made[1::2][::-1]
    assert [job.record.name for job in call("jobs", text="n3")] == ["n3"]
    assert call("jobs", state=["running", "failed"]) == []


def test_jobs_are_cancelled_repeated_and_forgotten(call, client):
    job_id = client.post("/convert", json={"source": {"zoo": "resnet50"}}).json()["id"]
    with pytest.raises(ApiError, match="job_not_finished"):
        call("job", "delete", args=(job_id,))
    assert call("job", "cancel", args=(job_id,)).state == "cancelled"
    again = call("job", "retry", args=(job_id,))
    assert again.id != job_id
    assert again.record.retry_of == job_id
    assert call("job", "refresh", args=(again.id,)).state == "queued"
    call("job", "delete", args=(job_id,))
    with pytest.raises(ApiError, match="job_not_found"):
        call("job", args=(job_id,))


def test_keys_are_made_used_and_revoked(call, call_at, url):
    made = call("create_key", args=("ci",), tenant="team", scopes=["read"], expires_in_days=2)
    assert made.secret.startswith("mz_")
    assert made.secret not in repr(made)
    assert (made.tenant, made.scopes) == ("team", ("read",))
    assert (made.expires_at - made.created_at).days == 2
    with_key = call_at(url, made.secret)
    assert with_key("jobs") == []
    with pytest.raises(ApiError) as refused:
        with_key("convert", args=("zoo:resnet50",))
    assert (refused.value.status, refused.value.code) == (403, "insufficient_scope")
    call("revoke_key", args=(made.id,))
    [kept] = call("keys")
    assert kept.revoked_at is not None
    with pytest.raises(ApiError, match="invalid_key"):
        with_key("limits")


def test_webhooks_are_made_looked_at_and_deleted(call, client):
    made = call("create_webhook", args=("https://1.1.1.1/hook",), events=["cancelled"])
    assert made.secret.startswith("whsec_")
    job_id = client.post("/convert", json={"source": {"zoo": "resnet50"}}).json()["id"]
    client.post(f"/jobs/{job_id}/cancel")
    [message] = call("deliveries", args=(made.id,))
    assert (message.job_id, message.event) == (job_id, "cancelled")
    assert call("redeliver", args=(made.id, message.id)).id == message.id
    assert [one.id for one in call("webhooks")] == [made.id]
    call("delete_webhook", args=(made.id,))
    assert call("webhooks") == []


def test_the_service_says_what_it_has_and_what_it_is(call):
    zoo = call("zoo")
    [default] = [one for one in zoo.entries if one.is_default and one.architecture == "resnet50"]
    assert default.name == "resnet50.IMAGENET1K_V2"
    assert "resnet50" in zoo.architectures
    assert call("limits").used.unfinished_jobs == 0
    assert call("version").version
    ready = call("readiness")
    assert (ready.status, ready.checks["database"]) == ("degraded", "ok")  # there is no broker


def test_an_inspection_that_takes_longer_is_waited_for(scripted, call_at, checkpoint):
    waiting = {"id": "i", "state": "waiting"}
    done = {"id": "i", "state": "answered", "summary": ["one."], "answer": {"plan": {}}}
    scripted.answer_with(Scripted(202, waiting), Scripted(200, waiting), Scripted(200, done))
    found = call_at(scripted.url)("inspect", args=("zoo:resnet50",), gamma=0.25, refinement=False)
    assert (found.state, found.summary, found.answer) == ("answered", ("one.",), {"plan": {}})
    assert [asked.path for asked in scripted.asked] == ["/inspect", *["/inspections/i"] * 2]
    sent = json.loads(scripted.asked[0].body)
    assert sent["conversion"] == {"gamma": 0.25}
    assert (sent["source"], sent["refinement"]) == ({"zoo": "resnet50"}, None)
    scripted.answer_with(Scripted(202, waiting))
    with pytest.raises(ApiError, match="timeout"):
        call_at(scripted.url)("inspect", args=("zoo:resnet50",), timeout_seconds=0)


def test_jobs_are_compared(call, service, claims, client, finish):
    ids = []
    for gamma in (0.5, 0.25):
        asked = {"source": {"zoo": "resnet50"}, "conversion": {"gamma": gamma}}
        ids.append(client.post("/convert", json=asked).json()["id"])
        finish(service, claims, ids[-1])
    found = call("compare", args=(ids,))
    assert [job.id for job in found.jobs] == ids
    [difference] = found.request_differences
    assert (difference.path, difference.values) == ("/conversion/gamma", (0.5, 0.25))
    assert {one.path: one.values for one in found.figures}["/a"] == (1, 1)


def test_whoever_runs_the_service_sees_workers_queues_and_deeds(call, client):
    assert call("workers") == []
    with pytest.raises(ApiError, match="worker_not_found"):
        call("drain_worker", args=("gpu-host:1 ?",))
    [queue, *_] = call("queues")
    assert (queue.queued, queue.paused) == (0, False)
    assert call("pause_queue", args=(queue.name,)).paused
    job_id = client.post("/convert", json={"source": {"zoo": "resnet50"}}).json()["id"]
    assert not call("resume_queue", args=(queue.name,)).paused
    assert call("job", "logs", args=(job_id,)) == []
    entries = call("audit")
    assert [one.operation for one in entries][:3] == ["resume_queue", "convert", "pause_queue"]
    assert call("audit", operation="convert", limit=1)[0].status == 202


def test_a_log_is_followed_to_the_end_of_its_job(scripted, call_at):
    running = {"id": "a", "state": "running", "created_at": "2026-11-26T00:00:00Z"}
    done = running | {"state": "succeeded"}

    def lines(*numbers):
        said = {"at": running["created_at"], "level": "info", "logger": "l", "message": "m"}
        return Scripted(200, {"lines": [{"number": number} | said for number in numbers]})

    answers = (running, running, lines(1, 2), done, lines(3), done, lines())
    scripted.answer_with(
        *(one if isinstance(one, Scripted) else Scripted(200, one) for one in answers)
    )
    found = call_at(scripted.url)("job", "logs", args=("a",), follow=True, level="warning")
    assert [line.number for line in found] == [1, 2, 3]
    asked = [one.path for one in scripted.asked if "/logs" in one.path]
    assert asked == [f"/jobs/a/logs?after={after}&level=warning" for after in (0, 2, 3)]


@pytest.mark.parametrize("job_id", ["../keys", "a/../../keys", "a?b", "ü #"])
def test_an_id_is_never_a_path(scripted, call_at, job_id):
    scripted.answer_with(problem(404, "job_not_found"))
    with pytest.raises(ApiError, match="job_not_found"):
        call_at(scripted.url)("job", args=(job_id,))
    path = scripted.asked[0].path
    assert path.startswith("/jobs/")
    assert (path.count("/"), "?" in path) == (2, False)
