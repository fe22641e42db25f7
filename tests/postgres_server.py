"""A PostgreSQL server of the tests' own, which they may kill and start again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.free_port import free_port

START_SECONDS = 60.0
_SYSTEM_USER = "postgres"


def find_programs() -> Path | None:
    """Return the folder of this machine's PostgreSQL programs, the newest ones."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=_version)
    if found:
        return found[-1].parent
    program = shutil.which("postgres")
    return program and Path(program).resolve().parent


def _version(program: Path) -> float:
    return float(program.parent.parent.name)


class PostgresServer:
    """A server on a port of its own; its files go with it."""

    def __init__(
        self, *, user: str = "postgres", password: str | None = None, port: int | None = None
    ) -> None:
        """Make its files.

        Args:
            user: its superuser; a database of that name is made.
            password: without it everybody is let in.
            port: a free one if None.
        """
        programs = find_programs()
        assert programs is not None, "no PostgreSQL programs on this machine"
        self._programs = programs
        # Not where only the user of the tests may go: it refuses to run as root.
        self.folder = Path(tempfile.mkdtemp(prefix="momentum-postgres-"))
        self._as_user = {"user": _SYSTEM_USER} if os.geteuid() == 0 else {}
        if self._as_user:
            shutil.chown(self.folder, _SYSTEM_USER)
        self.port, self.user = port or free_port(), user
        self.environment = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": user}
        words = ["--auth", "trust"]
        if password is not None:
            self.environment["PGPASSWORD"] = password
            secret = self.folder / "password"
            secret.write_text(password)
            secret.chmod(0o644)
            words = ["--auth", "scram-sha-256", "--pwfile", str(secret)]
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "--pgdata", self._data, "--username", user, "--no-sync", *words)

    @property
    def url(self) -> str:
        """SQLAlchemy URL of its database."""
        password = self.environment.get("PGPASSWORD")
        who = self.user if password is None else f"{self.user}:{password}"
        return f"postgresql+psycopg://{who}@127.0.0.1:{self.port}/{self.user}"

    def start(self, **settings: str) -> None:
        """Start it with what it had; return when it answers."""
        options = {"unix_socket_directories": "", "listen_addresses": "127.0.0.1"} | settings
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.program("postgres"), "-D", self._data, "-p", str(self.port), *words],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._as_user,
            )
        until = time.monotonic() + START_SECONDS
        while not self._has_database():
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < until, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.1)

    def kill(self) -> None:
        """End all of its processes at once, as a container or a machine ends."""
        assert self._process is not None
        # Each of them is the first of a session of its own, and works in the folder of the data.
        for found in [self._process.pid, *self._own_processes()]:
            with suppress(ProcessLookupError):
                os.kill(found, signal.SIGKILL)
        self._process.wait()
        while self._own_processes():
            time.sleep(0.01)

    def remove(self) -> None:
        """End it for good."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)  # at once, but it gives back what it shares
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def program(self, name: str) -> str:
        """Return the path of a program, of the version of this server."""
        return str(self._programs / name)

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def _own_processes(self) -> list[int]:
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if folder.name.isdecimal() and (folder / "cwd").readlink() == Path(self._data):
                    found.append(int(folder.name))
        return found

    def _has_database(self) -> bool:
        """Whether it answers and has the database, which is made if it is not there."""
        command = [self.program("psql"), "--command", "SELECT 1", self.user]
        if self._ask(command):
            return True
        return self._ask([self.program("createdb"), self.user])

    def _ask(self, command: list[str]) -> bool:
        environment = os.environ | self.environment
        return subprocess.run(command, env=environment, capture_output=True).returncode == 0

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [self.program(program), *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            **self._as_user,
        )
        assert done.returncode == 0, done.stderr
