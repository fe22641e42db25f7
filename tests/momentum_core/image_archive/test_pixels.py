"""Pixels are those that Pillow and torchvision give, for every honest kind of image."""

from __future__ import annotations

import functools
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.transforms import v2

from momentum_core.checkpoint import DEFAULT_LIMITS
from momentum_core.errors import CheckpointError, ConfigError
from momentum_core.image_archive import ImageForm
from momentum_core.image_archive.image_header import read_frame
from momentum_core.image_archive.orientation import exif_orientation
from momentum_core.image_archive.pixels import decode_image
from tests.corpus.image_files import png_chunk, raw_png, saved


def picture(width: int = 40, height: int = 30, channels: int = 3) -> Image.Image:
    """A picture in which no two corners are alike."""
    down, across = np.mgrid[0:height, 0:width]
    planes = [(down * (3 + k) + across * (7 - k)) % 256 for k in range(channels)]
    array = np.stack(planes, -1).astype(np.uint8)
    return Image.fromarray(array[..., 0] if channels == 1 else array)


def decoded(content: bytes, form: ImageForm) -> np.ndarray:
    flat = np.frombuffer(decode_image(content, form, DEFAULT_LIMITS), np.uint8)
    return flat.reshape(form.side, form.side, form.channels)


def expected(content: bytes, form: ImageForm, image: Image.Image | None = None) -> np.ndarray:
    """What torchvision makes of it."""
    image = Image.open(io.BytesIO(content)) if image is None else image
    image = ImageOps.exif_transpose(image).convert("RGB" if form.channels == 3 else "L")
    steps = [v2.Resize(form.resize_side), v2.CenterCrop(form.side)]
    made = np.asarray(v2.Compose(steps)(image))
    return made.reshape(form.side, form.side, form.channels)


LARGE = picture(300, 200)
KINDS = {
    "JPEG": lambda: saved(picture(), "JPEG"),
    "JPEG, progressive": lambda: saved(picture(), "JPEG", progressive=True),
    "JPEG, grey": lambda: saved(picture(channels=1), "JPEG"),
    "JPEG, CMYK": lambda: saved(picture().convert("CMYK"), "JPEG"),
    "JPEG, optimised, 4:4:4": lambda: saved(picture(), "JPEG", optimize=True, subsampling=0),
    "JPEG with a profile, a comment and a preview": lambda: saved(
        picture(), "JPEG", icc_profile=b"x" * 70_000, comment=b"y" * 900, exif=b"Exif\0\0MM\0*"
    ),
    "JPEG of two pictures": lambda: saved(
        picture(), "MPO", save_all=True, append_images=[picture(9, 9)]
    ),
    "PNG": lambda: saved(picture(), "PNG"),
    "PNG, grey": lambda: saved(picture(channels=1), "PNG"),
    "PNG, two colours": lambda: saved(picture().convert("1"), "PNG"),
    "PNG, palette": lambda: saved(picture().convert("P"), "PNG"),
    "PNG, palette with a transparent colour": lambda: saved(
        picture().convert("P"), "PNG", transparency=3
    ),
    "PNG, transparent": lambda: saved(picture(channels=4), "PNG"),
    "PNG, grey and transparent": lambda: saved(picture(channels=4).convert("LA"), "PNG"),
    "PNG of 4 bits": lambda: saved(picture().convert("P", colors=9), "PNG", bits=4),
    "WebP": lambda: saved(picture(), "WEBP"),
    "WebP, lossless": lambda: saved(picture(), "WEBP", lossless=True),
    "WebP, transparent": lambda: saved(picture(channels=4), "WEBP"),
    "WebP, lossless and transparent": lambda: saved(picture(channels=4), "WEBP", lossless=True),
    "WebP with a profile": lambda: saved(picture(), "WEBP", icc_profile=b"x" * 999, xmp=b"<x/>"),
    "large": lambda: saved(LARGE, "PNG"),
    "upright": lambda: saved(LARGE.transpose(Image.Transpose.ROTATE_90), "JPEG"),
}
FORMS = [
    ImageForm(side=28, resize_side=32),
    ImageForm(side=28, resize_side=28, channels=1),
    ImageForm(side=224, resize_side=256),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.side}x{form.channels}")
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_torchvision(kind, form):
    content = KINDS[kind]()
    assert np.array_equal(decoded(content, form), expected(content, form))


