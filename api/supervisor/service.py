"""The whole service on one machine, as a context."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from api.caller import is_loopback
from api.supervisor.child import Child
from api.supervisor.errors import ServiceError
from api.supervisor.valkey import embedded_broker
from momentum_core.durable_files import make_folder
from worker.contract.database import open_database
from worker.contract.settings import Settings
from worker.contract.shared_file_store import open_file_store

START_SECONDS = 180.0
STOP_SECONDS = 8.0
"""After this long, what has not stopped is killed."""

_POLL_SECONDS = 0.1


class LocalService:
    """Broker (unless one is set), relay, worker and API; all of it ends with the context."""

    def __init__(
        self,
        settings: Settings,
        *,
        host: str,
        port: int,
        stopped: threading.Event | None = None,
    ) -> None:
        """Prepare the service; nothing is started yet.

        Args:
            settings: with `broker_url` and `database_url` set, those are used.
            host: address to listen on.
            port: port to listen on; 0 takes a free one.
            stopped: ends the start when it is set.
        """
        self._stopped = stopped or threading.Event()
        self._settings = settings
        self._host = host
        self._port = port or _free_port(host)
        self._folder = settings.data_folder
        self._lock: int | None = None
        self.children: list[Child] = []

    @property
    def url(self) -> str:
        """Where the API answers."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def logs(self) -> Path:
        """The folder of the processes' logs."""
        return self._folder / "logs"

    def __enter__(self) -> Self:
        """Start everything and return when the API is ready.

        Raises:
            ServiceError: a part does not start; everything else is stopped then.
        """
        try:
            self._lock = _take_folder(self._folder)
            _check_port(self._host, self._port)
            self.logs.mkdir(exist_ok=True)
            open_file_store(self._settings).clear_temporary()
            open_database(self._settings.database).dispose()
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def watch(self, stopped: threading.Event, say: Callable[[str], None]) -> None:
        """Start again what ends by itself, until `stopped` is set."""
        while not stopped.wait(_POLL_SECONDS):
            for child in self.children:
                happened = child.restart_if_ended()
                if happened is not None:
                    say(happened)

    def _start(self) -> None:
        broker_url = self._settings.broker_url
        # Every place is said outright: what this process was told by its environment is not asked.
        environment = os.environ | {
            "MOMENTUM_DATA_DIR": str(self._folder),
            "MOMENTUM_DATABASE_URL": self._settings.database,
            # Empty: as if it was not set.
            "MOMENTUM_STORE_URL": self._settings.store_url or "",
            "MOMENTUM_ZOO_DIR": str(self._settings.zoo_folder),
            "PYTHONUNBUFFERED": "1",
        }
        if not is_loopback(self._host):
            # Others can reach it: a first key is made at once, and none gets in without.
            environment["MOMENTUM_REQUIRE_KEYS"] = "true"
        if broker_url is None:
            broker = embedded_broker(self._folder)
            broker_url = broker.url
            self._add("broker", broker.command(), environment)
            broker.wait(self._stopped)
        environment |= {"MOMENTUM_BROKER_URL": broker_url}
        python = [sys.executable, "-P", "-m"]
        # Without its greeting, which it prints: a disk of logs that is full would end it.
        celery = ["celery", "--quiet", "--app"]
        as_worker = ["worker", "--loglevel", "info", "--without-gossip", "--without-mingle"]
        api = ["api.server", "--host", self._host, "--port", str(self._port)]
        self._add("relay", [*python, "worker.relay"], environment)
        self._add("worker", [*python, *celery, "worker.celery_app", *as_worker], environment)
        inspection = [*python, *celery, "worker.inspection_app", *as_worker]
        self._add("inspection", [*inspection, "--hostname", "inspection@%h"], environment)
        self._add("api", [*python, *api], environment)
        self._wait_until_ready()

    def _add(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        child = Child(name, command, environment=environment, log=self.logs / f"{name}.log")
        self.children.append(child)
        child.start()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        state = "no answer"
        while time.monotonic() < deadline:
            if self._stopped.wait(_POLL_SECONDS):
                raise ServiceError("stopped while it was starting")
            for child in self.children:
                if child.has_ended():
                    raise ServiceError(f"{child.name} does not start:\n{child.last_lines()}")
            try:
                answer = httpx.get(f"{self.url}/readyz", timeout=5)
            except httpx.TransportError:
                pass
            else:
                if answer.status_code == httpx.codes.OK:
                    return
                state = answer.text
        raise ServiceError(f"the service is not ready after {START_SECONDS:g} s: {state}")

    def _stop(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        # The broker goes last: the worker says good-bye to it.
        broker = [child for child in self.children if child.name == "broker"]
        others = [child for child in self.children if child.name != "broker"]
        for group in (others, broker):
            for child in group:
                child.ask_to_stop()
            for child in group:
                child.stop(deadline)
        self.children.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _take_folder(folder: Path) -> int:
    """Lock the data folder for this process; the lock ends with it, however it ends."""
    make_folder(folder)
    descriptor = os.open(folder / "service.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ServiceError(
            f"a service runs in {folder} already; stop it, or choose another --data-dir"
        ) from None
    return descriptor


def _check_port(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port), family=_family(host)):
            return
    except OSError as error:
        raise ServiceError(
            f"{host} port {port} cannot be used ({error.strerror}); choose another --port"
        ) from None


def _free_port(host: str) -> int:
    with socket.create_server((host, 0), family=_family(host)) as probe:
        return int(probe.getsockname()[1])


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
