"""Many jobs, many faults at random moments, and then the invariants."""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.faults.broker import redis_server
from tests.faults.stack import Stack, small_job, stack, wait_until
from worker.broker import create_celery_app
from worker.contract.messages import CONVERT_QUEUE, CONVERT_TASK

PLACES = (
    "claim.uncommitted",
    "claim.taken",
    "stage.loading",
    "stage.converting",
    "step.refining",
    "checkpoint.unnamed",
    "checkpoint.saved",
    "store.put",
    "publish.unrecorded",
    "publish.uncommitted",
    "publish.done",
)
"""Where a worker may die."""

NUM_KINDS = 3
"""Different jobs: their weights differ."""

JOB_SECONDS = 30.0
"""In which a job ends with all that happens to it, on a slow machine."""


@contextmanager
def patient_stack(folder: Path, *, database: str | None = None) -> Iterator[Stack]:
    """Run a service whose jobs may lose their workers any number of times.

    Args:
        folder: where it runs.
        database: URL of PostgreSQL; None takes SQLite. With it the broker is Redis.
    """
    environment = {"MOMENTUM_MAX_ATTEMPTS": "1000"}
    if database is not None:
        environment["MOMENTUM_DATABASE_URL"] = database
    server = redis_server() if database is not None else None
    with stack(folder, own_broker=True, broker_server=server, **environment) as service:
        yield service


def run(service: Stack, *, num_jobs: int, num_faults: int, seed: int) -> dict[str, int]:
    """Run jobs among faults.

    Args:
        service: of `patient_stack`.
        num_jobs: how many.
        num_faults: how many.
        seed: of the faults, and of the moments at which they come.

    Returns:
        How often each fault came.

    Raises:
        AssertionError: an invariant does not hold.
    """
    chaos = _Chaos(service, random.Random(seed))
    expected = chaos.undisturbed()
    chaos.submit(num_jobs)
    chaos.harm(num_faults)
    chaos.settle(num_jobs * JOB_SECONDS)
    service.check({location: expected[kind] for location, kind in chaos.kinds.items()})
    states = [service.job(location)["state"] for location in service.locations]
    assert states == ["succeeded"] * len(states), states
    return chaos.counts


