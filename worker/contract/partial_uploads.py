"""Files that arrive piece by piece: each piece goes to the end, and the file tells how far it is.

The record says how long the file is to be, and when it is complete; until then nothing can name it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Engine, and_, select, update

from momentum_core.durable_files import sync_file, sync_folder
from worker.contract.database import database_now, reading
from worker.contract.file_store import FileStore, StoredFile
from worker.contract.tables import uploads
from worker.contract.upload_store import PARTIAL, RECEIVED, record_upload


class UploadLockedError(Exception):
    """Another request writes to the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartialFile:
    """A file of which a part is there."""

    id: str
    num_bytes: int
    """That it will have."""
    num_received: int
    metadata: str
    """What the client says of it, as it said it."""
    created_at: float
    """Seconds since 1970 by the database's clock."""
    expires_at: float

    @property
    def is_complete(self) -> bool:
        """Whether every byte is there."""
        return self.num_received == self.num_bytes


@dataclass(frozen=True, slots=True)
class Writing:
    """A file that is open to be written to."""

    file: PartialFile
    """As it is, now that nobody else changes it."""
    descriptor: int
    """Its position is the file's end."""


class PartialUploads:
    """The files that are on their way; every method takes the tenant that asks."""

    def __init__(self, engine: Engine, files: FileStore, *, keep_seconds: float) -> None:
        """Use the record and the file store; a file may take `keep_seconds` to arrive."""
        self._engine = engine
        self._reader = reading(engine)
        self._files = files
        self._keep_seconds = keep_seconds

    def begin(self, num_bytes: int, *, metadata: str, tenant: str) -> PartialFile:
        """Make an empty file that is to have `num_bytes`."""
        upload_id, now = record_upload(
            self._engine,
            tenant=tenant,
            kind=PARTIAL,
            sha256="",
            num_bytes=num_bytes,
            keep_seconds=self._keep_seconds,
            facts={"metadata": metadata},
        )
        # The file after the row: what a crash leaves is a row, which expires.
        path = self._files.received_path(upload_id)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        sync_folder(path.parent)
        return PartialFile(
            id=upload_id,
            num_bytes=num_bytes,
            num_received=0,
            metadata=metadata,
            created_at=now,
            expires_at=now + self._keep_seconds,
        )

    def get(self, upload_id: str, *, tenant: str) -> PartialFile:
        """Return how far a file is.

        Raises:
            LookupError: the tenant has none of this id on its way.
        """
        mine = and_(
            uploads.c.id == upload_id,
            uploads.c.tenant == tenant,
            uploads.c.kind == PARTIAL,
            uploads.c.expires_at > database_now(),
        )
        with self._reader.connect() as connection:
            row = connection.execute(select(uploads).where(mine)).one_or_none()
        if row is None:
            raise LookupError("no such upload")
        return PartialFile(
            id=row.id,
            num_bytes=row.num_bytes,
            num_received=self._files.num_received(upload_id),
            metadata=row.facts["metadata"],
            created_at=row.created_at,
            expires_at=row.expires_at,
        )

    @contextmanager
    def writing(self, upload_id: str, *, tenant: str) -> Iterator[Writing]:
        """Open a file to write at its end; nobody else writes or finishes it meanwhile.

        What was written is durable afterwards, however the body ends.

        Raises:
            UploadLockedError: another request has it open.
            LookupError: the tenant has none of this id on its way (any more).
        """
        self.get(upload_id, tenant=tenant)
        try:
            descriptor = self._files.open_partial(upload_id)
        except FileNotFoundError:
            raise LookupError("no such upload") from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UploadLockedError from None
            file = self.get(upload_id, tenant=tenant)  # it may have been finished before the lock
            self._files.bring_partial(upload_id, descriptor)
            os.lseek(descriptor, 0, os.SEEK_END)
            try:
                yield Writing(file, descriptor)
            finally:
                os.fsync(descriptor)
                # Of a file that is complete not the last piece is shared, but all of it.
                if os.fstat(descriptor).st_size != file.num_bytes:
                    self._files.share_partial(upload_id, descriptor, file.num_received)
        finally:
            os.close(descriptor)

    def settle(self, upload_id: str, *, tenant: str) -> None:
        """Finish a file that is all there, unless a request has it open.

        Its last request may have been killed before it could say so.

        Raises:
            LookupError: the tenant has none of this id on its way.
        """
        if not self.get(upload_id, tenant=tenant).is_complete:
            return
        try:
            with self.writing(upload_id, tenant=tenant) as writing:
                if writing.file.is_complete:
                    self.finish(upload_id, tenant=tenant)
        except UploadLockedError:
            return

    def finish(self, upload_id: str, *, tenant: str) -> None:
        """Say that a file is complete; requests may name it, and nobody writes to it, from now on.

        To be called while the file is open for `writing`, or what is read may be cut off yet.

        Raises:
            LookupError: it was dropped meanwhile.
        """
        path = self._files.received_path(upload_id)
        try:
            # Before the record says that it is complete.
            sync_file(path)
            stored = StoredFile.of(path)
            self._files.share_received(upload_id)
        except FileNotFoundError:
            raise LookupError("no such upload") from None
        mine = and_(uploads.c.id == upload_id, uploads.c.tenant == tenant)
        complete = {"kind": RECEIVED, "blob_sha256": stored.sha256}
        with self._engine.begin() as connection:
            changed = connection.execute(
                update(uploads).where(mine, uploads.c.num_bytes == stored.num_bytes), complete
            )
        if not changed.rowcount:
            raise LookupError("no such upload")
        self._files.drop_pieces(upload_id)
