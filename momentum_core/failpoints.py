"""Places where a test may stop, kill, delay or fail the process; they do nothing anywhere else.

Only a process that was started with `MOMENTUM_FAILPOINTS=<folder>` looks: there a file that has a
failpoint's name says what is to happen when the process comes by. A test writes it while the
service runs, and finds it renamed to `<name>.hit` once it has happened.

    kill             SIGKILL to the process
    stop             SIGSTOP to the process
    exit             the process ends at once
    crash            a segmentation fault
    sleep 5          the thread sleeps
    spin             the thread computes for ever
    error ENOSPC     an OSError with this number is raised
    memory           a MemoryError is raised
    threads          what Python raises when no thread can be started

With `always ` before it, it happens each time until the file is gone.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

VARIABLE = "MOMENTUM_FAILPOINTS"

_folder = Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None


def reach(name: str) -> None:
    """Do what a test wants to happen here; nothing, if none does.

    Args:
        name: of the place, such as `claim.taken`.

    Raises:
        OSError: a test wants it.
        MemoryError: likewise.
        RuntimeError: likewise.
    """
    if _folder is not None:
        _do(_folder, name)


def record_execution(line: str) -> None:
    """Add a line to the log of what was done, which the tests' checker reads afterwards."""
    if _folder is not None:
        descriptor = os.open(_folder / "executions.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            os.write(descriptor, f"{time.time():.3f} {os.getpid()} {line}\n".encode())
        finally:
            os.close(descriptor)


def _do(folder: Path, name: str) -> None:
    order = folder / name
    try:
        wanted = order.read_text()
        if wanted.startswith("always "):
            (folder / f"{name}.hit").touch()
        else:
            # Of several processes that come by, the one that renames it is hit.
            order.rename(folder / f"{name}.hit")
    except FileNotFoundError:
        return
    action, _, argument = wanted.removeprefix("always ").strip().partition(" ")
    _ACTIONS[action](argument)


def _signal(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.1)  # a signal to the process may be taken by another thread


def _spin(_: str) -> None:
    while True:
        pass


def _error(name: str) -> None:
    number = getattr(errno, name)
    raise OSError(number, os.strerror(number))


def _memory(_: str) -> None:
    raise MemoryError


def _threads(_: str) -> None:
    raise RuntimeError("can't start new thread")


_ACTIONS = {
    "kill": lambda _: _signal(signal.SIGKILL),
    "stop": lambda _: _signal(signal.SIGSTOP),
    "crash": lambda _: _signal(signal.SIGSEGV),
    "exit": lambda _: os._exit(1),
    "sleep": lambda seconds: time.sleep(float(seconds)),
    "spin": _spin,
    "error": _error,
    "memory": _memory,
    "threads": _threads,
}