class _Chaos:
    def __init__(self, service: Stack, rng: random.Random) -> None:
        self._service = service
        self._rng = rng
        self._extra = service.add_worker()
        self.kinds: dict[str, int] = {}
        self.counts: dict[str, int] = {}

    def undisturbed(self) -> list[str]:
        """Return the digests of the jobs' weights where nothing happens."""
        locations = [self._service.submit(_job(kind)) for kind in range(NUM_KINDS)]
        for location in locations:
            self._service.end_of(location)
        return [self._service.weights(location) for location in locations]

    def submit(self, count: int) -> None:
        """Ask for jobs; each is asked for until it is acknowledged."""
        for number in range(count):
            self._submit(number % NUM_KINDS)

    def harm(self, count: int) -> None:
        """Let faults come, one after another."""
        faults = [
            self._kill_child,
            self._kill_worker,
            self._stop_worker,
            self._put_to_sleep,
            self._kill_api,
            self._kill_relay,
            self._kill_broker,
            self._wipe_broker,
            self._freeze_broker,
            self._kill_at_a_place,
            self._fill_disk,
            self._repeat_messages,
        ]
        for number in range(count):
            time.sleep(self._rng.uniform(0.3, 2.0))
            # Each kind comes, in an order of its own each time.
            if number % len(faults) == 0:
                self._rng.shuffle(faults)
            fault: Callable[[], None] = faults[number % len(faults)]
            name = fault.__name__.removeprefix("_")
            self.counts[name] = self.counts.get(name, 0) + 1
            sys.stdout.write(f"fault {number + 1}: {name.replace('_', ' ')}\n")
            sys.stdout.flush()
            with suppress(ProcessLookupError, ValueError, AssertionError, IndexError):
                fault()
            self._revive()

    def settle(self, seconds: float) -> None:
        """Stop harming, and wait until all jobs have ended."""
        service = self._service
        for armed in service.failpoints.iterdir():
            if armed.suffix not in (".hit", ".log"):
                armed.unlink(missing_ok=True)
        self._revive()
        for location in service.locations:
            wait_until(
                lambda at=location: _is_final(service, at),  # type: ignore[misc]
                f"{location} does not end",
                seconds=seconds,
            )

    def _submit(self, kind: int) -> None:
        key = {"Idempotency-Key": uuid.uuid4().hex}
        while True:
            with suppress(httpx.TransportError):
                answer = self._service.client.post("/convert", json=_job(kind), headers=key)
                if answer.status_code == 202:
                    break
            time.sleep(0.2)
        location = str(answer.headers["Location"])
        self._service.locations.append(location)
        self.kinds[location] = kind

    def _revive(self) -> None:
        """Start again what no supervisor watches."""
        if self._extra.poll() is not None:
            self._extra = self._service.add_worker()

    def _some_worker(self) -> int:
        return self._rng.choice([self._service.pid("worker"), self._extra.pid])

    def _kill_child(self) -> None:
        os.kill(self._service.child(self._some_worker()), signal.SIGKILL)

    def _kill_worker(self) -> None:
        self._service.kill_group(self._some_worker())
        with suppress(Exception):
            self._extra.wait(1)

    def _stop_worker(self) -> None:
        os.kill(self._some_worker(), signal.SIGTERM)

    def _put_to_sleep(self) -> None:
        child = self._service.child(self._some_worker())
        os.kill(child, signal.SIGSTOP)
        time.sleep(self._rng.uniform(1, 7))
        os.kill(child, signal.SIGCONT)

    def _kill_api(self) -> None:
        os.kill(self._service.pid("api"), signal.SIGKILL)
        self._submit(self._rng.randrange(NUM_KINDS))

    def _kill_relay(self) -> None:
        os.kill(self._service.pid("relay"), signal.SIGKILL)

    def _kill_broker(self) -> None:
        assert self._service.broker is not None
        self._service.broker.kill()
        time.sleep(self._rng.uniform(0, 2))
        self._service.broker.start()

    def _wipe_broker(self) -> None:
        assert self._service.broker is not None
        self._service.broker.kill()
        self._service.broker.wipe()
        self._service.broker.start()

    def _freeze_broker(self) -> None:
        assert self._service.broker is not None
        self._service.broker.freeze()
        time.sleep(self._rng.uniform(1, 4))
        self._service.broker.thaw()

    def _kill_at_a_place(self) -> None:
        self._service.arm(self._rng.choice([*PLACES, "relay.unsent", "relay.sent"]), "kill")

    def _fill_disk(self) -> None:
        place = self._rng.choice(["checkpoint.unnamed", "store.put", "fsync"])
        self._service.arm(place, "error ENOSPC")

    def _repeat_messages(self) -> None:
        assert self._service.broker is not None
        app = create_celery_app(self._service.broker.url)
        for location in self._rng.sample(self._service.locations, 3):
            job = location.rpartition("/")[2]
            app.send_task(CONVERT_TASK, args=[job], queue=CONVERT_QUEUE, retry=False)
        app.close()


def _job(kind: int) -> dict[str, object]:
    return small_job() | {"seed": kind}


def _is_final(service: Stack, location: str) -> bool:
    try:
        return service.job(location)["state"] in ("succeeded", "failed", "cancelled")
    except httpx.TransportError:
        return False


def main(num_jobs: int, num_faults: int, seed: int, database: str | None) -> None:
    """Run it in a folder of its own, and say what happened."""
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        patient_stack(Path(folder), database=database) as service,
    ):
        counts = run(service, num_jobs=num_jobs, num_faults=num_faults, seed=seed)
    sys.stdout.write(
        f"{num_jobs} jobs and more, {sum(counts.values())} faults (seed {seed}), "
        f"{time.monotonic() - started:.0f} s: every invariant holds\n{counts}\n"
    )
