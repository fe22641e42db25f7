"""The HTTP service in a process of its own, which notes what its inspectors use.

    python -m tests.intake.measured_service DATA_FOLDER NOTES

Prints its port; on SIGTERM writes to NOTES, as JSON: of each inspector its seconds, processor
seconds, peak of memory and size of its file, and every file that the service itself wrote
elsewhere than in its data folder.

The peak is what the kernel says when the child ends (`wait4`). It is never below the peak of the
process that started it, which is why the service runs here and not beside torch in the tests.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn

from api.app import create_app
from worker.contract import intake
from worker.contract.settings import Settings

inspectors: list[dict[str, float]] = []
written_elsewhere: set[str] = set()


class _MeasuredChild(subprocess.Popen):
    """Keeps what the kernel says of the child."""

    def __init__(self, command: Any, **options: Any) -> None:
        self._file_bytes = os.fstat(options["pass_fds"][0]).st_size
        self._started = time.perf_counter()
        super().__init__(command, **options)

    def _try_wait(self, wait_flags):
        try:
            process, status, usage = os.wait4(self.pid, wait_flags)
        except ChildProcessError:
            return self.pid, 0
        if process:
            self._note(usage)
        return process, status

    def _note(self, usage: resource.struct_rusage) -> None:
        inspectors.append(
            {
                "seconds": time.perf_counter() - self._started,
                "processor_seconds": usage.ru_utime + usage.ru_stime,
                "peak_bytes": usage.ru_maxrss * 1024,
                "file_bytes": self._file_bytes,
            }
        )


def watch_writes(folder: Path) -> None:
    """Note every file that is opened for writing outside `folder`."""
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    allowed = (str(folder), os.devnull)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[2] & writing and isinstance(arguments[0], str | bytes):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if not path.startswith(allowed):
                written_elsewhere.add(path)

    sys.addaudithook(hook)


def main() -> None:
    """Serve until SIGTERM."""
    folder, notes = Path(sys.argv[1]), Path(sys.argv[2])
    intake.subprocess.Popen = _MeasuredChild
    settings = Settings(data_dir=folder, broker_url="redis://127.0.0.1:1/0", min_free_bytes=0)
    application = create_app(settings)
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    watch_writes(folder)
    # uvicorn stops, and then raises the signal once more.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    uvicorn.Server(uvicorn.Config(application, log_level="warning")).run([listener])
    found = {"inspectors": inspectors, "written_elsewhere": sorted(written_elsewhere)}
    notes.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
