"""What files that are sent ahead look like."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from pydantic import BaseModel, Field

from api.schemas.times import time_of
from worker.contract.partial_uploads import PartialFile
from worker.contract.upload_store import ReceivedFile


class UploadView(BaseModel):
    """A file that was sent ahead of a request."""

    id: str
    num_bytes: int
    num_received: int = Field(description="Bytes that are there; fewer while it comes in pieces.")
    sha256: str | None = Field(description="Null until all of it is there.")
    created_at: datetime
    expires_at: datetime = Field(description="When it is forgotten.")

    @classmethod
    def of(cls, file: ReceivedFile | PartialFile) -> Self:
        """Show a file that has arrived, or is on its way."""
        return cls(
            id=file.id,
            num_bytes=file.num_bytes,
            num_received=file.num_received if isinstance(file, PartialFile) else file.num_bytes,
            sha256=None if isinstance(file, PartialFile) else file.sha256,
            created_at=time_of(file.created_at),
            expires_at=time_of(file.expires_at),
        )
