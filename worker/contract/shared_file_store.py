"""The file store of many machines: an object store has everything, each folder what it used last.

<store>/blobs/ab/ab12.../<put>          what the record points to, once for each time it was put
<store>/received/<id>                   what was sent ahead of a request
<store>/pieces/<id>/<first byte>-<put>  what there is of a file that is on its way
<store>/unfinished/<job>/...            where a job that is interrupted goes on from

A name is never written twice, so no two machines are in each other's way, and nothing has to be
locked: a file that is put again gets another name, which its youth protects from `collect`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from uuid import uuid4

from momentum_core.durable_files import make_folder, move_file, sync_folder
from momentum_core.failpoints import reach
from worker.contract.file_store import (
    DamagedFileError,
    FileStore,
    MissingFileError,
    StoredFile,
)
from worker.contract.settings import Settings
from worker.contract.shared_files import SharedFile, SharedFiles, StoreUnavailableError

USED_SECONDS = 3600.0
"""What was used within this time stays in the folder: somebody may be about to open it."""

TRIM_SECONDS = 60.0
"""Time between two looks how much the folder has."""

CLOSE_SECONDS = 20.0
"""Time that a process which ends takes to send states."""

logger = logging.getLogger(__name__)


def open_file_store(settings: Settings) -> FileStore:
    """Return the store that the settings name: an object store, or else the data folder alone.

    Raises:
        ValueError: the address of the object store is none.
    """
    if settings.store_url is None:
        return FileStore(settings.data_folder)
    shared = SharedFiles(settings.store_url, settings.store_options)
    return SharedFileStore(settings.data_folder, shared, cache_bytes=settings.cache_bytes)


class SharedFileStore(FileStore):
    """Files in an object store, and in a folder those that were used last."""

    def __init__(self, folder: Path, shared: SharedFiles, *, cache_bytes: int) -> None:
        """Use a folder of this machine, and a store of all.

        Args:
            folder: made if it is not there.
            shared: the store.
            cache_bytes: that the folder is to keep of the store's files.
        """
        super().__init__(folder)
        self._shared = shared
        self._cache_bytes = cache_bytes
        self._trimmed_at = -float("inf")
        self._fetching: dict[str, threading.Lock] = {}
        # One at a time: states of a training are shared in the order in which they were saved.
        self._background = ThreadPoolExecutor(1, thread_name_prefix="sharing")
        self._sharing: dict[str, Future[None]] = {}

    # What the record points to

    def put(self, path: Path) -> StoredFile:
        """Take a finished file into the store; it has arrived there before this returns."""
        stored = super().put(path)
        name = f"{_blob_folder(stored.sha256)}/{uuid4().hex}"
        reach("store.share")
        self._shared.put(self.path_of(stored.sha256), name)
        self._trim()
        return stored

    def verified_path(self, sha256: str) -> Path:
        """Return where a file lies that has the digest it was put with; fetch it if need be.

        Raises:
            MissingFileError: it is nowhere.
            DamagedFileError: no copy of it is what was put.
            StoreUnavailableError: the store does not answer.
        """
        with self._guard:
            lock = self._fetching.setdefault(sha256, threading.Lock())
        with lock:
            path = self.path_of(sha256)
            _touch(path)  # before it is read, so that nobody trims it meanwhile
            try:
                super().verified_path(sha256)
            except DamagedFileError:  # or not there
                self._fetch(sha256)
                super().verified_path(sha256)
            if not path.exists():  # trimmed by somebody who had looked before
                self._fetch(sha256)
        return path

    def collect(self, is_needed: Callable[[str], bool], *, older_than_seconds: float) -> int:
        """Remove files that nothing points to, in the store as in the folder."""
        removed = super().collect(is_needed, older_than_seconds=older_than_seconds)
        newest = time.time() - older_than_seconds
        by_digest: dict[str, list[SharedFile]] = {}
        for file in self._shared.below("blobs"):
            by_digest.setdefault(file.name.split("/")[2], []).append(file)
        for sha256, copies in by_digest.items():
            copies.sort(key=_age_of)
            old = [one.name for one in copies if one.modified_at < newest]
            if old and is_needed(sha256):
                old = [name for name in old if name != copies[0].name]  # one is enough
            self._shared.drop(old)
            removed += len(old)
        return removed

    def _fetch(self, sha256: str) -> None:
        copies = sorted(self._shared.below(_blob_folder(sha256)), key=_age_of)
        if not copies:
            raise MissingFileError
        for copy in copies:
            with self.temporary_folder() as folder:
                fetched = folder / "file"
                try:
                    self._shared.fetch(copy.name, fetched)
                except FileNotFoundError:
                    continue  # collected, because there is a newer one
                found = StoredFile.of(fetched).sha256
                if found == sha256:
                    target = self.path_of(sha256)
                    make_folder(target.parent)
                    move_file(fetched, target)
                    self._trim()
                    return
                logger.critical("%s in the store is damaged: its digest is %s", copy.name, found)
        raise DamagedFileError

    # What was sent ahead of a request

    def put_received(self, path: Path, upload_id: str) -> None:
        """Take a file that nothing has looked into."""
        super().put_received(path, upload_id)
        self.share_received(upload_id)

    def share_received(self, upload_id: str) -> None:
        """Send a file that is complete."""
        self._shared.put(self.received_path(upload_id), f"received/{upload_id}")

    def bring_received(self, upload_id: str, sha256: str) -> Path:
        """Return where a complete file lies; fetch it if need be."""
        path = self.received_path(upload_id)
        _touch(path)
        if path.exists() and StoredFile.of(path).sha256 == sha256 and path.exists():
            return path
        with self.temporary_folder() as folder:
            fetched = folder / "file"
            self._shared.fetch(f"received/{upload_id}", fetched)
            if StoredFile.of(fetched).sha256 != sha256:
                raise DamagedFileError
            move_file(fetched, path)
        self._trim()
        return path

    def num_received(self, upload_id: str) -> int:
        """Return how many bytes there are of a file that is on its way: those that all can have."""
        return _reach_of(self._pieces(upload_id))

    def open_partial(self, upload_id: str) -> int:
        """Open a file that is on its way, for writing; whoever writes has it elsewhere, perhaps."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self.received_path(upload_id), flags, 0o600)
        sync_folder(self._received)
        return descriptor

    def bring_partial(self, upload_id: str, descriptor: int) -> None:
        """Make a file that is on its way, and that is locked, what all can have of it."""
        pieces = self._pieces(upload_id)
        total, here = _reach_of(pieces), os.fstat(descriptor).st_size
        if here != total:
            here = 0  # what was never told to anybody may be anything
        with self.temporary_folder() as folder:
            for piece in pieces:
                start = _start_of(piece)
                if start + piece.num_bytes <= here or start >= total:
                    continue
                self._shared.fetch(piece.name, folder / "piece")
                with (folder / "piece").open("rb") as source:
                    os.lseek(descriptor, start, os.SEEK_SET)
                    while block := source.read(1 << 20):
                        os.write(descriptor, block)
        os.ftruncate(descriptor, total)

    def share_partial(self, upload_id: str, descriptor: int, start: int) -> None:
        """Send what has come since a file had `start` bytes."""
        num_bytes = os.fstat(descriptor).st_size - start
        if num_bytes > 0:
            os.lseek(descriptor, start, os.SEEK_SET)
            with os.fdopen(os.dup(descriptor), "rb") as file:
                self._shared.put_part(
                    file, num_bytes, f"pieces/{upload_id}/{start:020d}-{uuid4().hex}"
                )

    def drop_pieces(self, upload_id: str) -> None:
        """Remove the pieces of a file that is complete; at the latest they go with it."""
        try:
            self._shared.drop([one.name for one in self._pieces(upload_id)])
        except StoreUnavailableError:
            logger.warning("pieces of upload %s are left in the store for now", upload_id)

    def drop_received(self, upload_id: str) -> None:
        """Remove the file of an upload, or what there is of it."""
        super().drop_received(upload_id)
        pieces = [one.name for one in self._pieces(upload_id)]
        self._shared.drop([*pieces, f"received/{upload_id}"])

    def old_uploads(self, *, older_than_seconds: float) -> set[str]:
        """Return the ids under which files lie, here or in the store, that are not young."""
        newest = time.time() - older_than_seconds
        there = [*self._shared.below("received"), *self._shared.below("pieces")]
        found = {file.name.split("/")[1] for file in there if file.modified_at < newest}
        return found | super().old_uploads(older_than_seconds=older_than_seconds)

    def _pieces(self, upload_id: str) -> list[SharedFile]:
        return self._shared.below(f"pieces/{upload_id}")

    # Where an interrupted job goes on from

    def bring_unfinished(self, job_id: str) -> None:
        """Fetch the states that other machines saved of a job."""
        root = self.unfinished_path(job_id)
        for file in self._shared.below(f"unfinished/{job_id}"):
            path = root / file.name.removeprefix(f"unfinished/{job_id}/")
            if path.exists():
                continue
            make_folder(path.parent)
            with self.temporary_folder() as folder:
                try:
                    self._shared.fetch(file.name, folder / "state")
                except FileNotFoundError:
                    continue
                move_file(folder / "state", path)

    def share_unfinished(self, job_id: str) -> None:
        """Begin to send a job's states; one that is saved meanwhile goes with the next."""
        running = self._sharing.get(job_id)
        if running is None or running.done():
            self._sharing[job_id] = self._background.submit(self._send_unfinished, job_id)

    def _send_unfinished(self, job_id: str) -> None:
        root, prefix = self.unfinished_path(job_id), f"unfinished/{job_id}"
        try:
            here = {
                f"{prefix}/{path.relative_to(root)}": path
                for path in root.rglob("*.safetensors")
                if not path.name.startswith(".")
            }
            there = {file.name for file in self._shared.below(prefix)}
            for name in sorted(here.keys() - there):
                try:
                    self._shared.put(here[name], name)
                except FileNotFoundError:
                    continue  # two newer ones were saved meanwhile
            # Newer ones than there are here would be another machine's, which has the job now.
            oldest: dict[str, str] = {}
            for name in sorted(here, reverse=True):
                oldest[name.rpartition("/")[0]] = name
            left = {name for name in there if name < oldest.get(name.rpartition("/")[0], "")}
            self._shared.drop(sorted(left))
        except (StoreUnavailableError, OSError):
            logger.warning("the states of job %s are on this machine only", job_id, exc_info=True)

    def unfinished_jobs(self) -> list[str]:
        """Return the ids of the jobs that have states, here or in the store."""
        shared = {file.name.split("/")[1] for file in self._shared.below("unfinished")}
        return sorted(shared.union(super().unfinished_jobs()))

    def drop_unfinished(self, job_id: str) -> None:
        """Remove what an interrupted job would go on from; at the latest `collect` does."""
        self._background.submit(self.drop_unfinished_here, job_id).result()
        try:
            self._shared.drop([one.name for one in self._shared.below(f"unfinished/{job_id}")])
        except StoreUnavailableError:
            logger.warning("the states of job %s are left in the store for now", job_id)

    # The store as a whole

    def close(self) -> None:
        """Wait, but not for ever, for states that are being sent."""
        wait(self._sharing.values(), timeout=CLOSE_SECONDS)

    def check(self) -> None:
        """Ask the store for anything at all.

        Raises:
            StoreUnavailableError: no answer came.
        """
        self._shared.check()

    def _trim(self) -> None:
        """Remove what was not used for longest, once in a while, if the folder has too much."""
        now = time.monotonic()
        if now - self._trimmed_at < TRIM_SECONDS:
            return
        self._trimmed_at = now
        found = [*self._blobs.glob("??/*"), *self._received.iterdir()]
        used = sorted(_last_use(path) for path in found)
        excess = sum(size for _, size, _ in used) - self._cache_bytes
        for used_at, size, path in used:
            if excess <= 0 or used_at > time.time() - USED_SECONDS:
                return
            if _last_use(path)[0] == used_at:  # nobody has meanwhile
                path.unlink(missing_ok=True)
                excess -= size


def _blob_folder(sha256: str) -> str:
    return f"blobs/{sha256[:2]}/{sha256}"


def _age_of(file: SharedFile) -> float:
    return -file.modified_at


def _reach_of(pieces: list[SharedFile]) -> int:
    """Return how many bytes there are from the start on, without a gap."""
    reached = 0
    for piece in pieces:
        if _start_of(piece) > reached:
            break
        reached = max(reached, _start_of(piece) + piece.num_bytes)
    return reached


def _start_of(piece: SharedFile) -> int:
    return int(piece.name.rpartition("/")[2].partition("-")[0])


def _touch(path: Path) -> None:
    """Note that a file is used; its time of change stays, for that tells whether it changed."""
    try:
        found = path.stat()
        os.utime(path, ns=(time.time_ns(), found.st_mtime_ns))
    except FileNotFoundError:
        return


def _last_use(path: Path) -> tuple[float, int, Path]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0.0, 0, path
    return max(found.st_atime, found.st_mtime), found.st_size, path
