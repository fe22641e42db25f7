"""The HTTP service in a process of its own, which notes what its inspectors use.

    python -m tests.intake.measured_service DATA_FOLDER NOTES

Prints its port; on SIGTERM writes to NOTES, as JSON: of each inspector its seconds, processor
seconds, peak of memory and size of its file, and every file that the service itself wrote
elsewhere than in its data folder.

Time and peak are what the kernel says when an inspector ends (`wait4`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn

from api.app import create_app
from worker.contract import intake
from worker.contract.inspectors import Ended, Inspectors
from worker.contract.settings import Settings

inspectors: list[dict[str, float]] = []
written_elsewhere: set[str] = set()


class _MeasuredInspectors(Inspectors):
    """Keeps what the kernel says of each."""

    def ask(self, line: bytes, files: Sequence[int], *, seconds: float) -> Ended:
        file_bytes = os.fstat(files[0]).st_size if files else 0
        started = time.perf_counter()
        ended = super().ask(line, files, seconds=seconds)
        inspectors.append(
            {
                "seconds": time.perf_counter() - started,
                "processor_seconds": ended.processor_seconds,
                "peak_bytes": ended.peak_bytes,
                "file_bytes": file_bytes,
            }
        )
        return ended


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
    intake.Inspectors = _MeasuredInspectors
    # Of a busy machine; what a file may cost is counted otherwise.
    intake.BASE_SECONDS = 120.0
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
