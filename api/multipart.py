"""Receives the parts of a multipart request: files go to disk while they arrive.

python-multipart finds the parts; nothing is held in memory but the request's JSON.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.content_digest import HEADER, StatedDigest
from api.problems import Problem
from momentum_core.durable_files import write_all

FILE_PARTS = ("checkpoint", "data")
REQUEST_PART = "request"
MAX_REQUEST_BYTES = 64 << 10
"""Size of the JSON that says what to do."""

_BUFFER_BYTES = 1 << 20


@dataclass(slots=True)
class ReceivedParts:
    """What was received."""

    request: bytes | None = None
    files: dict[str, Path] = field(default_factory=dict)


async def receive_parts(
    chunks: AsyncIterator[bytes], content_type: str, folder: Path, *, max_bytes: int
) -> ReceivedParts:
    """Read a multipart body to its end.

    Args:
        chunks: the body.
        content_type: the header, with its boundary.
        folder: where the files go, under the names of their parts.
        max_bytes: size of the body that is accepted.

    Raises:
        Problem: the body is malformed, too large, or has parts that are not known.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise _malformed("the Content-Type has no boundary")
    receiver = _Receiver(folder)
    try:
        parser = MultipartParser(boundary, callbacks=receiver.callbacks())  # type: ignore[arg-type]
        received, buffer = 0, bytearray()
        async for chunk in chunks:
            received += len(chunk)
            if received > max_bytes:
                raise too_large(max_bytes)
            buffer += chunk
            if len(buffer) >= _BUFFER_BYTES:
                await run_in_threadpool(parser.write, bytes(buffer))
                buffer.clear()
        await run_in_threadpool(parser.write, bytes(buffer))
        parser.finalize()
    except FormParserError as error:
        raise _malformed(str(error)) from None
    finally:
        receiver.close()
    if not receiver.is_complete:
        raise _malformed("it ends before its last boundary")
    return receiver.parts


def too_large(max_bytes: int) -> Problem:
    """Make the answer to a body beyond the limit."""
    return Problem(
        413,
        "upload_too_large",
        f"the request is larger than {max_bytes} bytes; send half-precision weights or fewer "
        "images, or have the operator raise MOMENTUM_MAX_UPLOAD_BYTES",
    )


class _Receiver:
    """Callbacks of the parser; they are called from one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.parts = ReceivedParts()
        self.is_complete = False
        self._folder = folder
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._digest_header: str | None = None
        self._digest = StatedDigest("nothing", None)
        self._text: bytearray | None = None
        self._descriptor: int | None = None

    def callbacks(self) -> dict[str, object]:
        return {
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin,
            "on_part_data": self._take,
            "on_part_end": self._end,
            "on_end": self._complete,
        }

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        elif self._header.lower() == HEADER.lower().encode():
            self._digest_header = self._value.decode("ascii", "replace")
        self._header.clear()
        self._value.clear()

    def _begin(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        self._disposition = b""
        self._digest = StatedDigest(f"the part {name[:80]!a}", self._digest_header)
        self._digest_header = None
        if name == REQUEST_PART and self.parts.request is None:
            self._text = bytearray()
        elif name in FILE_PARTS and name not in self.parts.files:
            path = self._folder / name
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            self.parts.files[name] = path
        else:
            known = ", ".join((*FILE_PARTS, REQUEST_PART))
            what = "comes twice" if name in (*FILE_PARTS, REQUEST_PART) else "is not known"
            raise Problem(422, "unknown_part", f"the part {name[:80]!a} {what}; parts are {known}")

    def _take(self, data: bytes, start: int, end: int) -> None:
        self._digest.update(data[start:end])
        if self._descriptor is not None:
            write_all(self._descriptor, data[start:end])
            return
        assert self._text is not None
        self._text += data[start:end]
        if len(self._text) > MAX_REQUEST_BYTES:
            raise Problem(
                413,
                "request_too_large",
                f"the part 'request' is larger than {MAX_REQUEST_BYTES} bytes; "
                "it is a small JSON object",
            )

    def _end(self) -> None:
        self._digest.check()
        if self._text is not None:
            self.parts.request = bytes(self._text)
            self._text = None
        self.close()

    def _complete(self) -> None:
        self.is_complete = True


def _malformed(reason: str) -> Problem:
    return Problem(
        400,
        "malformed_multipart",
        f"the body is not the multipart/form-data that it says it is: {reason[:200]}; "
        "curl -F makes it right",
    )
