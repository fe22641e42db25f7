"""The files of uploads and artifacts: named by their SHA-256, written once, never changed.

<data folder>/blobs/ab/ab12...     what the record points to
<data folder>/tmp/                 what is being received or made; emptied at start
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from worker.contract.durable_files import move_file


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the store."""

    sha256: str
    num_bytes: int


class FileStore:
    """Files in a folder."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which is made if it is not there; only its owner may look in."""
        self._blobs = folder / "blobs"
        self._temporary = folder / "tmp"
        for each in (folder, self._blobs, self._temporary):
            each.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """Make a folder on the store's disk; it is removed with all that is left in it."""
        folder = Path(tempfile.mkdtemp(dir=self._temporary))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def put(self, path: Path) -> StoredFile:
        """Take a finished file from a `temporary_folder` into the store.

        It is synced before it gets its name. A file that the store holds already is kept.
        """
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        num_bytes = path.stat().st_size
        target = self.path_of(sha256)
        target.parent.mkdir(exist_ok=True, mode=0o700)
        move_file(path, target)
        return StoredFile(sha256, num_bytes)

    def path_of(self, sha256: str) -> Path:
        """Return where the file with this SHA-256 lies, if the store holds it."""
        assert len(bytes.fromhex(sha256)) == 32, "a SHA-256 in hexadecimal"
        return self._blobs / sha256[:2] / sha256

    def clear_temporary(self) -> None:
        """Remove what a killed process left; nobody else may be using the store."""
        for left in self._temporary.iterdir():
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Return the free space of the store's disk."""
        return shutil.disk_usage(self._temporary).free
