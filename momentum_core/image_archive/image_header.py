"""What an image says of itself, read before any decoder sees it; and only what a decoder needs.

Metadata (profiles, texts, previews, animations) is where the decoders' bugs and bombs are. It is
left out: a decoder gets the frame alone.

Source: PNG (W3C, third edition) section 5; JPEG (ITU-T T.81) annex B; RFC 9649 (WebP).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Literal

from momentum_core.checkpoint.limits import Limits
from momentum_core.checkpoint.refusal import refuse
from momentum_core.image_archive.orientation import exif_orientation

ImageKind = Literal["PNG", "JPEG", "WEBP"]

_PNG_START = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8\xff"
_MAX_CHUNKS = 20_000
_MAX_SCANS = 100
"""Scans of a progressive JPEG: each costs a pass over all pixels. Honest ones have about ten."""

_PNG_FRAME = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_FRAME_HEADERS = (0xC0, 0xC1, 0xC2)
_OTHER_FRAME_HEADERS = (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_EXIF, _ADOBE, _SCAN = 0xE1, 0xEE, 0xDA
_ANIMATED = 0x02


@dataclass(frozen=True, slots=True)
class Frame:
    """One image without its metadata.

    Attributes:
        kind: its format.
        width: in pixels, as stored.
        height: likewise.
        orientation: how it must be turned, 1 to 8 as in EXIF.
        content: the file, rebuilt from what the decoder needs.
    """

    kind: ImageKind
    width: int
    height: int
    orientation: int
    content: bytes


def read_frame(content: bytes, limits: Limits) -> Frame:
    """Find format and size of an image, check them, and leave its metadata out.

    Args:
        content: the whole file.
        limits: how large an image may be.

    Raises:
        CheckpointError: `bad_image` or `image_too_large`.
    """
    if content.startswith(_PNG_START):
        frame = _png(content)
    elif content.startswith(_JPEG_START):
        frame = _jpeg(content)
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        frame = _webp(content)
    else:
        raise refuse("bad_image", "it is no JPEG, PNG or WebP image")
    _check_size(frame, limits)
    return frame


def _check_size(frame: Frame, limits: Limits) -> None:
    width, height = frame.width, frame.height
    if min(width, height) < 1:
        raise refuse("bad_image", "it has no pixels")
    if max(width, height) > limits.max_image_side or width * height > limits.max_image_pixels:
        raise refuse(
            "image_too_large",
            f"it has {width} x {height} pixels; the limit is {limits.max_image_side} for a side "
            f"and {limits.max_image_pixels} in all",
        )


def _png(content: bytes) -> Frame:
    kept: dict[bytes, list[bytes]] = {kind: [] for kind in _PNG_FRAME}
    at = len(_PNG_START)
    for index in range(_MAX_CHUNKS):
        length, kind = struct.unpack(">L4s", _part(content, at, 8))
        chunk = _part(content, at + 8, length)
        (crc,) = struct.unpack(">L", _part(content, at + 8 + length, 4))
        at += 12 + length
        if (kind == b"IHDR") != (index == 0) or (kind == b"IHDR" and length != 13):
            raise refuse("bad_image", "its PNG header is missing or damaged")
        if kind == b"acTL":
            raise refuse("bad_image", "it is animated")
        if kind not in kept:
            if kind[:1].isupper():
                raise refuse("bad_image", "it has a PNG part that is not known")
            continue
        if zlib.crc32(kind + chunk) != crc:
            raise refuse("bad_image", "a checksum in it is wrong")
        kept[kind].append(chunk)
        if kind == b"IEND":
            break
    else:
        raise refuse("bad_image", f"it has more than {_MAX_CHUNKS} parts")
    if any(len(kept[kind]) > 1 for kind in (b"PLTE", b"tRNS")):
        raise refuse("bad_image", "it has a palette twice")
    width, height = struct.unpack_from(">2L", kept[b"IHDR"][0])
    rebuilt = [_PNG_START]
    for kind in _PNG_FRAME:
        if kept[kind]:
            chunk = b"".join(kept[kind])
            rebuilt += [struct.pack(">L", len(chunk)), kind, chunk]
            rebuilt.append(struct.pack(">L", zlib.crc32(chunk, zlib.crc32(kind))))
    return Frame("PNG", width, height, 1, b"".join(rebuilt))


def _jpeg(content: bytes) -> Frame:
    if content.count(b"\xff\xda") > _MAX_SCANS:
        raise refuse("bad_image", f"it has more than {_MAX_SCANS} scans")
    rebuilt = [content[:2]]
    size: tuple[int, int] | None = None
    orientation = 1
    at = 2
    for _ in range(_MAX_CHUNKS):
        fill, marker = _part(content, at, 2)
        if fill != 0xFF:
            raise refuse("bad_image", "its JPEG header is damaged")
        if marker == 0xFF:
            at += 1
            continue
        (length,) = struct.unpack(">H", _part(content, at + 2, 2))
        if length < 2:
            raise refuse("bad_image", "its JPEG header is damaged")
        segment = _part(content, at, 2 + length)
        if marker == _SCAN:
            break
        if marker in _OTHER_FRAME_HEADERS or (marker in _FRAME_HEADERS and size is not None):
            raise refuse("bad_image", "it is a JPEG of a kind that is not read")
        if marker in _FRAME_HEADERS:
            precision, height, width = struct.unpack(">BHH", _part(segment, 4, 5))
            size = (width, height)
            if precision != 8:
                raise refuse("bad_image", f"it has {precision} bits for each sample, not 8")
        if marker == _EXIF and segment[4:10] == b"Exif\0\0":
            orientation = exif_orientation(segment[10:])
        # Comments and application data stay out, but for the one that tells CMYK from YCCK.
        if marker == _ADOBE or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            rebuilt.append(segment)
        at += len(segment)
    if size is None:
        raise refuse("bad_image", "its JPEG header has no size")
    return Frame("JPEG", *size, orientation, b"".join([*rebuilt, content[at:]]))


def _webp(content: bytes) -> Frame:
    size: tuple[int, int] | None = None
    frame = b""
    orientation = 1
    at = 12
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(content):
            break
        kind, length = struct.unpack("<4sL", _part(content, at, 8))
        chunk = _part(content, at + 8, length)
        at += 8 + length + length % 2
        if (kind == b"VP8X" and chunk[:1] and chunk[0] & _ANIMATED) or kind in (b"ANIM", b"ANMF"):
            raise refuse("bad_image", "it is animated")
        if kind == b"EXIF":
            orientation = exif_orientation(chunk.removeprefix(b"Exif\0\0"))
        if kind in (b"VP8 ", b"VP8L"):
            if size is not None:
                raise refuse("bad_image", "it holds two frames")
            size = _lossy_size(chunk) if kind == b"VP8 " else _lossless_size(chunk)
            frame = struct.pack("<4sL", kind, length) + chunk + bytes(length % 2)
    if size is None:
        raise refuse("bad_image", "it is a WebP file without a frame")
    rebuilt = b"RIFF" + struct.pack("<L", 4 + len(frame)) + b"WEBP" + frame
    return Frame("WEBP", *size, orientation, rebuilt)


def _lossy_size(chunk: bytes) -> tuple[int, int]:
    start, width, height = struct.unpack("<3s2H", _part(chunk, 3, 7))
    if start != b"\x9d\x01\x2a":
        raise refuse("bad_image", "its WebP frame is damaged")
    return width & 0x3FFF, height & 0x3FFF


def _lossless_size(chunk: bytes) -> tuple[int, int]:
    signature, bits = struct.unpack("<BL", _part(chunk, 0, 5))
    if signature != 0x2F:
        raise refuse("bad_image", "its WebP frame is damaged")
    return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _part(content: bytes, at: int, num_bytes: int) -> bytes:
    part = content[at : at + num_bytes]
    if len(part) < num_bytes:
        raise refuse("bad_image", "it is cut off")
    return part
