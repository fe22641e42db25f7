"""One process of the service: started, watched, started again, stopped with all its children."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from worker.contract.lifeline import tied_command

MAX_PAUSE_SECONDS = 30.0
_TAIL_BYTES = 64 << 10
"""Of a log, read to show its last lines."""

_STEADY_SECONDS = 10.0
"""A process that ran this long did not fail at its start: it is started again at once."""


class Child:
    """A process that is started again when it ends by itself."""

    def __init__(
        self, name: str, command: list[str], *, environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._ended_at: float | None = None
        self._pause_seconds = 0.0

    @property
    def process_id(self) -> int:
        """Of the running process."""
        assert self._process is not None, "start it first"
        return self._process.pid

    def start(self) -> None:
        """Start the process; what it prints goes to the end of its log."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                tied_command(self._command),
                env=self._environment,
                # Where the user stands there may be folders of the same names as our packages.
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the supervisor, which stops its children in order.
                start_new_session=True,
            )
        self._started_at, self._ended_at = time.monotonic(), None

    def has_ended(self) -> bool:
        """Whether the process ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def restart_if_ended(self) -> str | None:
        """Start the process again after a pause that grows while it keeps failing.

        Returns:
            A sentence on what was done, if anything was.
        """
        if not self.has_ended():
            return None
        now = time.monotonic()
        if self._ended_at is None:
            self._ended_at = now
            if now - self._started_at > _STEADY_SECONDS:
                self._pause_seconds = 0.0
        if now - self._ended_at < self._pause_seconds:
            return None
        self._pause_seconds = min(MAX_PAUSE_SECONDS, 2 * self._pause_seconds + 1)
        assert self._process is not None
        code = self._process.returncode
        self._signal(signal.SIGKILL)  # what it may have left behind
        self.start()
        return f"{self.name} had ended ({_reason(code)}) and was started again; see {self.log}"

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the process."""
        if self._process is not None and not self.has_ended():
            self._process.terminate()

    def stop(self, deadline: float) -> None:
        """Wait until `deadline` (of `time.monotonic`), then kill the process and its children."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._signal(signal.SIGKILL)
            self._process.wait()

    def last_lines(self, count: int = 15) -> str:
        """Return the end of the log."""
        with self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(0, size - _TAIL_BYTES))
            text = log.read(_TAIL_BYTES).decode(errors="replace")
        return "\n".join(text.splitlines()[-count:])

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return  # the whole group has ended


def _reason(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
