"""The service as a person starts it: real processes, real broker, real HTTP."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT
from tests.free_port import free_port
from tests.object_store import ObjectStore

MOMENTUM = Path(sys.executable).with_name("momentum")
START_SECONDS = 60

STORE_VARIABLE = "MOMENTUM_TEST_STORE"
"""With `s3`, every service of these tests keeps its files in an object store."""

_stores: list[ObjectStore] = []
"""The one that all services use, if any."""


@pytest.fixture(autouse=True, scope="session")
def _store(tmp_path_factory) -> Iterator[None]:
    kind = os.environ.get(STORE_VARIABLE, "folder")
    assert kind in ("folder", "s3"), f"{STORE_VARIABLE} is {kind!r}; it can be folder or s3"
    if kind == "folder":
        yield
        return
    store = ObjectStore(tmp_path_factory.mktemp("object_store"))
    try:
        store.start()
        _stores.append(store)
        yield
    finally:
        _stores.clear()
        store.stop()


class Serving:
    """`momentum serve` on a data folder."""

    def __init__(self, data_dir: Path, *, working_folder: Path = ROOT, **environment: str) -> None:
        self.data_dir = data_dir
        self._working_folder = working_folder
        self.port = free_port()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        # What nobody asks for in most tests is not loaded in any.
        prefix = hashlib.sha256(str(data_dir).encode()).hexdigest()[:16]
        self.environment = os.environ | {"MOMENTUM_PREPARE_SECONDS": "3600"} | environment
        for store in _stores:
            self.environment |= store.environment(prefix)
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [MOMENTUM, "serve", "--port", str(self.port), "--data-dir", self.data_dir],
            cwd=self._working_folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert "is ready" in line, line + self._process.stdout.read()

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, timeout: float) -> int:
        assert self._process is not None
        code = self._process.wait(timeout)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.send(signal.SIGINT)
            self.wait(60)
        self.client.close()

    def processes(self) -> list[int]:
        """Ids of all processes that belong to this data folder."""
        marker = f"MOMENTUM_DATA_DIR={self.data_dir}".encode()
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                try:
                    belongs = marker in (folder / "environ").read_bytes().split(b"\0")
                except OSError:
                    continue
                if belongs:
                    found.append(int(folder.name))
        return found

    def worker(self) -> int:
        """Id of the Celery worker's main process."""
        return min(pid for pid in self.processes() if "celery_app" in self.of(pid, "cmdline"))

    def of(self, pid: int, name: str) -> str:
        """What the kernel says of a process; nothing once it has ended."""
        try:
            return (Path("/proc") / str(pid) / name).read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return ""

    def submit(self, request: dict[str, Any]) -> str:
        answer = self.client.post("/convert", json=request)
        assert answer.status_code == 202, answer.text
        return str(answer.headers["Location"])

    def job(self, location: str) -> dict[str, Any]:
        answer = self.client.get(location)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait_for(
        self, location: str, state: str, *, seconds: float, **fields: Any
    ) -> dict[str, Any]:
        """Poll until the job is in a state (and has the other fields); never past an end."""
        deadline = time.monotonic() + seconds
        while True:
            job = self.job(location)
            if job["state"] == state and all(job[name] == value for name, value in fields.items()):
                return job
            ended = job["state"] in ("succeeded", "failed", "cancelled")
            if ended or time.monotonic() > deadline:
                pytest.fail(f"the job is {job}; the worker says {self.log('worker')}")
            time.sleep(0.2)

    def wait_for_inspection(self, location: str, *, seconds: float) -> dict[str, Any]:
        """Poll until an inspection has its answer."""
        deadline = time.monotonic() + seconds
        while (found := self.job(location))["state"] == "waiting":
            assert time.monotonic() < deadline, self.log("inspection")
            time.sleep(0.2)
        return found

    def log(self, name: str, *, all_of_it: bool = False) -> str:
        said = (self.data_dir / "logs" / f"{name}.log").read_text(errors="replace")
        return said if all_of_it else said[-4000:]


@contextmanager
def serving(
    data_dir: Path, *, working_folder: Path = ROOT, **environment: str
) -> Iterator[Serving]:
    service = Serving(data_dir, working_folder=working_folder, **environment)
    try:
        service.start()
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="package")
def service(tmp_path_factory):
    """A service that several tests share; they leave it running."""
    datasets = tmp_path_factory.mktemp("datasets")
    folder = tmp_path_factory.mktemp("service")
    with serving(folder, MOMENTUM_DATASETS_DIR=str(datasets)) as service:
        yield service
