"""The bytes of a tar archive, unpacked while they are read, and stopped when they grow too much."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import IO, Literal, cast

import zstandard

from momentum_core.checkpoint.byte_source import ByteSource
from momentum_core.checkpoint.limits import MEBIBYTE, Limits
from momentum_core.checkpoint.refusal import refuse

Compression = Literal["none", "gzip", "zstd"]

_PIECE_BYTES = MEBIBYTE
_PACKED_BYTES = 1 << 17
_HEAD_START_BYTES = 8 * MEBIBYTE
"""Unpacked bytes before the ratio counts: the first packed bytes are few."""

_GZIP = 16 + zlib.MAX_WBITS
_MAX_WINDOW_BYTES = 128 * MEBIBYTE
"""What `zstd --ultra -22` uses; more than that needs `--long`."""


def unpacked(source: ByteSource, compression: Compression, limits: Limits) -> Iterator[bytes]:
    """Yield a file's bytes, unpacked, in pieces of at most 1 MiB, or 4 MiB if they are plain.

    Raises:
        CheckpointError: `expands_too_large`, `truncated_file`, `unsafe_archive`.
    """
    if compression == "none":
        yield from source.chunks(0, source.num_bytes)
        return
    stream = _PackedStream(source)
    num_bytes = 0
    for piece in _gzip(stream) if compression == "gzip" else _zstd(stream):
        num_bytes += len(piece)
        fair = limits.max_expansion * stream.position + _HEAD_START_BYTES
        if num_bytes > min(fair, limits.max_unpacked_bytes):
            raise refuse(
                "expands_too_large",
                f"the archive unpacks to more than {limits.max_expansion} times its size, or to "
                f"more than {limits.max_unpacked_bytes} bytes",
            )
        if piece:
            yield piece


class _PackedStream:
    """A file as decompressors want it: read from the front."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self.position = 0

    def read(self, num_bytes: int) -> bytes:
        """Return the next bytes, fewer at the end of the file."""
        piece = self._source.read_up_to(self.position, num_bytes)
        self.position += len(piece)
        return piece


def _gzip(stream: _PackedStream) -> Iterator[bytes]:
    """Yield the members of a gzip file one after the other, as `pigz` and `bgzip` write them."""
    inflater = zlib.decompressobj(_GZIP)
    try:
        while pending := stream.read(_PACKED_BYTES):
            while pending:
                if inflater.eof:
                    inflater = zlib.decompressobj(_GZIP)
                yield inflater.decompress(pending, _PIECE_BYTES)
                pending = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
        yield inflater.flush()
    except zlib.error:
        raise refuse("unsafe_archive", "the archive is not valid gzip") from None
    if not inflater.eof:
        raise refuse(
            "truncated_file",
            "the archive was cut off on its way, before its end; send it again",
        )


def _zstd(stream: _PackedStream) -> Iterator[bytes]:
    # A file that was cut off ends early without a word; the tar archive inside then lacks its end.
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    packed = cast(IO[bytes], stream)
    reader = decompressor.stream_reader(packed, read_size=_PACKED_BYTES, read_across_frames=True)
    try:
        while piece := reader.read(_PIECE_BYTES):
            yield piece
    except zstandard.ZstdError:
        raise refuse("unsafe_archive", "the archive is not valid zstandard") from None