def test_an_image_of_the_right_size_is_left_as_it_is():
    content = saved(picture(32, 32), "PNG")
    found = decoded(content, ImageForm(side=32, resize_side=36))
    assert np.array_equal(found, np.asarray(picture(32, 32)))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_a_turned_camera_is_turned_back(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "maker"
    content = saved(picture(), kind, exif=exif)
    form = ImageForm(side=30, resize_side=30)
    assert np.array_equal(decoded(content, form), expected(content, form))


def test_both_byte_orders_of_exif_are_read_and_damage_is_upright():
    little = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHLHH", 0x112, 3, 1, 6, 0)
    big = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHLHH", 0x112, 3, 1, 8, 0)
    assert (exif_orientation(little), exif_orientation(big)) == (6, 8)
    for block in (b"", b"II", b"II*\0\xff\xff\xff\xff", little[:15], b"II*\0\x08\0\0\0\xff\xff"):
        assert exif_orientation(block) == 1


@pytest.mark.parametrize("depth", ["grey", "colour"])
def test_sixteen_bits_become_their_upper_eight(depth):
    values = (np.arange(64 * 3) * 331 % 65536).astype(">u2")
    values = values[:64].reshape(8, 8, 1) if depth == "grey" else values.reshape(8, 8, 3)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    content = raw_png(8, 8, rows, depth=16, colour=0 if depth == "grey" else 2)
    form = ImageForm(side=8, resize_side=8)
    upper = (values >> 8).astype(np.uint8)
    assert np.array_equal(decoded(content, form), np.broadcast_to(upper, (8, 8, 3)))


@functools.cache
def gigabyte() -> bytes:
    """2**30 zeros, packed."""
    deflater = zlib.compressobj(1)
    return b"".join(deflater.compress(bytes(1 << 24)) for _ in range(64)) + deflater.flush()


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_a_gigabyte_in_a_note_is_not_unpacked(kind):
    content = raw_png(8, 8, bytes(72), before=png_chunk(kind, b"note\0\0" + gigabyte()))
    assert len(content) > 1_000_000
    tracemalloc.start()
    decode_image(content, ImageForm(side=8, resize_side=8), DEFAULT_LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * len(content)
    assert kind not in read_frame(content, DEFAULT_LIMITS).content


def test_decoders_see_no_metadata():
    secret = b"metadata" * 20
    for kind, options in (
        ("JPEG", {"comment": secret, "exif": b"Exif\0\0MM\0*" + secret, "icc_profile": secret}),
        ("PNG", {"exif": b"Exif\0\0MM\0*" + secret, "icc_profile": secret}),
        ("WEBP", {"exif": b"Exif\0\0MM\0*" + secret, "xmp": secret, "icc_profile": secret}),
    ):
        content = saved(picture(), kind, **options)
        assert len(content) > len(saved(picture(), kind)) + len(secret)
        assert b"metadata" not in read_frame(content, DEFAULT_LIMITS).content


def test_bytes_behind_an_image_are_left_out():
    content = saved(picture(), "PNG")
    assert read_frame(content + b"PK\x03\x04", DEFAULT_LIMITS).content == (
        read_frame(content, DEFAULT_LIMITS).content
    )


def test_the_largest_image_that_is_allowed_is_read():
    rows = bytes(1 + 4096 // 8) * 4096
    form = ImageForm(side=8, resize_side=8, channels=1)
    assert decoded(raw_png(4096, 4096, rows, depth=1), form).max() == 0
    with pytest.raises(CheckpointError) as caught:
        decode_image(raw_png(4096, 4097, rows, depth=1), form, DEFAULT_LIMITS)
    assert caught.value.code == "image_too_large"


@pytest.mark.parametrize(
    "changes", [{"side": 0}, {"side": 9, "resize_side": 8}, {"channels": 2}], ids=str
)
def test_a_form_that_cannot_be_is_refused(changes):
    with pytest.raises(ConfigError, match="images need"):
        ImageForm(**{"side": 8, "resize_side": 8, **changes})
