"""Sending files ahead of a request, piece by piece (tus 1.0): what arrived is not sent again."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from api.client.effects import (
    Answer,
    Block,
    ConnectionLostError,
    FileRange,
    Op,
    Request,
    Send,
    place,
)
from api.client.errors import (
    CHECKSUM_MISMATCH,
    FILE_NOT_USABLE,
    UNEXPECTED_ANSWER,
    ApiError,
    error_of,
)
from api.client.records import Upload, read
from api.client.retrying import (
    Failures,
    RetryPolicy,
    connection_failed,
    exchange,
    is_passing,
    is_success,
)

PIECE_BYTES = 64 << 20
"""Of one request: proxies do not like bodies without end."""

FINISH_SECONDS = 600.0
"""The service reads the whole file once more before it answers the last piece."""

_VERSION = {"Tus-Resumable": "1.0.0"}
_PIECE_TYPE = "application/offset+octet-stream"
_TRY_AGAIN = frozenset({"upload_locked", "offset_conflict", "http_408", "request_timeout"})

OnProgress = Callable[[int, int], None]
"""Told how many bytes have gone, and of how many."""


@dataclass(frozen=True, slots=True)
class _LocalFile:
    path: Path
    num_bytes: int
    sha256: str


def upload(
    policy: RetryPolicy, path: str | Path, *, on_progress: OnProgress | None = None
) -> Op[Upload]:
    """Send a file ahead; go on where it stopped when the connection breaks.

    The service's SHA-256 of the whole file is compared with the local one.

    Args:
        path: the file.
        on_progress: told after each piece how many bytes have gone, and of how many.

    Returns:
        The upload; its `id` may be named by requests until it expires.

    Raises:
        ApiError: the file cannot be read or is refused, the service does not answer, or what
            arrived is not what was sent (`checksum_mismatch`).
    """
    file = yield from describe(path)
    begun = yield from exchange(_creation(file), policy)
    upload_id = read(Upload, begun.json()).id
    yield from _send_pieces(policy, file, upload_id, on_progress)
    whole = yield from get_upload(policy, upload_id)
    if whole.sha256 != file.sha256:
        yield from delete_upload(policy, upload_id)
        raise ApiError(
            CHECKSUM_MISMATCH,
            f"{file.path} did not arrive as it is here (SHA-256 {whole.sha256} in place of "
            f"{file.sha256}); was it written to meanwhile? Send it again",
        )
    return whole


def get_upload(policy: RetryPolicy, upload_id: str) -> Op[Upload]:
    """Look at a file that was sent ahead.

    Raises:
        ApiError: `upload_not_found`, and whatever any request may meet.
    """
    answer = yield from exchange(Request(method="GET", path=place("uploads", upload_id)), policy)
    return read(Upload, answer.json())


def delete_upload(policy: RetryPolicy, upload_id: str) -> Op[None]:
    """Forget a file that was sent ahead; jobs that were made of it are not touched.

    Raises:
        ApiError: `upload_not_found`, and whatever any request may meet.
    """
    yield from exchange(Request(method="DELETE", path=place("uploads", upload_id)), policy)


def describe(path: str | Path) -> Op[_LocalFile]:
    """Read a file through: its size and its SHA-256."""
    return (yield Block(partial(_describe, Path(path).expanduser())))  # type: ignore[no-any-return]


def _describe(path: Path) -> _LocalFile:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return _LocalFile(path, file.tell(), digest)
    except OSError as error:
        raise ApiError(FILE_NOT_USABLE, f"{path} cannot be read: {error.strerror}") from None


def _creation(file: _LocalFile) -> Request:
    name = base64.b64encode(file.path.name.encode()).decode()
    return Request(
        method="POST",
        path="/uploads",
        headers=_VERSION
        | {"Upload-Length": str(file.num_bytes), "Upload-Metadata": f"filename {name}"},
        # If its answer is lost, an empty upload remains, which expires.
        is_repeatable=True,
    )


def _send_pieces(
    policy: RetryPolicy, file: _LocalFile, upload_id: str, on_progress: OnProgress | None
) -> Op[None]:
    failures, offset = Failures(policy), 0

    def on_sent(sent: int) -> None:
        if on_progress is not None:
            on_progress(sent, file.num_bytes)

    while offset < file.num_bytes:
        piece = FileRange(
            path=file.path,
            offset=offset,
            num_bytes=min(PIECE_BYTES, file.num_bytes - offset),
            on_sent=on_sent,
        )
        error = yield from _send_piece(upload_id, piece)
        if error is None:
            failures.clear()
            offset += piece.num_bytes
            continue
        yield failures.pause(error)
        arrived = yield from _offset(policy, upload_id)
        if arrived > offset:
            failures.clear()
        offset = arrived


def _send_piece(upload_id: str, piece: FileRange) -> Op[ApiError | None]:
    """Send a piece; return what kept it from arriving whole, if that may pass."""
    request = Request(
        method="PATCH",
        path=place("uploads", upload_id),
        # No Upload-Checksum: of a checked piece that breaks off, the service keeps nothing.
        headers=_VERSION | {"Upload-Offset": str(piece.offset), "Content-Type": _PIECE_TYPE},
        body=piece,
        read_seconds=FINISH_SECONDS,
    )
    try:
        answer: Answer = yield Send(request)
    except ConnectionLostError as lost:
        return connection_failed(lost)
    if is_success(answer):
        return None
    error = error_of(answer.status, answer.headers, answer.body)
    if error.code in _TRY_AGAIN or is_passing(error):
        return error
    raise error


def _offset(policy: RetryPolicy, upload_id: str) -> Op[int]:
    """Ask how much of a file has arrived."""
    request = Request(method="HEAD", path=place("uploads", upload_id), headers=_VERSION)
    answer = yield from exchange(request, policy)
    offset = answer.headers.get("Upload-Offset", "")
    if not offset.isdecimal():
        raise ApiError(UNEXPECTED_ANSWER, f"the service says {offset!r} of how much has arrived")
    return int(offset)
