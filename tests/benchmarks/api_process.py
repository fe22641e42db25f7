"""Servers as processes of their own, on a core of their own, for the benchmarks of the service."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.free_port import free_port
from worker.contract.database import open_database
from worker.contract.key_store import KeyStore, Scope


@dataclass(frozen=True, slots=True)
class Served:
    """A server that runs."""

    url: str
    process_id: int
    key: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def resident_bytes(self) -> int:
        """Memory that the process has now."""
        status = Path(f"/proc/{self.process_id}/status").read_text()
        return 1024 * int(status.partition("VmRSS:")[2].split()[0])


@contextmanager
def api(folder: Path, *, database: str | None = None, **settings: str) -> Iterator[Served]:
    """Serve the API with a key; no worker takes its jobs."""
    database = database or f"sqlite:///{folder / 'momentum.db'}"
    engine = open_database(database)
    _, key = KeyStore(engine).create(tenant="default", name="load", scopes=list(Scope))
    engine.dispose()
    environment = {
        "MOMENTUM_DATA_DIR": str(folder),
        "MOMENTUM_DATABASE_URL": database,
        "MOMENTUM_REQUIRE_KEYS": "true",
    }
    with process(["api.server"], environment | settings) as served:
        yield Served(served.url, served.process_id, key)


@contextmanager
def process(module: Sequence[str], environment: dict[str, str]) -> Iterator[Served]:
    """Run a module that listens on the port that `--port` gives."""
    port = free_port()
    child = subprocess.Popen(
        [*on_core(0), sys.executable, "-m", *module, "--port", str(port)],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(1200):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionError:
                time.sleep(0.05)
        yield Served(f"http://127.0.0.1:{port}", child.pid)
    finally:
        child.terminate()
        child.wait(30)


def load(url: str, path: str, key: str, *, connections: int, seconds: float) -> dict[str, float]:
    """Ask as fast as is answered, from another core; return rate, median and p99."""
    parts = httpx.URL(url)
    where = [parts.host, str(parts.port), path, str(connections), str(seconds), key]
    command = [*on_core(1), sys.executable, "-m", "tests.benchmarks.http_load", *where]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def on_core(number: int) -> list[str]:
    """Return what a command begins with to stay on one core."""
    return ["taskset", "--cpu-list", str(number)] if shutil.which("taskset") else []
