"""The tus protocol 1.0 (tus.io): its headers, read and written in one place."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from starlette.datastructures import Headers

from api.problems import Problem
from worker.contract.partial_uploads import PartialFile

VERSION = "1.0.0"
EXTENSIONS = "creation,expiration,checksum,termination"
VERSION_HEADER = "Tus-Resumable"
CONTENT_TYPE = "application/offset+octet-stream"
MAX_METADATA_CHARACTERS = 4096

VERSION_PARAMETER: dict[str, Any] = {
    "name": VERSION_HEADER,
    "in": "header",
    "required": True,
    "schema": {"type": "string", "enum": [VERSION]},
    "description": "Version of the protocol (tus.io).",
}
"""The header as OpenAPI documents it."""

_ALGORITHMS = ("sha256", "sha1")  # the protocol asks for sha1
_MAX_DIGITS = 15


@dataclass(frozen=True, slots=True)
class Checksum:
    """The digest that a client sends of a piece."""

    algorithm: str
    digest: bytes

    def new_hash(self) -> Any:
        """Return the hash that is to give the digest."""
        return hashlib.new(self.algorithm, usedforsecurity=False)


def check_version(headers: Headers) -> None:
    """Refuse another version of the protocol.

    Raises:
        Problem: 412; 400 without one.
    """
    found = headers.get(VERSION_HEADER)
    if found is None:
        raise Problem(
            400, "malformed_header", f"the header {VERSION_HEADER} is missing; send {VERSION}"
        )
    if found != VERSION:
        raise Problem(
            412,
            "tus_version",
            f"{VERSION_HEADER} is {found[:20]!a}; this service speaks tus {VERSION}",
            headers={"Tus-Version": VERSION},
        )


def read_count(headers: Headers, name: str) -> int:
    """Return the number of bytes that a header states.

    Raises:
        Problem: 400, it is missing, or no number.
    """
    value = headers.get(name, "")
    if not value.isascii() or not value.isdecimal() or len(value) > _MAX_DIGITS:
        raise Problem(
            400, "malformed_header", f"{name} is {value[:40]!a}; send the number of bytes"
        )
    return int(value)


def read_metadata(headers: Headers) -> str:
    """Return what a client says of its file: keys, and values in base64.

    Raises:
        Problem: 400.
    """
    value = headers.get("Upload-Metadata", "")
    if len(value) > MAX_METADATA_CHARACTERS or not all(
        map(_is_pair, filter(None, value.split(",")))
    ):
        raise Problem(
            400,
            "malformed_header",
            f"Upload-Metadata is {value[:40]!a}; send 'key base64,key base64', at most "
            f"{MAX_METADATA_CHARACTERS} characters",
        )
    return value


def read_checksum(headers: Headers) -> Checksum | None:
    """Return the digest of the piece that follows; None without one.

    Raises:
        Problem: 400.
    """
    value = headers.get("Upload-Checksum")
    if value is None:
        return None
    algorithm, _, encoded = value.partition(" ")
    try:
        digest = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    is_known = algorithm in _ALGORITHMS
    if not is_known or len(digest) != hashlib.new(algorithm, usedforsecurity=False).digest_size:
        raise Problem(
            400,
            "malformed_digest",
            f"Upload-Checksum is {value[:100]!a}; send 'sha256 ' and the 32 bytes in base64",
        )
    return Checksum(algorithm, digest)


def capabilities(max_bytes: int) -> dict[str, str]:
    """Return the headers that say what this service can do."""
    return {
        VERSION_HEADER: VERSION,
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Max-Size": str(max_bytes),
        "Tus-Checksum-Algorithm": ",".join(_ALGORITHMS),
    }


def state(num_received: int, expires_at: float) -> dict[str, str]:
    """Return the headers that say how far a file is, and how long it waits for the rest."""
    expires = datetime.fromtimestamp(expires_at, UTC)
    return {
        VERSION_HEADER: VERSION,
        "Upload-Offset": str(num_received),
        "Upload-Expires": format_datetime(expires, usegmt=True),
    }


def description(file: PartialFile) -> dict[str, str]:
    """Return the headers that describe a file that is on its way."""
    metadata = {"Upload-Metadata": file.metadata} if file.metadata else {}
    length = {"Upload-Length": str(file.num_bytes)}
    return state(file.num_received, file.expires_at) | length | metadata


def _is_pair(text: str) -> bool:
    key, _, encoded = text.strip(" ").partition(" ")
    try:
        base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return False
    return key.isascii() and key.isprintable() and len(key) > 0
