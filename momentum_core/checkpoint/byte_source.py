"""Bounded reading of an open file by position, so that no parser can run past its end."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from momentum_core.checkpoint.refusal import refuse

CHUNK_BYTES = 1 << 22


class ByteSource:
    """An open, readable, seekable file, read with `pread`: no shared position, no mapping.

    Args:
        descriptor: the open file; the caller closes it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.num_bytes = os.fstat(descriptor).st_size

    def read_at(self, offset: int, num_bytes: int) -> bytes:
        """Return exactly `num_bytes` bytes from `offset`.

        Raises:
            CheckpointError: `truncated_file`, when the file ends before.
        """
        if offset < 0 or num_bytes < 0 or offset + num_bytes > self.num_bytes:
            raise refuse(
                "truncated_file",
                f"the file ends at byte {self.num_bytes}, but byte {offset + num_bytes} is needed; "
                "it was cut off on its way: send it again",
            )
        parts: list[bytes] = []
        position = offset
        while position < offset + num_bytes:
            part = os.pread(self._descriptor, offset + num_bytes - position, position)
            if not part:
                raise refuse("truncated_file", "the file became shorter while it was read")
            parts.append(part)
            position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_up_to(self, offset: int, num_bytes: int) -> bytes:
        """Return the bytes from `offset`, fewer than `num_bytes` where the file ends."""
        at = min(offset, self.num_bytes)
        return self.read_at(at, min(num_bytes, self.num_bytes - at))

    def chunks(self, offset: int, num_bytes: int) -> Iterator[bytes]:
        """Yield `num_bytes` bytes from `offset` in pieces of at most 4 MiB."""
        end = offset + num_bytes
        while offset < end:
            piece = self.read_at(offset, min(CHUNK_BYTES, end - offset))
            yield piece
            offset += len(piece)

    def sha256(self) -> str:
        """Return the SHA-256 of the whole file, in hexadecimal."""
        digest = hashlib.sha256()
        for piece in self.chunks(0, self.num_bytes):
            digest.update(piece)
        return digest.hexdigest()
