"""A broker of the tests' own, which they may kill, stop, wipe and start again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import redis

from api.supervisor.valkey import find_server
from tests.free_port import free_port

START_SECONDS = 10.0


class Broker:
    """A Redis or Valkey server on a port of its own."""

    def __init__(self, folder: Path, *, server: str | None = None) -> None:
        """Prepare it.

        Args:
            folder: for its files; made if it is not there.
            server: the program; None takes the one that the service embeds.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._server = server or find_server()
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def client(self, **options: Any) -> redis.Redis:
        """Return a client of it."""
        return redis.Redis(port=self.port, **options)

    def start(self) -> None:
        """Start it with what it had; return when it answers."""
        settings = {"port": str(self.port), "dir": str(self._folder), "bind": "127.0.0.1"}
        settings |= {"appendonly": "yes", "appendfsync": "everysec", "save": ""}
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen([self._server, *words], stdout=subprocess.DEVNULL)
        until = time.monotonic() + START_SECONDS
        with self.client() as client:
            while True:
                try:
                    client.ping()
                except redis.RedisError:
                    assert time.monotonic() < until, "the broker does not start"
                    time.sleep(0.05)
                else:
                    return

    def kill(self) -> None:
        """End it at once."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def wipe(self) -> None:
        """Forget, while it is down, all that it had."""
        shutil.rmtree(self._folder)
        self._folder.mkdir()

    def freeze(self) -> None:
        """Let it answer nobody, and keep all connections."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._send(signal.SIGCONT)

    def stop(self) -> None:
        """End it if it runs."""
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            self.kill()

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


def redis_server() -> str:
    """Return Redis's own server if it is installed, or else the one that the service embeds."""
    return shutil.which("redis-server") or find_server()
