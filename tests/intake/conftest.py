"""A real service in a process of its own, with notes on its inspectors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import ROOT


@dataclass(slots=True)
class MeasuredService:
    """A running service.

    Attributes:
        client: asks it.
        process: it.
        folder: its data folder.
        notes: what it noted, once it has ended.
    """

    client: httpx.Client
    process: subprocess.Popen[str]
    folder: Path
    notes: dict[str, Any] = field(default_factory=dict)

    def files(self) -> tuple[set[str], set[str]]:
        """Return the temporary files and the kept ones."""
        return (
            {path.name for path in (self.folder / "tmp").rglob("*")},
            {
                path.name
                for folder in ("blobs", "received")
                for path in (self.folder / folder).rglob("*")
                if path.is_file()
            },
        )


@contextmanager
def measured_service(folder: Path) -> Iterator[MeasuredService]:
    """Start a service in a folder; stop it in an orderly way at the end, and read its notes."""
    data, notes = folder / "data", folder / "notes.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.intake.measured_service", str(data), str(notes)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            service = MeasuredService(client, process, data)
            yield service
            process.terminate()
            assert process.wait(120) == 0
            service.notes = json.loads(notes.read_text())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
