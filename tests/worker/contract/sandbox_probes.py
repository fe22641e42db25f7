"""What an attacker who controls the inspector would try; run inside it, by hand or by tests.

    python -m tests.worker.contract.sandbox_probes      all of them, as JSON

The inspector is the real one, started by the intake; only what it does with the file is replaced.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from momentum_core.errors import CheckpointError
from worker.contract import intake

_PTRACE_TRACEME, _PTRACE_ATTACH = 0, 16
NOBODY = 65534
_port = 0
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(answer: int) -> None:
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _open_socket(_: int) -> None:
    socket.socket().close()


def _connect(target: int) -> None:
    """`target` is a socket by now: see `run`."""
    address = struct.pack("=H", socket.AF_INET) + struct.pack(">H4s8x", _port, b"\x7f\0\0\1")
    _checked(_libc.connect(target, address, len(address)))


def _execute(_: int) -> None:
    os.execv("/bin/true", ["true"])


def _fork(_: int) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _open_outside(_: int) -> None:
    os.close(os.open("/etc/passwd", os.O_RDONLY))


def _write_outside(_: int) -> None:
    path = f"/tmp/momentum-probe-{os.getpid()}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.close(descriptor)
    os.unlink(path)


def _trace(_: int) -> None:
    _checked(_libc.ptrace(_PTRACE_TRACEME, 0, None, None))


def _trace_parent(_: int) -> None:
    _checked(_libc.ptrace(_PTRACE_ATTACH, os.getppid(), None, None))


def _allocate(_: int) -> None:
    np.empty(2 << 30, np.uint8)


def _loop(_: int) -> None:
    while True:
        pass


def _executable_memory(_: int) -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def _signal_parent(_: int) -> None:
    os.kill(os.getppid(), 0)


def _change_root(_: int) -> None:
    os.chroot("/")


PROBES: dict[str, Callable[[int], None]] = {
    "socket": _open_socket,
    "connect": _connect,
    "execve": _execute,
    "fork": _fork,
    "open outside": _open_outside,
    "write outside": _write_outside,
    "ptrace": _trace,
    "2 GiB allocation": _allocate,
    "endless loop": _loop,
}
MORE_PROBES = {
    "ptrace of the parent": _trace_parent,
    "executable memory": _executable_memory,
    "signal to the parent": _signal_parent,
    "chroot": _change_root,
}
EXPECTED = {
    **dict.fromkeys((*PROBES, *MORE_PROBES), "EPERM"),
    "2 GiB allocation": "too_complex",
    "endless loop": "too_complex",
}
"""What the intake says of each: the error that the probe met, or the code of the refusal."""


def outcome(
    name: str,
    folder: Path,
    *,
    layers: tuple[str, ...] | None = None,
    user: int | None = None,
) -> str:
    """Run a probe in an inspector; return the error it met, `done`, or the code of the refusal.

    Args:
        name: the probe.
        folder: for the file that is inspected.
        layers: which walls to put up, None for those that stand in earnest.
        user: who the inspector becomes before that; None leaves it as it is.
    """
    arguments = f"{name!r}, {layers!r}, {user!r}"
    program = f"from tests.worker.contract.sandbox_probes import run; run({arguments})"
    with socket.create_server(("127.0.0.1", 0)) as server:
        (folder / "sent").write_text(str(server.getsockname()[1]))
        before = intake.COMMAND, intake.BASE_SECONDS
        intake.COMMAND = (*intake.COMMAND[:-2], "-c", program)
        intake.BASE_SECONDS = 1.0 if name == "endless loop" else 15.0
        try:
            intake.inspect_checkpoint(folder / "sent", folder / "canonical")
        except CheckpointError as error:
            return str(error) if error.code == "probe" else error.code
        finally:
            intake.COMMAND, intake.BASE_SECONDS = before
    raise AssertionError("a probe makes no facts")


def run(name: str, layers: tuple[str, ...] | None, user: int | None) -> None:
    """Be an inspector whose reader does what a probe does."""
    from worker.contract import inspector, inspector_host

    close = inspector.close_sandbox

    def prepare_and_close(allowance, *, keep):
        global _port
        if name == "connect":
            source, target = sorted(keep)[-2:]
            _port = int(os.pread(source, 16, 0))
            os.dup2(socket.socket().detach(), target)
        if user is not None:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        return close(allowance, keep=keep, **({} if layers is None else {"layers": layers}))

    def probe(source, target, **_) -> None:
        try:
            (PROBES | MORE_PROBES)[name](target)
        except OSError as error:
            raise CheckpointError(errno.errorcode[error.errno], code="probe") from None
        raise CheckpointError("done", code="probe")

    inspector.inspect_open_checkpoint = probe
    inspector.close_sandbox = prepare_and_close
    inspector_host.main()


def main() -> None:
    """Print what each probe met, as whoever runs this and, for root, as nobody."""
    with tempfile.TemporaryDirectory() as folder:
        for user in (None, NOBODY) if os.geteuid() == 0 else (None,):
            met = {name: outcome(name, Path(folder), user=user) for name in (*PROBES, *MORE_PROBES)}
            found = {"user": os.geteuid() if user is None else user, "met": met}
            sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
