"""The files of uploads and artifacts: named by their SHA-256, written once, never changed.

<data folder>/blobs/ab/ab12...     what the record points to
<data folder>/received/<id>        what was sent ahead of a request, under the upload's id
<data folder>/unfinished/<job>/    where a job that is interrupted goes on from
<data folder>/tmp/                 what is being received or made
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from momentum_core.durable_files import make_folder, move_file
from momentum_core.errors import MomentumError
from momentum_core.failpoints import reach


class DamagedFileError(MomentumError):
    """A stored file is not what was put any more: the disk, or somebody, changed it."""

    def __init__(self) -> None:
        super().__init__(
            "a stored file is damaged; send it again if it was an upload, retry the job if it was "
            "an artifact, and have the operator look at the disk",
            code="stored_file_damaged",
        )


class MissingFileError(DamagedFileError):
    """A stored file is not there: it was deleted, or lost."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the store."""

    sha256: str
    num_bytes: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Describe a file."""
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return cls(sha256, os.fstat(file.fileno()).st_size)


class FileStore:
    """Files in a folder."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which is made if it is not there; only its owner may look in."""
        self._blobs = folder / "blobs"
        self._received = folder / "received"
        self._unfinished = folder / "unfinished"
        self._temporary = folder / "tmp"
        self._lock = folder / "tmp.lock"
        self._blobs_lock = folder / "blobs.lock"
        # What was read: which file it was, and its digest.
        self._verified: dict[str, tuple[tuple[int, int, int], str]] = {}
        self._reading: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        for each in (
            folder,
            self._blobs,
            self._received,
            self._unfinished,
            self._temporary,
        ):
            make_folder(each)

    @contextmanager
    def temporary_folder(self) -> Iterator[Path]:
        """Make a folder on the store's disk; it is removed with all that is left in it.

        It is locked while it is used: what `clear_temporary` finds unlocked, nobody needs.
        """
        # So that it is not cleared between its making and its locking.
        with _locked(self._lock, fcntl.LOCK_SH):
            folder = Path(tempfile.mkdtemp(dir=self._temporary))
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)

    def put(self, path: Path) -> StoredFile:
        """Take a finished file from a `temporary_folder` into the store.

        It is synced before it gets its name, and young from then on: `collect` leaves it alone
        until the record can point to it.
        """
        reach("store.put")
        stored = StoredFile.of(path)
        target = self.path_of(stored.sha256)
        make_folder(target.parent)
        with _locked(self._blobs_lock, fcntl.LOCK_SH):
            os.utime(path)
            move_file(path, target)
        return stored

    def put_received(self, path: Path, upload_id: str) -> None:
        """Take a file that nothing has looked into; it has a name of its own and can be dropped."""
        move_file(path, self.received_path(upload_id))

    def received_path(self, upload_id: str) -> Path:
        """Return where the file of an upload lies, if the store holds it."""
        return self._received / upload_id

    def bring_received(self, upload_id: str, sha256: str) -> Path:  # noqa: ARG002
        """Return where the file of an upload lies, once all of it is on this machine.

        Args:
            upload_id: which one.
            sha256: of its content.
        """
        return self.received_path(upload_id)

    def share_received(self, upload_id: str) -> None:
        """Let all machines have a file that is complete; before the record says that it is."""

    def num_received(self, upload_id: str) -> int:
        """Return how many bytes there are of a file that is on its way."""
        try:
            return self.received_path(upload_id).stat().st_size
        except FileNotFoundError:
            return 0

    def open_partial(self, upload_id: str) -> int:
        """Open a file that is on its way, for writing; return its descriptor.

        Raises:
            FileNotFoundError: it is not there.
        """
        return os.open(self.received_path(upload_id), os.O_RDWR | os.O_CLOEXEC)

    def bring_partial(self, upload_id: str, descriptor: int) -> None:
        """Make a file that is on its way, and that is locked, what has come to any machine."""

    def share_partial(self, upload_id: str, descriptor: int, start: int) -> None:
        """Let all machines have what has come since a file had `start` bytes."""

    def drop_pieces(self, upload_id: str) -> None:
        """Remove what only a file that is on its way needs; it is complete now."""

    def drop_received(self, upload_id: str) -> None:
        """Remove the file of an upload, if it is there."""
        self.received_path(upload_id).unlink(missing_ok=True)

    def old_uploads(self, *, older_than_seconds: float) -> set[str]:
        """Return the ids under which received files lie that are not young."""
        newest = time.time() - older_than_seconds
        return {path.name for path in self._received.iterdir() if _is_older(path, newest)}

    def unfinished_path(self, job_id: str) -> Path:
        """Return the folder, which may not be there, of what an interrupted job goes on from."""
        return self._unfinished / job_id

    def bring_unfinished(self, job_id: str) -> None:
        """Have on this machine what an interrupted job goes on from."""

    def share_unfinished(self, job_id: str) -> None:
        """Let all machines have what an interrupted job would go on from."""

    def unfinished_jobs_here(self) -> list[str]:
        """Return the ids of the jobs that have such a folder on this machine."""
        return sorted(folder.name for folder in self._unfinished.iterdir())

    def unfinished_jobs(self) -> list[str]:
        """Return the ids of the jobs that have such a folder on any machine."""
        return self.unfinished_jobs_here()

    def drop_unfinished_here(self, job_id: str) -> None:
        """Remove what an interrupted job would go on from on this machine."""
        shutil.rmtree(self.unfinished_path(job_id), ignore_errors=True)

    def drop_unfinished(self, job_id: str) -> None:
        """Remove what an interrupted job would go on from, if it is there."""
        self.drop_unfinished_here(job_id)

    def verified_path(self, sha256: str) -> Path:
        """Return where a file lies that has the digest it was put with.

        All of it is read, the first time that this process asks, and whenever it has changed.

        Raises:
            MissingFileError: it is not there.
            DamagedFileError: it is not what was put.
        """
        path = self.path_of(sha256)
        # Who asks for the same file meanwhile waits for the one that reads it.
        with self._guard:
            lock = self._reading.setdefault(sha256, threading.Lock())
        with lock:
            try:
                found = path.stat()
                state = (found.st_ino, found.st_size, found.st_mtime_ns)
                known = self._verified.get(sha256)
                if known is None or known[0] != state:
                    known = (state, StoredFile.of(path).sha256)
                    self._verified[sha256] = known
            except FileNotFoundError:
                raise MissingFileError from None
        if known[1] != sha256:
            logger.critical("%s is damaged: its digest is %s now", path, known[1])
            raise DamagedFileError
        return path

    def path_of(self, sha256: str) -> Path:
        """Return where the file with this SHA-256 lies, if the store holds it."""
        assert len(bytes.fromhex(sha256)) == 32, "a SHA-256 in hexadecimal"
        return self._blobs / sha256[:2] / sha256

    def collect(self, is_needed: Callable[[str], bool], *, older_than_seconds: float) -> int:
        """Remove files that nothing points to; safe while others use the store.

        Args:
            is_needed: whether the record points to a file, by its SHA-256.
            older_than_seconds: younger files are left alone: they are put before they are recorded.

        Returns:
            How many files were removed.
        """
        newest, removed = time.time() - older_than_seconds, 0
        for path in sorted(self._blobs.glob("??/*")):
            if not _is_older(path, newest) or is_needed(path.name):
                continue
            # It may have been put again since; while the lock is held it cannot be.
            with _locked(self._blobs_lock, fcntl.LOCK_EX):
                if _is_older(path, newest):
                    path.unlink()
                    removed += 1
        return removed

    def clear_temporary(self, *, older_than_seconds: float = 0.0) -> None:
        """Remove what killed processes left; safe while others use the store."""
        newest = time.time() - older_than_seconds
        with _locked(self._lock, fcntl.LOCK_EX):
            for left in self._temporary.iterdir():
                if not left.is_dir() or (older_than_seconds and not _is_older(left, newest)):
                    continue
                try:
                    descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue  # whose it was has just ended
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                else:
                    shutil.rmtree(left, ignore_errors=True)
                finally:
                    os.close(descriptor)

    def check(self) -> None:
        """Find out whether the store answers.

        Raises:
            MomentumError: it does not.
        """

    def close(self) -> None:
        """Finish what goes on in the background; before the process ends."""

    def has_names(self) -> bool:
        """Return whether the store's disk can take another file."""
        found = os.statvfs(self._temporary)
        return found.f_favail > 0 or found.f_files == 0  # of which some say nothing

    def free_bytes(self) -> int:
        """Return the free space of the store's disk."""
        return shutil.disk_usage(self._temporary).free


def _is_older(path: Path, newest: float) -> bool:
    try:
        return path.stat().st_mtime < newest
    except FileNotFoundError:
        return False


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)
