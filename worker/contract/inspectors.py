"""The inspectors of this process: each is asked about one file, and watched until it has ended."""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import momentum_core

MAX_ANSWER_BYTES = 4 << 20
_KILL_SECONDS = 10.0
"""A killed process ends when it is its turn."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What an inspector answered, and how it ended."""

    answer: bytes
    exit_code: int
    """Negative is the signal that ended it."""

    processor_seconds: float
    peak_bytes: int
    """Of resident memory, what it shares with its host included."""


class HostLostError(RuntimeError):
    """The process that starts inspectors has ended; no file is to blame."""


class Inspectors:
    """Starts inspectors through a host that lives as long as this object; safe to share."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start the host.

        Args:
            command: what to run; `worker.contract.inspector_host` says how it is talked to.
        """
        self.command = tuple(command)
        self.process_id = os.getpid()
        self._control, theirs = socket.socketpair()
        self._is_sending = threading.Lock()
        root = str(Path(momentum_core.__file__).resolve().parents[1])
        with theirs:
            self._host = subprocess.Popen(
                self.command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PYTHONPATH": root, "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"}
                | {"OPENBLAS_NUM_THREADS": "1"},
                cwd="/",
                start_new_session=True,
            )

    @property
    def is_alive(self) -> bool:
        """Whether the host lives."""
        return self._host.poll() is None

    def close(self) -> None:
        """End the host, and with it inspectors that still work; a forked process only lets go."""
        self._control.close()
        if self.process_id == os.getpid():
            self._host.terminate()
            self._host.wait()

    def ask(self, line: bytes, files: Sequence[int], *, seconds: float) -> Ended:
        """Start an inspector, give it a line and files, and wait for its answer and its end.

        Args:
            line: the request.
            files: open descriptors, which stay open here.
            seconds: how long it may take.

        Raises:
            TimeoutError: it took longer; it is dead.
            OverflowError: the answer is longer than any can be; it is dead.
            HostLostError: the host has ended.
            OSError: no process can be started.
        """
        deadline = time.monotonic() + seconds
        with ExitStack() as stack:
            conversation, their_conversation = map(stack.enter_context, socket.socketpair())
            leash, their_leash = map(stack.enter_context, socket.socketpair())
            self._send([their_conversation.fileno(), their_leash.fileno(), *files])
            their_conversation.close()
            their_leash.close()
            try:
                with suppress(BrokenPipeError, ConnectionResetError):
                    conversation.sendall(line)
                    conversation.shutdown(socket.SHUT_WR)
                answer = _read(conversation, MAX_ANSWER_BYTES, deadline)
                return _ended(answer, _read(leash, 1 << 10, deadline))
            finally:
                _let_go(leash)

    def _send(self, descriptors: Sequence[int]) -> None:
        try:
            with self._is_sending:
                socket.send_fds(self._control, [b"."], descriptors)
        except (BrokenPipeError, ConnectionResetError):
            raise _lost() from None


def _read(source: socket.socket, max_bytes: int, deadline: float) -> bytes:
    """Read until the other side has closed.

    Raises:
        TimeoutError: the deadline has passed.
        OverflowError: there is more than `max_bytes`.
    """
    content = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        while len(content) <= max_bytes:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            try:
                piece = source.recv(1 << 16)
            except ConnectionResetError:  # it ended without having read the request
                piece = b""
            if not piece:
                return bytes(content)
            content += piece
    raise OverflowError


def _ended(answer: bytes, end: bytes) -> Ended:
    if not end:
        raise _lost()
    said = json.loads(end)
    if "errno" in said:
        raise OSError(said["errno"], os.strerror(said["errno"]))
    return Ended(answer, said["exit_code"], said["processor_seconds"], said["peak_bytes"])


def _let_go(leash: socket.socket) -> None:
    """Have the host kill the inspector if it has not ended; wait until it is gone."""
    with suppress(OSError):
        leash.shutdown(socket.SHUT_WR)
        leash.settimeout(_KILL_SECONDS)
        while leash.recv(1 << 10):
            pass


def _lost() -> HostLostError:
    return HostLostError("the process that starts inspectors has ended; send the file again")
