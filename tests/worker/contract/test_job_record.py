"""The life of a job in the record: who may change it, and what survives whom."""

from __future__ import annotations

import threading
import time

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from momentum_core.config import ConversionConfig, Preprocessing
from tests.worker.contract.conftest import LEASE_SECONDS, Watch
from worker.contract.database import database_now
from worker.contract.job import NEXT_STATES, Artifact, JobError, JobState, Stage, Upload
from worker.contract.job_claims import MAX_SPACE_WAITS, ClaimLostError, JobClaims
from worker.contract.job_record import new_id
from worker.contract.request import REQUEST_VERSION, ConvertRequest
from worker.contract.tables import artifacts, jobs
from worker.contract.tables import outbox as messages

WEIGHTS = Artifact(
    name="model.safetensors", sha256="ab" * 32, num_bytes=7, media_type="application/octet-stream"
)


def kinds(store, job) -> list[str]:
    return [event.kind for event in store.events_of(job.id)]


def test_a_submitted_job_is_queued_with_its_message_and_its_first_event(store, outbox, job):
    assert (job.state, job.stage, job.attempt, job.fence) == (JobState.QUEUED, None, 0, 0)
    assert [message.job_id for message in outbox.waiting()] == [job.id]
    assert kinds(store, job) == ["queued"]
    assert job.revision == 1
    assert abs(job.created_at - time.time()) < 5


def test_a_request_comes_back_as_it_was_stored(store):
    request = ConvertRequest(
        architecture="cifar_resnet20",
        preprocessing=Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5)),
        conversion=ConversionConfig(gamma=0.75, scheme="paper"),
        seed=7,
        name="größer",
    )
    uploads = [
        Upload(
            id=new_id(), tenant="default", kind=kind, blob_sha256="00" * 32, num_bytes=1, facts={}
        )
        for kind in ("checkpoint", "dataset")
    ]
    job = store.submit(request, tenant="default", checkpoint=uploads[0], data=uploads[1])
    assert ConvertRequest.from_json(store.get(job.id, tenant="default").request) == request
    assert (job.checkpoint_id, job.data_id) == (uploads[0].id, uploads[1].id)


def test_a_job_is_found_by_its_tenant_only(store, job):
    assert store.get(job.id, tenant="default").id == job.id
    with pytest.raises(LookupError):
        store.get(job.id, tenant="other")
    with pytest.raises(LookupError):
        store.get("0" * 32, tenant="default")


def test_a_job_is_claimed_once_however_often_its_message_comes(store, claims, job):
    claim = claims.claim(job.id, worker="a")
    assert claim is not None
    assert (claim.attempt, claim.fence) == (1, 1)
    assert [claims.claim(job.id, worker=name) for name in ("a", "b", "b")] == [None] * 3
    assert store.get(job.id, tenant="default").worker == "a"
    claims.succeed(claim, result={}, files=[])
    assert claims.claim(job.id, worker="b") is None
    assert kinds(store, job) == ["queued", "started", "succeeded"]


