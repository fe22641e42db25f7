"""Workers are killed, stopped, starved and hang: another attempt ends with the same bits."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.conftest import slow
from tests.faults.stack import (
    END_SECONDS,
    ENDLESS,
    LEASE_SECONDS,
    SMALL,
    Stack,
    small_job,
    stack,
    state_of,
    wait_until,
)
from worker.contract.database import create_database_engine
from worker.contract.tables import jobs

pytestmark = pytest.mark.timeout(600)


@pytest.mark.fault(11)
@pytest.mark.parametrize("place", [slow("claim.uncommitted"), "publish.uncommitted"])
def test_a_child_killed_in_a_transaction_costs_no_bit(service: Stack, undisturbed, place):
    service.arm(place, "kill")
    location = service.submit(SMALL)
    service.wait_hit(place)
    job = service.end_of(location)
    assert job["attempt"] == (1 if place == "claim.uncommitted" else 2)
    service.check({location: undisturbed})


@pytest.mark.fault(12)
def test_another_worker_goes_on_where_a_killed_one_was(service: Stack, undisturbed):
    other = service.add_worker()
    wait_until(lambda: _children(other.pid) != [], "it does not start", seconds=60)
    service.arm("step.refining", "stop")
    location = service.submit(SMALL)
    service.wait_hit("step.refining")
    first = _worker_of(service, location)
    service.kill_group(first)
    service.wait_for(location, "running", seconds=END_SECONDS, attempt=2)
    service.end_of(location)
    service.check({location: undisturbed})


@pytest.mark.slow
@pytest.mark.fault(13)
@pytest.mark.parametrize("place", ["step.refining", "publish.unrecorded"])
def test_a_worker_that_slept_through_its_lease_writes_nothing(service: Stack, undisturbed, place):
    other = service.add_worker()
    wait_until(lambda: _children(other.pid) != [], "it does not start", seconds=60)
    service.arm(place, "stop")
    location = service.submit(SMALL)
    service.wait_hit(place)
    sleeper = service.stopped()
    service.end_of(location)
    events = service.events(location)
    os.kill(sleeper, signal.SIGCONT)
    time.sleep(2)
    assert service.events(location) == events
    assert service.job(location)["attempt"] == 2
    service.end_of(service.submit(SMALL))
    service.check({location: undisturbed})


@pytest.mark.fault(14)
def test_a_worker_told_to_stop_hands_its_job_back_uncounted(service: Stack):
    service.arm("step.refining", "sleep 1")
    location = service.submit(small_job(max_steps=40))
    service.wait_hit("step.refining")
    worker = service.pid("worker")
    asked = time.monotonic()
    os.kill(worker, signal.SIGTERM)
    wait_until(lambda: state_of(worker) in ("", "Z"), "it does not end", seconds=60)
    assert time.monotonic() - asked < 30
    job = service.end_of(location)
    assert job["attempt"] == 1
    assert service.kinds(location).count("started") == 2
    again = service.submit(small_job(max_steps=40))
    service.end_of(again)
    assert service.weights(location) == service.weights(again)
    service.check()


@pytest.mark.slow
@pytest.mark.fault(15)
def test_a_worker_killed_while_it_writes_a_state_has_the_one_before(service: Stack, undisturbed):
    service.arm("step.refining", "sleep 1")
    location = service.submit(SMALL)
    service.wait_hit("step.refining")
    service.arm("checkpoint.unnamed", "sleep 30")
    service.wait_hit("checkpoint.unnamed")
    worker = service.pid("worker")
    os.kill(worker, signal.SIGTERM)
    time.sleep(1)
    service.kill_group(worker)
    service.end_of(location)
    service.check({location: undisturbed})


@pytest.mark.fault(19)
@pytest.mark.fault(20)
@pytest.mark.parametrize("num_damaged", [1, slow(2)])
def test_a_damaged_state_is_told_of_and_the_one_before_is_taken(
    service: Stack, undisturbed, num_damaged
):
    service.arm("checkpoint.saved", "sleep 10")
    location = service.submit(SMALL)
    folder = service.data_dir / "unfinished" / location.rpartition("/")[2]

    def states() -> list[Path]:
        return sorted(folder.rglob("*-*.safetensors"))

    # With the second state that is saved there are two, and no step in between is missed.
    service.wait_hit("checkpoint.saved")
    service.arm("checkpoint.saved", "stop")
    service.wait_hit("checkpoint.saved")
    kept = states()
    assert len(kept) == 2
    for path in kept[-num_damaged:]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    os.kill(service.stopped(), signal.SIGKILL)
    service.end_of(location)
    assert service.kinds(location).count("checkpoint_discarded") == num_damaged
    service.check({location: undisturbed})


@pytest.mark.slow
@pytest.mark.fault(21)
def test_a_worker_without_memory_fails_the_job_with_the_figure(service: Stack):
    """As under a limit of the operating system, set while the job is at work."""
    service.arm("step.refining", "stop")
    location = service.submit(small_job(batch_size=512, max_steps=4))
    service.wait_hit("step.refining")
    child = service.stopped()
    virtual = int(service.of(child, "statm").split()[0]) * resource.getpagesize()
    resource.prlimit(child, resource.RLIMIT_AS, (virtual + (8 << 20), resource.RLIM_INFINITY))
    os.kill(child, signal.SIGCONT)
    job = service.final(location)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    if job["state"] == "failed":
        assert job["error"]["code"] == "out_of_memory"
        assert "another" in job["error"]["message"]
    service.end_of(service.submit(SMALL))
    service.check()


@pytest.mark.slow
@pytest.mark.fault(37)
def test_a_worker_that_cannot_start_a_thread_fails_cleanly(service: Stack, undisturbed):
    service.arm("stage.converting", "threads")
    location = service.submit(SMALL)
    assert service.end_of(location, "failed")["error"]["code"] == "internal_error"
    again = service.submit(SMALL)
    service.end_of(again)
    service.check({again: undisturbed})


@pytest.mark.fault(23)
def test_a_job_that_crashes_its_worker_fails_after_three_attempts(service: Stack, undisturbed):
    service.arm("stage.converting", "always crash")
    location = service.submit(SMALL)
    job = service.end_of(location, "failed")
    service.disarm("stage.converting")
    assert (job["attempt"], job["error"]["code"]) == (3, "attempts_exhausted")
    neighbour = service.submit(SMALL)
    service.end_of(neighbour)
    service.check({neighbour: undisturbed})


@pytest.mark.slow
@pytest.mark.fault(24)
def test_a_job_whose_heart_has_stopped_goes_to_another_attempt(service: Stack, undisturbed):
    service.arm("heartbeat", f"sleep {LEASE_SECONDS + 4}")
    service.arm("step.refining", f"sleep {LEASE_SECONDS + 4}")
    location = service.submit(SMALL)
    assert service.end_of(location)["attempt"] == 2
    service.check({location: undisturbed})


@pytest.mark.slow
@pytest.mark.fault(24)
def test_a_job_that_hangs_while_its_heart_beats_is_ended(tmp_path, undisturbed):
    with stack(tmp_path, MOMENTUM_STALL_SECONDS="12") as service:
        location = service.submit(ENDLESS)
        service.wait_for_stage(location, "refining")
        service.arm("step.refining", "spin")
        service.wait_hit("step.refining")
        service.wait_for(location, "running", seconds=60, attempt=2)
        assert "stalled" in service.kinds(location)
        service.client.post(f"{location}/cancel")
        service.wait_for(location, "cancelled", seconds=60)
        service.check()


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _worker_of(service: Stack, location: str) -> int:
    """Return the main process of the worker that has a job."""
    engine = create_database_engine(service.settings.database)
    with engine.connect() as connection:
        query = select(jobs.c.worker).where(jobs.c.id == location.rpartition("/")[2])
        name = str(connection.scalar(query))
    engine.dispose()
    return int(name.rpartition(":")[2])
