"""Images, honest and hostile; each hostile one lies in an otherwise honest archive."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.corpus.case import Case
from tests.corpus.raw_zip import Entry, raw_zip


def pixels(seed: int, side: int = 8) -> np.ndarray:
    """A grey picture that is its own."""
    return (np.arange(side * side) * 37 + seed * 11).astype(np.uint8).reshape(side, side)


def png_chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", crc)


def raw_png(
    width: int,
    height: int,
    rows: bytes,
    *,
    depth: int = 8,
    colour: int = 0,
    before: bytes = b"",
    after: bytes = b"",
    crc: int | None = None,
) -> bytes:
    """A PNG whose header and chunks can say anything; `rows` are already filtered."""
    header = struct.pack(">2L5B", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            png_chunk(b"IHDR", header),
            before,
            png_chunk(b"IDAT", zlib.compress(rows, 9), crc),
            after,
            png_chunk(b"IEND", b""),
        )
    )


@functools.cache
def honest_png(seed: int = 0) -> bytes:
    array = pixels(seed)
    return raw_png(8, 8, b"".join(b"\0" + row.tobytes() for row in array))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@functools.cache
def honest_jpeg(seed: int = 0) -> bytes:
    return saved(Image.fromarray(pixels(seed)), "JPEG", quality=95)


@functools.cache
def honest_webp(seed: int = 0) -> bytes:
    return saved(Image.fromarray(pixels(seed)), "WEBP", lossless=True)


def folder_of(images: dict[str, bytes]) -> bytes:
    return raw_zip([Entry(name, content) for name, content in images.items()])


def small_folder(changed: bytes | None = None) -> bytes:
    """Ten classes, one image each to train with and to test with; three may be another."""
    names = [f"{part}/{name}/1.png" for part in ("train", "test") for name in "abcdefghij"]
    images = {name: honest_png(seed) for seed, name in enumerate(names)}
    if changed is not None:
        # One more than may be bad among twenty.
        images |= dict.fromkeys(names[:3], changed)
    return folder_of(images)


def _jpeg_of_size(width: int, height: int, marker: int = 0xC0, precision: int = 8) -> bytes:
    """An honest JPEG whose frame header is changed."""
    content = honest_jpeg()
    at = content.index(b"\xff\xc0")
    frame = struct.pack(">BBHBHH", 0xFF, marker, 11, precision, height, width)
    return content[:at] + frame + content[at + 9 :]


def _many_scans() -> bytes:
    content = saved(Image.fromarray(pixels(0, 64)), "JPEG", progressive=True)
    first = content.index(b"\xff\xda")
    second = content.index(b"\xff\xda", first + 2)
    return content[:first] + content[first:second] * 5000 + content[second:]


def _webp_frame(kind: bytes, content: bytes) -> bytes:
    chunk = kind + struct.pack("<L", len(content)) + content + bytes(len(content) % 2)
    return b"RIFF" + struct.pack("<L", 4 + len(chunk)) + b"WEBP" + chunk


def _frames(kind: str) -> bytes:
    frames = [Image.fromarray(pixels(seed)) for seed in range(3)]
    return saved(frames[0], kind, save_all=True, append_images=frames[1:])


def _no_image_data() -> bytes:
    header = struct.pack(">2L5B", 8, 8, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IEND", b"")


_BAD: tuple[tuple[str, Callable[[], bytes]], ...] = (
    ("D15 animated PNG", lambda: _frames("PNG")),
    ("D15 animated WebP", lambda: _frames("WEBP")),
    ("D15 GIF named .png", lambda: saved(Image.fromarray(pixels(0)), "GIF")),
    ("D15 TIFF named .png", lambda: saved(Image.fromarray(pixels(0)), "TIFF")),
    ("D15 BMP named .png", lambda: saved(Image.fromarray(pixels(0)), "BMP")),
    ("D15 PSD named .png", lambda: b"8BPS\0\x01" + bytes(64)),
    ("D15 EPS named .png", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n(touch) run\n"),
    ("D15 FITS named .png", lambda: b"SIMPLE  =                    T".ljust(2880)),
    ("D15 SVG named .png", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ("D15 AVIF named .png", lambda: b"\0\0\0\x1cftypavif" + bytes(64)),
    ("D15 ICO named .png", lambda: b"\0\0\x01\0\x01\0" + bytes(64)),
    ("D16 empty file", bytes),
    ("D16 one byte", lambda: b"\xff"),
    ("D16 PNG cut off in its header", lambda: honest_png()[:20]),
    ("D16 PNG cut off in its pixels", lambda: honest_png()[:60]),
    ("D16 PNG without an end", lambda: honest_png()[:-12]),
    ("D16 PNG with a wrong checksum", lambda: raw_png(8, 8, bytes(72), crc=1)),
    ("D16 PNG with too few pixels", lambda: raw_png(8, 8, bytes(40))),
    (
        "D16 PNG whose pixels are no DEFLATE",
        lambda: honest_png()[:33] + png_chunk(b"IDAT", b"noise" * 9) + png_chunk(b"IEND", b""),
    ),
    ("D16 PNG without pixels", _no_image_data),
    ("D16 PNG of size 0", lambda: raw_png(0, 8, bytes(72))),
    ("D16 PNG with two headers", lambda: honest_png()[:33] + honest_png()[8:]),
    (
        "D16 PNG with an unknown critical part",
        lambda: raw_png(8, 8, bytes(72), before=png_chunk(b"ABCD", b"x")),
    ),
    ("D16 PNG with a bit depth of 5", lambda: raw_png(8, 8, bytes(72), depth=5)),
    ("D16 PNG of an unknown colour type", lambda: raw_png(8, 8, bytes(72), colour=9)),
    (
        "D16 PNG of 30,000 parts",
        lambda: raw_png(8, 8, bytes(72), after=png_chunk(b"IDAT", b"") * 30_000),
    ),
    (
        "D16 PNG with a palette twice",
        lambda: raw_png(8, 8, bytes(72), colour=3, before=png_chunk(b"PLTE", bytes(9)) * 2),
    ),
    ("D16 PNG 100 x 1", lambda: raw_png(100, 1, bytes(101))),
    ("D16 JPEG cut off in its header", lambda: honest_jpeg()[:30]),
    ("D16 JPEG cut off in its pixels", lambda: saved(Image.fromarray(pixels(0, 64)), "JPEG")[:900]),
    (
        "D16 JPEG without a size",
        lambda: b"\xff\xd8" + honest_jpeg()[honest_jpeg().index(b"\xff\xda") :],
    ),
    ("D16 JPEG of size 0", lambda: _jpeg_of_size(0, 8)),
    ("D16 JPEG of 12 bits", lambda: _jpeg_of_size(8, 8, precision=12)),
    ("D16 lossless JPEG", lambda: _jpeg_of_size(8, 8, marker=0xC3)),
    ("D16 arithmetic JPEG", lambda: _jpeg_of_size(8, 8, marker=0xC9)),
    ("D16 JPEG of 5,000 scans", _many_scans),
    ("D16 JPEG with an empty segment", lambda: b"\xff\xd8\xff\xe0\0\0" + honest_jpeg()[2:]),
    ("D16 WebP cut off", lambda: honest_webp()[:-9]),
    ("D16 WebP without a frame", lambda: b"RIFF\x04\0\0\0WEBP"),
    ("D16 WebP of noise", lambda: _webp_frame(b"VP8L", b"\x2f\x07\xc0\x01\0" + b"\xa5" * 40)),
    ("D16 WebP frame without its mark", lambda: _webp_frame(b"VP8 ", bytes(40))),
    ("D16 WebP with two frames", lambda: honest_webp() + honest_webp()[12:]),
)
_TOO_LARGE: tuple[tuple[str, Callable[[], bytes]], ...] = (
    (
        "D13 PNG of 13,000 x 13,000 bits",
        lambda: raw_png(13_000, 13_000, bytes(1626) * 13_000, depth=1),
    ),
    ("D14 PNG of 60,000 x 60,000", lambda: raw_png(60_000, 60_000, bytes(1000))),
    ("D14 PNG of 2**31 - 1 squared", lambda: raw_png(2**31 - 1, 2**31 - 1, bytes(1000))),
    ("D14 PNG of 8,193 x 600", lambda: raw_png(8193, 600, bytes(8194 * 600))),
    ("D14 PNG of 4,097 x 4,096", lambda: raw_png(4097, 4096, bytes(1000))),
    ("D14 JPEG of 65,000 x 65,000", lambda: _jpeg_of_size(65_000, 65_000)),
    (
        "D14 WebP of 16,383 x 16,383",
        lambda: _webp_frame(b"VP8L", b"\x2f\xfe\xff\xff\x0f" + bytes(99)),
    ),
    (
        "D14 WebP of 16,383 x 16,383, lossy",
        lambda: _webp_frame(b"VP8 ", b"\x10\0\0\x9d\x01\x2a\xff\x3f\xff\x3f" + bytes(99)),
    ),
    ("D14 file of 21 MB", lambda: honest_png() + bytes(21 << 20)),
)

IMAGE_CASES = (
    *(
        Case(
            name,
            "archive",
            "bad_image",
            functools.partial(lambda build: small_folder(build()), build),
        )
        for name, build in _BAD
    ),
    *(
        Case(
            name,
            "archive",
            "image_too_large",
            functools.partial(lambda build: small_folder(build()), build),
        )
        for name, build in _TOO_LARGE
    ),
)
