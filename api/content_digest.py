"""The digest that a client sends of what it sends: `Content-Digest: sha-256=:...:` (RFC 9530)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import AsyncIterator
from typing import Any

from api.problems import Problem

HEADER = "Content-Digest"
_NUM_BYTES = 32


def parse_content_digest(header: str | None) -> bytes | None:
    """Return the SHA-256 that a header states; None without one. Other algorithms are ignored.

    Raises:
        Problem: 400, when it states a SHA-256 that is none.
    """
    for member in (header or "").split(","):
        algorithm, _, value = member.strip().partition("=")
        if algorithm.lower() != "sha-256":
            continue
        try:
            digest = base64.b64decode(value[1:-1], validate=True)
        except (binascii.Error, ValueError):
            digest = b""
        if len(digest) != _NUM_BYTES or value[:1] != ":" or value[-1:] != ":":
            raise Problem(
                400,
                "malformed_digest",
                f"{HEADER} states the SHA-256 {value[:80]!a}, which is none; write "
                "sha-256=:...: with the 32 bytes in base64, as RFC 9530 has it",
            )
        return digest
    return None


CONTENT_DIGEST_PARAMETER: dict[str, Any] = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "SHA-256 of the body, `sha-256=:<base64>:` (RFC 9530); compared, if it is sent. "
    "A part may have one of its own.",
    "schema": {"type": "string"},
}
"""The header as OpenAPI documents it."""


class StatedDigest:
    """A stated SHA-256, and what it must be the digest of, as it arrives.

    Args:
        what: that which is received, for the message.
        header: value of `Content-Digest`; None if there is none.
    """

    def __init__(self, what: str, header: str | None) -> None:
        self._what = what
        self._expected = parse_content_digest(header)
        self._received = hashlib.sha256()

    def update(self, piece: bytes) -> None:
        """Take a piece into account; without a stated digest that costs nothing."""
        if self._expected is not None:
            self._received.update(piece)

    def check(self) -> None:
        """Compare, once everything has arrived.

        Raises:
            Problem: 422 `checksum_mismatch`.
        """
        found = self._received.digest()
        if self._expected is not None and found != self._expected:
            raise Problem(
                422,
                "checksum_mismatch",
                f"the SHA-256 of {self._what} is {found.hex()}, {HEADER} says "
                f"{self._expected.hex()}: it was changed on its way; send it again",
            )


async def checked_chunks(
    chunks: AsyncIterator[bytes], digest: StatedDigest
) -> AsyncIterator[bytes]:
    """Pass a body through; compare its digest at its end.

    Raises:
        Problem: 422 `checksum_mismatch`.
    """
    async for chunk in chunks:
        digest.update(chunk)
        yield chunk
    digest.check()
