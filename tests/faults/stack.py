"""The real service with a hand on each of its processes, and on the places where they may fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select, text

from momentum_core.failpoints import VARIABLE
from tests.conftest import postgres_schema
from tests.end_to_end.conftest import Serving
from tests.faults.broker import Broker, redis_server
from tests.faults.invariants import violations
from tests.free_port import free_port
from worker.contract.collector import Collector
from worker.contract.database import create_database_engine
from worker.contract.file_store import DamagedFileError
from worker.contract.settings import Settings
from worker.contract.shared_file_store import open_file_store
from worker.contract.shared_files import SharedFiles
from worker.contract.tables import artifacts

LEASE_SECONDS = 4.0
END_SECONDS = 240.0
"""In which a job ends, on a machine that does other things besides."""


def small_job(**refinement: Any) -> dict[str, Any]:
    """Return a request for a job of a second or two, whose weights are always the same."""
    defaults = {"max_steps": 12, "batch_size": 32, "goal": None, "calibrate": False}
    return {
        "source": {"zoo": "digits_resnet26"},
        "conversion": {"gamma": 0.9, "plan_memory": False},
        "measurement": {"repeats": 1, "batch_size": 8, "rivals": False, "predict": False},
        "refinement": defaults | refinement,
    }


SMALL = small_job()
LONG = small_job(max_steps=150)
ENDLESS = small_job(max_steps=100_000)


class Stack(Serving):
    """`momentum serve` on a data folder, with failpoints."""

    def __init__(self, folder: Path, *, broker: Broker | None = None, **environment: str) -> None:
        self.failpoints = folder / "failpoints"
        self.failpoints.mkdir(parents=True)
        self.broker = broker
        self._workers: list[subprocess.Popen[bytes]] = []
        self.locations: list[str] = []
        settings = {
            "OMP_NUM_THREADS": "1",
            "MOMENTUM_LEASE_SECONDS": str(LEASE_SECONDS),
            "MOMENTUM_CHECKPOINT_SECONDS": "0",
            "MOMENTUM_SWEEP_SECONDS": "0.5",
            VARIABLE: str(self.failpoints),
        }
        if broker is not None:
            settings["MOMENTUM_BROKER_URL"] = broker.url
        super().__init__(folder / "data", **settings | environment)

    # Failpoints

    def arm(self, name: str, action: str) -> None:
        """Have something happen where a process reaches a place for the next time."""
        self.hit_file(name).unlink(missing_ok=True)
        # At once: no process may read half of it.
        new = self.failpoints / f".{name}"
        new.write_text(action)
        new.rename(self.failpoints / name)

    def disarm(self, name: str) -> None:
        """Let nothing happen there any more."""
        (self.failpoints / name).unlink(missing_ok=True)

    def hit_file(self, name: str) -> Path:
        """The file that is there once it has happened."""
        return self.failpoints / f"{name}.hit"

    def wait_hit(self, name: str, *, seconds: float = END_SECONDS) -> None:
        """Wait until it has happened."""
        wait_until(self.hit_file(name).exists, f"{name} is not reached", seconds=seconds)

    # Processes

    def pid(self, part: str) -> int:
        """The process of a part of the service: api, relay, worker (its main process)."""
        words = {"api": "api.server", "relay": "worker.relay", "worker": "worker.celery_app"}
        until = time.monotonic() + END_SECONDS
        while True:
            found = [one for one in self.processes() if words[part] in self._command(one)]
            own = set(found) - {process.pid for process in self._workers}
            if own:
                return min(own)
            assert time.monotonic() < until, f"{part} is not started again"
            time.sleep(0.05)

    def child(self, worker: int | None = None) -> int:
        """The process of a worker that does the jobs."""
        parent = worker or self.pid("worker")
        spawned = self._spawned(parent)
        assert spawned, "the worker has no child at the moment"
        return max(spawned)

    def _spawned(self, parent: int) -> list[int]:
        return [one for one in self._children(parent) if "spawn_main" in self._command(one)]

    def threads(self, pid: int) -> int:
        """How many threads a process has."""
        return len(list(Path(f"/proc/{pid}/task").iterdir()))

    def add_worker(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start another worker beside that of the service."""
        celery = ["celery", "--app", "worker.celery_app", "worker", "--loglevel", "info"]
        name = f"extra{len(self._workers)}"
        command = [sys.executable, "-P", "-m", *celery, "--without-gossip", "--without-mingle"]
        with (self.data_dir / "logs" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--hostname", f"{name}@%h"],
                env=self.worker_environment() | environment,
                cwd="/",
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._workers.append(process)
        return process

    def add_relay(self) -> subprocess.Popen[bytes]:
        """Start another relay beside that of the service."""
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.relay"],
            env=self.worker_environment(),
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._workers.append(process)
        return process

    @contextmanager
    def another_api(self, **environment: str) -> Iterator[httpx.Client]:
        """Have a second API process beside that of the service."""
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", "api.server", "--port", str(port)],
            env=self.worker_environment() | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

                def answers() -> bool:
                    try:
                        return client.get("/healthz").is_success
                    except httpx.TransportError:
                        return False

                wait_until(answers, "the other API does not start", seconds=60)
                yield client
        finally:
            process.kill()
            process.wait()

    def worker_environment(self) -> dict[str, str]:
        """The environment of the service's processes."""
        environ = Path(f"/proc/{self.pid('relay')}/environ").read_bytes().split(b"\0")
        pairs = (one.decode().partition("=") for one in environ if one)
        return {name: value for name, _, value in pairs}

    def end_worker(self) -> None:
        """Kill the service's own worker's child, and let its main process take no other job."""
        worker = self.pid("worker")
        wait_until(lambda: bool(self._spawned(worker)), "the worker starts no child", seconds=120)
        os.kill(worker, signal.SIGSTOP)
        os.kill(self.child(worker), signal.SIGKILL)

    def kill_group(self, pid: int) -> None:
        """End a process and all that it started, at once."""
        os.killpg(os.getpgid(pid), signal.SIGKILL)

    # Requests

    def submit(self, request: dict[str, Any], **headers: str) -> str:
        """Ask for a job, and expect it to be taken."""
        answer = self.client.post("/convert", json=request, headers=headers)
        assert answer.status_code == 202, answer.text
        self.locations.append(str(answer.headers["Location"]))
        return self.locations[-1]

    def end_of(self, location: str, state: str = "succeeded") -> dict[str, Any]:
        """Wait for a job's end."""
        return self.wait_for(location, state, seconds=END_SECONDS)

    def final(self, location: str) -> dict[str, Any]:
        """Wait for a job's end, whichever it is."""
        states = ("succeeded", "failed", "cancelled")
        wait_until(lambda: self.job(location)["state"] in states, "no end", seconds=END_SECONDS)
        return self.job(location)

    def stopped(self) -> int:
        """The process that a failpoint stopped."""

        def found() -> list[int]:
            return [pid for pid in self.processes() if state_of(pid) == "T"]

        # A failpoint says that it is hit, and then stops its process.
        wait_until(lambda: len(found()) > 0, "nobody is stopped", seconds=60)
        [only] = found()
        return only

    def wait_for_stage(self, location: str, stage: str, *, attempt: int = 1) -> None:
        """Wait until a job is in a stage."""
        self.wait_for(location, "running", seconds=END_SECONDS, stage=stage, attempt=attempt)

    def wait_ready(self, *, seconds: float = 60.0) -> None:
        """Wait until the service takes jobs."""
        wait_until(lambda: self.status("/readyz") == 200, "not ready", seconds=seconds)

    def status(self, path: str) -> int | None:
        """What a GET is answered with; None: not at all."""
        try:
            return self.client.get(path, timeout=10).status_code
        except httpx.TransportError:
            return None

    def kinds(self, location: str) -> list[str]:
        """The kinds of a job's events."""
        return [one["kind"] for one in self.events(location)]

    def events(self, location: str) -> list[dict[str, Any]]:
        """A job's events."""
        found: list[dict[str, Any]] = []
        while True:
            after = found[-1]["number"] if found else 0
            page = self.client.get(f"{location}/events", params={"after": after}).json()["events"]
            if not page:
                return found
            found += page

    def weights(self, location: str) -> str:
        """The digest of a finished job's weights."""
        artifacts = self.job(location)["artifacts"]
        return str(next(a["sha256"] for a in artifacts if a["name"] == "model.safetensors"))

    def check(self, expected: dict[str, str] | None = None) -> None:
        """Hold the record, the files and what was done against the invariants."""
        engine = create_database_engine(self.settings.database)
        # As the relay does every ten minutes.
        files = open_file_store(self.settings)
        files.clear_temporary()
        Collector(engine, files).collect()
        with engine.connect() as connection:
            for sha256 in connection.scalars(select(artifacts.c.blob_sha256)).all():
                with suppress(DamagedFileError):  # the invariants say it
                    files.verified_path(sha256)  # of an object store, here now
        engine.dispose()
        found = violations(
            database=self.settings.database,
            folder=self.data_dir,
            executions=self.failpoints / "executions.log",
            acknowledged=[location.rpartition("/")[2] for location in self.locations],
            weights={
                location.rpartition("/")[2]: sha for location, sha in (expected or {}).items()
            },
        )
        assert not found, "\n".join(found)

    def execute(self, words: str, **values: Any) -> list[tuple[Any, ...]]:
        """Ask the record, or change it behind everybody's back."""
        engine = create_database_engine(self.settings.database)
        try:
            with engine.begin() as connection:
                found = connection.execute(text(words), values)
                return [tuple(row) for row in found] if found.returns_rows else []
        finally:
            engine.dispose()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the record's lock, so that nobody else can write."""
        engine = create_database_engine(self.settings.database)
        try:
            with engine.begin() as connection:  # of SQLite the write lock
                if not self.is_on_sqlite:
                    connection.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
                yield
        finally:
            engine.dispose()

    @property
    def broker_url(self) -> str:
        """Where the broker is."""
        if self.broker is not None:
            return self.broker.url
        return f"redis+socket://{self.data_dir}/broker/valkey.sock"

    @property
    def is_on_sqlite(self) -> bool:
        """Whether the record is a file."""
        return self.settings.database.startswith("sqlite")

    @property
    def settings(self) -> Settings:
        """The service's own."""
        names = ("database_url", "store_url", "store_options")
        given = {name: self.environment.get(f"MOMENTUM_{name.upper()}") for name in names}
        options = json.loads(given.pop("store_options") or "{}")
        return Settings(data_dir=self.data_dir, store_options=options, **given)

    def shared_files(self, folder: str) -> list[str]:
        """The names of what is in a folder of the object store."""
        assert self.settings.store_url is not None
        store = SharedFiles(self.settings.store_url, self.settings.store_options)
        return [one.name for one in store.below(folder)]

    def calm(self) -> None:
        """Let everything go on, and be as it was."""
        for armed in self.failpoints.iterdir():
            if armed.suffix != ".log":
                armed.unlink(missing_ok=True)
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        for process in self._workers:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._workers.clear()

    def stop(self) -> None:
        """End everything, however it is."""
        self.calm()
        super().stop()

    def _command(self, pid: int) -> str:
        try:
            return self.of(pid, "cmdline").replace("\0", " ")
        except OSError:
            return ""

    def _children(self, parent: int) -> list[int]:
        try:
            return [int(one) for one in self.of(parent, f"task/{parent}/children").split()]
        except OSError:
            return []


STACK_VARIABLE = "MOMENTUM_TEST_STACK"
"""Set to `postgres`, every service of these tests runs on PostgreSQL and Redis."""


@contextmanager
def stack(
    folder: Path, *, own_broker: bool = False, broker_server: str | None = None, **environment: str
) -> Iterator[Stack]:
    """Run the service on a folder.

    Args:
        folder: for all of its files.
        own_broker: whether the broker is the tests' own, to be harmed.
        broker_server: the program of that.
        **environment: settings that differ.
    """
    if os.environ.get(STACK_VARIABLE) == "postgres" and "MOMENTUM_DATABASE_URL" not in environment:
        with (
            postgres_schema() as url,
            stack(
                folder,
                own_broker=True,
                broker_server=redis_server(),
                MOMENTUM_DATABASE_URL=url,
                **environment,
            ) as service,
        ):
            yield service
        return
    broker = Broker(folder / "broker", server=broker_server) if own_broker else None
    if broker is not None:
        broker.start()
    service = Stack(folder, broker=broker, **environment)
    try:
        service.start()
        yield service
    finally:
        if broker is not None and broker._process is not None and broker._process.poll() is None:
            broker.thaw()
        service.stop()
        if broker is not None:
            broker.stop()


def wait_until(condition: Callable[[], bool], otherwise: str, *, seconds: float) -> None:
    """Wait for something to become true."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, otherwise
        time.sleep(0.05)


def state_of(pid: int) -> str:
    """Return the kernel's letter for what a process does; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
