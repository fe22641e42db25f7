"""Files that are sent ahead of a request: kept as they came until they expire.

Nothing has looked into them yet; a request that names one has it inspected as if it came along.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, and_, delete, insert, select
from sqlalchemy.exc import SQLAlchemyError

from worker.contract.database import database_now, reading
from worker.contract.file_store import FileStore, StoredFile
from worker.contract.job_record import new_id
from worker.contract.tables import uploads

RECEIVED = "received"
"""Kind of the rows of `uploads` that are files nobody has looked into."""
PARTIAL = "partial"
"""Kind of those that have not arrived as a whole."""

_KINDS = (RECEIVED, PARTIAL)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedFile:
    """A file that was sent and not looked into."""

    id: str
    sha256: str
    num_bytes: int
    created_at: float
    """Seconds since 1970 by the database's clock."""
    expires_at: float


class UploadStore:
    """Received files as users see them; every method but the sweep takes the tenant that asks."""

    def __init__(self, engine: Engine, files: FileStore, *, keep_seconds: float) -> None:
        """Use the record and the file store; a file is kept for `keep_seconds`."""
        self._engine = engine
        self._reader = reading(engine)
        self._files = files
        self._keep_seconds = keep_seconds

    def keep(self, path: Path, *, tenant: str) -> ReceivedFile:
        """Take a file from a temporary folder of the file store; it is durable afterwards."""
        stored = StoredFile.of(path)
        upload_id, now = record_upload(
            self._engine,
            tenant=tenant,
            kind=RECEIVED,
            sha256=stored.sha256,
            num_bytes=stored.num_bytes,
            keep_seconds=self._keep_seconds,
        )
        # The file after the row: what a crash leaves is a row, which the sweep finds.
        try:
            self._files.put_received(path, upload_id)
        except BaseException:
            self._forget(upload_id)
            raise
        return ReceivedFile(
            id=upload_id,
            sha256=stored.sha256,
            num_bytes=stored.num_bytes,
            created_at=now,
            expires_at=now + self._keep_seconds,
        )

    def _forget(self, upload_id: str) -> None:
        """Remove what was not taken: nobody was told its id."""
        self._files.received_path(upload_id).unlink(missing_ok=True)
        with suppress(SQLAlchemyError), self._engine.begin() as connection:
            connection.execute(delete(uploads).where(uploads.c.id == upload_id))

    def get(self, upload_id: str, *, tenant: str) -> ReceivedFile:
        """Return a file that was received and has not expired.

        Raises:
            LookupError: the tenant has none of this id.
        """
        mine = and_(
            uploads.c.id == upload_id,
            uploads.c.tenant == tenant,
            uploads.c.kind == RECEIVED,
            uploads.c.expires_at > database_now(),
        )
        with self._reader.connect() as connection:
            row = connection.execute(select(uploads).where(mine)).one_or_none()
        if row is None:
            raise LookupError("no such upload")
        return ReceivedFile(
            id=row.id,
            sha256=row.blob_sha256,
            num_bytes=row.num_bytes,
            created_at=row.created_at,
            expires_at=row.expires_at,
        )

    def bring(self, upload: ReceivedFile) -> Path:
        """Return where a received file lies, once all of it is on this machine.

        Raises:
            FileNotFoundError: it was dropped meanwhile.
            DamagedFileError: it is not what was received.
            StoreUnavailableError: it is on other machines only, and cannot be had.
        """
        return self._files.bring_received(upload.id, upload.sha256)

    def drop(self, upload_id: str, *, tenant: str) -> None:
        """Forget a file, or what there is of it; jobs that were made of it keep what they need.

        Raises:
            LookupError: the tenant has none of this id.
        """
        with self._engine.begin() as connection:
            mine = and_(
                uploads.c.id == upload_id, uploads.c.tenant == tenant, uploads.c.kind.in_(_KINDS)
            )
            if not connection.execute(delete(uploads).where(mine)).rowcount:
                raise LookupError("no such upload")
        self._files.drop_received(upload_id)

    def drop_expired(self) -> int:
        """Forget every file whose time is over; return how many."""
        expired = and_(uploads.c.kind.in_(_KINDS), uploads.c.expires_at <= database_now())
        with self._reader.connect() as connection:
            found = connection.scalars(select(uploads.c.id).where(expired)).all()
        if found:
            self._files.check()
        for upload_id in found:
            # The file first: what a crash leaves is a row, which the next sweep finds.
            self._files.drop_received(upload_id)
            with self._engine.begin() as connection:
                connection.execute(delete(uploads).where(uploads.c.id == upload_id))
        return len(found)


def record_upload(
    engine: Engine,
    *,
    tenant: str,
    kind: str,
    sha256: str,
    num_bytes: int,
    keep_seconds: float,
    facts: Mapping[str, Any] | None = None,
) -> tuple[str, float]:
    """Record a file that is sent ahead; return its id and the database's time."""
    upload_id = new_id()
    with engine.begin() as connection:
        now: float | None = connection.scalar(select(database_now()))
        assert now is not None
        row = {
            "id": upload_id,
            "tenant": tenant,
            "kind": kind,
            "blob_sha256": sha256,
            "num_bytes": num_bytes,
            "facts": dict(facts or {}),
            "created_at": now,
            "expires_at": now + keep_seconds,
        }
        connection.execute(insert(uploads), row)
    return upload_id, now