def test_many_claimers_at_once_get_a_job_once(engine, claims, store, job):
    got, together = [], threading.Barrier(8)

    def claim(name):
        together.wait()
        got.append(claims.claim(job.id, worker=name))

    threads = [threading.Thread(target=claim, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one is not None for one in got) == 1
    assert store.get(job.id, tenant="default").attempt == 1


def test_stages_and_progress_are_events_in_order(store, claims, job):
    claim = claims.claim(job.id, worker="a")
    claims.enter_stage(claim, Stage.LOADING, progress=0.0)
    claims.record_progress(claim, progress=0.25, data={"step": 3, "loss": 0.5})
    found = store.get(job.id, tenant="default")
    assert (found.stage, found.progress, found.revision) == (Stage.LOADING, 0.25, 4)
    events = store.events_of(job.id)
    assert [event.number for event in events] == [1, 2, 3, 4]
    assert events[3].data == {"step": 3, "loss": 0.5}
    assert [event.number for event in store.events_of(job.id, after=2)] == [3, 4]


def test_success_publishes_the_files_with_the_state(store, claims, job):
    claim = claims.claim(job.id, worker="a")
    claims.succeed(claim, result={"top1": 9}, files=[WEIGHTS])
    found = store.get(job.id, tenant="default")
    assert (found.state, found.result, found.progress) == (JobState.SUCCEEDED, {"top1": 9}, 1.0)
    assert found.finished_at >= found.started_at
    assert store.artifacts_of(job.id) == [WEIGHTS]


def test_failure_keeps_its_reason(store, claims, job):
    claims.fail(claims.claim(job.id, worker="a"), JobError(code="zoo_unavailable", message="no"))
    found = store.get(job.id, tenant="default")
    assert (found.state, found.error) == (
        JobState.FAILED,
        JobError(code="zoo_unavailable", message="no"),
    )


def test_a_late_worker_changes_nothing(store, claims, watch, job):
    late = claims.claim(job.id, worker="late")
    assert claims.claim(job.id, worker="second") is None
    assert watch.end_leases() == 1
    second = claims.claim(job.id, worker="second")
    assert second is not None
    assert second.fence > late.fence

    assert not claims.renew(late)
    for write in (
        lambda: claims.enter_stage(late, Stage.LOADING, progress=0),
        lambda: claims.record_progress(late, progress=1, data={}),
        lambda: claims.succeed(late, result={"from": "late"}, files=[WEIGHTS]),
        lambda: claims.fail(late, JobError(code="x", message="y")),
    ):
        with pytest.raises(ClaimLostError):
            write()
    assert store.artifacts_of(job.id) == []
    claims.succeed(second, result={"from": "second"}, files=[])
    assert store.get(job.id, tenant="default").result == {"from": "second"}


def test_a_lease_is_renewed_from_the_databases_clock(engine, store, job):
    claims = JobClaims(engine, lease_seconds=2.0)
    claim = claims.claim(job.id, worker="a")
    before = store.get(job.id, tenant="default").lease_until
    time.sleep(0.05)
    assert claims.renew(claim)
    assert store.get(job.id, tenant="default").lease_until > before


def test_a_silent_workers_job_is_queued_again(store, claims, outbox, watch, job):
    for message in outbox.waiting():
        outbox.mark_sent(message)
    claims.claim(job.id, worker="a")
    assert watch.requeue_expired() == 0, "it is seen for the first time"
    watch.now += LEASE_SECONDS - 1
    assert watch.requeue_expired() == 0
    watch.now += 1
    assert watch.requeue_expired() == 1
    assert watch.requeue_expired() == 0
    found = store.get(job.id, tenant="default")
    assert (found.state, found.attempt, found.worker) == (JobState.QUEUED, 1, None)
    assert [message.job_id for message in outbox.waiting()] == [job.id]
    assert store.events_of(job.id)[-1].data == {"reason": "worker_lost"}
    assert claims.claim(job.id, worker="b").attempt == 2


def test_a_lease_that_is_renewed_is_never_over(store, claims, watch, job):
    claim = claims.claim(job.id, worker="a")
    for _ in range(5):
        assert watch.requeue_expired() == 0
        watch.now += 0.9 * LEASE_SECONDS
        assert claims.renew(claim)
    assert watch.requeue_expired() == 0


def test_a_lease_that_is_renewed_at_the_last_moment_is_kept(claims, watch, job, monkeypatch):
    """After it was found to be over, before the job was taken back."""
    claim = claims.claim(job.id, worker="a")
    watch.requeue_expired()
    watch.now += LEASE_SECONDS
    take_back = watch._take_back

    def renewed_first(lease):
        assert claims.renew(claim)
        return take_back(lease)

    monkeypatch.setattr(watch, "_take_back", renewed_first)
    assert watch.requeue_expired() == 0
    assert claims.renew(claim)


def test_two_watches_take_a_job_back_once(engine, store, claims, job):
    claims.claim(job.id, worker="a")
    watches = [Watch(engine), Watch(engine)]
    for watch in watches:
        watch.requeue_expired()
        watch.now += LEASE_SECONDS
    assert [watch.requeue_expired() for watch in watches] == [1, 0]
    assert kinds(store, job).count("requeued") == 1


def test_a_job_that_kills_its_workers_fails_after_the_last_attempt(store, claims, watch, job):
    for attempt in (1, 2, 3):
        assert claims.claim(job.id, worker="a").attempt == attempt
        assert watch.end_leases() == 1
    found = store.get(job.id, tenant="default")
    assert (found.state, found.error.code) == (JobState.FAILED, "attempts_exhausted")
    assert claims.claim(job.id, worker="a") is None


def test_a_stopping_worker_hands_its_job_back_uncounted(store, claims, outbox, job):
    claim = claims.claim(job.id, worker="a")
    assert claims.hand_back("b") == 0
    assert claims.hand_back("a") == 1
    found = store.get(job.id, tenant="default")
    assert (found.state, found.attempt) == (JobState.QUEUED, 0)
    assert not claims.renew(claim)
    with pytest.raises(ClaimLostError):
        claims.succeed(claim, result={}, files=[])
    assert claims.claim(job.id, worker="b").attempt == 1


def test_a_job_that_finds_the_disk_full_waits_for_space_uncounted(store, claims, outbox, job):
    for message in outbox.waiting():
        outbox.mark_sent(message)
    claim = claims.claim(job.id, worker="a")
    claims.wait_for_space(claim)
    found = store.get(job.id, tenant="default")
    assert (found.state, found.waiting_for, found.attempt) == (JobState.QUEUED, "space", 0)
    with pytest.raises(ClaimLostError):
        claims.wait_for_space(claim)
    assert outbox.announce_again(num_at_broker=lambda _: 0, older_than_seconds=0) == 0
    assert outbox.resume_with_space(has_space=lambda: False) == 0
    assert outbox.waiting() == []
    assert outbox.resume_with_space(has_space=lambda: True) == 1
    assert store.get(job.id, tenant="default").waiting_for is None
    assert [message.job_id for message in outbox.waiting()] == [job.id]
    assert claims.claim(job.id, worker="a").attempt == 1


def test_a_job_for_which_there_is_never_room_does_not_wait_for_ever(store, claims, outbox, job):
    for _ in range(MAX_SPACE_WAITS):
        assert claims.wait_for_space(claims.claim(job.id, worker="a"))
        outbox.resume_with_space(has_space=lambda: True)
    claim = claims.claim(job.id, worker="a")
    assert not claims.wait_for_space(claim)
    assert claims.renew(claim), "nothing has changed"


def test_a_job_that_is_to_be_cancelled_does_not_wait_for_space(store, claims, job):
    claim = claims.claim(job.id, worker="a")
    store.cancel(job.id, tenant="default")
    claims.wait_for_space(claim)
    assert store.get(job.id, tenant="default").state == JobState.CANCELLED


def test_a_watch_that_could_not_write_gives_leases_their_time_again(
    claims, watch, job, monkeypatch
):
    claim = claims.claim(job.id, worker="a")
    watch.requeue_expired()
    watch.now += LEASE_SECONDS

    def locked(_):
        raise OperationalError("UPDATE", {}, Exception("locked"))

    with monkeypatch.context() as broken:
        broken.setattr(watch, "_take_back", locked)
        with pytest.raises(OperationalError):
            watch.requeue_expired()
    assert watch.requeue_expired() == 0
    assert claims.renew(claim)


def test_the_disk_is_not_looked_at_while_no_job_waits_for_space(outbox, job):
    assert outbox.resume_with_space(has_space=lambda: 1 / 0) == 0


def test_a_job_of_a_newer_api_waits_for_a_newer_worker(engine, store, claims, outbox, job):
    with engine.begin() as connection:
        connection.execute(update(jobs).values(request_version=REQUEST_VERSION + 1))
    for message in outbox.waiting():
        outbox.mark_sent(message)
    for _ in range(2):
        assert claims.claim(job.id, worker="old") is None
    found = store.get(job.id, tenant="default")
    assert (found.state, found.waiting_for) == (JobState.QUEUED, "worker")
    assert kinds(store, job) == ["queued", "waiting"], "said once"
    assert outbox.announce_again(num_at_broker=lambda _: 0, older_than_seconds=0) == 1
    with engine.begin() as connection:
        connection.execute(update(jobs).values(request_version=REQUEST_VERSION))
    assert claims.claim(job.id, worker="new").attempt == 1
    assert store.get(job.id, tenant="default").waiting_for is None


def test_messages_are_repeated_only_when_the_broker_holds_too_few(engine, store, outbox, job):
    def again(num_at_broker):
        return outbox.announce_again(num_at_broker=lambda _: num_at_broker, older_than_seconds=5)

    assert again(0) == 0, "its message was not sent yet"
    for message in outbox.waiting():
        outbox.mark_sent(message)
    assert again(0) == 0, "it was sent just now"
    with engine.begin() as connection:
        connection.execute(update(messages).values(sent_at=database_now() - 60))
    assert again(1) == 0, "the broker still holds it"
    assert again(0) == 1
    assert len(outbox.waiting()) == 1
    assert again(0) == 0, "it is on its way"


def test_the_broker_is_not_asked_while_no_job_waits(claims, outbox, job):
    claims.claim(job.id, worker="a")
    assert outbox.announce_again(num_at_broker=lambda _: 1 / 0, older_than_seconds=5) == 0


def test_a_failing_publication_leaves_the_job_running(engine, store, claims, job):
    claim = claims.claim(job.id, worker="a")
    with pytest.raises(Exception, match=r"UNIQUE|duplicate"):
        claims.succeed(claim, result={}, files=[WEIGHTS, WEIGHTS])
    assert store.get(job.id, tenant="default").state == JobState.RUNNING
    with engine.connect() as connection:
        assert connection.execute(select(artifacts)).all() == []


def test_a_late_word_does_not_change_an_end(store, claims, job):
    claim = claims.claim(job.id, worker="a")
    claims.succeed(claim, result={"a": 1}, files=[])
    with pytest.raises(ClaimLostError):
        claims.fail(claim, JobError(code="late", message="late"))
    with pytest.raises(ClaimLostError):
        claims.succeed(claim, result={"a": 2}, files=[])
    assert not claims.renew(claim)
    assert store.get(job.id, tenant="default").result == {"a": 1}


def test_every_state_says_what_may_follow():
    assert set(NEXT_STATES) == set(JobState)
    final = {state for state in JobState if state.is_final}
    assert final == {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
